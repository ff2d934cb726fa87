"""What a person says of a run: its name, tags, notes, and whether it is archived (label.json).

A file of its own, for settings.json belongs to whoever starts the run: so one that trains can be
renamed without getting in its worker's way. Changes of two people at once are made one after the
other, each of what it names alone.
"""

import functools
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lab.core.files import write_json
from lab.core.problems import BadSettings, RunError
from lab.services.workspace import RunFolder

NAME_LENGTH, TAG_LENGTH, NOTES_LENGTH = 80, 40, 10_000  # characters
MOST_TAGS = 20
PATIENCE = 10.0  # seconds to wait for somebody else's change


@dataclass(frozen=True)
class Label:
    """`name`: empty where the one that was given at the start holds. `wrong`: why label.json
    cannot be read, where it is there; the next change writes it anew."""

    name: str = ""
    tags: tuple[str, ...] = ()
    notes: str = ""
    archived: bool = False
    wrong: str = ""


NONE = Label()


def of_run(folder: RunFolder) -> Label:
    """The label of a run; a damaged one is an empty one that says so."""
    try:
        found = folder.label.stat()
        return _read(folder.label, found.st_size, found.st_mtime_ns, found.st_ino)
    except OSError:
        return NONE


@functools.lru_cache(maxsize=1024)
def _read(path: Path, size: int, changed: int, place: int) -> Label:
    """Read again when the file is another one or has changed."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return Label(_name(told.get("name", "")), tags_of(told.get("tags", [])),
                     _notes(told.get("notes", "")), told.get("archived", False) is True)
    except BadSettings as error:
        return Label(wrong=str(error.problem))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        return Label(wrong=getattr(error, "strerror", None) or str(error))


def change(folder: RunFolder, **fields: Any) -> Label:
    """Change these fields and leave the others; returns what holds now. `tags` may be a list, or
    text with commas between. Raises BadSettings for what cannot be, RunError where it cannot be
    written."""
    made = {"name": _name, "tags": tags_of, "notes": _notes, "archived": bool}
    checked = {key: made[key](value) for key, value in fields.items()}
    try:
        with FileLock(folder.path.parent / ".labels.lock", timeout=PATIENCE):
            label = replace(of_run(folder), wrong="", **checked)
            _write(folder.label, label)
    except (OSError, Timeout) as error:
        why = f"{getattr(error, 'strerror', None) or error}."
        raise RunError(f"The name and notes of run {folder.id} could not be kept.", why,
                       "See to it that its folder can be written, then save again.") from error
    return label


def _write(path: Path, label: Label) -> None:
    body = {key: value for key, value in asdict(label).items() if key != "wrong"}
    write_json(path, body)


def tags_of(given: Any) -> tuple[str, ...]:
    """Tags from a list, or from text with commas between: each once, in their order."""
    parts = given.split(",") if isinstance(given, str) else given
    if not isinstance(parts, list | tuple) or not all(isinstance(one, str) for one in parts):
        raise BadSettings("The tags are no list of words.", next="Write them with commas between.")
    found = list(dict.fromkeys(" ".join(one.split()) for one in parts if one.strip()))
    if len(found) > MOST_TAGS:
        raise BadSettings(f"{len(found)} tags are too many.", f"A run may have {MOST_TAGS}.",
                          "Take some away.")
    for one in found:
        if len(one) > TAG_LENGTH or not _is_text(one):
            raise BadSettings(f"The tag {one[:TAG_LENGTH]!r} cannot be used.",
                              f"A tag has at most {TAG_LENGTH} characters, without commas.",
                              "Take a shorter one.")
    return tuple(found)


def _name(given: Any) -> str:
    if not isinstance(given, str) or not _is_text(given) or len(given.strip()) > NAME_LENGTH:
        raise BadSettings("This name cannot be used.",
                          f"A name is one line of at most {NAME_LENGTH} characters.",
                          "Take a shorter one.")
    return given.strip()


def _notes(given: Any) -> str:
    if not isinstance(given, str) or not _is_text(given, "\n\t") or len(given) > NOTES_LENGTH:
        raise BadSettings("These notes cannot be kept.",
                          f"They may have {NOTES_LENGTH:,} characters of text.", "Shorten them.")
    return given.strip()


def _is_text(given: str, besides: str = "") -> bool:
    """Whether it can be written as UTF-8 and shown: no lone surrogates, no control characters."""
    return all(one in besides or (one >= " " and one != "\x7f" and not "\ud800" <= one <= "\udfff")
               for one in given)
