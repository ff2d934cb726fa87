"""The events of one run as curves: read on as the worker writes them."""

import math
import re
import threading
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lab.core import events
from lab.core.insight.groups import Glance, glance_of
from lab.core.insight.metrics import derived_goal

PACE = 20  # points over which the seconds per step are measured
# How a line of samples begins as the lab writes it. They are most of the file, and are read where
# they are shown (`groups_at`).
SAMPLES = re.compile(rb'\{"event": "samples", "time": (\d+(?:\.\d+)?), "step": (\d{1,15}), '
                     rb'"groups": \[')


class RunLog:
    """The events of one run, read bit by bit: `refresh` reads only what is new.

    Metrics are columns of floats (NaN where a step has no value), one entry per logged step.
    A resume forgets the steps after its checkpoint, and `epoch` counts such breaks, so that a
    reader with a cursor knows when to start over.
    """

    def __init__(self, path: Path, goals: Mapping[str, float] | None = None) -> None:
        """`goals` are the highest scores of the run's goal rewards, for points without goal/mean:
        those of runs that are older than it."""
        self.path = path
        self.goals = dict(goals or {})
        self._lock = threading.RLock()
        self._forget()

    def _forget(self) -> None:
        self._offset = 0
        self.epoch = 0
        self.steps = array("q")
        self.metrics: dict[str, array] = {}
        self.samples: dict[int, tuple[int, int]] = {}  # step -> (offset, bytes) in the file
        # step -> (where its line is, its groups; None: damaged)
        self._glances: dict[int, tuple[tuple[int, int], list[Glance | None]]] = {}
        self.held_out: dict[int, dict[str, float | None]] = {}  # step -> see events.HeldOut
        self.resumed: list[int] = []  # steps after which it was gone on with
        self.notices: list[events.Notice] = []
        self.answers: list[events.Answered] = []
        self.phase, self.phase_at = "", 0.0
        self.started: events.Started | None = None
        self.seconds = 0.0  # of training before this stretch
        self.started_at = self.ended_at = 0.0  # of this stretch; its end so far
        self.held, self.paused_at = 0.0, 0.0  # its pauses that are over; since when it is in one
        self.last: events.Event | None = None
        self.damaged = 0
        self.unreadable = ""  # why the file cannot be read, where it is there

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
            try:
                with self.path.open("rb") as f:
                    f.seek(self._offset)
                    for line in f:
                        if not line.endswith(b"\n"):
                            break
                        self._take(line)
                        self._offset += len(line)
                self.unreadable = ""
            except OSError as error:
                self.unreadable = error.strerror or str(error)
        return self

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        if (found := SAMPLES.match(line)) and line.endswith(b"]}\n") \
                and float(found[1]) < events.LATEST:
            self.ended_at, step = float(found[1]), int(found[2])
            self.samples[step], self.last = (self._offset, len(line)), events.Samples(step, [])
            return
        read = events.read_line(line.decode("utf-8", errors="replace"))
        if read is None:
            self.damaged += 1
            return
        when, event = read
        self.last = event
        if isinstance(event, events.Started):
            if self.started_at:
                self.seconds += max(0.0, (self.paused_at or self.ended_at) - self.started_at
                                    - self.held)
            self.held = self.paused_at = 0.0
            self._cut(event.resumed_from)
            if event.resumed_from and event.resumed_from not in self.resumed:
                self.resumed.append(event.resumed_from)
            self.started, self.started_at, self.phase = event, when, ""
        if not isinstance(event, events.Phase):
            self.ended_at = when
        if isinstance(event, events.Step):
            self._add(event)
            self.phase = ""
        elif isinstance(event, events.Samples):
            self.samples[event.step] = (self._offset, len(line))
        elif isinstance(event, events.HeldOut):
            self.held_out[event.step] = {
                name: None if math.isnan(_finite(value)) else value
                for name, value in event.metrics.items()}
        elif isinstance(event, events.Notice):
            self.notices.append(event)
        elif isinstance(event, events.Answered):
            self.answers.append(event)
        elif isinstance(event, events.Paused):
            self.paused_at = when
        elif isinstance(event, events.WentOn):
            self.held += max(0.0, when - self.paused_at) if self.paused_at else 0.0
            self.paused_at = 0.0
        elif isinstance(event, events.Phase):
            self.phase, self.phase_at = event.text, when

    def _add(self, event: events.Step) -> None:
        if self.steps and event.step <= self.steps[-1]:
            self._cut(event.step - 1)
        self.steps.append(event.step)
        for name, value in (event.metrics | derived_goal(event.metrics, self.goals)).items():
            if name not in self.metrics:
                self.metrics[name] = array("d", [math.nan] * (len(self.steps) - 1))
            fine = type(value) is float and -math.inf < value < math.inf  # nearly all are
            self.metrics[name].append(value if fine else _finite(value))
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
        self.held_out = {s: told for s, told in self.held_out.items() if s <= step}
        self.resumed = [s for s in self.resumed if s <= step]

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

    def columns(self) -> tuple[int, array, dict[str, array]]:
        """(epoch, steps, metrics) as they are at this moment, as copies; NaN where a point lacks
        a value."""
        with self._lock:
            return self.epoch, self.steps[:], {name: c[:] for name, c in self.metrics.items()}

    def seen(self) -> dict[int, list[Glance | None]]:
        """The recorded groups of each step at a glance, as they are at this moment.

        A line of samples is read for this once, and when somebody wants to know: they are most of
        the file.
        """
        with self._lock:
            there, known = dict(self.samples), self._glances
            new = [step for step, place in there.items() if known.get(step, ((), []))[0] != place]
        read = {step: (there[step], [glance_of(group, self.goals) for group in groups])
                for step, groups in self._read(there, new)}
        with self._lock:
            self._glances = {step: one for step, one in (known | read).items() if step in there}
            return {step: found for step, (_, found) in self._glances.items()}

    def _read(self, places: Mapping[int, tuple[int, int]], steps: Iterable[int]
              ) -> Iterator[tuple[int, list]]:
        """(step, its groups), from where the lines of these steps are in the file."""
        if not (steps := sorted(steps)):
            return
        try:
            with self.path.open("rb") as file:
                for step in steps:
                    offset, size = places[step]
                    file.seek(offset)
                    line = events.read_line(file.read(size).decode("utf-8", errors="replace"))
                    if line and isinstance(line[1], events.Samples):
                        yield step, line[1].groups
        except OSError:
            return

    def groups_at(self, step: int | None = None) -> tuple[int, list[dict]] | None:
        """(step, groups) of the samples at `step`, or the newest; None if there are none."""
        with self._lock:
            if not self.samples or (step is not None and step not in self.samples):
                return None
            step = max(self.samples) if step is None else step
            there = {step: self.samples[step]}
        return next(self._read(there, there), None)


def _finite(value: Any) -> float:
    """A metric as it is drawn: NaN for what is no number, or none that a curve can hold."""
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _short(value: float) -> float | None:
    """Four digits are enough for a curve, and keep a tick small."""
    return None if math.isnan(value) else float(f"{value:.4g}")
