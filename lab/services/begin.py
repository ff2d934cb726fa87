"""Begins a run with an adapter that was made before: finds it, checks that it fits, keeps it."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.core.adapters import ADAPTER, WEIGHTS, header_of, is_whole
from lab.core.catalog import known_model
from lab.core.models.modules import ALL_LINEAR
from lab.core.models.typed import tidied
from lab.core.problems import BadSettings, LabError, Problem
from lab.core.settings import STARTER, Settings
from lab.core.weights import check_sound
from lab.services.models.files import json_of
from lab.services.models.look import look_at
from lab.services.models.places import named, path_of
from lab.services.runs import Runs
from lab.services.workspace import STARTER_FOLDER, RunFolder, Workspace

FIELD = "lora.begin_from"
STARTER_NAMES = {STARTER, "grpo-lab-starter", str(STARTER_FOLDER)}  # what adapters call it
WIDEST = 512  # rank
KEPT = (ADAPTER, WEIGHTS)
# What an adapter may have that no engine here goes on with, and what that is called.
UNUSUAL = {"use_dora": "DoRA", "use_rslora": "rank-stabilised scaling", "modules_to_save":
           "whole layers beside LoRA's", "rank_pattern": "several ranks", "alpha_pattern":
           "several scales", "trainable_token_indices": "trained tokens", "target_parameters":
           "changed parameters", "layers_to_transform": "some layers alone"}


@dataclass(frozen=True)
class Begin:
    """An adapter to begin with. `run` and `step` say where it comes from, where that is a run."""

    path: Path
    config: dict
    run: str = ""
    step: int | None = None

    @property
    def title(self) -> str:
        if not self.run:
            return f"the folder {self.path.name}"
        return f"run {self.run}" + ("" if self.step is None else f" at step {self.step}")

    @property
    def setting(self) -> str:
        """As it is recorded: the same adapter whatever the run goes on to save, and wherever the
        lab is started from."""
        if not self.run:
            return str(self.path)
        return self.run if self.step is None else f"{self.run}:{self.step}"


def find(text: str, workspace: Workspace | None) -> Begin:
    """The adapter that is meant: a run's newest, `RUN:STEP`, or a folder. Raises BadSettings."""
    name = tidied(text)
    path = path_of(name)
    if path is not None and path.is_file():
        path = path.parent
    if path is not None and path.is_dir():
        path = path.resolve()
        if (path / ADAPTER).is_file() or (path / WEIGHTS).is_file():
            return _of_folder(path)
        if (path / "settings.json").is_file():
            return _of_run(RunFolder(path), None)
        if (path / "adapter" / ADAPTER).is_file():
            return _of_folder(path / "adapter")
        raise BadSettings(f"There is no adapter in {path}.", f"{ADAPTER} is missing.",
                          "Give a folder with an adapter, or the id of a run.", FIELD)
    run, _, step = name.partition(":")
    if workspace is None:
        raise BadSettings(f"There is no folder {name[:200]}.", field=FIELD)
    try:
        folder = workspace.run(run)
        return _of_run(folder, Runs(workspace).get(run).step_at(step))
    except LabError as error:
        raise BadSettings(error.problem.what, error.problem.why, error.problem.next
                          or "Give the id of a run, RUN:STEP, or a folder.", FIELD) from error


def _of_run(folder: RunFolder, step: int | None) -> Begin:
    try:
        found = folder.saved_at(step)
    except LabError as error:
        raise BadSettings(error.problem.what, error.problem.why, error.problem.next,
                          FIELD) from error
    return Begin(found.path, _config(found.path), folder.id, found.step)


def _of_folder(path: Path) -> Begin:
    return Begin(path, _config(path))


def _config(path: Path) -> dict:
    config = json_of(path / ADAPTER)
    if not isinstance(config, dict):
        raise BadSettings(f"The adapter in {path} cannot be read.", f"{ADAPTER} is missing, or "
                          "holds no settings.", "Take another adapter.", FIELD)
    return config


def problems(settings: Settings, workspace: Workspace | None) -> list[Problem]:
    """What speaks against beginning with the adapter that the settings name, errors first."""
    if not settings.lora.begin_from.strip():
        return []
    try:
        begin = find(settings.lora.begin_from, workspace)
        _refuse_damaged(begin)
        facts = look_at(settings.model.name)
    except LabError as error:
        return [error.problem]
    found = []
    if not settings.hardware.whole():
        found.append(Problem("A run over a base that is cut in parts cannot begin with an adapter.",
                             "Its weights would have to be cut too.",
                             "Set 'Over several GPUs' to ddp, or begin with a new one.", FIELD))
    unusual = [told for name, told in UNUSUAL.items() if begin.config.get(name)]
    if begin.config.get("bias") not in (None, "none"):
        unusual.append("biases")
    if unusual:
        return [Problem("The lab cannot go on from this adapter.", f"It has {unusual[0]}, which "
                        "none of its engines trains.", "Take a plain LoRA adapter.", FIELD)]
    layers = layers_of(begin.path)
    if wrong := _misfit(layers, facts):
        return [Problem("This adapter does not fit the model.", wrong, "Choose the model that it "
                        f"was trained on: {_base(begin)}.", FIELD)]
    if not same_base(_base(begin), settings.model.name):
        found.append(Problem(
            f"This adapter was trained on {_base(begin)}, not on {settings.model.name}.",
            "It fits by its sizes, and may mean nothing to this model.",
            "Choose that model, unless both are the same weights.", FIELD, "warning"))
    found += _others(begin, settings, {name.rpartition(".")[2] for name in layers},
                     facts.files.modules if facts.files else ())
    return sorted(found, key=lambda p: p.level != "error")


