"""Where everything lives: the root folder of all runs, and the paths inside one run."""

import functools
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from lab.core.adapters import BEGIN, Adapter, is_whole, step_of, steps_in
from lab.core.problems import RunError

PROJECT = Path(__file__).resolve().parents[2]
STARTER_FOLDER = PROJECT / "assets" / "starter"
STAMPED, STAMP = "%Y%m%d-%H%M%S", re.compile(r"\d{8}-\d{6}(?!\d)")  # how an id begins


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run (docs/run-folder.md)."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def settings(self) -> Path:
        return self.path / "settings.json"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def control(self) -> Path:
        return self.path / "control"

    @property
    def pause(self) -> Path:
        """There as long as the run is to wait between two steps."""
        return self.path / "pause"

    @property
    def process(self) -> Path:
        return self.path / "worker.json"

    @property
    def lock(self) -> Path:
        """Held by the worker that writes here (lab/core/lock.py)."""
        return self.path / "worker.lock"

    @property
    def log(self) -> Path:
        return self.path / "worker.log"

    @property
    def data(self) -> Path:
        return self.path / "data.jsonl"

    @property
    def held_out(self) -> Path:
        return self.path / "held_out.jsonl"

    @property
    def rewards(self) -> Path:
        """The file of own rewards that the run was started with, where it has any."""
        return self.path / "rewards.py"

    @property
    def asks(self) -> Path:
        """Questions to a run that trains, a file each until they are answered."""
        return self.path / "asks"

    @property
    def verdicts(self) -> Path:
        """Held-out verdicts that were made of this run (services/verdicts.py)."""
        return self.path / "verdicts.jsonl"

    @property
    def votes(self) -> Path:
        """Blind votes on its answers (services/votes.py)."""
        return self.path / "votes.jsonl"

    @property
    def exports(self) -> Path:
        """What was made of it to be taken home, a folder each (services/export/state.py)."""
        return self.path / "exports"

    @property
    def label(self) -> Path:
        """What a person says of the run: name, tags, notes (services/labels.py)."""
        return self.path / "label.json"

    @property
    def summary(self) -> Path:
        """Its events in short, for lists; made anew where it is lost (services/summary.py)."""
        return self.path / "summary.json"

    @property
    def begin(self) -> Path:
        """The adapter that the run began with, where that is not a new one (services/begin.py)."""
        return self.path / BEGIN

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step}"

    def checkpoints(self) -> list[int]:
        """Steps with a checkpoint that can be loaded, in order."""
        return [step for step in steps_in(self.path / "checkpoints")
                if is_whole(self.checkpoint(step))]

    def saved(self) -> list[Adapter]:
        """Every adapter that can be loaded, by its step: the last one is the newest.

        `adapter/` is written when a run stops or ends, so a resumed run leaves it behind. Where a
        checkpoint is of the same step it stands for both: it does not change any more.
        """
        found = [Adapter(self.checkpoint(step), step) for step in self.checkpoints()]
        if is_whole(self.adapter):
            last = Adapter(self.adapter, step_of(self.adapter, self.events))
            if last.step not in [one.step for one in found]:
                found.append(last)
        return sorted(found, key=lambda one: -1 if one.step is None else one.step)

    def newest(self) -> Adapter | None:
        """The adapter that has learnt longest; None where none was saved yet."""
        found = self.saved()
        return found[-1] if found else None

    def saved_at(self, checkpoint: int | None) -> Adapter:
        """The adapter of this step, or the newest one there is. Raises RunError."""
        found = self.saved()
        if not found:
            raise RunError(f"Run {self.id} has no adapter yet.",
                           "It is saved at the first checkpoint, and when the run stops or ends.",
                           "Wait for a checkpoint, or stop the run.")
        if checkpoint is None:
            return found[-1]
        for one in found:
            if one.step == checkpoint:
                return one
        there = ", ".join(str(one.step) for one in found if one.step is not None) or "none"
        raise RunError(f"Run {self.id} has no checkpoint at step {checkpoint}.",
                       f"Checkpoints: {there}.")

    def adapter_at(self, checkpoint: int | None) -> Path:
        """The folder of `saved_at`."""
        return self.saved_at(checkpoint).path


