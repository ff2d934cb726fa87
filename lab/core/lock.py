"""One writer for a run's folder: its worker holds a lock on a file there for as long as it lives.

The system gives the lock back when the process ends, however it ends: neither a clock nor a process
number has to be believed. Children do not inherit it. Where a file system knows no locks, nobody
is kept out, and a worker is known by its process alone.
"""

import os
import time
from pathlib import Path
from typing import BinaryIO

if os.name == "nt":
    import msvcrt
else:
    import fcntl

OCCUPIED = 73  # exit status of a worker that found another one at work (EX_CANTCREAT)
PATIENCE = 60.0  # seconds: a worker that has said its last word may take a while to end
PAUSE = 0.02


def hold(path: Path) -> BinaryIO | None:
    """Take the lock until this process ends or closes what comes back; None if another has it.

    The process must not open the file again: closing it anywhere gives the lock up.
    """
    file, end = path.open("a+b"), time.monotonic() + PATIENCE
    while not _taken(file, alone=True):
        if time.monotonic() > end:
            file.close()
            return None
        time.sleep(PAUSE)
    return file


def is_held(path: Path) -> bool:
    """Whether another process that lives holds the lock."""
    try:
        with path.open("rb") as file:
            return not _taken(file, alone=False)
    except OSError:
        return False


def _taken(file: BinaryIO, alone: bool) -> bool:
    """Take the lock if nobody has it; who only looks does so without keeping others from it."""
    try:
        if os.name == "nt":
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.lockf(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # which of the two is the system's choice
        return False
    except OSError:
        pass  # no locks here
    return True
