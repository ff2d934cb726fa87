"""Reads runs: settings, status, curves and samples, from the files that a worker writes."""

import contextlib
import json
import math
import shutil
import threading
import time
from array import array
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from lab.core import events
from lab.core.problems import BadSettings, Problem, RunError
from lab.core.settings import Settings
from lab.services.workspace import RunFolder, Workspace

PACE = 20  # points over which the seconds per step are measured
FULL = 1_000_000  # bytes: with less left, nothing can be written any more
NOW = "now"  # what `control` holds when the worker is to be ended at once
ACTIVE = ("starting", "running", "stopping")


class RunLog:
    """The events of one run, read bit by bit: `refresh` reads only what is new.

    Metrics are columns of floats (NaN where a step has no value), one entry per logged step.
    A resume forgets the steps after its checkpoint, and `epoch` counts such breaks, so that a
    reader with a cursor knows when to start over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._forget()

    def _forget(self) -> None:
        self._offset = 0
        self.epoch = 0
        self.steps = array("q")
        self.metrics: dict[str, array] = {}
        self.samples: dict[int, tuple[int, int]] = {}  # step -> (offset, bytes) in the file
        self.notices: list[events.Notice] = []
        self.answers: list[events.Answered] = []
        self.phase = ""
        self.started: events.Started | None = None
        self.seconds = 0.0  # of training before this stretch
        self.started_at = self.ended_at = 0.0  # of this stretch; its end so far
        self.last: events.Event | None = None
        self.damaged = 0

    def refresh(self) -> "RunLog":
        """Read the complete lines that came since. A half-written last line waits for its end."""
        with self._lock:
            try:
                size = self.path.stat().st_size
            except OSError:
                return self
            if size < self._offset:
                self._forget()  # the file was replaced
            if size == self._offset:
                return self
            with self.path.open("rb") as f:
                f.seek(self._offset)
                for line in f:
                    if not line.endswith(b"\n"):
                        break
                    self._take(line)
                    self._offset += len(line)
        return self

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        read = events.read_line(line.decode("utf-8", errors="replace"))
        if read is None:
            self.damaged += 1
            return
        when, event = read
        self.last = event
        if isinstance(event, events.Started):
            if self.started_at:
                self.seconds += self.ended_at - self.started_at
            self._cut(event.resumed_from)
            self.started, self.started_at, self.phase = event, when, ""
        if not isinstance(event, events.Phase):
            self.ended_at = when
        if isinstance(event, events.Step):
            self._add(event)
        elif isinstance(event, events.Samples):
            self.samples[event.step] = (self._offset, len(line))
        elif isinstance(event, events.Notice):
            self.notices.append(event)
        elif isinstance(event, events.Answered):
            self.answers.append(event)
        elif isinstance(event, events.Phase):
            self.phase = event.text

    def _add(self, event: events.Step) -> None:
        if self.steps and event.step <= self.steps[-1]:
            self._cut(event.step - 1)
        self.steps.append(event.step)
        for name, value in event.metrics.items():
            if name not in self.metrics:
                self.metrics[name] = array("d", [math.nan] * (len(self.steps) - 1))
            self.metrics[name].append(
                float(value) if isinstance(value, int | float) else math.nan)
        for column in self.metrics.values():
            if len(column) < len(self.steps):
                column.append(math.nan)

    def _cut(self, step: int) -> None:
        """Forget the points after `step`."""
        keep = len(self.steps)
        while keep and self.steps[keep - 1] > step:
            keep -= 1
        if keep < len(self.steps):
            self.epoch += 1
            for column in (self.steps, *self.metrics.values()):
                del column[keep:]
            self.samples = {s: where for s, where in self.samples.items() if s <= step}

    def rows_since(self, cursor: int, most: int = 2000) -> dict:
        """Points from index `cursor` on: {"from", "to", "x": [...], "y": {name: [...]}}.

        From 0 on, more than `most` points are thinned evenly, keeping the last.
        """
        with self._lock:
            end = len(self.steps)
            start = cursor if 0 <= cursor <= end else 0
            picks = range(start, end)
            if len(picks) > most:
                stride = math.ceil(len(picks) / most)
                picks = range(end - 1, start - 1, -stride)[::-1]
            return {
                "from": start, "to": end, "x": [self.steps[i] for i in picks],
                "y": {name: [_short(column[i]) for i in picks]
                      for name, column in self.metrics.items()},
            }

    def newest(self, name: str) -> float | None:
        with self._lock:
            column = self.metrics.get(name)
            return _short(column[-1]) if column else None

    def mean(self, name: str, first: int = 0, last: int | None = None) -> float | None:
        """Mean of a metric over a slice of its points, NaN left out."""
        with self._lock:
            values = [v for v in self.metrics.get(name, ())[first:last] if not math.isnan(v)]
        return sum(values) / len(values) if values else None

    @property
    def engine(self) -> str:
        """The engine that trains it, or trained it last; empty before the trainer stood."""
        return str(self.started.facts.get("engine", "")) if self.started else ""

    def pace(self) -> float | None:
        """Seconds per step, over the newest points."""
        return self.mean("seconds/step", -PACE)

    def curves(self) -> dict[str, list[float]]:
        """Every metric's values, NaN left out."""
        with self._lock:
            return {name: [v for v in column if not math.isnan(v)]
                    for name, column in self.metrics.items()}

    def groups_at(self, step: int | None = None) -> tuple[int, list[dict]] | None:
        """(step, groups) of the samples at `step`, or the newest; None if there are none."""
        with self._lock:
            if not self.samples or (step is not None and step not in self.samples):
                return None
            step = max(self.samples) if step is None else step
            offset, size = self.samples[step]
        with self.path.open("rb") as f:
            f.seek(offset)
            read = events.read_line(f.read(size).decode("utf-8", errors="replace"))
        return (step, read[1].groups) if read else None


