"""The run doctor beside a workspace: looks at each new point of a run once, whoever asks."""

import threading
from collections.abc import Mapping
from dataclasses import replace

from lab.core import events
from lab.core.insight.doctor import EARLY, Report, Watch
from lab.core.settings import Settings
from lab.core.weights import is_sound
from lab.services.runs import Run, Runs


class Doctor:
    """Reports on the runs of a workspace; keeps one `Watch` for each that was asked for."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self._lock = threading.Lock()
        self._watches: dict[str, tuple[Settings, Watch, int, tuple, Report]] = {}

    def report(self, run: Run) -> Report:
        """What there is to say of this run now. Raises RunError where it is gone."""
        if run.settings is None:
            return Report(EARLY, "Its settings cannot be read.")
        log = self.runs.log(run.id)
        failed = (log.last.step, log.last.kind) if isinstance(log.last, events.Failed) else None
        with self._lock:
            # Looked up before the columns are copied: mostly nothing has changed.
            state = (log.epoch, len(log.steps), len(log.held_out), len(log.samples), failed)
            settings, watch, epoch, seen, report = self._watches.get(run.id, (None,) * 5)
            if (settings, seen) == (run.settings, state):
                return _with_ways_back(report, run)
            now, steps, metrics = log.columns()
            if (settings, epoch) != (run.settings, now):
                watch = Watch(run.settings)
            found = log.groups_at()
            held_out: Mapping[int, dict] = dict(log.held_out)
            report = watch.look(steps, metrics, held_out, found[1] if found else (), failed)
            self._watches[run.id] = (run.settings, watch, now, state, report)
            return _with_ways_back(report, run)


def _with_ways_back(report: Report, run: Run) -> Report:
    """Each finding that spoils a run with the newest sound checkpoint from before it."""
    saved = [step for step in run.folder.checkpoints() if is_sound(run.folder.checkpoint(step))] \
        if any(found.go_back for found in report.findings) else []

    def newest(before: int) -> int | None:
        return max((step for step in saved if step < before), default=None)

    return replace(report, findings=tuple(
        replace(found, back_to=newest(found.since)) if found.go_back else found
        for found in report.findings))
