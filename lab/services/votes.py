"""Blind votes on a run's answers: kept in its folder, each with both answers and their scores.

A vote is {"made", "question", "reference", "seed", "sampling", "left", "right", "vote"}. A side is
{"run", "step", "adapter", "text", "tokens", "cut", "rewards", "errors", "total", "goal",
"reached"}: the run and the fingerprint of its adapter, both empty for the base model, and what the
run's rewards gave. `vote` is one of core/insight/votes.VOTES, of the places as they were shown.
"""

import functools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.core.insight.votes import PLACES, VOTES, Vote
from lab.core.problems import RunError
from lab.services.workspace import RunFolder


def keep(folder: RunFolder, vote: Vote) -> None:
    """Append a vote. Raises RunError where it cannot be written."""
    line = json.dumps(vote, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    try:
        with folder.votes.open("a+b") as file:
            if file.seek(0, os.SEEK_END):  # a line that was cut off spoils itself alone
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)
    except OSError as error:
        raise RunError(f"The vote could not be kept in {folder.votes}.",
                       f"{error.strerror or error}.",
                       "Free some space, then vote again.") from error


def of_run(folder: RunFolder) -> list[Vote]:
    """Every vote that was kept, oldest first; a damaged line is left out."""
    try:
        found = folder.votes.stat()
    except OSError:
        return []
    return list(_read(folder.votes, found.st_size, found.st_mtime_ns))


@functools.lru_cache(maxsize=64)
def _read(path: Path, size: int, changed: int) -> tuple[Vote, ...]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return ()
    return tuple(vote for line in lines if (vote := _checked(line)) is not None)


def _checked(line: bytes) -> Vote | None:
    """One line as a vote, if it has what readers count on."""
    try:
        vote = json.loads(line)
        fits = (vote["vote"] in VOTES and isinstance(vote["question"], str)
                and _is_number(vote["made"]) and all(_is_side(vote[place]) for place in PLACES))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return vote if fits else None


def _is_side(side: Mapping[str, Any]) -> bool:
    return (all(isinstance(side[key], str) for key in ("run", "adapter", "text"))
            and (side["step"] is None or type(side["step"]) is int)
            and all(score is None or _is_number(score)
                    for score in (side["total"], *side["rewards"].values())))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
