"""What glibc's memory allocator is told in a worker that learns on the CPU."""

import ctypes
import os
from collections.abc import Mapping

# Left alone it gives each large block back to the system when it is freed, and the next one comes
# as pages that the system has to clear first. A step asks for the same blocks as the one before.
KEPT = 2**30  # a block up to this size, and as much at the end of the heap, stays with the worker
AHEAD = 2**26  # what it asks of the system at a time
OLDEST = (2, 35)  # before it, glibc refuses a larger limit of a block than this, and takes none
KEPT_BEFORE = 2**25
# The variables, and what mallopt calls them (malloc.h).
MALLOPT = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_TOP_PAD_": -2, "MALLOC_MMAP_THRESHOLD_": -3}


def keep_freed_memory() -> dict[str, str]:
    """Environment variables for the worker; none where another allocator is at work."""
    version = _glibc()
    if not version:
        return {}
    return dict(zip(MALLOPT, map(str, (
        KEPT, AHEAD, KEPT if version >= OLDEST else KEPT_BEFORE)), strict=True))


def tell(environment: Mapping[str, str]) -> None:
    """Tell this process what glibc would have read of the environment at its start."""
    for name, parameter in MALLOPT.items():
        if value := environment.get(name):
            ctypes.CDLL(None).mallopt(parameter, int(value))


def _glibc() -> tuple[int, ...]:
    """(2, 36), or () where the C library is another."""
    try:
        name, version = os.confstr("CS_GNU_LIBC_VERSION").split()
        return tuple(int(part) for part in version.split(".")[:2]) if name == "glibc" else ()
    except (AttributeError, ValueError, OSError):  # macOS, Windows, musl
        return ()
