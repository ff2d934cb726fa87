"""Deleted runs: out of every list at once, kept for a week to be brought back, then gone.

A run's folder becomes <root>/.deleted-TIME-ID, TIME in ns: one move, done or not done however large
the run is and however full the disk.
"""

import contextlib
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass

from lab.core.problems import RunError
from lab.services import labels
from lab.services.runs import read_record
from lab.services.workspace import RunFolder, Workspace

KEPT_DAYS = 7
_NAMED = re.compile(r"\.deleted-(\d{16,20})-(.+)")


@dataclass(frozen=True)
class Deleted:
    """A run that can be brought back. `when` is Unix time; `key` names it in the trash."""

    folder: RunFolder
    key: str
    id: str

    @property
    def when(self) -> float:
        return int(self.key) / 1e9

    @property
    def name(self) -> str:
        given = labels.of_run(self.folder).name
        with contextlib.suppress(RunError):
            given = given or read_record(self.folder).get("name") or ""
        return given or self.id

    def bytes(self) -> int:
        """What it takes of the disk."""
        total = 0
        with contextlib.suppress(OSError):  # it is being brought back just now
            for path in self.folder.path.rglob("*"):
                total += 0 if path.is_dir() else path.lstat().st_size
        return total


class Trash:
    """The deleted runs of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def put(self, folder: RunFolder) -> Deleted:
        """Move a run here. Raises OSError."""
        key = str(time.time_ns())
        gone = Deleted(RunFolder(folder.path.with_name(f".deleted-{key}-{folder.id}")), key,
                       folder.id)
        folder.path.rename(gone.folder.path)
        self.tidy()
        return gone

    def all(self) -> list[Deleted]:
        """What can be brought back, the newest first."""
        found = []
        with contextlib.suppress(OSError):
            for path in self.workspace.root.iterdir():
                if named := _NAMED.fullmatch(path.name):
                    found.append(Deleted(RunFolder(path), named[1], named[2]))
        return sorted(found, key=lambda one: one.when, reverse=True)

    def restore(self, key: str) -> RunFolder:
        """Bring a run back to where it was. Raises RunError."""
        one = next((one for one in self.all() if one.key == key), None)
        if one is None:
            raise RunError("This run cannot be brought back.", "It is not among the deleted ones, "
                           f"which are kept for {KEPT_DAYS} days.", "Look whether it is in the "
                           "list of runs.")
        back = RunFolder(self.workspace.root / one.id)
        if back.path.exists():
            raise RunError(f"Run {one.id} cannot be brought back.", "There is another one with "
                           "its id.", "Give the folder of that one another name first.")
        try:
            one.folder.path.rename(back.path)
        except OSError as error:
            raise RunError(f"Run {one.id} cannot be brought back.", f"{error.strerror or error}.",
                           "Look whether its folder can be moved.") from error
        return back

    def empty(self) -> int:
        """Delete all of them for good; returns how many. Raises RunError where one stays."""
        found = self.all()
        for one in found:
            try:
                shutil.rmtree(one.folder.path)
            except OSError as error:
                raise RunError(f"Run {one.id} could not be deleted for good.",
                               f"{error.strerror or error}.",
                               "Look whether another program uses its folder.") from error
        return len(found)

    def tidy(self) -> None:
        """Delete for good what has been here longer than it is kept."""
        for one in self.all():
            if time.time() - one.when > KEPT_DAYS * 86_400:
                shutil.rmtree(one.folder.path, ignore_errors=True)


def size_told(many: Sequence[Deleted]) -> str:
    """What deleted runs take of the disk: "1.2 GB"."""
    total = sum(one.bytes() for one in many)
    return f"{total / 1e9:.1f} GB" if total >= 1e9 else f"{total / 1e6:.1f} MB"
