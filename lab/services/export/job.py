"""The process that makes one export, `python -m lab.services.export.job FOLDER`; jobs.py starts it.

It outlives the page and the app: all that it says is in the folder. A token of the Hub comes on
stdin, and nowhere else.
"""

import json
import os
import shutil
import sys
import tempfile
import threading
import traceback
import zipfile
from pathlib import Path

from lab.core import lock
from lab.core.problems import LabError, RunError, explain
from lab.services import processes
from lab.services.export import adapter, bundle, curves, gguf, hub, merged, script
from lab.services.export.card import card
from lab.services.export.check import check_export
from lab.services.export.making import Work
from lab.services.export.places import (
    begin,
    cannot_write,
    draft_of,
    put,
    refuse_place,
    size_of,
)
from lab.services.export.source import source_of
from lab.services.export.state import (
    ADAPTER,
    BUNDLE,
    CANCELLED,
    CARD,
    DONE,
    FAILED,
    GGUF,
    MERGED,
    SCRIPT,
    Asked,
    ExportFolder,
    State,
)
from lab.services.one_job import Cancelled
from lab.services.workspace import RunFolder

LOOK_EVERY = 0.1  # seconds between two looks at whether it is to end
OFFERED = 2_000_000_000  # bytes: what a page can offer is packed into one file
PATIENCE = 10.0  # seconds that it may take to end by itself


def main(path: str) -> int:
    folder = ExportFolder(Path(path))
    token = sys.stdin.buffer.readline().decode().strip()
    held = lock.hold(folder.lock)
    if held is None:
        return lock.OCCUPIED
    asked = Asked(**json.loads(folder.asked.read_text(encoding="utf-8")))
    state = State(folder, json.loads(folder.state.read_text(encoding="utf-8")))
    stop = threading.Event()
    out, as_file = place_of(asked, folder)
    draft = draft_of(out)
    threading.Thread(target=watch, args=(folder, state, stop, draft), daemon=True).start()
    try:
        if "path" not in state.told:
            state.told |= make(asked, folder, state, stop, out, as_file, draft)
        if asked.push:
            push(asked, state, stop, token)
        state.end(DONE, doing="")
        return 0
    except Cancelled as error:
        state.end(CANCELLED, problem=error.problem.to_dict(), doing="")
    except BaseException as error:
        traceback.print_exc()
        problem = error.problem if isinstance(error, LabError) else explain(error)
        # What was made stays: a push that failed leaves it where it is.
        state.end(DONE if "path" in state.told else FAILED, problem=problem.to_dict(), doing="")
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return 1


def place_of(asked: Asked, folder: ExportFolder) -> tuple[Path, bool]:
    """(where it is put, whether as one file). An adapter is a zip; all else is a folder, unless the
    name that was given ends in .zip."""
    if asked.out:
        out = Path(asked.out)
        as_file = asked.kind == ADAPTER or out.suffix == ".zip"
    else:
        out, as_file = folder.path / f"{asked.run}-{asked.name}", False  # see `make`
    return refuse_place(out, f"{asked.run}-{asked.name}.zip", as_file), as_file


def make(asked: Asked, folder: ExportFolder, state: State, stop: threading.Event, out: Path,
         as_file: bool, draft: Path) -> dict:
    """Make it, check it and put it in its place; what the state says of it."""
    state.say("Reading the adapter")
    source = source_of(RunFolder(folder.path.parent.parent), asked.step)
    if source.run.settings is None and asked.kind != ADAPTER:
        raise RunError("This run's settings are lost.", "Only its adapter can be taken home.",
                       "Export the adapter.")
    try:
        begin(draft)
        work = Work(source, asked, draft, state.say, stop)
        check = parts(work)
        work.refuse_cancelled()
        if not asked.out and size_of(draft) <= OFFERED:
            out, as_file = out.with_name(f"{out.name}.zip"), True
        state.say("Packing" if as_file else "Putting it in its place")
        put(draft, out, as_file, work.refuse_cancelled)
        return {"path": str(out), "bytes": size_of(out), "check": check,
                "left_out": work.left_out}
    except (OSError, LabError) as error:
        if not source.adapter.path.exists():
            raise RunError("The checkpoint is gone.", "The run that trains deletes all but the "
                           "newest ones.", "Export the newest, or the best.") from error
        if isinstance(error, OSError):
            raise cannot_write(out, error) from error
        raise


def parts(work: Work) -> dict | None:
    """Write everything of this kind into the draft; what the check found."""
    source, asked, draft = work.source, work.asked, work.draft
    check, files = None, []
    if asked.kind == ADAPTER:
        adapter.write_adapter(source, draft)
        if source.run.settings is not None:
            check = check_export(source, work.worker, ADAPTER, draft, asked.questions, True)
    elif asked.kind == MERGED:
        merged.write_merged(work, draft)
        check = check_export(source, work.worker, MERGED, draft, asked.questions, False)
    elif asked.kind == GGUF:
        file = gguf.write_gguf(work, draft, asked.quant)
        files = [file.name]
        check = gguf.advised(
            check_export(source, work.worker, GGUF, file, asked.questions, False), asked.quant)
    elif asked.kind == SCRIPT:
        script.write_script(source, draft)
        return None
    elif asked.kind == BUNDLE:
        check = bundle.write_bundle(work)
    work.say("Writing the card")
    told = card(source.run, source.base, source.step, source.judged,
                ADAPTER if asked.kind == CARD else asked.kind, check,
                curves.write_pictures(source, draft), work.left_out, files)
    (draft / "README.md").write_text(told, encoding="utf-8")
    return check


def push(asked: Asked, state: State, stop: threading.Event, token: str) -> None:
    """Upload what was made. Raises a LabError; what was made stays."""
    state.say(f"Pushing to {asked.push}")
    made = Path(state.told["path"])
    with tempfile.TemporaryDirectory(prefix="grpo-lab-push-") as scratch:
        if made.is_file():
            with zipfile.ZipFile(made) as archive:
                archive.extractall(scratch)
            made = Path(scratch)
        if stop.is_set():
            raise Cancelled("push")
        state.told["pushed"] = hub.push(made, asked.push, asked.private, token)


def watch(folder: ExportFolder, state: State, stop: threading.Event, draft: Path) -> None:
    """End the work once a person asked for it; at once where the run's folder is gone."""
    while folder.state.exists():
        if folder.control.exists():
            stop.set()
            if threading.Event().wait(PATIENCE):
                return
            # It hangs in a call that cannot be interrupted, such as an upload.
            processes.kill(processes.family(os.getpid()))
            shutil.rmtree(draft, ignore_errors=True)
            state.end(DONE if "path" in state.told else CANCELLED,
                      problem=Cancelled("export").problem.to_dict(), doing="")
            os._exit(1)
        threading.Event().wait(LOOK_EVERY)
    processes.kill(processes.family(os.getpid()))
    shutil.rmtree(draft, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
