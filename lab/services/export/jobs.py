"""Exports in the background: started, followed, cancelled, deleted; one at a time."""

import contextlib
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from lab.core.files import write_json
from lab.core.hardware import engines
from lab.core.problems import RunError
from lab.services import machine, verdicts
from lab.services.environment import worker_environment
from lab.services.export.places import refuse_place
from lab.services.export.source import source_of
from lab.services.export.state import (
    ADAPTER,
    DONE,
    GGUF,
    KINDS,
    QUANTS,
    Asked,
    Export,
    ExportFolder,
    State,
    exports_of,
    forget,
    read,
)
from lab.services.jobs import Busy
from lab.services.processes import birth
from lab.services.workers import worker_of
from lab.services.workspace import PROJECT, Workspace

KEPT = ("made", "path", "bytes", "check", "left_out")  # of a finished one that is pushed
LIGHT = ("script", "card")  # kinds that need no model
ENDS = 30.0  # seconds that a process may take to end after its last word
LOOK_EVERY = 0.1  # seconds between two looks at an export that is waited for


class Exports:
    """What was, and is being, taken home of the runs of one workspace."""

    def __init__(self, workspace: Workspace,
                 free_gpu: Callable[[], None] = lambda: None) -> None:
        """`free_gpu` is called before a check takes a GPU."""
        self.workspace, self.free_gpu = workspace, free_gpu

    def start(self, asked: Asked, token: str = "") -> Export:
        """Begin in a process of its own. Raises a LabError for what cannot be exported, or where
        another export is at work. `token` is of the Hub, for a push; empty takes the local login.
        """
        if asked.kind not in KINDS:
            raise RunError(f"Nothing is exported as {asked.kind!r}.",
                           next=f"There are {', '.join(KINDS)}.")
        if asked.kind == GGUF and asked.quant not in QUANTS:
            raise RunError(f"GGUF is not written as {asked.quant!r}.",
                           next=f"There are {', '.join(QUANTS)}.")
        run = self.workspace.run(asked.run)
        source = source_of(run, asked.step)
        asked = replace(asked, step=source.step, quant=asked.quant if asked.kind == GGUF else "",
                        weights=verdicts.fingerprint(source.adapter.path))
        if asked.out:
            out = refuse_place(Path(asked.out), f"{run.id}-{asked.name}.zip",
                               asked.kind == ADAPTER or Path(asked.out).suffix == ".zip")
            asked = replace(asked, out=str(out))
        folder = ExportFolder(run.exports / asked.name)
        with self._only_one():
            before = read(folder)
            keeps = (asked.push and not asked.out and before and before.status == DONE
                     and before.asked.weights == asked.weights
                     and before.path and before.path.exists())
            if not keeps:
                shutil.rmtree(folder.path, ignore_errors=True)
            try:
                folder.path.mkdir(parents=True, exist_ok=True)
                folder.control.unlink(missing_ok=True)
                write_json(folder.asked, asdict(asked))
                # A finished one that is now pushed is not made again.
                kept = json.loads(folder.state.read_text(encoding="utf-8")) if keeps else {}
                State(folder, {key: kept[key] for key in KEPT if key in kept})
                if asked.questions and source.run.settings and asked.kind not in LIGHT \
                        and engines.plan_to_answer(source.run.settings,
                                                   machine.look(run.path)).on_gpu:
                    self.free_gpu()
                self._launch(folder, token)
            except OSError as error:
                raise RunError("The export could not be begun.", f"{error.strerror or error}.",
                               "Free some space, then try again.") from error
        return read(folder)

    def of(self, run_id: str) -> list[Export]:
        return exports_of(self.workspace.run(run_id))

    def active(self) -> Export | None:
        """The export that is being made, of any run."""
        return next((one for run in self.workspace.folders() for one in exports_of(run)
                     if one.is_active), None)

    def cancel(self, export: Export) -> None:
        """Ask it to end. What was half made is deleted."""
        with contextlib.suppress(OSError):
            export.folder.control.write_text("stop\n")

    def delete(self, export: Export) -> None:
        """Delete it from the run's folder. Raises RunError while it is being made."""
        if export.is_active:
            raise RunError("This export is being made.", next="Cancel it first.")
        forget(export.folder)

    def wait(self, export: Export, told: Callable[[Export], None] = lambda export: None,
             timeout: float = math.inf) -> Export:
        """Block until it has ended; `told` hears how far it is."""
        end = time.monotonic() + timeout
        while export is not None and export.is_active and time.monotonic() < end:
            told(export)
            process = worker_of(export.folder)
            with contextlib.suppress(psutil.Error):
                if process is not None:
                    process.wait(LOOK_EVERY)
            export = read(export.folder)
        if export is None:
            raise RunError("The export is gone.", "Its run was deleted meanwhile.")
        with contextlib.suppress(psutil.Error):  # it has said its last word, and is about to end
            if (process := worker_of(export.folder)) is not None:
                process.wait(min(timeout, ENDS))
        return export

    @contextlib.contextmanager
    def _only_one(self):
        guard = FileLock(self.workspace.root / ".export.lock")
        try:
            with guard.acquire(timeout=0):
                if now := self.active():
                    raise Busy(f"The {now.asked.title} of run {now.asked.run} is being made.",
                               "One export at a time uses this machine.",
                               "Wait for its end, or cancel it.")
                yield
        except Timeout:
            raise Busy("Another export is just being started.", next="Wait a moment.") from None

    def _launch(self, folder: ExportFolder, token: str) -> None:
        with folder.log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "lab.services.export.job", str(folder.path)],
                cwd=PROJECT, env=worker_environment(), stdin=subprocess.PIPE, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True)
        write_json(folder.process, {"pid": process.pid, "began": birth(process.pid), "said": 0})
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(token.encode() + b"\n")
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
