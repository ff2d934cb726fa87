"""Finds the base model of a run (the starter, a folder, a Hub id) and says what is known of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.core.catalog import known_model
from lab.core.cures import Cure, memory_problems, roomier
from lab.core.engines import choose_engines
from lab.core.machine import Machine
from lab.core.memory import Estimate, estimate
from lab.core.problems import UNKNOWN, BadModel, BadSettings, LabError, Problem, explain
from lab.core.settings import CPU, STARTER, Settings
from lab.core.shapes import Shape
from lab.services.hub import CONNECT_SECONDS, UNREACHABLE
from lab.services.workspace import STARTER_FOLDER

CONFIG, TOKENIZER, TEMPLATE = "config.json", "tokenizer_config.json", "chat_template.jinja"
FIELD = "model.name"
LOG_IN = "log in with `hf auth login` (or set HF_TOKEN)"
NO_TEMPLATE = Problem(
    "This model has no chat template.", "It is a base model: nothing says how a conversation with "
    "it is written.", "Choose its instruct or chat variant.", FIELD)


def model_folder(settings: Settings) -> str:
    """Where the base model's files are: a folder, or a Hub id as it is.

    Raises BadSettings for a folder without a model in it, and when the lengths are more than
    its `max_position_embeddings`.
    """
    name = settings.model.name.strip()
    folder = _folder(name)
    if folder is None:
        return name
    if not any(folder.glob("*.safetensors")):
        raise BadSettings(f"{folder} has no weights.", "There is no .safetensors file in it.",
                          "Give the folder that holds config.json and model.safetensors.", FIELD)
    longest = longest_of(settings)
    if longest and settings.model.max_seq_length > longest:
        raise _too_long(settings, longest)
    return str(folder.resolve())


def longest_of(settings: Settings) -> int | None:
    """The most tokens that a local model was made for; None where its files do not say."""
    folder = _path(settings.model.name.strip())
    return _longest(_read(folder / CONFIG)) if folder else None


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


def look_at(name: str, fetch: bool = False) -> ModelFacts:
    """The facts of a model: from the catalogue, its folder, or the local cache of the Hub.

    Where none of them has it, the Hub is asked with `fetch`, for a few small files and with the
    person's own login; without, everything is unknown. Raises BadSettings for what is no name of
    a model, BadModel where the Hub does not give it.
    """
    name = name.strip()
    if row := known_model(name):
        return ModelFacts(name, "catalogue", row.shape, row.parameters, row.licence,
                          row.gated and name == row.name, True, row.shape.longest, row.in_4bit,
                          row.note)
    if folder := _folder(name):
        return _facts(name, "folder", folder / CONFIG, folder / TOKENIZER, folder / TEMPLATE)
    found = _cached(name)
    if found or not fetch:
        return found or ModelFacts(name)
    return _fetched(name)


def model_problems(settings: Settings, machine: Machine) -> list[Problem]:
    """What speaks against this model on this machine, as far as it is known without a download."""
    try:
        facts = look_at(settings.model.name)
    except LabError as error:
        return [error.problem]
    found = [facts.problem] if facts.problem else []
    if facts.chat_template is False:
        found.append(NO_TEMPLATE)
    longest = facts.longest
    if longest and facts.source != "folder" and settings.model.max_seq_length > longest:
        found.append(_too_long(settings, longest).problem)
    if facts.gated and not _cached(facts.name) and not _logged_in():
        found.append(Problem(f"{facts.name} is gated.", "Its owner asks you to accept a licence "
                             "first, and you are not logged in to the Hub.",
                             f"Accept it on {page_of(facts.name)}, then {LOG_IN}.", FIELD,
                             "warning"))
    if facts.shape:
        engine, memory_gb = _where(settings, machine)
        found += memory_problems(facts.shape, settings, engine, memory_gb)
    return found


def memory_of(settings: Settings, machine: Machine) -> Estimate | None:
    """The estimated memory of a run here; None where the model's shape is not known."""
    try:
        shape = look_at(settings.model.name).shape
    except LabError:
        return None
    return estimate(shape, settings, *_where(settings, machine)) if shape else None


