"""Which files of this machine may be trained on: all, unless others than its own people ask.

It is asked where a file is about to be read, so that no page and no setting can pass it by.
"""

from collections.abc import Sequence
from pathlib import Path

from lab.core.problems import BadData


class _Places:
    """Folders and files that may be read; all, where the folders are None."""

    folders: tuple[Path, ...] | None = None
    files: set[Path] = set()


_places = _Places()


def limit_files(uploads: Path, more: Sequence[str] = ()) -> None:
    """From now on, files of these folders alone."""
    _places.folders = tuple(Path(one).expanduser().resolve() for one in (uploads, *more))


def allow_file(path: Path) -> None:
    """This file too: it was handed in just now."""
    _places.files.add(path.resolve())


def check_place(path: Path) -> None:
    """Raise BadData for a file that may not be read: whether it is there is not told."""
    if _places.folders is None:
        return
    real = path.resolve()  # where a link leads to
    if real not in _places.files and not any(map(real.is_relative_to, _places.folders)):
        raise BadData("This file cannot be used here.", "Others than the people of this machine "
                      "can reach the lab, so it reads uploads alone, and folders that were given "
                      "with --data-dir.", "Upload it, or start the lab with --data-dir and its "
                      "folder.", "data.path")
