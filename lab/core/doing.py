"""What a worker does within its step, for whoever watches: a small file, replaced again.

It is no event: what was done a second ago is of no interest, and a step may have hundreds of such
moments.
"""

import contextlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.core.files import write_json

FILE = "now.json"
EVERY = 0.4  # seconds between two words of the same thing
STALE = 86_400.0  # seconds: no step is so long, the file is of a worker that was killed


@dataclass(frozen=True)
class Now:
    """`what` is a word or two ("answering"), `done` of `of` where it can be counted; `begun` is
    when the step began, in Unix seconds."""

    what: str
    done: int
    of: int
    begun: float


class Doing:
    """The worker's pen. What cannot be written is not worth a run."""

    def __init__(self, folder: Path | None) -> None:
        """With no folder nothing is written: only one of several processes does."""
        self.path = folder / FILE if folder else None
        self._what, self._when, self._begun = "", 0.0, time.time()

    def begin(self) -> None:
        """A step begins."""
        self._begun, self._what = time.time(), ""

    def __call__(self, what: str, done: int = 0, of: int = 0) -> None:
        now = time.monotonic()
        if self.path is None or (what == self._what and now - self._when < EVERY):
            return
        self._what, self._when = what, now
        with contextlib.suppress(OSError):
            write_json(self.path, asdict(Now(what, done, of, round(self._begun, 3))))

    def end(self) -> None:
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)


def read(folder: Path) -> Now | None:
    """What the worker of this run said last; None where it has said nothing, or nothing readable.
    """
    try:
        told = json.loads((folder / FILE).read_text(encoding="utf-8"))
        now = Now(str(told["what"])[:60], int(told["done"]), int(told["of"]), float(told["begun"]))
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None
    return now if abs(time.time() - now.begun) < STALE else None
