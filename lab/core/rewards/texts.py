"""Is the text right: goals for answers that are words, letters or whatever a pattern describes."""

import json
import re
import unicodedata
import warnings
from collections.abc import Sequence
from typing import Annotated

from lab.core.knobs import Knob
from lab.core.prompts import in_format
from lab.core.rewards.answer_text import answer_of, is_tagged
from lab.core.rewards.limited import ask
from lab.core.rewards.numbers import only_number, same
from lab.core.rewards.registry import GOAL
from lab.core.rewards.validators import validator

ANSWER, TEXT = "answer", "text"
PATTERN_SECONDS = 0.5  # of the processor, for one answer

IgnoreCase = Annotated[bool, Knob("Ignore case", "Paris and paris are the same.")]
Where = Annotated[str, Knob("Where", "'answer': after the last <answer>, or in the whole text "
                            "where there is no tag. 'text': in the whole text, always.",
                            choices=(ANSWER, TEXT))]

_MARKS = " \t\n\"'`*_.,;:!\u201c\u201d\u2018\u2019\u00ab\u00bb$"


def bare(text: str, ignore_case: bool) -> str:
    """The text in one spelling: spaces as one, no quotes, bold or full stop around it."""
    text = " ".join(unicodedata.normalize("NFC", text).split()).strip(_MARKS)
    return text.casefold() if ignore_case else text


@validator("Right text", kind=GOAL, examples=[
    (in_format("France's.", "Paris"), {"answer": "Paris"}, True),
    (in_format("France's.", '**"paris."**'), {"answer": "Paris"}, True),
    (r"\boxed{Paris}", {"answer": "Paris"}, True),
    ("Paris", {"answer": "Paris"}, True),
    (in_format("France's.", "Paris, France"), {"answer": "Paris"}, False),
    (in_format("Germany's.", "Berlin"), {"answer": "Paris"}, False),
    ("It is Paris.", {"answer": "Paris"}, False),  # without a tag all of it is the answer
    ("", {"answer": "Paris"}, False),
    ("Paris", {"answer": " "}, None),
])
def exact(completion: str, answer: str, *, ignore_case: IgnoreCase = True) -> bool | None:
    """The answer is the reference, but for spaces, quotes, bold and a full stop at its ends. The
    answer is the text after the last <answer>, or all there is. An empty reference cannot be
    judged."""
    wanted = bare(str(answer), ignore_case)
    return bare(answer_of(completion), ignore_case) == wanted if wanted else None


@validator("Contains the reference", kind=GOAL, examples=[
    (in_format("France's.", "It is Paris, of course."), {"answer": "Paris"}, True),
    (in_format("Paris is in France.", "Berlin"), {"answer": "Paris"}, False),
    ("The capital is Paris.", {"answer": "paris"}, True),
    ("Parisian", {"answer": "Paris"}, False),  # whole words
    ("Berlin, Rome, Paris or Madrid", {"answer": "Paris"}, True),  # so can a list of guesses
    ("", {"answer": "Paris"}, False),
    ("Paris", {"answer": ""}, None),
])
def contains(completion: str, answer: str, *, where: Where = ANSWER,
             ignore_case: IgnoreCase = True) -> bool | None:
    """The reference stands in the answer as whole words. A list of every guess passes: watch the
    length, or ask for the right text. An empty reference cannot be judged."""
    wanted = " ".join(str(answer).split())
    if not wanted:
        return None
    text = " ".join((completion if where == TEXT else answer_of(completion)).split())
    if ignore_case:
        wanted, text = wanted.casefold(), text.casefold()
    before = r"(?<!\w)" if wanted[0].isalnum() else ""
    after = r"(?!\w)" if wanted[-1].isalnum() else ""
    return re.search(before + re.escape(wanted) + after, text) is not None


@validator("One of several references", kind=GOAL, examples=[
    (in_format("", "NYC"), {"answer": "New York|NYC"}, True),
    (in_format("", "new york."), {"answer": "New York|NYC"}, True),
    (in_format("", "$1,000.00"), {"answer": '["1000", "one thousand"]'}, True),
    (in_format("", "Boston"), {"answer": "New York|NYC"}, False),
    (in_format("", "New York|NYC"), {"answer": "New York|NYC"}, False),  # one, not all
    ("", {"answer": "New York|NYC"}, False),
    ("NYC", {"answer": "|"}, None),
])
def any_of(completion: str, answer: str, *, separator: Annotated[str, Knob(
        "Separator", "Between the references. A JSON list needs none.")] = "|",
        ignore_case: IgnoreCase = True) -> bool | None:
    """The answer is one of the references: equal as a number where the reference is one, else as
    text. They are a list, a JSON list, or separated. None of them: cannot be judged."""
    references = references_in(answer, separator)
    if not references:
        return None
    text = answer_of(completion)
    said, number = bare(text, ignore_case), only_number(text)
    return any(said == bare(one, ignore_case)
               or (number is not None and (wanted := only_number(one)) is not None
                   and same(number, wanted, 1e-9)) for one in references)


