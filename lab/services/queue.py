"""Runs that wait for their turn: kept beside the runs, started one after the other by the app."""

import contextlib
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from lab.core.files import write_json
from lab.core.problems import LabError, Problem
from lab.core.rewards import permission
from lab.core.settings import Settings
from lab.services import machine, own_rewards
from lab.services.jobs import Busy, Jobs, refuse
from lab.services.runs import read_record, settings_of
from lab.services.settled import settled
from lab.services.workspace import RunFolder, Workspace

LOOK_EVERY = 1.0  # seconds between two looks at whether the machine is free


@dataclass(frozen=True)
class Waiting:
    """One run that waits. `problem` says why it could not start, where it was its turn."""

    folder: Path
    name: str
    settings: Settings | None
    problem: Problem | None = None

    @property
    def id(self) -> str:
        return self.folder.name


class Queue:
    """The runs that wait, the one that came first in front.

    Each is a folder with its settings and its own rewards' file: what is changed meanwhile does
    not reach it. A run that ends in any way lets the next one start; one that cannot start stays,
    with the reason, and lets those behind it pass.
    """

    def __init__(self, workspace: Workspace, jobs: Jobs) -> None:
        self.workspace, self.jobs = workspace, jobs
        self._watcher: threading.Thread | None = None

    def add(self, settings: Settings, name: str = "") -> int:
        """Put a run behind those that wait; returns its place, from 1. Raises what a start would
        raise of these settings on this machine."""
        refuse(settings, machine.look(self.workspace.make().root), self.workspace)
        settings = settled(settings, self.workspace)
        own_rewards.refuse_broken(settings)
        folder = RunFolder(self.workspace.queue / f"{time.time_ns()}")
        folder.path.mkdir(parents=True)
        settings, _ = own_rewards.keep(settings, folder)
        write_json(folder.settings, {"name": name, "created": time.time(),
                                      "settings": settings.to_dict()})
        return len(self.all())

    def all(self) -> list[Waiting]:
        """Those that wait, the next one first."""
        if not self.workspace.queue.is_dir():
            return []
        return [self._read(path) for path in sorted(self.workspace.queue.iterdir())
                if path.name.isdecimal() and (path / "settings.json").exists()]

    def remove(self, waiting_id: str) -> None:
        """Take one out of the queue; nothing where it is gone already."""
        found = next((one for one in self.all() if one.id == waiting_id), None)
        if found is not None:
            shutil.rmtree(found.folder, ignore_errors=True)

    def turn(self) -> None:
        """Start the next one where nothing trains."""
        if not self.all():
            return
        lock = FileLock(self.workspace.root / ".queue.lock")  # another app may serve this root
        with contextlib.suppress(Timeout), lock.acquire(timeout=0):
            if self.jobs.runs.active():
                return
            for one in self.all():
                if one.problem or one.settings is None:
                    continue
                try:
                    with permission.vouched():  # who put it here was asked then
                        self.jobs.start(one.settings, one.name)
                except Busy:  # somebody else was quicker
                    return
                except LabError as error:
                    kept = RunFolder(one.folder)
                    write_json(kept.settings,
                                read_record(kept) | {"problem": error.problem.to_dict()})
                else:
                    self.remove(one.id)
                    return

    def watch(self) -> None:
        """Look again and again, in a thread that ends with this process."""
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, daemon=True, name="queue")
            self._watcher.start()

    def _watch(self) -> None:
        while True:
            with contextlib.suppress(LabError, OSError):  # the next look may find it mended
                self.turn()
            time.sleep(LOOK_EVERY)

    def _read(self, path: Path) -> Waiting:
        folder = RunFolder(path)
        try:
            record = read_record(folder)
            problem = record.get("problem")
            return Waiting(path, record.get("name") or "", settings_of(record, folder),
                           Problem(**problem) if isinstance(problem, dict) else None)
        except LabError as error:
            return Waiting(path, "", None, error.problem)
        except TypeError:
            return Waiting(path, "", None, Problem("This entry of the queue is damaged."))