def quicker(settings: Settings, machine: Machine) -> Cure | None:
    """A change with which a run on a GPU uses memory that it leaves free, to be quicker."""
    engine, memory_gb = _where(settings, machine)
    try:
        shape = look_at(settings.model.name).shape
    except LabError:
        return None
    if shape is None or engine == CPU or settings.hardware.compile_loss == "on":
        return None
    return roomier(shape, settings, engine, memory_gb)


def page_of(name: str) -> str:
    return f"https://huggingface.co/{name}"


def _where(settings: Settings, machine: Machine) -> tuple[str, float]:
    """(engine, GB of memory there are for each of its processes)."""
    engine = choose_engines(settings, machine).first.value
    if engine == CPU:
        return engine, machine.memory_gb
    gpus = machine.gpus[:settings.hardware.num_processes]
    return engine, min(gpu.memory_gb for gpu in gpus)


def _folder(name: str) -> Path | None:
    """The folder of a local model, with a config.json in it; None for a Hub id.

    Raises BadSettings for what is neither.
    """
    folder = _path(name)
    local = folder is not None and (name.startswith((".", "/", "~", "\\")) or folder.exists())
    if local and (folder / CONFIG).is_file():
        return folder
    if name == STARTER:
        raise BadSettings("The starter model is missing.", "Its files in assets/starter are gone.",
                          "Get them back with git, or make it anew: assets/starter/make.py.", FIELD)
    if local:
        raise BadSettings(f"{folder} is not a model.", "There is no config.json in it.",
                          "Give the folder that holds config.json and model.safetensors.", FIELD)
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or any(c.isspace() or c == "\0" for c in name):
        raise BadSettings(f"There is no model {name[:200]!r}.", "It is neither a folder here nor a "
                          "Hub id (owner/name).", f"Try '{STARTER}', which ships with the lab.",
                          FIELD)
    return None


def _path(name: str) -> Path | None:
    """The name as a path; None for what no path can be: too long, with a NUL character, ~nobody."""
    if name == STARTER:
        return STARTER_FOLDER
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, ValueError, RuntimeError):
        return None
    return path if name else None


def _too_long(settings: Settings, longest: int) -> BadSettings:
    return BadSettings(
        f"'Longest sequence' is more than the model allows: {settings.model.max_seq_length}.",
        f"{settings.model.name} was made for {longest} tokens.", f"Set it to {longest} or less.",
        "model.max_seq_length")


def _facts(name: str, source: str, config: Path, tokenizer: Path | None, template: Path | None,
           licence: str = "", gated: bool | None = None, note: str = "") -> ModelFacts:
    """The facts that these files tell; a path is None where it is not known to be there or not."""
    told = _read(config)
    shape, problem = None, None
    try:
        shape = Shape.from_config(told)
    except BadModel as error:
        # Without a shape there is no estimate; whether the model can learn is seen at the start.
        problem = Problem(error.problem.what, error.problem.why, error.problem.next, FIELD,
                          "warning")
    has_template: bool | None = None
    if template and template.is_file():
        has_template = True
    elif tokenizer and tokenizer.is_file():
        settings = _read(tokenizer)
        has_template = bool(isinstance(settings, Mapping) and settings.get("chat_template"))
    return ModelFacts(name, source, shape, shape.parameters() / 1e6 if shape else None, licence,
                      gated, has_template, _longest(told), note=note, problem=problem)


