"""Is it well written: shapes for the words of an answer, whatever they say."""

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated

from lab.core.knobs import Knob
from lab.core.prompts import final_answer, in_format, split_reasoning
from lab.core.rewards.answer_text import without_tags
from lab.core.rewards.registry import SHAPE, reward
from lab.core.rewards.validators import SHAPE_PAYS, validator

# Scripts without spaces count a word a sign.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|(?:(?![\u3040-\u30ff\u3400-\u9fff])[^\W_])+")
_ASCII_WORD = re.compile(r"[A-Za-z0-9]+")
AS_OFTEN = 2  # times that one word counts: "so so so so" is no thought
COPIED = 5  # so many words of the question in a row are a copy of it

_QUESTION = "Ann has six boxes with seven apples in each of them. How many apples does she have?"
_THOUGHT = ("Each box holds seven apples and there are six boxes, so I multiply: 6 * 7 = 42. "
            "That makes 42 in all.")


@reward("Thinks out loud", max_score=SHAPE_PAYS, kind=SHAPE, examples=[
    (in_format(_THOUGHT, "42"), {"question": _QUESTION}, SHAPE_PAYS),
    (in_format(_THOUGHT, "42"), {}, SHAPE_PAYS),  # without the question, copies are not seen
    (f"{_THOUGHT} <answer>42</answer>", {}, SHAPE_PAYS),  # no block: what comes before the answer
    (in_format("Six boxes times seven is the answer.", "42"), {}, 7 / 15 * SHAPE_PAYS),
    (in_format("6 * 7 = 42", "42"), {}, 2 / 15 * SHAPE_PAYS),  # 42 is the answer again
    (in_format("so " * 40, "42"), {}, 2 / 15 * SHAPE_PAYS),
    (in_format(_QUESTION, "42"), {"question": _QUESTION}, 0.0),
    (in_format("42", "42"), {}, 0.0),
    (in_format("", ""), {}, 0.0),
    ("<answer>42</answer>", {}, 0.0),
    ("", {}, 0.0),
])
def thinking(completion: str, question: str = "", *, words: Annotated[int, Knob(
        "Words", "So many words of its own are a full score; fewer earn their part. A word is "
        "roughly one token and a third.", low=1, high=10_000, step=1)] = 15) -> float:
    """0.25 when the reasoning has enough words of its own, and a part of it for fewer. Not its own
    are those of the answer, five or more in a row out of the question, and a word from its third
    time on. The reasoning is the first such block, or what comes before <answer>, or all there is.
    It sees words and not thoughts: nonsense of many words passes."""
    # Without a tag the whole text is the answer, and says nothing again.
    answer = final_answer(completion) if "<answer>" in completion else ""
    own = _own_words(_reasoning(completion), answer, question)
    return SHAPE_PAYS * min(1.0, own / words)


def _reasoning(completion: str) -> str:
    block, _ = split_reasoning(completion)
    text = completion if block is None else block
    return text.split("<answer>")[0]


def _own_words(reasoning: str, answer: str, question: str) -> int:
    said = words_of(reasoning)
    asked = _runs_of(str(question), COPIED)
    if not asked.isdisjoint(runs(said, COPIED)):
        copied = {at for start, run in enumerate(runs(said, COPIED)) if run in asked
                  for at in range(start, start + COPIED)}
        said = [word for at, word in enumerate(said) if at not in copied]
    again = set(words_of(answer))
    return sum(min(count, AS_OFTEN) for word, count in Counter(said).items() if word not in again)


@validator("No copy of the question", kind=SHAPE, examples=[
    (in_format(_THOUGHT, "42"), {"question": _QUESTION}, True),
    ("Six boxes with seven apples are 42.", {"question": _QUESTION}, True),
    (_QUESTION, {"question": _QUESTION}, False),
    (in_format(_QUESTION + " " + _THOUGHT, "42"), {"question": _QUESTION}, False),
    ("How many apples does she have?", {"question": "How many apples does she have?"}, False),
    (_QUESTION, {}, None),
])
def no_copy(completion: str, question: str = "", *, words: Annotated[int, Knob(
        "Words in a row", "So many of the question, in its order, are a copy.", low=2, high=1000,
        step=1)] = 10) -> bool | None:
    """The text has no long run of words out of the question. A question of fewer words may not
    stand there as a whole. Cannot be judged without a question. Says nothing about the rest: an
    empty text copies nothing."""
    length = min(words, len(words_of(str(question))))
    if not length:
        return None
    return _runs_of(str(question), length).isdisjoint(runs(words_of(completion), length))


@reward("No repetition", max_score=SHAPE_PAYS, kind=SHAPE, examples=[
    (_THOUGHT, {}, SHAPE_PAYS),
    ("42", {}, SHAPE_PAYS),  # too short to repeat anything
    ("one two three one two three", {}, 3 / 4 * SHAPE_PAYS),
    ("so " * 12, {}, 1 / 10 * SHAPE_PAYS),
    ("word " * 100_002, {}, SHAPE_PAYS / 100_000),
    ("-" * 100, {}, 0.0),  # no words at all
])
def no_repetition(completion: str, *, words: Annotated[int, Knob(
        "Words in a row", "Runs of so many are compared.", low=1, high=100, step=1)] = 3) -> float:
    """0.25 times the share of different runs among all runs of three words. As in 'Demystifying
    Long Chain-of-Thought Reasoning' (arXiv 2502.03373, appendix C.2) and TRL's
    get_repetition_penalty_reward, plus a constant, which changes no advantage; of words, where
    those take tokens. A short text repeats nothing and earns all of it, one without words none."""
    said = words_of(without_tags(completion))
    if not said:
        return 0.0
    every = len(said) - words + 1
    return SHAPE_PAYS * len(set(runs(said, words))) / every if every > 0 else SHAPE_PAYS


def runs(words: list[str], length: int) -> Iterator[tuple[str, ...]]:
    """Every run of so many words, in order."""
    return zip(*(words[start:] for start in range(length)), strict=False)


@lru_cache(maxsize=1024)  # a question meets a whole group of answers
def _runs_of(question: str, length: int) -> frozenset[tuple[str, ...]]:
    return frozenset(runs(words_of(question), length))


def words_of(text: str) -> list[str]:
    """The words and numbers of a text, in lower case."""
    return (_ASCII_WORD if text.isascii() else _WORD).findall(text.lower())
