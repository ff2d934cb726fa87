"""Is the number right: goals for answers that are numbers, however they are spelled."""

from typing import Annotated

from lab.core.knobs import Knob
from lab.core.prompts import final_answer, in_format
from lab.core.rewards.answer_text import boxed, is_tagged
from lab.core.rewards.numbers import last_number as read_last
from lab.core.rewards.numbers import only_number, reference_number, same
from lab.core.rewards.registry import GOAL
from lab.core.rewards.validators import validator

LAST, ONLY, NEVER = "last", "only", "never"

Tolerance = Annotated[float, Knob(
    "Tolerance", "How far off still counts, as a share of the reference: 0.01 is 1 %.",
    low=0, high=1, step=0.001)]
Untagged = Annotated[str, Knob(
    "Without <answer>", "'last': the last number of the text is the answer. 'only': the text must "
    "hold just one number. 'never': it is wrong.", choices=(LAST, ONLY, NEVER))]

_ANSWER = {"answer": "72"}


def _written(spelling: str, right: bool = True) -> tuple:
    return f"<answer>{spelling}</answer>", _ANSWER, right


@validator("Right number", kind=GOAL, examples=[
    (in_format("Half of 144 is what she has left.", "72"), _ANSWER, True),
    _written("72.0"),
    _written("$72.00"),
    _written("072"),
    _written("**72**"),
    _written(r"\boxed{72}"),
    _written("72 apples."),
    _written("72%"),
    _written("144/2"),
    _written("x = 72"),
    ("<answer>1,000</answer>", {"answer": "1000"}, True),
    (r"<answer>\frac{3}{4}</answer>", {"answer": "0.75"}, True),
    ("<answer>1 1/2 hours</answer>", {"answer": "1.5"}, True),
    ("<answer>25%</answer>", {"answer": "0.25"}, True),
    ("<answer>\u22125</answer>", {"answer": "-5"}, True),
    ("<answer>2 million</answer>", {"answer": "2000000"}, True),
    _written("27", False),
    _written("-72", False),
    _written("72 or 73", False),  # two numbers are no number
    _written("144 / 2 = 72", False),
    _written("71, 72, 73", False),
    _written("seventy-two", False),  # words are not read
    _written(r"72\pi", False),
    _written("", False),
    ("She has 144 / 2 = 72 apples left.", _ANSWER, True),  # no tag: the last number
    (r"Half of 144 is \boxed{72}, out of 144.", _ANSWER, True),
    ("<answer>7</answer> no, <answer>72</answer>", _ANSWER, True),  # the last one counts
    ("No idea.", _ANSWER, False),
    ("<answer>72</answer>", {"answer": "none of them"}, None),
])
def number(completion: str, answer: str, *, tolerance: Tolerance = 1e-9,
           untagged: Untagged = LAST) -> bool | None:
    r"""The answer is one number, equal to the reference however either is spelled: 1,000 and $29.00
    and 033 and 72.0, \boxed{}, bold, per cent, fractions, with words around it. An answer with two
    numbers is none. The answer is the text after the last <answer>; a \boxed{} in it goes first.
    Cannot be judged where the reference is no number."""
    wanted = reference_number(str(answer))
    if wanted is None:
        return None
    text = final_answer(completion)
    tagged = is_tagged(completion)
    if not tagged and untagged == NEVER:
        return False
    marked = boxed(text)
    if marked is not None:
        found = only_number(marked)
    else:
        found = only_number(text) if tagged or untagged == ONLY else read_last(text)
    return found is not None and same(found, wanted, tolerance)


@validator("Last number", kind=GOAL, examples=[
    ("She has 144 / 2 = 72 apples left.", _ANSWER, True),
    ("#### 72", _ANSWER, True),
    _written("72 or 73", False),
    _written("73 or 72"),  # whatever stands before it
    ("72 of 144 apples are left.", _ANSWER, False),
    ("No idea.", _ANSWER, False),
    ("72", {"answer": "none of them"}, None),
])
def last_number(completion: str, answer: str, *, tolerance: Tolerance = 1e-9) -> bool | None:
    """The last number of the whole text equals the reference, however either is spelled. Asks for
    no tags; a list of guesses that ends with the right one passes. Cannot be judged where the
    reference is no number."""
    wanted = reference_number(str(answer))
    if wanted is None:
        return None
    found = read_last(completion)
    return found is not None and same(found, wanted, tolerance)
