"""Where everything lives: the root folder of all runs, and the paths inside one run."""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from lab.core.problems import RunError

PROJECT = Path(__file__).resolve().parents[2]
STARTER_FOLDER = PROJECT / "assets" / "starter"


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
    def process(self) -> Path:
        return self.path / "worker.json"

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
    def asks(self) -> Path:
        """Questions to a run that trains, a file each until they are answered."""
        return self.path / "asks"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step}"

    def checkpoints(self) -> list[int]:
        """Steps with a checkpoint that can be loaded, in order."""
        steps = []
        for folder in (self.path / "checkpoints").glob("step-*"):
            number = folder.name.removeprefix("step-")
            if number.isdecimal() and (folder / "adapter_model.safetensors").is_file():
                steps.append(int(number))
        return sorted(steps)

    def adapter_at(self, checkpoint: int | None) -> Path:
        """The adapter of a checkpoint, or the newest one there is. Raises RunError."""
        if checkpoint is not None:
            if checkpoint not in self.checkpoints():
                there = ", ".join(map(str, self.checkpoints())) or "none"
                raise RunError(f"Run {self.id} has no checkpoint at step {checkpoint}.",
                               f"Checkpoints: {there}.")
            return self.checkpoint(checkpoint)
        if (self.adapter / "adapter_model.safetensors").is_file():
            return self.adapter
        if steps := self.checkpoints():
            return self.checkpoint(steps[-1])
        raise RunError(f"Run {self.id} has no adapter yet.",
                       "It is saved at the first checkpoint, and when the run stops or ends.",
                       "Wait for a checkpoint, or stop the run.")


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
    def caches(self) -> Path:
        """What the engines of a GPU compiled, kept for the next start."""
        return self.root / "caches"

    def folders(self) -> list[RunFolder]:
        """Every run there is, newest first."""
        if not self.root.is_dir():
            return []
        found = [RunFolder(p) for p in self.root.iterdir()
                 if _is_run_id(p.name) and (p / "settings.json").exists()]
        return sorted(found, key=lambda folder: folder.id, reverse=True)

    def run(self, run_id: str) -> RunFolder:
        """An existing run by its id. Raises RunError, also for what is not a plain name."""
        folder = RunFolder(self.root / run_id)
        if not _is_run_id(run_id) or not folder.settings.exists():
            there = ", ".join(f.id for f in self.folders()[:5]) or "no runs yet"
            raise RunError(f"There is no run {run_id!r} in {self.root}.", f"There are: {there}.")
        return folder

    def new_run(self, name: str = "") -> RunFolder:
        """Make an empty folder for a run; its id is the time, and the name if there is one."""
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
        stamp = time.strftime("%Y%m%d-%H%M%S")
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


def _is_run_id(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}", text) is not None
