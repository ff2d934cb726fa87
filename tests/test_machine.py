"""What the lab sees of a machine, with an nvidia-smi of the test's own: a real child process."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from lab.services import machine

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-in for nvidia-smi is a script")

H200 = "GPU-aaaa1111-0, NVIDIA H200, 143771, 143000, 580.95.05, 9.0"
L4 = "GPU-bbbb2222-0, NVIDIA L4, 23034, 22500, 580.95.05, 8.9"
MIB = 1.048576e-3  # GB


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts a script of this name on PATH that answers each question with these words."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in ("CUDA_VISIBLE_DEVICES", "SPACES_ZERO_GPU"):
        monkeypatch.delenv(name, raising=False)

    def put(gpus: str = "", processes: str = "", listed: str = "", status: int = 0,
            no_capability: str = "") -> None:
        cases = {"--query-gpu=*compute_cap*": no_capability or gpus, "--query-gpu=*": gpus,
                 "--query-compute-apps=*": processes, "-L": listed}
        body = ["#!/bin/sh", 'case "$1" in']
        for question, answer in cases.items():
            code = 1 if no_capability and "compute_cap" in question else status
            body.append(f"{question}) printf '%s\\n' '{answer}'; exit {code};;")
        script = folder / "nvidia-smi"
        script.write_text("\n".join([*body, "esac"]) + "\n")
        script.chmod(0o755)

    return put


def test_a_gpu_is_seen_with_memory_driver_and_capability(nvidia_smi, tmp_path):
    nvidia_smi(H200)
    facts = machine.look(tmp_path)
    (gpu,) = facts.gpus
    assert (gpu.name, gpu.driver, gpu.capability) == ("NVIDIA H200", "580.95.05", 9.0)
    assert gpu.memory_gb == pytest.approx(143771 * MIB)
    assert gpu.free_gb == pytest.approx(143000 * MIB)
    assert (gpu.processes, facts.no_gpu) == ((), "")


def test_other_programs_are_listed_with_the_gpu_they_hold(nvidia_smi, tmp_path):
    nvidia_smi(f"{H200}\n{L4}", processes="GPU-bbbb2222-0, 41, /opt/venv/bin/vllm serve, a, 2000\n"
               "GPU-aaaa1111-0, 42, [Not Found], [N/A]\nGPU-aaaa1111-0, none, x, 1")
    first, second = machine.look(tmp_path).gpus
    (unknown,), (vllm,) = first.processes, second.processes
    assert (unknown.pid, unknown.memory_gb) == (42, 0.0)
    assert (vllm.pid, vllm.name) == (41, "vllm serve,a")
    assert vllm.memory_gb == pytest.approx(2000 * MIB)


def test_the_labs_own_processes_are_left_out(nvidia_smi, tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        nvidia_smi(L4, processes=f"GPU-bbbb2222-0, {os.getpid()}, python, 500\n"
                   f"GPU-bbbb2222-0, {child.pid}, python, 500\nGPU-bbbb2222-0, 1, other, 7")
        (gpu,) = machine.look(tmp_path).gpus
        assert [process.pid for process in gpu.processes] == [1]
    finally:
        child.communicate(b"\n")


@pytest.mark.parametrize(("wanted", "names"), [
    ("0", ["NVIDIA H200"]),
    ("1,0", ["NVIDIA L4", "NVIDIA H200"]),
    (" 1 , 1 ", ["NVIDIA L4"]),
    ("GPU-bbbb", ["NVIDIA L4"]),
    ("GPU-bbbb2222-0,0", ["NVIDIA L4", "NVIDIA H200"]),
    ("0,7,1", ["NVIDIA H200"]),  # what names none ends the list, as in CUDA
    ("MIG-GPU-bbbb2222-0/1/0", ["NVIDIA L4"]),
    ("MIG-cccc3333", ["NVIDIA L4"]),
])
def test_cuda_visible_devices_chooses_and_orders(nvidia_smi, tmp_path, monkeypatch, wanted, names):
    nvidia_smi(f"{H200}\n{L4}", listed="GPU 0: NVIDIA H200 (UUID: GPU-aaaa1111-0)\n"
               "GPU 1: NVIDIA L4 (UUID: GPU-bbbb2222-0)\n"
               "  MIG 1g.6gb Device 0: (UUID: MIG-cccc3333-4444)")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", wanted)
    facts = machine.look(tmp_path)
    assert [gpu.name for gpu in facts.gpus] == names
    assert facts.no_gpu == ""


@pytest.mark.parametrize(("wanted", "why"), [
    ("", "CUDA_VISIBLE_DEVICES hides every GPU"),
    ("-1", "CUDA_VISIBLE_DEVICES hides every GPU"),
    ("5", "CUDA_VISIBLE_DEVICES is '5', and there is no such GPU"),
    ("GPU-", "CUDA_VISIBLE_DEVICES is 'GPU-', and there is no such GPU"),  # fits two
    ("MIG-nowhere", "CUDA_VISIBLE_DEVICES is 'MIG-nowhere', and there is no such GPU"),
])
def test_what_hides_every_gpu_is_said(nvidia_smi, tmp_path, monkeypatch, wanted, why):
    nvidia_smi(f"{H200}\n{L4}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", wanted)
    facts = machine.look(tmp_path)
    assert (facts.gpus, facts.no_gpu) == ((), why)


def test_without_nvidia_smi_that_is_the_reason(nvidia_smi, tmp_path):
    facts = machine.look(tmp_path)
    assert (facts.gpus, facts.no_gpu) == (
        (), "no CUDA device was found: nvidia-smi is not there")


def test_a_driver_that_fails_is_quoted_in_one_line(nvidia_smi, tmp_path):
    nvidia_smi("NVIDIA-SMI has failed because it could not reach the driver.\nMake sure.", status=9)
    assert machine.look(tmp_path).no_gpu == (
        "no CUDA device was found: nvidia-smi says "
        "\"NVIDIA-SMI has failed because it could not reach the driver.\"")


def test_no_devices_is_quoted_too(nvidia_smi, tmp_path):
    nvidia_smi("No devices were found")
    assert "nvidia-smi says \"No devices were found\"" in machine.look(tmp_path).no_gpu


def test_an_nvidia_smi_that_hangs_costs_its_patience_only(nvidia_smi, tmp_path, monkeypatch):
    nvidia_smi()
    script = tmp_path / "bin" / "nvidia-smi"
    script.write_text("#!/bin/sh\nexec /bin/sleep 30\n")
    monkeypatch.setattr(machine, "PATIENCE", 1)
    started = time.monotonic()
    assert "nothing within 1 s" in machine.look(tmp_path).no_gpu
    assert time.monotonic() - started < 10


def test_a_driver_too_old_to_know_the_capability_is_still_named(nvidia_smi, tmp_path):
    nvidia_smi("GPU-dddd, Tesla K80, 11441, 11000, 470.82.01",
               no_capability="Field \"compute_cap\" is not a valid field to query.")
    (gpu,) = machine.look(tmp_path).gpus
    assert (gpu.driver, gpu.capability) == ("470.82.01", 0.0)


@pytest.mark.parametrize("absent", ["[N/A]", "[Not Supported]", "[Insufficient Permissions]", ""])
def test_figures_that_are_not_there_are_no_failure(nvidia_smi, tmp_path, absent):
    nvidia_smi(f"GPU-eeee, NVIDIA GB10, {absent}, {absent}, 580.95.05, {absent}",
               processes=f"GPU-eeee, 9, x, {absent}")
    (gpu,) = machine.look(tmp_path).gpus
    # It has no memory of its own and shares the machine's.
    assert gpu.memory_gb == pytest.approx(psutil.virtual_memory().total / 1e9)
    assert (gpu.capability, gpu.processes[0].memory_gb) == (0.0, 0.0)


def test_a_zero_gpu_space_counts_as_one_without_a_gpu(nvidia_smi, tmp_path, monkeypatch):
    nvidia_smi(H200)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    facts = machine.look(tmp_path)
    assert facts.gpus == () and "ZeroGPU" in facts.no_gpu


def test_the_pins_are_those_of_the_stack_that_is_installed():
    cpu, gpu = machine.pins({"torch": "2.13.0"}), machine.pins({"vllm": "0.27.0"})
    assert "vllm" not in cpu and cpu["torch"]
    assert gpu["vllm"] and gpu["unsloth"] and gpu["torch"] != cpu["torch"]
