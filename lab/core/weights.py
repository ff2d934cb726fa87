"""Whether the numbers in a safetensors file are all finite: with the standard library alone.

An adapter with a single NaN answers nonsense, or nothing, and no loader says a word about it.
"""

import functools
import json
import math
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lab.core.adapters import ADAPTER, WEIGHTS, header_of
from lab.core.problems import BadModel

PIECE = 1 << 22  # bytes that are looked at in one go
DAMAGED = "damaged_adapter"  # the kind of the problem


def check_sound(folder: Path) -> None:
    """Raise BadModel where the adapter in this folder has a number that is none, or is of another
    rank than its configuration says: a loader would make room for that one first.

    Nothing is said of a file that is not there or cannot be read: its loader does that.
    """
    if name := damaged_tensor(folder / WEIGHTS):
        raise BadModel("This adapter is damaged.", f"{name} in {folder.name} holds numbers that "
                       "are not finite (NaN or infinite): it would answer nonsense.",
                       "Take an earlier checkpoint, and train on from there with a lower learning "
                       "rate.", kind=DAMAGED)
    rank = _rank_told(folder)
    if any(shape[0] != rank for name, shape in header_of(folder / WEIGHTS).items()
           if rank is not None and ".lora_A." in name and shape):
        raise BadModel("This adapter is damaged.", f"Its weights are not of rank {rank}, as "
                       f"{ADAPTER} says.", "Take another checkpoint or adapter.", kind=DAMAGED)


def _rank_told(folder: Path) -> int | None:
    """The one rank of an adapter's configuration; None where it tells none, or several."""
    try:
        told = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        return None if told.get("rank_pattern") else told["r"]
    except (OSError, ValueError, KeyError, AttributeError, RecursionError):
        return None


def is_sound(folder: Path) -> bool:
    return damaged_tensor(folder / WEIGHTS) is None


def damaged_tensor(path: Path) -> str | None:
    """The first tensor of a safetensors file that holds NaN or infinity; None where none does."""
    try:
        known = path.stat()
    except OSError:
        return None
    return _damaged(path, known.st_size, known.st_mtime_ns, known.st_ino)


@functools.lru_cache(maxsize=256)
def _damaged(path: Path, size: int, changed: int, number: int) -> str | None:
    """`size`, `changed` and `number` (the inode) tell one file of this name from the next."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= size else {}
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                first, last = entry["data_offsets"]
                file.seek(8 + length + first)
                if not all(math.isfinite(total)
                           for total in _sums(file, entry["dtype"], last - first)):
                    return name
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError,
            RecursionError, struct.error):
        return None
    return None


def _sums(file: BinaryIO, dtype: str, size: int) -> Iterator[float]:
    """The sum of each piece of a tensor: NaN and infinity do not vanish in it, and 32 bits or
    fewer cannot overflow the 64 bits of a Python float."""
    while size > 0 and (piece := file.read(min(PIECE, size))):
        size -= len(piece)
        if dtype == "F32":
            yield sum(array("f", piece))
        elif dtype == "BF16":  # the upper half of a 32-bit float
            wide = bytearray(2 * len(piece))
            wide[2::4], wide[3::4] = piece[0::2], piece[1::2]
            yield sum(array("f", bytes(wide)))
        elif dtype == "F16":
            yield sum(struct.unpack(f"<{len(piece) // 2}e", piece))
        elif dtype == "F64":
            yield math.fsum(value * 1e-30 for value in array("d", piece))
        else:
            return
