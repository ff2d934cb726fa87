"""One export as work: where it is made, how far it is, what a child process does for it."""

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.services.export.source import Source
from lab.services.export.state import Asked
from lab.services.one_job import Cancelled, replies


@dataclass
class Work:
    """Handed to whatever makes a part of an export. `draft` is the folder to write into."""

    source: Source
    asked: Asked
    draft: Path
    say: Callable[..., None]  # doing, done, of
    stop: threading.Event
    left_out: list[str] = field(default_factory=list)  # sentences on what could not be made

    def refuse_cancelled(self) -> None:
        """Raise Cancelled once a person asked for it."""
        if self.stop.is_set():
            raise Cancelled("export")

    def worker(self, job: str, what: str, request: dict,
               environment: dict[str, str]) -> dict[str, Any]:
        """Run one job of the worker in a child; its last reply. Raises what `replies` raises."""
        self.refuse_cancelled()
        with closing(replies(job, what, request, environment, self.stop)) as told:
            for reply in told:
                if "doing" not in reply:
                    return reply
                self.say(reply["doing"], reply.get("done", 0), reply.get("of", 0))
        raise AssertionError("replies end with a result or an error")
