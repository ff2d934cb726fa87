"""The folder of one export: what was asked, how far it is, what came of it; all of it on disk."""

import contextlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.core.files import write_json
from lab.core.problems import Problem
from lab.services.workers import is_worked_on, log_tail
from lab.services.workspace import RunFolder

WORKING, DONE, FAILED, CANCELLED = "working", "done", "failed", "cancelled"
KINDS = ADAPTER, MERGED, GGUF, SCRIPT, CARD, BUNDLE = (
    "adapter", "merged", "gguf", "script", "card", "bundle")
QUANTS = ("f16", "q8_0", "q4_k_m")


@dataclass(frozen=True)
class Asked:
    """What a person wants to take home. `out` is empty where it stays in the run's folder."""

    run: str
    kind: str
    step: int | None = None
    quant: str = ""
    questions: int = 16
    out: str = ""
    push: str = ""  # owner/name on the Hub: it is uploaded there once it is made
    private: bool = True
    weights: str = ""  # begin of their SHA-256: a step may be trained anew after a resume

    @property
    def name(self) -> str:
        """The folder's name, which what is made anew shares with what it replaces."""
        return "-".join(filter(None, (self.kind, self.quant, "adapter" if self.step is None
                                      else f"step-{self.step}")))

    @property
    def title(self) -> str:
        kind = self.kind.upper() if self.kind == GGUF else self.kind
        what = f"{kind} {self.quant}".strip()
        return what if self.step is None else f"{what} of step {self.step}"

    @property
    def heading(self) -> str:
        """The same where a line begins with it."""
        return f"{self.title[0].upper()}{self.title[1:]}"


@dataclass(frozen=True)
class ExportFolder:
    """The paths of one export."""

    path: Path

    @property
    def asked(self) -> Path:
        return self.path / "asked.json"

    @property
    def state(self) -> Path:
        return self.path / "state.json"

    @property
    def process(self) -> Path:
        return self.path / "worker.json"

    @property
    def lock(self) -> Path:
        return self.path / "worker.lock"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def control(self) -> Path:
        """Exists once it was asked to end."""
        return self.path / "control"


@dataclass(frozen=True)
class Export:
    """One export as it stands. `check` is what check.py found, None where nothing was to be."""

    folder: ExportFolder
    asked: Asked
    status: str
    made: float = 0.0
    doing: str = ""
    done: int = 0
    of: int = 0
    path: Path | None = None
    bytes: int = 0
    check: dict[str, Any] | None = None
    problem: Problem | None = None
    left_out: tuple[str, ...] = ()
    pushed: str = ""  # address on the Hub
    seconds: float = 0.0

    @property
    def is_active(self) -> bool:
        return self.status == WORKING

    @property
    def failed_check(self) -> bool:
        return bool(self.check) and not self.check.get("passed")

    def log(self) -> str:
        return log_tail(self.folder.log)


def exports_of(run: RunFolder) -> list[Export]:
    """Every export of a run, the newest first; what cannot be read is left out."""
    if not run.exports.is_dir():
        return []
    found = [one for path in run.exports.iterdir() if path.is_dir()
             and (one := read(ExportFolder(path))) is not None]
    return sorted(found, key=lambda one: one.made, reverse=True)


def read(folder: ExportFolder) -> Export | None:
    try:
        asked = Asked(**json.loads(folder.asked.read_text(encoding="utf-8")))
        told = json.loads(folder.state.read_text(encoding="utf-8"))
        status, problem = told["status"], told.get("problem")
        if status == WORKING and not is_worked_on(folder):
            # Once more: it may have written its end and ended between the two looks.
            told = json.loads(folder.state.read_text(encoding="utf-8"))
            status, problem = told["status"], told.get("problem")
        if status == WORKING and not is_worked_on(folder):
            status = FAILED
            problem = Problem("The export ended without a last word.", "It was killed, or the "
                              "machine went down.", "Make it again.").to_dict()
        path = told.get("path")
        return Export(
            folder, asked, status, float(told["made"]), str(told.get("doing", "")),
            int(told.get("done", 0)), int(told.get("of", 0)), Path(path) if path else None,
            int(told.get("bytes", 0)), told.get("check"),
            Problem(**problem) if problem else None, tuple(told.get("left_out", ())),
            str(told.get("pushed", "")), float(told.get("seconds", 0.0)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


class State:
    """The pen of whoever makes an export: state.json is replaced whole."""

    def __init__(self, folder: ExportFolder, known: Mapping[str, Any] | None = None) -> None:
        """`known` is what stands there already, where something was made before."""
        self.folder, self.begun = folder, time.time()
        self.told: dict[str, Any] = {"made": self.begun, **(known or {}), "status": WORKING,
                                     "doing": "Starting"}
        self.write()

    def say(self, doing: str, done: int = 0, of: int = 0) -> None:
        if doing != self.told.get("doing"):
            print(doing, flush=True)  # into its log
        self.told |= {"doing": doing, "done": done, "of": of}
        self.write()

    def end(self, status: str, **more: Any) -> None:
        self.told |= {"status": status, "seconds": round(time.time() - self.begun, 1), **more}
        self.write()

    def write(self) -> None:
        write_json(self.folder.state, self.told)


def forget(folder: ExportFolder) -> None:
    """Delete an export with all that was made of it in the run's folder."""
    with contextlib.suppress(OSError):
        shutil.rmtree(folder.path)