def references_in(answer: str | Sequence, separator: str) -> list[str]:
    """Every reference that a cell of the data holds."""
    if isinstance(answer, str) and answer.lstrip().startswith("["):
        try:
            listed = json.loads(answer)
            answer = listed if isinstance(listed, list) else answer
        except (ValueError, RecursionError):
            pass  # [0, 1) is a text
    if isinstance(answer, str) and separator:
        answer = answer.split(separator)
    parts = answer if isinstance(answer, list | tuple) else [answer]
    return [text for part in parts if (text := str(part).strip())]


# Possessive: two runs that may share characters would try every cut between them.
_SAID = re.compile(r"(?:answer|option|choice)\b[\s:*]*+(?:(?:is|=|[(\[\"'`])[\s:*(\[\"'`]*+)?+"
                   r"([A-Z])(?![\w'])", re.IGNORECASE)
_MARKED = re.compile(r"\(([A-Z])\)|(?<![\w'(])([A-Z])[).:](?=\s|\*|$)|\*\*([A-Z])\*\*")
_ALONE = re.compile(r"(?<![\w'])([A-Z])(?![\w'])")
_ARTICLE = re.compile(r"(?<![\w'])(?:A|I)(?=\s+(?!or\b|and\b|is\b)[a-z])")  # a dog, I think


@validator("Right choice", kind=GOAL, examples=[
    (in_format("Paris is in France.", "B"), {"answer": "B"}, True),
    (in_format("Paris is in France.", "(b)"), {"answer": "B"}, True),
    (in_format("Paris is in France.", "**B.** Paris"), {"answer": "B) Paris"}, True),
    (r"\boxed{B}", {"answer": "B"}, True),
    ("A river is no city. The answer is B.", {"answer": "B"}, True),
    ("Option A or option C? I say\nB", {"answer": "B"}, True),  # its last line
    (in_format("Paris is in France.", "C"), {"answer": "B"}, False),
    (in_format("Paris is in France.", "A, B, C, D"), {"answer": "B"}, False),
    (in_format("Paris is in France.", "A or B"), {"answer": "B"}, False),
    (in_format("Paris is in France.", "Paris"), {"answer": "B"}, False),
    ("", {"answer": "B"}, False),
    ("B", {"answer": "Paris"}, None),
])
def choice(completion: str, answer: str, *, options: Annotated[int, Knob(
        "Options", "How many letters there are to choose from: 4 is A to D.", low=2, high=26,
        step=1)] = 5) -> bool | None:
    """The answer names one letter, and it is the reference's. B, (b), B: Paris and 'the answer is
    B' all name it, and two letters are no choice. Without a tag the last line counts, or what the
    text calls its answer. Cannot be judged where the reference is no letter of these."""
    letters = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:options])
    wanted = _letter(str(answer), letters)
    if wanted is None:
        return None
    text = answer_of(completion)
    if not is_tagged(completion):
        said = [letter for letter in map(str.upper, _SAID.findall(text)) if letter in letters]
        last = text.splitlines()[-1] if text else ""
        alone = _letter(last, letters)
        if alone is None and said:
            return said[-1] == wanted
        return alone == wanted
    return _letter(text, letters) == wanted


def _letter(text: str, letters: frozenset[str]) -> str | None:
    """The one letter that a text names; None for none, and for two."""
    text = text.strip()
    whole = text.strip(" .()[]*\"'`:").upper()
    if whole in letters:
        return whole
    for pattern in (_SAID, _MARKED, _ALONE):
        read = _ARTICLE.sub(" ", text) if pattern is _ALONE else text
        found = {letter.upper() for match in pattern.finditer(read)
                 for letter in match.groups() if letter} & letters
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def _bad_pattern(pattern: str, **_) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"has a pattern that cannot be read: {error}"
    return None


@validator("Matches a pattern", kind=GOAL, refuses=_bad_pattern, examples=[
    (in_format("6 * 7", "42 apples"), {"answer": r"\b42\b"}, True),
    (in_format("6 * 7", "FORTY-two"), {"answer": r"forty.two"}, False),
    (in_format("42", "7"), {"answer": "42"}, False),
    ("", {"answer": "42"}, False),
    ("42", {}, None),  # neither a pattern nor a reference
])
def pattern(completion: str, answer: str = "", *, pattern: Annotated[str, Knob(
        "Pattern", "A regular expression of Python, in which . is a newline too. Empty: the "
        "reference is one.")] = "", where: Where = ANSWER, whole: Annotated[bool, Knob(
            "All of it", "On: nothing may stand around the match.")] = False,
        ignore_case: IgnoreCase = False) -> bool | None:
    """A regular expression is found in the answer. One that needs more than half a second of
    the processor for an answer is ended, and that is an error: no pattern can hang a run."""
    expression = pattern or str(answer)
    if not expression:
        return None
    text = completion if where == TEXT else answer_of(completion)
    return ask("pattern", PATTERN_SECONDS, expression, text, whole, ignore_case)
