"""Looks at this machine (cores, memory, disk, GPUs, packages) without importing torch."""

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import psutil

from lab.core.hardware.machine import Gpu, GpuProcess, Machine
from lab.core.rewards.registry import REWARDS
from lab.core.settings import REPORTERS
from lab.services.space import on_zero_gpu
from lab.services.workspace import PROJECT

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "gradio", "plotly",
            "pandas", "psutil", "unsloth", "unsloth_zoo", "vllm", "bitsandbytes", "deepspeed",
            *(r for r in REPORTERS if r != "none"),
            *(r.package for r in REWARDS.values() if r.package))
COMPILERS = ("cc", "gcc", "clang")
OF_GPU_STACK = ("vllm", "unsloth", "bitsandbytes")  # only its requirements have these
PATIENCE = 10  # seconds for an answer of nvidia-smi
GB_OF_MIB = 1.048576e-3
ZERO_GPU = ("this is a ZeroGPU Space: it lends its GPU for a minute at a time, which does not suit "
            "training")


def look(root: Path) -> Machine:
    """The facts now; `root` decides which disk is looked at."""
    memory = psutil.virtual_memory()
    gpus, no_gpu = _gpus()
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        cores=len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity")
        else psutil.cpu_count() or 1,
        memory_gb=round(memory.total / 1e9, 1),
        free_memory_gb=round(memory.available / 1e9, 1),
        free_disk_gb=round(shutil.disk_usage(_existing(root)).free / 1e9, 1),
        gpus=gpus,
        packages=versions(),
        compiler=any(map(shutil.which, filter(None, (os.environ.get("CC"), *COMPILERS)))),
        no_gpu=no_gpu,
    )


def versions() -> dict[str, str]:
    """Versions of the packages that matter, those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def pins(packages: dict[str, str]) -> dict[str, str]:
    """The versions the lab was tested with, {package: version}, for the stack that is installed.

    Empty where the requirements file is not there.
    """
    gpu = any(name in packages for name in OF_GPU_STACK)
    file = PROJECT / ("requirements.txt" if gpu else "requirements-cpu.txt")
    try:
        text = file.read_text(encoding="utf-8")
    except OSError:
        return {}
    return dict(re.findall(r"^([\w.-]+)==([^\s#;]+)", text, re.MULTILINE))


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


# GPUs: nvidia-smi is the only source, for a look must not hold memory of one


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    """The GPUs that a process started here would see, and half a sentence if there are none."""
    if on_zero_gpu(os.environ):
        return (), ZERO_GPU
    if shutil.which("nvidia-smi") is None:
        return (), "no CUDA device was found: nvidia-smi is not there"
    answer, failed = _ask("--query-gpu=uuid,name,memory.total,memory.free,driver_version,"
                          "compute_cap")
    if "compute_cap" in failed:  # a driver that is too old to know the field, which must be said
        answer, failed = _ask("--query-gpu=uuid,name,memory.total,memory.free,driver_version")
    # A list with the number of each GPU's line, which is how CUDA_VISIBLE_DEVICES counts them.
    found = [(line[0], _gpu(line)) for line in answer if len(line) >= 5]
    if not found:
        said = failed or ", ".join(answer[0] if answer else ()) or "nothing"
        return (), f"no CUDA device was found: nvidia-smi says \"{said}\""
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is not None:
        found = _visible(found, wanted)
        if not found:
            hidden = wanted.strip() in ("", "-1")
            return (), ("CUDA_VISIBLE_DEVICES hides every GPU" if hidden else
                        f"CUDA_VISIBLE_DEVICES is {wanted!r}, and there is no such GPU")
    others = _processes()
    return tuple(replace(gpu, processes=tuple(others.get(uuid, ()))) for uuid, gpu in found), ""


def _ask(question: str) -> tuple[list[list[str]], str]:
    """The lines of nvidia-smi's answer, cut at commas; and in its own words why there are none."""
    try:
        done = subprocess.run(["nvidia-smi", question, "--format=csv,noheader,nounits"],
                              capture_output=True, text=True, errors="replace", timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return [], f"nothing within {PATIENCE} s"
    except OSError as error:
        return [], str(error.strerror or error)
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode:
        words = [*lines, *done.stderr.strip().splitlines(), f"exit status {done.returncode}"]
        return [], words[0].strip()[:200]
    return [[part.strip() for part in line.split(",")] for line in lines], ""


def _gpu(line: list[str]) -> Gpu:
    _, name, total, free, driver, *capability = line
    memory, left = _number(total), _number(free)
    if memory is None:  # it has none of its own and shares the machine's
        shared = psutil.virtual_memory()
        memory, left = shared.total / 1e9, shared.available / 1e9
    else:
        memory *= GB_OF_MIB
        left = memory if left is None else left * GB_OF_MIB
    return Gpu(name, memory, left, driver, _number(capability[0] if capability else "") or 0.0)


def _number(text: str) -> float | None:
    """A figure of nvidia-smi; None for "[N/A]" and the like."""
    try:
        return float(text)
    except ValueError:
        return None


def _visible(found: list[tuple[str, Gpu]], wanted: str) -> list[tuple[str, Gpu]]:
    """Those that CUDA_VISIBLE_DEVICES names, in its order. As in CUDA, the first entry that names
    none ends the list."""
    chosen: list[tuple[str, Gpu]] = []
    for entry in wanted.split(","):
        entry = entry.strip()
        if entry.startswith("MIG-"):
            entry = _parent_of(entry)
        if entry.isdecimal() and int(entry) < len(found):
            match = found[int(entry)]
        else:
            alike = [one for one in found if entry.startswith("GPU-") and one[0].startswith(entry)]
            if len(alike) != 1:
                break
            match = alike[0]
        if match not in chosen:
            chosen.append(match)
    return chosen


def _parent_of(mig: str) -> str:
    """The uuid of the GPU that a MIG device is a part of; empty if it is not known."""
    if old := re.match(r"MIG-(GPU-[^/]+)/", mig):
        return old[1]
    parent = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True,
                                errors="replace", timeout=PATIENCE).stdout
        for uuid in re.findall(r"UUID: ([^)\s]+)", listed):
            if uuid.startswith("GPU-"):
                parent = uuid
            elif uuid.startswith(mig):
                return parent
    return ""


def _processes() -> dict[str, list[GpuProcess]]:
    """Programs that hold memory of each GPU (by uuid), without this process and its children."""
    answer, _ = _ask("--query-compute-apps=gpu_uuid,pid,process_name,used_memory")
    lines = [line for line in answer if len(line) >= 4 and line[1].isdecimal()]
    own = {os.getpid()}
    if lines:
        with contextlib.suppress(psutil.Error):
            own |= {child.pid for child in psutil.Process().children(recursive=True)}
    found: dict[str, list[GpuProcess]] = {}
    for uuid, pid, *name, memory in lines:
        if int(pid) not in own:
            # Its command may have commas in it, and stands there with its whole path.
            program = re.split(r"[/\\]", ",".join(name))[-1]
            found.setdefault(uuid, []).append(
                GpuProcess(int(pid), program, (_number(memory) or 0.0) * GB_OF_MIB))
    return found