def default_root() -> Path:
    return Path(os.environ.get("GRPO_LAB_HOME") or "runs")


class Workspace:
    """The root folder of all runs. Every path of the lab is made here."""

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root if root is not None else default_root()).expanduser().resolve()

    def make(self) -> "Workspace":
        """Create the root. Raises RunError if it cannot be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".write-{os.getpid()}"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise RunError(f"The folder {self.root} cannot be written.",
                           f"{error.strerror or error}.",
                           "Give another one with --root or GRPO_LAB_HOME.") from error
        return self

    @property
    def uploads(self) -> Path:
        return self.root / "uploads"

    @property
    def queue(self) -> Path:
        """Runs that wait for their turn (services/queue.py)."""
        return self.root / "queue"

    @property
    def caches(self) -> Path:
        """What the engines of a GPU compiled, kept for the next start."""
        return self.root / "caches"

    @property
    def preflight(self) -> Path:
        """The newest preflight, with the settings it was made for."""
        return self.root / "preflight.json"

    def folders(self) -> list[RunFolder]:
        """Every run there is, newest first."""
        if not self.root.is_dir():
            return []
        found = [RunFolder(p) for p in self.root.iterdir()
                 if _is_run_id(p.name) and _has_settings(p)]
        return sorted(found, key=_began, reverse=True)

    def run(self, run_id: str | None) -> RunFolder:
        """An existing run by its id. Raises RunError, also for what is not a plain name."""
        if run_id is None:  # a page on which none is open
            raise RunError("No run is chosen.", next="Choose one.")
        folder = RunFolder(self.root / run_id)
        if not _is_run_id(run_id) or not _has_settings(folder.path):
            there = ", ".join(f.id for f in self.folders()[:5]) or "no runs yet"
            raise RunError(f"There is no run {run_id!r} in {self.root}.", f"There are: {there}.")
        return folder

    def new_run(self, name: str = "") -> RunFolder:
        """Make an empty folder for a run; its id is the time, and the name if there is one."""
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
        stamp = time.strftime(STAMPED)
        for attempt in range(1, 1000):
            tail = f"-{attempt}" if attempt > 1 else ""
            path = self.root / f"{stamp}{'-' + slug if slug else ''}{tail}"
            try:
                path.mkdir(parents=True)
                return RunFolder(path)
            except FileExistsError:
                continue
            except OSError as error:
                raise RunError(f"The folder {path} cannot be made.", f"{error.strerror or error}.",
                               "Give another root with --root or GRPO_LAB_HOME.") from error
        raise RunError(f"No free run id was found in {self.root}.")


def _has_settings(path: Path) -> bool:
    try:
        return (path / "settings.json").exists()
    except PermissionError:
        return True  # it is a run that cannot be read, and is shown as such


def _began(folder: RunFolder) -> str:
    """When a run began, as text that sorts: ids begin with it, unless somebody gave the folder
    another name."""
    if STAMP.match(folder.id):
        return folder.id
    try:
        found = folder.settings.stat()
        return f"{_created(folder.settings, found.st_size, found.st_mtime_ns)}-{folder.id}"
    except OSError:
        return ""


@functools.lru_cache(maxsize=1024)
def _created(settings: Path, size: int, changed: int) -> str:
    try:
        created = json.loads(settings.read_text(encoding="utf-8"))["created"]
        return time.strftime(STAMPED, time.localtime(created))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return ""


def _is_run_id(text: str) -> bool:
    """Whether a folder of this name may be a run: also one that a person gave it, in words of any
    language, but nothing that leads elsewhere, is hidden, or would be read as RUN:STEP."""
    return (text.isprintable() and 0 < len(text.encode()) <= 200 and text[0].isalnum()
            and text == text.strip() and not any(one in '/\\:*?"<>|' for one in text))
