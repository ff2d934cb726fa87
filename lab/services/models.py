"""Finds the base model of a run: the starter, a folder, or a Hub id."""

import json
from pathlib import Path

from lab.core.problems import BadSettings
from lab.core.settings import STARTER, Settings
from lab.services.workspace import STARTER_FOLDER


def model_folder(settings: Settings) -> str:
    """Where the base model's files are: a folder, or a Hub id as it is.

    Raises BadSettings for a folder without a model in it, and when the lengths are more than
    its `max_position_embeddings`.
    """
    name = settings.model.name.strip()
    folder = STARTER_FOLDER if name == STARTER else Path(name).expanduser()
    looks_local = name == STARTER or folder.exists() or name.startswith((".", "/", "~", "\\"))
    if not looks_local:
        parts = name.split("/")
        if len(parts) != 2 or not all(parts) or any(c.isspace() for c in name):
            raise BadSettings(f"There is no model {name!r}.", "It is neither a folder here nor a "
                              "Hub id (owner/name).", f"Try '{STARTER}', which ships with the lab.",
                              "model.name")
        return name
    if name == STARTER and not (folder / "config.json").is_file():
        raise BadSettings("The starter model is missing.", "Its files in assets/starter are gone.",
                          "Get them back with git, or make it anew: assets/starter/make.py.",
                          "model.name")
    if not (folder / "config.json").is_file():
        raise BadSettings(f"{folder} is not a model.", "There is no config.json in it.",
                          "Give the folder that holds config.json and model.safetensors.",
                          "model.name")
    if not any(folder.glob("*.safetensors")):
        raise BadSettings(f"{folder} has no weights.", "There is no .safetensors file in it.",
                          "Give the folder that holds config.json and model.safetensors.",
                          "model.name")
    longest = longest_of(settings)
    if longest and settings.model.max_seq_length > longest:
        raise BadSettings(f"'Longest sequence' is more than the model allows: "
                          f"{settings.model.max_seq_length}.", f"{name} was made for {longest} "
                          "tokens.", f"Set it to {longest} or less.", "model.max_seq_length")
    return str(folder.resolve())


def longest_of(settings: Settings) -> int | None:
    """The most tokens that a local model was made for; None where its files do not say."""
    name = settings.model.name.strip()
    folder = STARTER_FOLDER if name == STARTER else Path(name).expanduser()
    try:
        longest = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return longest if isinstance(longest, int) else None
