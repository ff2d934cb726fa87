"""Where an export is put: what may be written over, and how it appears in one move or not at all.
"""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

from lab.core.problems import RunError

WHOLE = (".safetensors", ".gguf", ".svg")  # files that do not shrink, or are small


def refuse_place(out: Path, name: str, as_file: bool) -> Path:
    """The place, made absolute. Raises RunError for what must not be written over: a link, a
    device, a folder where a file is to be, or a folder that holds something."""
    out = Path(out).expanduser()
    if out.is_symlink() or (out.exists() and not out.is_dir() and not out.is_file()):
        raise RunError(f"{out} is no plain file.", "A link, a device or a pipe would be "
                       "replaced by the export.",
                       "Give the name of a file, new or one to write over.")
    if as_file and out.is_dir():
        raise RunError(f"{out} is a folder.", "The export is one zip file.",
                       f"Give a file name, for example {out / name}.")
    if not as_file and out.is_file():
        raise RunError(f"{out} is a file.", "The export is a folder.",
                       f"Give a new folder, or {out.with_suffix('.zip').name} for one file.")
    if not as_file and out.is_dir() and any(out.iterdir()):
        raise RunError(f"The folder {out} is not empty.", "Its files would be mixed with those of "
                       "the export.", f"Give a new one, for example {out / Path(name).stem}.")
    return out.absolute()


def draft_of(out: Path) -> Path:
    """Where the files are made: beside the place, so that the last move is one."""
    return out.with_name(f".{out.name}.{os.getpid()}.part")


def packed(out: Path, name: str, fill: Callable[[Path], None]) -> Path:
    """Let `fill` write into a folder, and put that at `out` as a zip. Raises RunError."""
    out = refuse_place(out, name, True)
    draft = draft_of(out)
    try:
        begin(draft)
        fill(draft)
        put(draft, out, True)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out


def begin(draft: Path) -> None:
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)


def put(draft: Path, out: Path, as_file: bool, stop: Callable[[], None] = lambda: None) -> None:
    """Move what was made to its place. `stop` is asked between two files; what it raises ends it.
    """
    if not as_file:
        if out.is_dir():
            out.rmdir()  # it is empty, see refuse_place
        draft.replace(out)
        return
    half = draft.with_name(f"{draft.name}.zip")
    try:
        with zipfile.ZipFile(half, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for path in sorted(draft.rglob("*")):
                stop()
                if path.is_file():
                    archive.write(path, path.relative_to(draft).as_posix(),
                                  zipfile.ZIP_STORED if path.suffix in WHOLE else None)
        half.replace(out)
    finally:
        half.unlink(missing_ok=True)


def cannot_write(out: Path, error: OSError) -> RunError:
    return RunError(f"{out} could not be written.", f"{error.strerror or error}.",
                    "Free some space, or export to another folder.")


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
    return path.stat().st_size
