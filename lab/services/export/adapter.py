"""The adapter as plain peft loads it: safetensors, JSON, the tokenizer's files, its rewards' code.

Nothing that is unpickled leaves with it, and no path of this machine.
"""

import json
import shutil
from pathlib import Path

from lab.core.adapters import ADAPTER, WEIGHTS
from lab.services.export.card import OWN_REWARDS, card
from lab.services.export.places import packed
from lab.services.export.source import Source, source_of
from lab.services.workspace import RunFolder

# Small text files a tokenizer is made of. Anything else that lies there (optimiser state, pickles)
# stays where it is.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                   "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model",
                   "chat_template.jinja", "chat_template.json", "generation_config.json")


def write_adapter(source: Source, target: Path) -> None:
    """The files of the adapter, without its card."""
    target.mkdir(parents=True, exist_ok=True)
    place = source.adapter.path
    config = source.config | {"base_model_name_or_path": source.base}
    (target / ADAPTER).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n",
                                 encoding="utf-8")
    shutil.copyfile(place / WEIGHTS, target / WEIGHTS)
    if source.run.settings and source.run.settings.rewards.own:
        shutil.copyfile(source.folder.rewards, target / OWN_REWARDS)
    copy_tokenizer(place, target)


def copy_tokenizer(place: Path, target: Path) -> None:
    for name in TOKENIZER_FILES:
        if (place / name).is_file() and not (place / name).is_symlink():
            shutil.copyfile(place / name, target / name)


def adapter_zip(folder: RunFolder, checkpoint: int | None, out: Path) -> Path:
    """Write a zip with the adapter of `checkpoint` (None: the newest) and a model card, unchecked.

    The zip appears in one move, or not at all. Raises RunError.
    """
    source = source_of(folder, checkpoint)

    def fill(target: Path) -> None:
        write_adapter(source, target)
        (target / "README.md").write_text(
            card(source.run, source.base, source.step, source.judged), encoding="utf-8")

    return packed(Path(out), zip_name(folder, source.step), fill)


def zip_name(folder: RunFolder, step: int | None) -> str:
    """The file name that the adapter of this step is offered under."""
    return f"{folder.id}-{'adapter' if step is None else f'step-{step}'}.zip"
