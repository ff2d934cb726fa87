"""One job of the worker in a child of its own: a request in, its replies out, ended when asked."""

import json
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress

from lab.core.problems import Problem, WorkFailed, explained_by_log
from lab.services import processes
from lab.services.starting import Started, start_worker


class Cancelled(WorkFailed):
    """A person asked that it ends."""

    def __init__(self, what: str) -> None:
        super().__init__(f"The {what} was cancelled.", next="Nothing was kept of it.")


def replies(job: str, what: str, request: dict, environment: dict[str, str],
            stop: threading.Event) -> Iterator[dict]:
    """What `lab.worker JOB` replies to the request, line by line; whoever has enough closes it.

    `what` is the job's name for people. The child ends with this, and its children with it. Raises
    Cancelled once `stop` is set, and WorkFailed with the worker's own words, or where it ended
    without a result.
    """
    with tempfile.TemporaryFile() as log, start_worker(
            [job], environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=log) as process:
        threading.Thread(target=_end_at, args=(stop, process), daemon=True, name=what).start()

        def said() -> str:
            log.seek(0)
            return log.read().decode("utf-8", errors="replace")

        try:
            with suppress(BrokenPipeError):  # it ended before it was asked; why is told below
                process.stdin.write(json.dumps(request).encode() + b"\n")
            with suppress(BrokenPipeError):
                process.stdin.close()
            for line in process.stdout:
                reply = json.loads(line)
                if "problem" in reply:
                    problem = explained_by_log(Problem(**reply["problem"]), said())
                    raise WorkFailed(problem.what, problem.why, problem.next, kind=problem.kind)
                yield reply
        finally:
            processes.end(process, patience=0)
        last = said().strip().splitlines()
    if stop.is_set():
        raise Cancelled(what)
    raise WorkFailed(f"The {what} ended without a result.", last[-1] if last else "",
                     "Try again; if it happens again, ask fewer questions.")


def _end_at(stop: threading.Event, process: Started) -> None:
    """End the child, and its children, once `stop` is set."""
    while process.poll() is None:
        if stop.wait(0.1):
            processes.end(process, patience=0)
