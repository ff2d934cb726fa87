"""Child processes and their children: what is started is also ended, whole."""

import contextlib
import subprocess

import psutil


def family(pid: int) -> list[psutil.Process]:
    """The children of a process, and theirs."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def end(process: subprocess.Popen, patience: float) -> None:
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
