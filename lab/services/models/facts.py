"""What is known of a model without loading it, and what of that keeps it from being loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lab.core.hardware.shapes import Shape, refuse_implausible
from lab.core.models.template import Template
from lab.core.problems import BadModel, LabError, Problem
from lab.services.models import templates
from lab.services.models.files import Files, read

FIELD = "model.name"
HANGS = Problem("The chat template of this model does not end.", "It was given a conversation of "
                "two turns and had written nothing after some seconds.",
                "Get the model's files anew, or choose another model.", FIELD)


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model without loading it. None and empty: not known."""

    name: str
    source: str = ""  # "catalogue", "folder" or "hub cache"
    shape: Shape | None = None
    parameters: float | None = None  # in millions
    licence: str = ""
    gated: bool | None = None
    chat_template: bool | None = None
    longest: int | None = None  # tokens
    in_4bit: str = ""  # Hub id of the same weights in 4 bit
    note: str = ""
    problem: Problem | None = None  # why the shape is not known, where its files are here
    files: Files | None = None  # where any are here


def facts_of(name: str, source: str, folder: Path, licence: str = "", gated: bool | None = None,
             note: str = "") -> ModelFacts:
    """The facts that the files of this folder tell."""
    files = read(folder)
    shape, problem = None, None
    try:
        shape = Shape.from_config(files.config)
    except BadModel as error:
        # Without a shape there is no estimate; whether the model can learn is seen at the start.
        problem = Problem(error.problem.what, error.problem.why, error.problem.next, FIELD,
                          "warning")
    return ModelFacts(
        name, source, shape, shape.parameters() / 1e6 if shape else None, licence, gated,
        None if files.template is None else bool(files.template), longest_in(files.config),
        note=note, problem=problem, files=files)


def template_of(files: Files | None, arguments: str = "") -> Template | None:
    """What this model's chat template does; None where it is not here, or could not be tried."""
    if files is None or not files.template:
        return None
    return templates.tried(files.template, files.named(), arguments)


def refuse_files(files: Files) -> None:
    """Raise BadModel where loading this model would hang, or run code of its own."""
    refuse_implausible(files.config)
    config = files.config if isinstance(files.config, Mapping) else {}
    kind = config.get("model_type")
    told = files.tokenizer if isinstance(files.tokenizer, Mapping) else {}
    if (config.get("auto_map") or told.get("auto_map")) and not known_to_transformers(kind):
        raise BadModel("This model comes with Python code of its own.", "transformers does not "
                       f"know {str(kind)[:60]!r}, and the lab does not run the code of a model.",
                       "Choose a model that transformers knows by itself.", FIELD)
    try:
        shape = Shape.from_config(files.config)
    except LabError:
        shape = None
    if shape and files.bytes and shape.parameters() > 16 * files.bytes:
        raise BadModel("The weights are not those of this config.json.",
                       f"It describes {shape.parameters() / 1e6:,.0f} million weights, and the "
                       f"files have {files.bytes / 1e6:,.1f} MB.", "Get the model's files anew.",
                       FIELD)
    template = template_of(files)
    if template and template.hangs:
        raise BadModel(HANGS.what, HANGS.why, HANGS.next, FIELD)


def known_to_transformers(kind: Any) -> bool:
    """Whether transformers has classes for this `model_type`; looked up, not imported."""
    found = find_spec("transformers")
    if found is None or not isinstance(kind, str):
        return False
    name = kind.replace("-", "_").lower()
    places = [Path(place) / "models" for place in found.submodule_search_locations or ()]
    return any((place / one).is_dir() for place in places
               for one in {name, name.removesuffix("_text")} if one.isidentifier())


def longest_in(config: Any) -> int | None:
    """The most tokens that a model was made for."""
    if not isinstance(config, Mapping):
        return None
    inner = config.get("text_config")
    for told in (config, inner if isinstance(inner, Mapping) else {}):
        for name in ("max_position_embeddings", "n_positions", "max_sequence_length"):
            longest = told.get(name)
            if isinstance(longest, int) and not isinstance(longest, bool) and longest > 0:
                return longest
    return None
