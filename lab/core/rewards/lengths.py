"""Is it of the right length: shapes for how much is written, whatever it says."""

from typing import Annotated

from lab.core.knobs import Knob
from lab.core.prompts import in_format
from lab.core.rewards.answer_text import without_tags
from lab.core.rewards.prose import words_of
from lab.core.rewards.registry import SHAPE, reward
from lab.core.rewards.validators import SHAPE_PAYS

TOKENS_A_WORD = 4 / 3  # of English, roughly; for texts that no tokenizer counted


def _bad_range(at_least: int, at_most: int) -> str | None:
    return None if at_least <= at_most else "asks for more words at least than at most"


@reward("Length", max_score=SHAPE_PAYS, kind=SHAPE, refuses=_bad_range, examples=[
    ("word " * 20, {}, SHAPE_PAYS),
    (in_format("word " * 99, "42"), {}, SHAPE_PAYS),  # tags do not count
    ("word " * 200, {}, SHAPE_PAYS),
    ("word " * 10, {}, SHAPE_PAYS / 2),
    ("word " * 300, {}, SHAPE_PAYS / 2),
    ("word " * 400, {}, 0.0),
    ("word " * 4000, {}, 0.0),
    ("", {}, 0.0),
])
def length(completion: str, *, at_least: Annotated[int, Knob(
        "Words at least", "Fewer earn their part.", low=0, high=100_000, step=1)] = 20,
        at_most: Annotated[int, Knob(
            "Words at most", "More earn less, and twice as many nothing.", low=1, high=100_000,
            step=1)] = 200) -> float:
    """0.25 for a text of so many words, tags aside; less the further away it is. Anything of that
    length passes: it keeps a model from writing less and less, or more and more."""
    words = len(words_of(without_tags(completion)))
    if words < at_least:
        return SHAPE_PAYS * words / at_least
    return SHAPE_PAYS * max(0.0, 1 - max(0, words - at_most) / at_most)


def _bad_buffer(longest: int, buffer: int) -> str | None:
    return None if buffer < longest else "has a buffer that is not below the longest length"


@reward("Not too long (DAPO)", max_score=SHAPE_PAYS, kind=SHAPE, refuses=_bad_buffer, examples=[
    ("42", {"completion_tokens": 10}, SHAPE_PAYS),
    ("42", {"completion_tokens": 192}, SHAPE_PAYS),
    ("42", {"completion_tokens": 224}, SHAPE_PAYS / 2),
    ("42", {"completion_tokens": 256}, 0.0),
    ("42", {"completion_tokens": 1000}, 0.0),
    ("word " * 168, {}, SHAPE_PAYS / 2),  # about 224 tokens
])
def overlong(completion: str, completion_tokens: int | None = None, *, longest: Annotated[int, Knob(
        "Longest answer", "Tokens at which nothing is left; best 'Longest answer' of Train.",
        low=2, high=131072, step=8)] = 256, buffer: Annotated[int, Knob(
            "Buffer", "So many tokens before that it begins to fall.", low=1, high=131072,
            step=8)] = 64) -> float:
    """0.25 up to longest minus buffer, then falling to 0 at the longest length, in tokens. The soft
    overlong punishment of DAPO (arXiv 2503.14476, equation 13), which goes from 0 to -1, plus a
    constant, which changes no advantage; weight 4 is the paper's own scale. Where no tokenizer is
    at hand, as beside a pasted answer, a word counts as a token and a third."""
    tokens = completion_tokens
    if tokens is None:
        tokens = round(len(words_of(completion)) * TOKENS_A_WORD)
    if tokens <= longest - buffer:
        punishment = 0.0
    elif tokens <= longest:
        punishment = (longest - buffer - tokens) / buffer
    else:
        punishment = -1.0
    return SHAPE_PAYS * (1 + punishment)
