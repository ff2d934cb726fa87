"""What is said about a machine: each problem with its figure and its next step."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from lab.core.hardware.engines import choose_engines
from lab.core.hardware.health import engine_lines, gpu_line, machine_problems
from lab.core.hardware.machine import Gpu, GpuProcess, Machine
from lab.core.settings import Settings
from lab.services.workspace import PROJECT
from lab.ui.tabs.start import machine_html

PACKAGES = {"torch": "2.11.0+cu130", "transformers": "5.17.0", "trl": "1.14.2", "peft": "0.21.2",
            "datasets": "4.8.5", "gradio": "6.31.0", "vllm": "0.26.0", "unsloth": "2026.10.7"}
PINS = {**PACKAGES, "torch": "2.11.0"}
L4 = Gpu("NVIDIA L4", 24.0, 23.0, "580.95.05", 8.9)
WELL = Machine("Linux x86_64", "3.12.1", 8, 64.0, 60.0, 100.0, (L4,), PACKAGES)
FAST = Settings().with_values({"model.fast_inference": True})


def found(machine: Machine) -> list[str]:
    return [str(problem) for problem in machine_problems(machine, PINS)]


def with_gpu(**changes) -> Machine:
    return replace(WELL, gpus=(replace(L4, **changes),))


def test_a_machine_as_it_should_be_has_no_problems():
    assert found(WELL) == []


def test_an_old_driver_is_named_with_the_one_that_is_needed():
    (said,) = found(with_gpu(driver="535.183.01"))
    assert "535.183.01" in said and "Install driver 580 or newer" in said


def test_a_missing_compiler_is_said_where_a_gpu_trains():
    (said,) = found(replace(WELL, compiler=False))
    assert "no C compiler" in said and "gcc" in said
    assert not any("compiler" in p for p in found(replace(WELL, gpus=(), compiler=False)))


def test_an_old_gpu_is_named_with_its_capability():
    (said,) = found(with_gpu(name="Tesla V100", capability=7.0))
    assert "Tesla V100" in said and "7.0" in said and "7.5" in said


def test_another_program_on_the_gpu_is_named_with_pid_and_gb():
    vllm, small = GpuProcess(4711, "vllm", 12.3), GpuProcess(9, "tiny", 0.4)
    (said,) = found(with_gpu(free_gb=10.5, processes=(small, vllm)))
    assert "Other programs hold 12.7 of 24.0 GB" in said
    assert "vllm (process 4711, 12.3 GB), tiny (process 9, 0.4 GB)" in said
    assert "End them, or lower 'GPU share of vLLM'" in said
    assert found(with_gpu(processes=(small,))) == []


def test_a_program_whose_share_is_not_told_is_named_by_what_is_missing():
    (said,) = found(with_gpu(free_gb=4.0, processes=(GpuProcess(5, "train", 0.0),)))
    assert "hold 20.0 of 24.0 GB" in said and "train (process 5)" in said
    assert found(with_gpu(processes=(GpuProcess(5, "train", 0.0),))) == []


def test_a_small_disk_matters_to_the_gpu_stack():
    (said,) = found(replace(WELL, free_disk_gb=19.9))
    assert "19.9 GB" in said and "HF_HOME" in said
    assert found(replace(WELL, free_disk_gb=19.9, gpus=())) == []


def test_a_version_that_was_not_tested_is_named_with_the_one_that_was():
    (said,) = found(replace(WELL, packages={**PACKAGES, "vllm": "0.27.0"}))
    assert said.startswith("vllm 0.27.0 is installed, the lab was tested with 0.26.0.")


def test_what_is_missing_comes_first_and_is_an_error():
    packages = {name: version for name, version in PACKAGES.items() if name != "trl"}
    problems = machine_problems(replace(WELL, packages=packages | {"peft": "0.1"}), PINS)
    assert [problem.level for problem in problems] == ["error", "warning"]
    assert problems[0].what == "trl is not installed." and "make setup" in problems[0].next


def test_the_engine_is_told_with_its_reason_and_what_is_left_out():
    lines = engine_lines(choose_engines(FAST, WELL))
    assert lines == [("Engine", "Unsloth + vLLM, because the NVIDIA L4 with 24 GB was found; if it "
                      "cannot, TRL + vLLM, then TRL on the GPU")]
    bare = {name: version for name, version in PACKAGES.items() if name != "unsloth"}
    lines = engine_lines(choose_engines(FAST, replace(WELL, packages=bare)))
    assert lines[0][1].startswith("TRL + vLLM, because")
    assert lines[1] == ("Not tried", "Unsloth + vLLM, because unsloth not installed")


def test_the_start_tab_shows_what_is_needed_and_what_is_wrong():
    page = machine_html(with_gpu(driver="535.1"), FAST)
    assert "driver 535.1 (580 or newer is needed)" in page
    assert "compute capability 8.9" in page
    assert "Install driver 580 or newer" in page
    assert "cpu, because the NVIDIA driver is 535.1" in page
    assert "TRL on the CPU" in page
    assert gpu_line(L4) in machine_html(WELL, FAST)
    assert "Unsloth + vLLM" in machine_html(WELL, FAST)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for nvidia-smi is a script")
def test_doctor_tells_of_gpu_stack_engine_and_problems(tmp_path):
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\ncase \"$1\" in\n--query-gpu=*) echo "
                      "'GPU-1, NVIDIA L4, 23034, 2000, 535.0, 8.9';;\n"
                      "*) echo 'GPU-1, 1, vllm, 20000';;\nesac\n")
    script.chmod(0o755)
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("CUDA_VISIBLE_DEVICES", "SPACES_ZERO_GPU")}

    def doctor(*more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "lab", "doctor", "--root", tmp_path / "runs", *more],
            cwd=PROJECT, env={**environment, "PATH": str(tmp_path)}, text=True,
            capture_output=True, timeout=120)

    plain = doctor()
    assert plain.returncode == 0  # warnings do not fail: the CPU trains
    assert "driver 535.0 (580 or newer is needed)" in plain.stdout
    assert "cpu, because the NVIDIA driver is 535.0" in plain.stdout
    assert "TRL on the CPU, because the stack is cpu" in plain.stdout
    assert "warning: The NVIDIA driver 535.0 is too old" in plain.stderr
    assert "vllm (process 1, 21.0 GB)" in plain.stderr
    told = json.loads(doctor("--json").stdout.splitlines()[-1])
    assert told["gpus"][0]["processes"][0]["name"] == "vllm"
    assert told["engines"]["tried"][0]["value"] == "cpu"
    assert {problem["kind"] for problem in told["problems"]} == {"driver", "gpu_busy"}
