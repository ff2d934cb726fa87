"""How many tokens the prompts of a run have, counted by the worker that answers."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.core.problems import Problem
from lab.core.prompts import prompt_of
from lab.core.settings import STARTER, Settings
from lab.services.data.load import Split
from lab.services.models.places import named

if TYPE_CHECKING:
    from lab.services.chat import Chat

MEASURED = 10_000  # prompts that are counted; of more, as many evenly drawn ones
AT_ONCE = 1000
KEPT = 8  # counts that are remembered
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Lengths:
    """Tokens of the prompts to train on."""

    tokens: tuple[int, ...]
    places: tuple[int, ...]  # of which training rows, from 0
    longest: int  # that the settings let through
    of: int  # training rows
    first: str  # the exact prompt of the row that was asked for

    @property
    def too_long(self) -> list[int]:
        """The places of those that are left out of training."""
        return [place for place, count in zip(self.places, self.tokens, strict=True)
                if count > self.longest]

    def percentile(self, share: int) -> int:
        """So many of a hundred prompts are no longer than this."""
        ordered = sorted(self.tokens)
        return ordered[max(0, -(-share * len(ordered) // 100) - 1)]

    def to_dict(self) -> dict[str, int]:
        return {"p50": self.percentile(50), "p95": self.percentile(95), "max": max(self.tokens),
                "too_long": len(self.too_long), "measured": len(self.tokens)}


def at_hand(settings: Settings) -> bool:
    """Whether the model's tokenizer is on this machine."""
    import huggingface_hub

    name = named(settings.model.name)
    if name == STARTER:
        return True
    try:
        if Path(name).expanduser().is_dir():
            return any((Path(name).expanduser() / file).is_file() for file in TOKENIZER_FILES)
        return any(isinstance(huggingface_hub.try_to_load_from_cache(name, file), str)
                   for file in TOKENIZER_FILES)
    except (OSError, ValueError, RuntimeError):  # no path, and no Hub id
        return False


def lengths_of(chat: "Chat", settings: Settings, split: Split, row: int = 0) -> Lengths | None:
    """Count the prompts, and render the one of training row `row` (from 0). None where there is no
    row. Raises what the worker tells."""
    if not split.train:
        return None
    step = -(-len(split.train) // MEASURED)
    places = range(0, len(split.train), step)
    asked = [prompt_of(split.train[place], settings.data.system_prompt)
             for place in (row, *places)]
    rendered = [one for start in range(0, len(asked), AT_ONCE)
                for one in chat.render(settings, asked[start:start + AT_ONCE])]
    found = Lengths(tuple(one.tokens for one in rendered[1:]), tuple(places),
                    settings.train.max_prompt_length, len(split.train), rendered[0].text)
    _known[_key(settings)] = found
    while len(_known) > KEPT:
        _known.popitem(last=False)
    return found


_known: OrderedDict[Hashable, Lengths] = OrderedDict()


def _key(settings: Settings) -> Hashable:
    """What lengths depend on."""
    return settings.model, settings.data, settings.train.seed


def problems_of(settings: Settings) -> list[Problem]:
    """What speaks against a start, where the prompts of these settings were counted before."""
    found = _known.get(_key(settings))
    if found is None:
        return []
    tokens, longest = found.tokens, settings.train.max_prompt_length
    long = sum(count > longest for count in tokens)
    if not long:
        return []
    told = f"{long:,} of {len(tokens):,} prompts are longer than {longest} tokens"
    left = (len(tokens) - long) * found.of // len(tokens)
    cure = f"Raise 'Longest prompt' to {max(tokens)} to keep all of them"
    if left < settings.train.prompts_per_step:
        return [Problem("Too few questions are left.", f"{told}, and a step needs "
                        f"{settings.train.prompts_per_step} questions.",
                        f"{cure}, or shorten the system prompt.", "train.max_prompt_length")]
    return [Problem(f"{told} and are left out.", next=f"{cure}.", field="train.max_prompt_length",
                    level="warning")]
