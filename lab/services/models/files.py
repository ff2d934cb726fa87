"""Reads what is small in a model's folder: its configuration, its tokenizer's, headers of weights.

Whatever these files hold, reading them raises nothing: what cannot be read is not known.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from lab.core.adapters import header_of
from lab.core.models.modules import modules_in, modules_of
from lab.core.models.tokens import Tokens, tokens_of

CONFIG, TOKENIZER, TEMPLATE = "config.json", "tokenizer_config.json", "chat_template.jinja"
GENERATION, VOCABULARY, SPECIAL = ("generation_config.json", "tokenizer.json",
                                   "special_tokens_map.json")
SMALL = (CONFIG, TOKENIZER, TEMPLATE, GENERATION)  # what is fetched of a model on the Hub
LARGEST = 100_000_000  # bytes of a JSON file that is still read
SHARDS = 500


@dataclass(frozen=True)
class Files:
    """What the files of one folder tell. Empty or None: not known."""

    config: Any = None
    tokenizer: Any = None
    template: str | None = None  # None: there is no tokenizer here; "": it has none
    tokens: Tokens = Tokens()
    modules: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # of the weights
    bytes: int = 0  # of the weights

    def named(self) -> dict[str, str]:
        """The tokens that a template may write by name."""
        told = self.tokenizer if isinstance(self.tokenizer, Mapping) else {}
        contents = {name: one.get("content") if isinstance(one, Mapping) else one
                    for name, one in told.items() if name.endswith("_token")}
        return {name: one for name, one in contents.items() if isinstance(one, str)}


def read(folder: Path) -> Files:
    """Read anew only where a file has changed."""
    weights = sorted(folder.glob("*.safetensors"))[:SHARDS]
    paths = [*(folder / name for name in (CONFIG, TOKENIZER, TEMPLATE, GENERATION, VOCABULARY,
                                          SPECIAL)), *weights]
    return _read(folder, tuple(_stamp(path) for path in paths), tuple(weights))


@lru_cache(maxsize=64)
def _read(folder: Path, stamps: tuple, weights: tuple[Path, ...]) -> Files:
    config, tokenizer = json_of(folder / CONFIG), json_of(folder / TOKENIZER)
    special = json_of(folder / SPECIAL)
    if isinstance(special, Mapping):  # older tokenizers name their tokens there
        tokenizer = {**special, **(tokenizer if isinstance(tokenizer, Mapping) else {})}
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weights:
        shapes |= header_of(path)
    ids, marked = _vocabulary(json_of(folder / VOCABULARY), tokenizer)
    return Files(
        config, tokenizer, _template(folder, tokenizer),
        tokens_of(config, tokenizer, json_of(folder / GENERATION), ids, marked),
        modules_in(shapes) or modules_of(config), shapes,
        sum(size for _, size, _ in stamps[6:]))


def _template(folder: Path, tokenizer: Any) -> str | None:
    try:
        return (folder / TEMPLATE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        pass
    if not (folder / TOKENIZER).is_file():
        return None
    told = tokenizer.get("chat_template") if isinstance(tokenizer, Mapping) else None
    if isinstance(told, list):  # several, by name
        told = next((one.get("template") for one in told if isinstance(one, Mapping)
                     and one.get("name") == "default"), None)
    return told if isinstance(told, str) else ""


def _vocabulary(told: Any, tokenizer: Any) -> tuple[dict[str, int], frozenset[str]]:
    """({token: id}, those that are special)."""
    ids: dict[str, int] = {}
    special = set()
    if isinstance(told, Mapping):
        model = told.get("model")
        vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
        if isinstance(vocabulary, Mapping):
            ids |= {token: number for token, number in vocabulary.items() if type(number) is int}
        added = told.get("added_tokens")
        for one in added if isinstance(added, list) else ():
            if (isinstance(one, Mapping) and type(one.get("id")) is int
                    and isinstance(one.get("content"), str)):
                ids[one["content"]] = one["id"]
                if one.get("special") is True:
                    special.add(one["content"])
    if ids:
        return ids, frozenset(special)
    decoder = tokenizer.get("added_tokens_decoder") if isinstance(tokenizer, Mapping) else None
    for number, one in decoder.items() if isinstance(decoder, Mapping) else ():
        content = one.get("content") if isinstance(one, Mapping) else None
        if isinstance(content, str) and number.isascii() and number.isdecimal():
            ids[content] = int(number[:12])
            if one.get("special") is True:
                special.add(content)
    return ids, frozenset(special)


def json_of(path: Path) -> Any:
    """The JSON of a file, or None where there is none that can be read."""
    try:
        if path.stat().st_size > LARGEST:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
        return path.name, found.st_size, found.st_mtime_ns
    except OSError:
        return path.name, 0, 0
