"""The held-out verdicts of a run: kept in its folder, each with the adapters that it is of."""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.core.adapters import WEIGHTS
from lab.core.insight.headline import LEVELS
from lab.core.insight.verdict import CONTRACT, SIDES
from lab.core.problems import RunError
from lab.services.workspace import RunFolder

KEYS = {*CONTRACT, "judgement", "level", "needed", "drawn", "right", "gained", "lost", "step",
        "adapter", "made", "seconds"}  # what readers count on
SINCE: Mapping[str, Any] = {  # what older lines do not have: they are of one answer a question,
    "seeds": 1, "names": None, "against": None, "seen": 0, "notes": (),  # against the base,
    "longest": None, "turned": None,  # as long as in training
    "picked": (1, 1)}  # and nobody looked whether these questions had picked the adapter

Verdict = Mapping[str, Any]


def keep(folder: RunFolder, verdict: Verdict) -> None:
    """Append a verdict. Raises RunError where it cannot be written."""
    line = json.dumps(verdict, ensure_ascii=False) + "\n"
    try:
        with folder.verdicts.open("ab") as file:
            file.write(line.encode())
    except OSError as error:
        raise RunError(f"The verdict could not be kept in {folder.verdicts}.",
                       f"{error.strerror or error}.", "Free some space, then ask again.") from error


def every(folder: RunFolder) -> list[Verdict]:
    """Every verdict that was kept, whatever it compares with, oldest first; a damaged line is left
    out."""
    try:
        found = folder.verdicts.stat()
    except OSError:
        return []
    return list(_read(folder.verdicts, found.st_size, found.st_mtime_ns))


def of_run(folder: RunFolder) -> list[Verdict]:
    """Those against the base model, oldest first: what a run has learnt."""
    return [one for one in every(folder) if not one["against"]]


def newest(folder: RunFolder) -> Verdict | None:
    """The verdict against the base model that was made last."""
    return next(reversed(of_run(folder)), None)


def newest_against(folder: RunFolder) -> Verdict | None:
    """The verdict against another adapter that was made last."""
    return next((one for one in reversed(every(folder)) if one["against"]), None)


def of_adapter(folder: RunFolder, adapter: Path, other: Path | None = None) -> Verdict | None:
    """The newest verdict that was made of just these weights, against the base model or against
    those of `other`."""
    made = every(folder)
    own, theirs = (fingerprint(one) if made and one else "" for one in (adapter, other))
    if not own or other and not theirs:
        return None
    return next((one for one in reversed(made) if one["adapter"] == own
                 and (one["against"] or {}).get("adapter", "") == theirs), None)


def told_beside(found: Verdict) -> list[str]:
    """What must be known beside the figures, in sentences."""
    many = found["seen"]
    told = [f"{many:,} held-out question{'' if many == 1 else 's'} left out: a side was trained "
            f"on {'it' if many == 1 else 'them'}."] if many else []
    return [*told, *found["notes"]]


def fingerprint(adapter: Path) -> str:
    """Known weights are known again: a step may be trained anew after a resume. Empty where they
    cannot be read."""
    try:
        found = (adapter / WEIGHTS).stat()
        return _hash_of(adapter / WEIGHTS, found.st_size, found.st_mtime_ns)
    except OSError:
        return ""


@functools.lru_cache(maxsize=64)
def _hash_of(weights: Path, size: int, changed: int) -> str:
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@functools.lru_cache(maxsize=256)
def _read(path: Path, size: int, changed: int) -> tuple[Verdict, ...]:
    made = []
    try:
        for line in path.read_bytes().split(b"\n"):
            one = _checked(line)
            if one is not None:
                made.append(one)
    except OSError:
        pass
    return tuple(made)


def _checked(line: bytes) -> Verdict | None:
    """One line as a verdict, if it has what readers count on."""
    try:
        one = {**SINCE, **json.loads(line)}
        for side in SIDES:
            for key in ("accuracy", "in_format", "reward", "tokens", "cut"):
                float(one[side][key] or 0)
        for key in ("n", "made", "seconds", "needed"):
            float(one[key] or 0)
        fits = (one.keys() >= KEYS and isinstance(one["headline"], str)
                and one["level"] == LEVELS[one["judgement"]] and isinstance(one["adapter"], str)
                and _is_step(one["step"]) and type(one["seeds"]) is int and one["seeds"] > 0
                and type(one["seen"]) is int and _is_step(one["longest"])
                and all(isinstance(s, str) for s in one["notes"])
                and len(one["picked"]) == 2 and all(type(k) is int for k in one["picked"])
                and _is_side(one["against"], one["names"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return one if fits else None


def _is_step(value: Any) -> bool:
    return value is None or type(value) is int


def _is_side(against: Any, names: Any) -> bool:
    """Whether this says what was compared with, and what both are called: nothing where it is the
    base model."""
    if against is None:
        return names is None
    return (all(isinstance(against[key], str) for key in ("run", "name", "adapter"))
            and _is_step(against["step"]) and len(names) == 2
            and all(isinstance(name, str) for name in names))
