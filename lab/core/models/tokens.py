"""The tokens that a model ends, pads and tags its answers with, as its small files name them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab.core.problems import Problem

FIELD = "model.name"
NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_OPENING = re.compile(r"<([A-Za-z][\w-]*)>")


@dataclass(frozen=True)
class Tokens:
    """What the files of a tokenizer tell; ids are None where they do not."""

    eos: str = ""
    eos_id: int | None = None
    pad: str = ""
    pad_id: int | None = None
    ends: tuple[int, ...] = ()  # of generation_config.json, or else of config.json
    rows: int | None = None  # of the embedding
    special_tags: tuple[str, ...] = ()  # "<answer>", "</answer>"


def tokens_of(config: Any, tokenizer: Any, generation: Any, ids: Mapping[str, int],
              special: frozenset[str]) -> Tokens:
    """From the JSON of config.json, tokenizer_config.json and generation_config.json; `ids` and
    `special` are of tokenizer.json's tokens."""
    config, tokenizer, generation = (
        told if isinstance(told, Mapping) else {} for told in (config, tokenizer, generation))
    named = {name: _content(tokenizer.get(name)) for name in NAMED}
    inner = config.get("text_config")
    inner = inner if isinstance(inner, Mapping) else {}
    ends = next((found for told in (generation, config, inner)
                 if (found := _ids(told.get("eos_token_id")))), ())
    rows = inner.get("vocab_size", config.get("vocab_size"))
    return Tokens(named["eos_token"], ids.get(named["eos_token"]), named["pad_token"],
                  ids.get(named["pad_token"]), ends, rows if type(rows) is int else None,
                  special_tags(special, named.values()))


def special_tags(special: Any, named: Any = ()) -> tuple[str, ...]:
    """The tags that are special tokens in pairs, <x> and </x>: decoding takes them out. Those that
    begin, end or pad a text are none."""
    known = set(special) - set(named)
    return tuple(tag for one in sorted(known) if (found := _OPENING.fullmatch(one))
                 and f"</{found[1]}>" in known for tag in (one, f"</{found[1]}>"))


def token_problems(tokens: Tokens) -> list[Problem]:
    """What a person should know before the start, and what the lab does about it."""
    found = []
    if not tokens.eos:
        if not tokens.ends:
            found.append(Problem(
                "This model has no end-of-text token.", "Neither its tokenizer nor its "
                "configuration names one: no answer would ever end.", "Add eos_token to "
                "tokenizer_config.json, or choose another model.", FIELD))
        else:
            found.append(Problem(
                "The tokenizer names no end-of-text token.", f"The configuration does: token "
                f"{tokens.ends[0]} is taken.", "", FIELD, "warning"))
    elif tokens.rows and tokens.eos_id is not None and tokens.eos_id >= tokens.rows:
        found.append(Problem(
            "The end-of-text token is outside the embedding.", f"{tokens.eos} is token "
            f"{tokens.eos_id}, and the embedding has {tokens.rows} rows.", "Get the tokenizer that "
            "belongs to this model.", FIELD))
    if tokens.rows and tokens.pad_id is not None and tokens.pad_id >= tokens.rows:
        found.append(Problem(
            "The padding token is outside the embedding.", f"{tokens.pad} is token "
            f"{tokens.pad_id}, and the embedding has {tokens.rows} rows. The end-of-text token "
            "pads instead.", "", FIELD, "warning"))
    if tokens.special_tags:
        found.append(Problem(
            f"{', '.join(tokens.special_tags[:4])} are special tokens of this tokenizer.",
            "Decoding takes special tokens out of the text. The lab keeps these, so that rewards "
            "see them.", "", FIELD, "warning"))
    return found


def _content(told: Any) -> str:
    if isinstance(told, Mapping):
        told = told.get("content")
    return told if isinstance(told, str) else ""


def _ids(told: Any) -> tuple[int, ...]:
    listed = told if isinstance(told, list) else [told]
    return tuple(one for one in listed if type(one) is int and one >= 0)