def _short(value: float) -> float | None:
    """Four digits are enough for a curve, and keep a tick small."""
    return None if math.isnan(value) else float(f"{value:.4g}")


@dataclass
class Run:
    """One run as a person sees it. `reward_*` are means of the weighted reward."""

    folder: RunFolder
    name: str
    status: str  # starting, running, stopping, stopped, failed, finished, damaged
    settings: Settings | None
    step: int = 0
    steps: int = 0
    created: float = 0.0
    seconds: float = 0.0  # of training, from the trainer's start to now or the end
    pace: float | None = None  # seconds per step lately
    reward_first: float | None = None
    reward_last: float | None = None
    problem: Problem | None = None
    phase: str = ""
    record: dict = field(default_factory=dict)  # settings.json as it is

    @property
    def id(self) -> str:
        return self.folder.id

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE

    def seconds_left(self) -> float | None:
        if self.pace is None or not self.is_active:
            return None
        return self.pace * max(0, self.steps - self.step)

    def to_dict(self) -> dict:
        return {"run": self.id, "name": self.name, "folder": str(self.folder.path),
                "status": self.status, "step": self.step, "steps": self.steps,
                "created": self.created, "seconds": round(self.seconds, 1),
                "reward_first": self.reward_first, "reward_last": self.reward_last,
                "problem": str(self.problem) if self.problem else None}


class Runs:
    """All runs of a workspace. Keeps one `RunLog` per run that was looked at."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._logs: dict[str, RunLog] = {}
        self._lock = threading.Lock()

    def log(self, run_id: str) -> RunLog:
        """The run's events, up to date. Raises RunError for an unknown run."""
        folder = self.workspace.run(run_id)
        with self._lock:
            log = self._logs.setdefault(run_id, RunLog(folder.events))
        return log.refresh()

    def all(self) -> list[Run]:
        """Every run, newest first; a damaged folder is listed as such."""
        return [self._read(folder) for folder in self.workspace.folders()]

    def get(self, run_id: str) -> Run:
        return self._read(self.workspace.run(run_id))

    def active(self) -> Run | None:
        """The run that a worker is busy with, if there is one."""
        return next((run for folder in self.workspace.folders()
                     if worker_of(folder) and (run := self._read(folder)).is_active), None)

    def _read(self, folder: RunFolder) -> Run:
        log = self.log(folder.id)
        try:
            record = read_record(folder)
            settings = Settings.from_dict(record["settings"])
        except (RunError, BadSettings) as error:
            return Run(folder, folder.id, "damaged", None, problem=error.problem)
        status, problem = status_of(folder, log)
        ended = time.time() if status in ACTIVE else log.ended_at
        edge = max(1, min(10, len(log.steps) // 4))
        return Run(
            folder, record.get("name") or folder.id, status, settings,
            step=log.steps[-1] if log.steps else 0,
            steps=log.started.steps if log.started else settings.train.max_steps,
            created=record.get("created", 0.0),
            seconds=log.seconds + max(0.0, ended - log.started_at) if log.started else 0.0,
            pace=log.pace(),
            reward_first=log.mean("reward/weighted", 0, edge),
            reward_last=log.mean("reward/weighted", -edge),
            problem=problem, phase=log.phase, record=record)


def read_record(folder: RunFolder) -> dict:
    """settings.json. Raises RunError if it is damaged."""
    try:
        record = json.loads(folder.settings.read_text(encoding="utf-8"))
        if isinstance(record, dict) and isinstance(record.get("settings"), dict):
            return record
        reason = "it has no settings"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise RunError(f"The folder of run {folder.id} is damaged.",
                   f"settings.json cannot be read: {reason}.",
                   "Delete the run, or restore the file.")


def status_of(folder: RunFolder, log: RunLog) -> tuple[str, Problem | None]:
    """(status, problem) from the last event and from whether a worker lives."""
    if worker_of(folder):
        if isinstance(log.last, events.LAST):
            # the worker is on its way out, or a resumed one has not yet said its first word
            if not resumes(folder, log):
                return _ended(log.last)
            return "starting", None
        if folder.control.exists():
            return "stopping", None
        return ("running" if log.steps and not log.phase else "starting"), None
    if isinstance(log.last, events.LAST):
        return _ended(log.last)
    if was_killed(folder):
        return "stopped", None
    return "failed", wordless_end(folder)


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


def _ended(last: events.Event) -> tuple[str, Problem | None]:
    if isinstance(last, events.Failed):
        return "failed", Problem(last.what, last.why, last.next, kind=last.kind)
    return ("finished" if isinstance(last, events.Finished) else "stopped"), None


def was_killed(folder: RunFolder) -> bool:
    """Whether a person asked that the worker be ended at once."""
    try:
        return folder.control.read_text().strip() == NOW
    except OSError:
        return False


def resumes(folder: RunFolder, log: RunLog) -> bool:
    """Whether the living worker was started after the last event was written."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(folder.process.read_text())["launched"] > log.path.stat().st_mtime
    return False


def worker_of(folder: RunFolder) -> psutil.Process | None:
    """The living worker of this run. Its start time is compared too: numbers are used again."""
    try:
        told = json.loads(folder.process.read_text())
        process = psutil.Process(told["pid"])
        if abs(process.create_time() - told["created"]) > 2:
            return None
        return process if process.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None


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