def _read(path: Path) -> Any:
    """The JSON of a file, or None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _longest(config: Any) -> int | None:
    longest = config.get("max_position_embeddings") if isinstance(config, Mapping) else None
    return longest if isinstance(longest, int) and not isinstance(longest, bool) else None


# The Hub. huggingface_hub finds a token by itself (HF_TOKEN, or what `hf auth login` has kept); the
# lab never reads, shows or keeps one.


def _cached(name: str) -> ModelFacts | None:
    """The facts of a model of the Hub that was downloaded before."""
    import huggingface_hub

    try:
        paths = [huggingface_hub.try_to_load_from_cache(name, file)
                 for file in (CONFIG, TOKENIZER, TEMPLATE)]
    except ValueError:  # the Hub has no such names
        return None
    config, tokenizer, template = (Path(p) if isinstance(p, str) else None for p in paths)
    return _facts(name, "hub cache", config, tokenizer, template) if config else None


def _fetched(name: str) -> ModelFacts:
    import huggingface_hub

    try:
        info = huggingface_hub.HfApi().model_info(name, timeout=CONNECT_SECONDS)
        there = {file.rfilename for file in info.siblings or ()}
        # Known by what it is called now: the Hub leads from old names to new ones.
        paths = {file: Path(huggingface_hub.hf_hub_download(info.id, file,
                                                            etag_timeout=CONNECT_SECONDS))
                 for file in (CONFIG, TOKENIZER, TEMPLATE) if file == CONFIG or file in there}
    except Exception as error:
        raise explained(error, name) from error
    licences = [tag.removeprefix("license:") for tag in info.tags or ()
                if tag.startswith("license:")]
    renamed = "" if info.id == name else f"The Hub calls it {info.id} now; write that."
    return _facts(info.id, "hub cache", paths[CONFIG], paths.get(TOKENIZER), paths.get(TEMPLATE),
                  ", ".join(licences), bool(info.gated), renamed)


def explained(error: Exception, name: str) -> BadModel:
    """What is said where the Hub does not give a model, with what to do."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)

    def because(what: str, why: str, next: str) -> BadModel:
        return BadModel(what, why, next, FIELD)

    if "GatedRepoError" in kinds:
        if _logged_in():
            return because(f"{name} is gated.", "Your login has no access to it: its licence is "
                           "not accepted yet, or its owner has not answered.",
                           f"Accept it on {page_of(name)}, then try again.")
        return because(f"{name} is gated.", "Its owner asks you to accept a licence first.",
                       f"Accept it on {page_of(name)}, {LOG_IN}, then try again.")
    if "RepositoryNotFoundError" in kinds:
        return because(f"There is no model {name!r} on the Hub.",
                       "It never was, has another name now, or is private.",
                       f"Look for it on {page_of('models')}; if it is private, {LOG_IN}.")
    if "DisabledRepoError" in kinds:
        return because(f"{name} cannot be downloaded.", "The Hub has taken it offline.",
                       "Choose another model.")
    if kinds & {"RemoteEntryNotFoundError", "RevisionNotFoundError"}:
        return because(f"{name} is no model for transformers.", "There is no config.json in its "
                       "repository: it may hold an adapter, or a GGUF file.",
                       "Choose the repository of the model itself.")
    if kinds & UNREACHABLE:
        return because(f"{name} is not on this machine.", "The Hub could not be reached, and there "
                       "is no copy in the local cache.", "Check the network (and HF_HUB_OFFLINE), "
                       f"or give a folder on this machine, or '{STARTER}'.")
    if status in (401, 403):
        return because(f"The Hub refuses {name}.", "Your login is not valid, or may not read it.",
                       f"Run `hf auth whoami`, and {LOG_IN} anew.")
    if status == 429 or (status or 0) >= 500:
        return because(f"The Hub did not give {name}.", f"It answered with status {status}.",
                       "Wait a minute, then try again.")
    if "HFValidationError" in kinds:
        return because(f"There is no model {name!r}.", "A Hub id is owner/name, of letters, "
                       "digits, '-', '_' and '.'.", f"Try '{STARTER}', which ships with the lab.")
    problem = explain(error)
    what = f"{name} could not be looked up."
    if problem.what == UNKNOWN:
        return because(what, problem.why, "Try again, or give a folder on this machine.")
    return because(what, f"{problem.what} {problem.why}".strip(), problem.next)


def _logged_in() -> bool:
    """Whether huggingface_hub has a token; which one is not looked at."""
    import huggingface_hub

    return huggingface_hub.get_token() is not None
