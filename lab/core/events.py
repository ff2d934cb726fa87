"""The lines of events.jsonl: what a worker says while it works, one JSON object a line.

The worker writes them, the app and the commands only read. docs/run-folder.md describes each.
"""

import json
import re
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from lab.core.files import finite


@dataclass(frozen=True)
class Phase:
    """What the worker is busy with before the first step ("loading the model")."""

    text: str


@dataclass(frozen=True)
class Started:
    """The trainer stands; steps begin. `resumed_from` is the step of the checkpoint, 0 if fresh."""

    steps: int
    resumed_from: int
    facts: dict[str, Any]  # rows, prompts too long, parameters, what the stack changed


@dataclass(frozen=True)
class Step:
    """One point of the curves. `metrics` are TRL's names plus those of core/insight/metrics.py."""

    step: int
    metrics: dict[str, float | None]


@dataclass(frozen=True)
class Samples:
    """Whole groups of the newest rollout, see `core.metrics.group_record` for their shape."""

    step: int
    groups: list[dict]


@dataclass(frozen=True)
class HeldOut:
    """Questions that are not trained on, answered greedily after this step; 0 is the base model.

    `metrics` has "n" (questions), "goal" and "reached" (as in core/insight/metrics.py), "reward"
    (mean weighted reward), "tokens" (mean length of an answer), "cut" (share at the longest
    length), and "rewards/NAME" (mean raw score of each reward); None where nothing could be judged.
    """

    step: int
    metrics: dict[str, float | None]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint lies in checkpoints/step-N."""

    step: int


@dataclass(frozen=True)
class Notice:
    """Something a person should know; training goes on."""

    level: str  # "info" or "warning"
    text: str
    kind: str = ""  # of the problem that it tells of


@dataclass(frozen=True)
class Answered:
    """A question that was asked while the run trained, answered at the end of this step.

    `base` and `tuned` are {"text", "tokens", "cut"}; `ask` is the name of its file in asks/.
    """

    step: int
    ask: str
    question: str
    base: dict
    tuned: dict
    seconds: float


@dataclass(frozen=True)
class Paused:
    """After this step, which is saved, the worker waits with everything in memory."""

    step: int


@dataclass(frozen=True)
class WentOn:
    """The pause after this step is over: training goes on, or stops."""

    step: int


@dataclass(frozen=True)
class Stopped:
    """Ended after this step, before the last; the adapter is saved and the run can be resumed.

    `reason` is empty where a person asked for it.
    """

    step: int
    reason: str = ""


@dataclass(frozen=True)
class Failed:
    """The work failed; what, why, next and kind as in core/problems.py."""

    step: int
    what: str
    why: str = ""
    next: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Finished:
    """All steps done; the adapter is saved."""

    step: int
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)


Event = (Phase | Started | Step | Samples | HeldOut | Checkpoint | Notice | Answered | Paused
         | WentOn | Stopped | Failed | Finished)
KINDS = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower(): cls for cls in Event.__args__}
_NAMES = {cls: name for name, cls in KINDS.items()}
LATEST = 1e11  # Unix time, in the year 5138: a later one, or one before 1970, is damage
LARGEST = 2**53  # a step above it is damage
LAST = (Stopped, Failed, Finished)  # after one of these the worker says no more


def line_of(event: Event) -> str:
    """One line of JSON. NaN and infinity are not JSON: they become null."""
    body = {"event": _NAMES[type(event)], "time": round(time.time(), 3)}
    return json.dumps(finite(body | asdict(event)), ensure_ascii=False, allow_nan=False) + "\n"


def read_line(line: str) -> tuple[float, Event] | None:
    """(unix time, event) of one line; None for a line that is damaged or of an unknown kind."""
    try:
        body = json.loads(line)
        cls = KINDS[body.pop("event")]
        when = float(body.pop("time", 0.0))
        event = cls(**body)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    whole = 0 <= when < LATEST and all(
        _fits(getattr(event, one.name), one.type) for one in fields(event))
    return (when, event) if whole else None


def _fits(value: Any, kind: Any) -> bool:
    """Whether a field holds what it is declared to hold; numbers within reason."""
    if kind is int:
        return type(value) is int and 0 <= value <= LARGEST
    if kind is float:
        return type(value) in (int, float) and abs(value) <= LARGEST
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    return isinstance(value, get_origin(kind) or kind)


class EventWriter:
    """Appends events to a file, flushed line by line: a kill loses nothing that was said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab")
        if path.stat().st_size and not _ends_in_newline(path):
            self._file.write(b"\n")  # a killed worker's half line must not swallow our first

    def __call__(self, event: Event) -> None:
        self._file.write(line_of(event).encode())
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as f:
        f.seek(-1, 2)
        return f.read(1) == b"\n"
