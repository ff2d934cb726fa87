"""Waits until the processes of an engine have given the GPU's memory back. Needs no torch."""

import subprocess
import time


def holders() -> set[int]:
    """Process numbers that hold memory of a GPU, as nvidia-smi tells."""
    try:
        told = subprocess.run(
            ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return set()
    return {int(line) for line in told.split() if line.isdecimal()}


def wait_for_release(pids: set[int], patience: float = 60.0) -> bool:
    """Wait until none of these processes holds GPU memory; whether that came about.

    An engine that starts while another process gives memory back fails in its profiling.
    """
    end = time.monotonic() + patience
    while holders() & pids:
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True
