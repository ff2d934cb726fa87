"""Saved adapters and checkpoints: after which step one was saved, and whether it is whole."""

import functools
import json
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from lab.core import events

WEIGHTS = "adapter_model.safetensors"
ADAPTER = "adapter_config.json"
BEGIN = "begin"  # folder of a run: the adapter that it began with
OF_TRAINING = ("optimizer*", "scheduler*", "rng_state*", "trainer_state.json", "training_args.bin",
               "global_step*", "latest", "zero_to_fp32.py", "pytorch_model_fsdp*")
RECORD = "lab.json"  # beside the weights, and moved into place with them: {"step": N}


@dataclass(frozen=True)
class Adapter:
    """A folder with an adapter. `step`: after which it was saved; None where nothing tells."""

    path: Path
    step: int | None

    @property
    def title(self) -> str:
        return "step unknown" if self.step is None else f"step {self.step}"


def record_step(folder: Path, step: int) -> None:
    (folder / RECORD).write_text(json.dumps({"step": step}) + "\n", encoding="utf-8")


def adapter_from(checkpoint: Path, target: Path, step: int) -> None:
    """Make the adapter that a run was to leave, of the checkpoint of its last step: all but what
    only training needs, moved into place when it is whole. Raises OSError."""
    draft = target.with_name(".adapter")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(checkpoint, draft, ignore=shutil.ignore_patterns(*OF_TRAINING))
    put_in_place(draft, target, step)


def put_in_place(draft: Path, target: Path, step: int) -> None:
    """Say of a whole adapter after which step it was saved, and move it to its place: there is
    never half of one. Raises OSError."""
    record_step(draft, step)
    former = target.with_name(".adapter-before")
    shutil.rmtree(former, ignore_errors=True)
    if target.exists():
        target.rename(former)
    draft.rename(target)
    shutil.rmtree(former, ignore_errors=True)


def step_of(folder: Path, told: Path) -> int | None:
    """The step that is recorded with an adapter. Older ones have no record: they were saved only
    when a run stopped or ended, which its events (`told`) still say."""
    try:
        step = json.loads((folder / RECORD).read_text(encoding="utf-8"))["step"]
        return step if type(step) is int and step >= 0 else None
    except FileNotFoundError:
        return _last_end(told, *_stamp(told))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_whole(folder: Path) -> bool:
    """Whether the weights in this folder are all there: a file is as long as its header says.

    safetensors: 8 bytes with the header's length, the header as JSON, then the numbers.
    """
    weights = folder / WEIGHTS
    return _is_whole(weights, *_stamp(weights))


def steps_in(checkpoints: Path) -> list[int]:
    """The steps that have a folder step-N among a run's checkpoints, in order."""
    found = []
    try:
        for folder in checkpoints.iterdir():
            number = folder.name.removeprefix("step-")
            if number.isdecimal() and folder.name == f"step-{int(number)}":
                found.append(int(number))
    except OSError:  # none yet, or none that can be read
        pass
    return sorted(found)


def newest_sound(run: Path) -> tuple[int, dict[int, str]]:
    """(step to resume from, 0 if there is none; {newer step: what is wrong with it}).

    Reads the newest checkpoint whole, and older ones only where it is damaged.
    """
    damaged: dict[int, str] = {}
    for step in reversed(steps_in(run / "checkpoints")):
        wrong = flaw_of(run / "checkpoints" / f"step-{step}", step)
        if not wrong:
            return step, damaged
        damaged[step] = f"Checkpoint {step} is damaged: {wrong}."
    return 0, damaged


def flaw_of(checkpoint: Path, step: int) -> str:
    """What keeps a checkpoint from being resumed; empty where nothing does.

    Training state is what torch.save writes, a zip with check sums, or, where several processes
    share it, folders of their own, which are only looked for.
    """
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        if not isinstance(state, dict) or state.get("global_step") != step:
            return "trainer_state.json tells of another step"
        if not isinstance(json.loads((checkpoint / ADAPTER).read_bytes()), dict):
            return f"{ADAPTER} holds no settings"
    except (OSError, ValueError, RecursionError) as error:
        return str(getattr(error, "strerror", None) or error)
    if not is_whole(checkpoint):
        return f"{WEIGHTS} is not whole"
    if not any(checkpoint.glob("optimizer*")) and not any(checkpoint.glob("global_step*")):
        return "the state of the optimizer is missing"
    for file in sorted([*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]):
        try:
            with zipfile.ZipFile(file) as archive:
                if wrong := archive.testzip():
                    return f"{file.name} is damaged at {wrong}"
        # The last two are zipfile's, for a way of packing or a password that torch never writes.
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            return f"{file.name} cannot be read ({getattr(error, 'strerror', None) or error})"
    return ""


def _stamp(path: Path) -> tuple[int, int]:
    """(bytes, time of change): what was read of a file holds while these stay."""
    try:
        found = path.stat()
        return found.st_size, found.st_mtime_ns
    except OSError:
        return -1, 0


def header_of(weights: Path) -> dict[str, tuple[int, ...]]:
    """{tensor: shape} of a safetensors file; empty where its header cannot be read."""
    try:
        _, header = _header(weights, weights.stat().st_size)
        return {str(name): tuple(int(side) for side in entry["shape"])
                for name, entry in header.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError,
            OverflowError):
        return {}


def _header(weights: Path, size: int) -> tuple[int, dict]:
    """(bytes of the header, what it says of each tensor)."""
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise ValueError("the header is longer than the file")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return length, header


@functools.lru_cache(maxsize=4096)
def _is_whole(weights: Path, size: int, changed: int) -> bool:
    try:
        length, header = _header(weights, size)
        return size == 8 + length + max(entry["data_offsets"][1] for entry in header.values())
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return False


@functools.lru_cache(maxsize=64)
def _last_end(told: Path, size: int, changed: int) -> int | None:
    """The step of the last event that says that an adapter was saved.

    A run that stops by itself saves a checkpoint just before; `stopped` of one that was killed
    saves nothing.
    """
    found = before = None
    try:
        with told.open("rb") as file:
            for line in file:
                if b'"samples"' in line[:40]:  # long, and says nothing here
                    before = None
                    continue
                read = events.read_line(line.decode("utf-8", errors="replace"))
                event = read and read[1]
                if isinstance(event, events.Finished) or (
                        isinstance(event, events.Stopped)
                        and before == events.Checkpoint(event.step)):
                    found = event.step
                before = event
    except OSError:
        pass
    return found
