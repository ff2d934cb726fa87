"""Looks at this machine (cores, memory, disk, GPUs, packages) without importing torch."""

import importlib.metadata
import platform
import shutil
import subprocess
from pathlib import Path

import psutil

from lab.core.machine import Gpu, Machine
from lab.core.settings import REPORTERS

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "gradio", "plotly",
            "pandas", "unsloth", "vllm", "bitsandbytes", *(r for r in REPORTERS if r != "none"))


def look(root: Path) -> Machine:
    """The facts now; `root` decides which disk is looked at."""
    memory = psutil.virtual_memory()
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        cores=len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity")
        else psutil.cpu_count() or 1,
        memory_gb=round(memory.total / 1e9, 1),
        free_memory_gb=round(memory.available / 1e9, 1),
        free_disk_gb=round(shutil.disk_usage(_existing(root)).free / 1e9, 1),
        gpus=_gpus(),
        packages=versions(),
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


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _gpus() -> tuple[Gpu, ...]:
    if shutil.which("nvidia-smi") is None:
        return ()
    query = "name,memory.total,memory.free,driver_version"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    found = []
    for line in done.stdout.strip().splitlines():
        name, total, free, driver = (part.strip() for part in line.split(","))
        found.append(Gpu(name, float(total) * 1.048576e-3, float(free) * 1.048576e-3, driver))
    return tuple(found)
