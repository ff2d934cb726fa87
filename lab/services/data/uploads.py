"""Files that were uploaded: kept under a name that can be recognised, and not for ever."""

import filecmp
import os
import re
import shutil
import time
import unicodedata
from contextlib import suppress
from pathlib import Path

from lab.core.problems import LabError
from lab.services.runs import read_record
from lab.services.workspace import Workspace

KEPT = 7 * 24 * 3600  # seconds that an upload is kept which no run names
LONGEST_NAME = 120  # bytes: a file system takes 255, and a Chinese character has three


def keep_upload(path: Path, workspace: Workspace) -> Path:
    """Move an upload into the lab's own folder, under a name that no other content has there.

    What was uploaded long ago and is named by no run is deleted. Lets OSError through.
    """
    folder = workspace.make().uploads
    folder.mkdir(parents=True, exist_ok=True)
    clear_out(workspace)
    stem, ending = plain_name(path.name)
    attempt = 1
    while (kept := folder / f"{stem}{f'-{attempt}' if attempt > 1 else ''}{ending}").exists():
        if filecmp.cmp(path, kept, shallow=False):
            os.utime(kept)
            path.unlink()
            return kept
        attempt += 1
    shutil.move(path, kept)
    os.utime(kept)
    return kept


def plain_name(name: str) -> tuple[str, str]:
    """(stem, ending) of a name, in its own alphabet, without what a shell or a path would read."""
    stem, ending = re.fullmatch(r"(.*?)((?:\.\w{1,8})?(?:\.gz)?)", name,
                                re.IGNORECASE | re.DOTALL).groups()
    stem = re.sub(r"[^\w.]+", "-", unicodedata.normalize("NFC", stem)).strip("-._")
    stem = stem.encode("utf-8", "ignore")[:LONGEST_NAME].decode("utf-8", "ignore")
    if not stem or re.fullmatch(r"con|nul|aux|prn|(com|lpt)\d", stem, re.IGNORECASE):
        stem = f"upload-{stem}".strip("-")  # names of devices on Windows
    return stem, ending.lower()


def clear_out(workspace: Workspace) -> None:
    """Delete the uploads that are older than KEPT and that no run names."""
    try:
        named = {Path(read_record(folder)["settings"]["data"]["path"]).name
                 for folder in workspace.folders()}
    except (LabError, LookupError, TypeError):
        return  # a damaged run may name any of them
    with suppress(OSError):
        for path in workspace.uploads.iterdir():
            with suppress(OSError):
                if path.is_file() and path.name not in named and \
                        path.stat().st_mtime < time.time() - KEPT:
                    path.unlink()
