"""Whether a run's worker lives, and what is known of one that does not."""

import contextlib
import json
import shutil
from pathlib import Path

import psutil

from lab.core import lock
from lab.core.problems import Problem
from lab.services.processes import birth
from lab.services.workspace import RunFolder, Workspace

FULL = 1_000_000  # bytes: with less left, nothing can be written any more
NOW = "now"  # what `control` holds when the worker is to be ended at once


def is_worked_on(folder: RunFolder) -> bool:
    """Whether a worker writes in this folder. One that has just been started does not hold its lock
    yet; one that another machine or container has started cannot be seen here."""
    return worker_of(folder) is not None or lock.is_held(folder.lock)


def worker_of(folder: RunFolder) -> psutil.Process | None:
    """The living worker of this run, as a process of this machine."""
    try:
        told = json.loads(folder.process.read_text())
        if birth(told["pid"]) != told["began"]:
            return None  # the number is used again
        process = psutil.Process(told["pid"])
        return process if process.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, psutil.Error):
        return None


def trains_now(workspace: Workspace) -> bool:
    """Whether a worker trains any run of this workspace."""
    return any(map(is_worked_on, workspace.folders()))


def resumes(folder: RunFolder) -> bool:
    """Whether the living worker has not said a word: the events end where they did at its start."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return folder.events.stat().st_size <= json.loads(folder.process.read_text())["said"]
    return False


def was_killed(folder: RunFolder) -> bool:
    """Whether a person asked that the worker be ended at once."""
    try:
        return folder.control.read_text().strip() == NOW
    except (OSError, ValueError):
        return False


def wordless_end(folder: RunFolder) -> Problem:
    """What is known of a worker that ended without a last word."""
    if shutil.disk_usage(folder.path).free < FULL:
        return Problem(
            "The disk is full.", "The worker could not write on, not even its last word.",
            "Free some space, then resume the run from its last checkpoint.")
    return Problem(
        "The worker ended without a last word.",
        last_words(folder) or "It was killed, or the machine went down.",
        "Everything logged is kept. Resume the run from its last checkpoint."
        if folder.checkpoints() else "Start it again.")


def last_words(folder: RunFolder, lines: int = 1) -> str:
    """The last lines of worker.log that say something."""
    said = [line.strip() for line in log_tail(folder.log).splitlines() if line.strip()]
    return "\n".join(said[-lines:])[:2000]


def log_tail(path: Path, most: int = 8192) -> str:
    """The end of a log; empty where there is none."""
    try:
        with path.open("rb") as f:
            f.seek(0, 2)
            f.seek(max(0, f.tell() - most))
            return f.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