def _others(begin: Begin, settings: Settings, has: set[str], there: Sequence[str]) -> list[Problem]:
    """Settings that are the adapter's to say: it cannot become wider or stand elsewhere."""
    lora, found = settings.lora, []
    for key, name, label, mine in (("lora.rank", "r", "Rank (r)", lora.rank),
                                   ("lora.alpha", "lora_alpha", "Alpha", lora.alpha)):
        if (its := begin.config.get(name)) != mine:
            found.append(Problem(f"The adapter of {begin.title} has another {label.lower()}.",
                                 f"It has {its}, not {mine}.", f"Set '{label}' to {its}.", key))
    chosen = {name.rpartition(".")[2] for name in lora.target_modules}
    if ALL_LINEAR in chosen:
        chosen = set(there) or has
    if there:
        chosen &= set(there)
    if chosen != has:
        found.append(Problem(
            f"The adapter of {begin.title} has other target modules.",
            f"It has {', '.join(sorted(has))}.", "Set 'Target modules' to just these.",
            "lora.target_modules"))
    return found


def _refuse_damaged(begin: Begin) -> None:
    """Raise a LabError where the adapter is not what its configuration says."""
    rank = begin.config.get("r")
    if begin.config.get("peft_type") != "LORA":
        raise BadSettings("This is no LoRA adapter.", f"It is of the kind "
                          f"{str(begin.config.get('peft_type'))[:40]}.", "Take a LoRA adapter.",
                          FIELD)
    if type(rank) is not int or not 1 <= rank <= WIDEST:
        raise BadSettings("The rank of this adapter cannot be.", f"It says {str(rank)[:40]}, and "
                          f"may say 1 to {WIDEST}.", "Take another adapter.", FIELD)
    if not is_whole(begin.path):
        raise BadSettings(f"The adapter of {begin.title} is damaged.", f"{WEIGHTS} is missing, or "
                          "not whole.", "Take another checkpoint.", FIELD)
    check_sound(begin.path)
    if not layers_of(begin.path):
        raise BadSettings(f"The adapter of {begin.title} is damaged.", "It has no LoRA weights.",
                          "Take another adapter.", FIELD)


def layers_of(path: Path) -> dict[str, tuple[int, int, int]]:
    """{layer: (rank, inputs, outputs)} of an adapter's weights, from their header."""
    shapes = header_of(path / WEIGHTS)
    found = {}
    for name, shape in shapes.items():
        layer, a, _ = name.partition(".lora_A.")
        other = shapes.get(name.replace(".lora_A.", ".lora_B."), ())
        if a and len(shape) == len(other) == 2:
            found[layer.removeprefix("base_model.model.")] = (shape[0], shape[1], other[0])
    return found


def _misfit(layers: dict[str, tuple[int, int, int]], facts: Any) -> str:
    """Why an adapter of these layers is not one of this model; empty where nothing tells."""
    shapes = {name.removesuffix(".weight"): shape for name, shape in
              (facts.files.shapes if facts.files else {}).items() if name.endswith(".weight")}
    known = facts.shape.projections() if facts.shape else {}
    for layer, (_, inputs, outputs) in layers.items():
        leaf = layer.rpartition(".")[2]
        shape = next((shapes[name] for name in (layer, layer.partition(".")[2]) if name in shapes),
                     None)
        if shapes and shape is None:
            return f"The model has no layer {layer}."
        size = known.get(leaf) if shape is None or shape[1:] == (1,) else shape  # 4 bit is packed
        if size and {inputs, outputs} != set(size):
            return (f"{layer} has {size[0]} × {size[1]} weights, and the adapter is for "
                    f"{outputs} × {inputs}.")
    return ""


def same_base(one: str, other: str) -> bool:
    """Whether two names are known to be of the same weights."""
    one, other = named(one), named(other)
    if one == other or {one, other} <= STARTER_NAMES:
        return True
    row = known_model(one)
    if row is not None and row is known_model(other):
        return True
    paths = [path_of(name) for name in (one, other)]
    try:
        return all(path is not None and path.exists() for path in paths) and (
            paths[0].resolve() == paths[1].resolve())
    except OSError:
        return False


def _base(begin: Begin) -> str:
    base = begin.config.get("base_model_name_or_path")
    return base if isinstance(base, str) and base else "an unnamed model"


def keep(begin: Begin, folder: RunFolder) -> dict[str, Any]:
    """Copy the adapter into a run's folder: it stays, whatever becomes of where it came from.
    Returns what the run's record says of it."""
    folder.begin.mkdir()
    for name in KEPT:
        shutil.copyfile(begin.path / name, folder.begin / name)
    with (folder.begin / WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"from": begin.setting, "run": begin.run or None, "step": begin.step,
            "base": _base(begin), "sha256": digest}


def in_words(record: dict, beta: float) -> list[str]:
    """What a run says of its begin, from its record; nothing where it began anew."""
    told = record.get("begin")
    if not isinstance(told, dict):
        return []
    where = (f"run {told.get('run')}, step {told.get('step')}" if told.get("run")
             else f"the folder {told.get('from')}")
    return [f"It begins with the adapter of {where}, instead of a new one."
            + (" The KL weight pulls towards the base model itself, without any adapter."
               if beta > 0 else "")]
