"""Where the name of a model leads: a folder here, or a repository of the Hub; else what it is."""

from pathlib import Path

from lab.core.adapters import ADAPTER, WEIGHTS
from lab.core.models.typed import tidied
from lab.core.problems import BadSettings
from lab.core.settings import STARTER
from lab.services.models.facts import FIELD
from lab.services.models.files import CONFIG, json_of
from lab.services.workspace import STARTER_FOLDER

# Repositories that have no owner in everyday speech, and what the Hub calls them.
RENAMED = {**{name: f"openai-community/{name}" for name in
              ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")},
           "distilgpt2": "distilbert/distilgpt2"}
GGUF = ".gguf"
HOLDS = "Give the folder that holds config.json and model.safetensors."


def named(typed: str) -> str:
    """The name that is meant: a path without quotes and without the file at its end, or
    owner/name."""
    name = tidied(typed)
    path = path_of(name)
    try:
        if path is not None and path.is_file() and path.suffix != GGUF:
            return str(path.parent)
        if name in RENAMED and (path is None or not path.exists()):
            return RENAMED[name]
    except OSError:
        pass
    return name


def folder_of(name: str) -> Path | None:
    """The folder of a local model, with a config.json in it; None for a Hub id.

    `name` as `named` gives it. Raises BadSettings for what is neither, saying what it is.
    """
    folder = path_of(name)
    local = folder is not None and (name.startswith((".", "/", "~", "\\")) or folder.exists())
    if local and (folder / CONFIG).is_file():
        return folder
    if name == STARTER:
        raise BadSettings("The starter model is missing.", "Its files in assets/starter are gone.",
                          "Get them back with git, or make it anew: assets/starter/make.py.", FIELD)
    if local:
        raise _no_model(folder)
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or any(c.isspace() or c == "\0" for c in name):
        raise BadSettings(f"There is no model {name[:200]!r}.", "It is neither a folder here nor a "
                          "Hub id (owner/name).", f"Try '{STARTER}', which ships with the lab.",
                          FIELD)
    return None


def _no_model(path: Path) -> BadSettings:
    """What is said of a place on this machine that is no model."""
    what = f"{path} is not a model."
    if path.suffix == GGUF or _any(path, "*.gguf"):
        return BadSettings(what, "It is a GGUF file: weights for llama.cpp, which cannot be "
                           "trained.", "Choose the repository or folder with the same model in "
                           "safetensors.", FIELD)
    if (path / ADAPTER).is_file() or (path / WEIGHTS).is_file():
        told = json_of(path / ADAPTER)
        base = told.get("base_model_name_or_path") if isinstance(told, dict) else None
        base = base if isinstance(base, str) and base else "another model"
        return BadSettings(f"{path} is an adapter of {base[:200]}.", "It changes that model and is "
                           "none by itself.", f"Choose {base[:200]} as the model; to go on from "
                           "the adapter, put its folder into 'Begin from'.", FIELD)
    if (path / "settings.json").is_file() and (path / "events.jsonl").is_file():
        return BadSettings(what, "It is the folder of a run.", "Choose the model of that run; to "
                           f"go on from what it learnt, put {path.name} into 'Begin from'.", FIELD)
    if not path.exists():
        return BadSettings(what, "There is no such folder.", HOLDS, FIELD)
    inside = next((sub for sub in _folders(path) if (sub / CONFIG).is_file()), None)
    return BadSettings(what, "There is no config.json in it.",
                       f"There is one in {inside}: give that." if inside else HOLDS, FIELD)


def refuse_without_weights(folder: Path) -> None:
    """Raise BadSettings where a model's folder has no weights that the lab loads."""
    if _any(folder, "*.safetensors"):
        return
    index = folder / "model.safetensors.index.json"
    if _any(folder, "*.bin") or _any(folder, "*.pt") or _any(folder, "*.pth"):
        raise BadSettings(f"{folder} has no weights as safetensors.", "Other formats can run code "
                          "when they are read, and the lab does not read them.",
                          "Take a version with model.safetensors, or convert it with "
                          "save_pretrained.", FIELD)
    raise BadSettings(f"{folder} has no weights.",
                      "There is no .safetensors file in it"
                      + (", though an index of some." if index.is_file() else "."), HOLDS, FIELD)


def path_of(name: str) -> Path | None:
    """The name as a path; None for what no path can be: too long, with a NUL character, ~nobody."""
    if name == STARTER:
        return STARTER_FOLDER
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, ValueError, RuntimeError):
        return None
    return path if name else None


def _any(folder: Path, pattern: str) -> bool:
    try:
        return folder.is_dir() and any(folder.glob(pattern))
    except OSError:
        return False


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(sub for sub in path.iterdir() if sub.is_dir())[:100]
    except OSError:
        return []
