"""Is the formula right: a goal that knows algebra, by the optional package math-verify."""

import itertools
import re
from typing import Annotated

from lab.core.knobs import Knob
from lab.core.prompts import final_answer, in_format
from lab.core.rewards.answer_text import boxed, is_tagged
from lab.core.rewards.limited import ask
from lab.core.rewards.numbers import numbers_in
from lab.core.rewards.registry import GOAL
from lab.core.rewards.validators import validator

SECONDS = 5.0  # of the processor, for one answer
LONGEST = 1000  # characters of a formula; a longer one is no answer

# math-verify reads "apples" as a product of six letters. What has a word that is no function's
# name is a text.
_WORD = re.compile(r"(?<![\\A-Za-z])(?!(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|min|max|gcd|lcm|"
                   r"det|inf|mod|deg|cup|cap|arcsin|arccos|arctan|sinh|cosh|tanh)\b)[A-Za-z]{3,}")


@validator("Same mathematics", name="math", kind=GOAL, package="math-verify", examples=[
    (in_format("", r"\frac{1}{2}"), {"answer": "0.5"}, True),
    (in_format("", "$x^2 + 2x + 1$"), {"answer": "(x+1)^2"}, True),
    (in_format("", r"\boxed{2\sqrt{2}}"), {"answer": r"\sqrt{8}"}, True),
    (in_format("", r"\{2, 1\}"), {"answer": r"\{1, 2\}"}, True),
    (in_format("", "x = 5"), {"answer": "5"}, True),
    (in_format("", "The answer is 72."), {"answer": "72"}, True),
    (r"So it is \boxed{72}, out of 144.", {"answer": "72"}, True),
    (in_format("", "$(x+1)^3$"), {"answer": "(x+1)^2"}, False),
    (in_format("", "72 or 73"), {"answer": "72"}, False),
    (in_format("", "(2, 1)"), {"answer": "(1, 2)"}, False),
    ("", {"answer": "72"}, False),
    ("Paris", {"answer": "Paris"}, None),
])
def math_(completion: str, answer: str, *, untagged: Annotated[bool, Knob(
        "Without a tag too", r"On: where neither <answer> nor \boxed{} is there, the formulas of "
        "the whole text are read. Off: that is wrong.")] = True) -> bool | None:
    r"""The answer equals the reference as mathematics: 1/2 and 0.5, (x+1)^2 and x^2+2x+1, sets,
    intervals. Read and compared by math-verify (`pip install math-verify`), in a process that is
    ended after five seconds. The answer is the text after the last <answer>; a \boxed{} in it goes
    first. Cannot be judged where the reference is no formula. Takes 1 to 500 ms an answer."""
    reference = str(answer).strip().strip("$")
    if not reference or _WORD.search(_without_text(reference)):
        return None
    text = final_answer(completion)
    formula = boxed(text)
    if formula is None and not is_tagged(completion) and not untagged:
        return False
    return ask("maths", SECONDS, reference, attempts_at(text if formula is None else formula,
                                                        formula is not None))


def attempts_at(text: str, is_formula: bool) -> list[str]:
    """What math-verify is to read, as texts that it understands; empty for what is no answer."""
    text = text.strip()
    if not text or len(text) > LONGEST and is_formula:
        return []
    if is_formula or not (_WORD.search(_without_text(text)) or "$" in text or "\\(" in text
                          or "\\[" in text):
        return [f"\\boxed{{{text}}}"] if len(text) <= LONGEST else []
    if "$" in text or "\\(" in text or "\\[" in text:
        return [text[-LONGEST:]]  # it finds the formulas itself
    # Words around one number. With two it would take the last one, and a list of guesses would do.
    is_one = len(list(itertools.islice(numbers_in(text), 2))) == 1
    return [text[-LONGEST:]] if is_one else []


def _without_text(formula: str) -> str:
    r"""Without \text{...}, which is a unit, and the names in \begin{...} and \end{...}."""
    return re.sub(r"\\(?:text|mathrm|mbox|begin|end)\s?\{[^{}]*\}", "", formula)
