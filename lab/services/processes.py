"""Child processes and their children: what is started is also ended, whole."""

import contextlib
import functools
import subprocess
import sys
from pathlib import Path

import psutil

from lab.services.starting import Started


def birth(pid: int) -> str:
    """When a process began, so that a number which is used again is known as another process.

    On Linux in ticks since the boot: a clock that is set anew changes the time of day at which it
    began, but not this. Raises psutil.Error or OSError where there is no such process.
    """
    if sys.platform != "linux":
        return str(psutil.Process(pid).create_time())
    fields = Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()
    return f"{_boot()} {fields[19]}"


@functools.cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def family(pid: int) -> list[psutil.Process]:
    """The children of a process, and theirs."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def end(process: Started, patience: float) -> None:
    """Give a process this many seconds to end by itself, then kill it; its children too.

    vLLM's engine is a child that holds the GPU's memory: it is back when this returns.
    """
    children = family(process.pid)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    kill(children)


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes)
