"""Does the code work: rewards that run what the model wrote, in limited children."""

import json
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, NamedTuple

from lab.core.knobs import Knob
from lab.core.limited.run import Child, Ended, Limits
from lab.core.prompts import final_answer
from lab.core.rewards import permission
from lab.core.rewards.calling import CannotScore, text_of
from lab.core.rewards.registry import GOAL, reward

FENCE = "```"
PYTHON = ("", "python", "python3", "py")
AT_ONCE = 8  # children, at most as many as there are cores
DOUBLE = {"tests": "assert double(2) == 4\nassert double(-1) == -2"}


class Outcome(NamedTuple):
    """How many of the tests an answer's code passed, and what was wrong first."""

    passed: int
    of: int
    wrong: str


@reward("Passes the tests", max_score=1.0, kind=GOAL, runs_code=True, examples=[
    ("```python\ndef double(x):\n    return 2 * x\n```", DOUBLE, 1.0),
    ("<answer>\ndef double(x):\n    return x + x\n</answer>", DOUBLE, 1.0),
    ("```python\ndef double(x):\n    return x ** 2\n```", DOUBLE, 0.0),  # right for 2 only
    ("```python\ndef double(x):\n    return 2 * x\n```\nOr:\n```python\npass\n```", DOUBLE, 0.0),
    ("```python\nimport os\nos._exit(0)\n```", DOUBLE, 0.0),  # ending early is not passing
    ("```python\ndef double(x)\n```", DOUBLE, 0.0),
    ("Double is twice as much.", DOUBLE, 0.0),
    ("", DOUBLE, 0.0),
    ("```python\nx = 1\n```", {"tests": ""}, None),  # no tests, no judgement
])
def passes_tests(completions: list, tests: list, *,
                 all_or_nothing: Annotated[bool, Knob(
                     "All or nothing", "On: 1 when every assert holds, else 0. Off: the share of "
                     "those that hold.")] = True,
                 seconds: Annotated[float, Knob(
                     "Time limit", "Seconds for the code, and again for its tests.", above=0,
                     high=60)] = 5.0,
                 **columns: Any) -> list[float | None | CannotScore]:
    """1 when the Python code of the answer passes the tests in the column `tests`, else 0. The code
    is the last fenced block, or the answer itself where there is none; the tests are Python with
    `assert`, as text or as a list of texts. Each answer runs in a limited child of its own: that
    limits accidents and is no sandbox. Code that is out to cheat may: it shares its process with
    the tests."""
    if why := permission.against_code():
        raise CannotScore(f"passes_tests was not run. {why}")
    asked = [(code_in(text_of(completion)), given_tests(text))
             for completion, text in zip(completions, tests, strict=True)]
    once = list(dict.fromkeys(one for one in asked if all(one)))
    with ThreadPoolExecutor(min(AT_ONCE, os.cpu_count() or 1)) as pool:
        found = dict(zip(once, pool.map(lambda one: _tried(*one, seconds), once), strict=True))
    return [_score(one, found, all_or_nothing) for one in asked]


def _score(asked: tuple[str, str], found: dict[tuple[str, str], Outcome | CannotScore],
           all_or_nothing: bool) -> float | None | CannotScore:
    code, tests = asked
    if not tests:
        return None
    if not code:
        return 0.0
    outcome = found[asked]
    if isinstance(outcome, CannotScore):
        return outcome
    share = outcome.passed / outcome.of
    return float(share == 1) if all_or_nothing else share


def _tried(code: str, tests: str, seconds: float) -> Outcome | CannotScore:
    """A CannotScore where not the code is to blame."""
    try:
        child = Child("lab.core.limited.trial", {}, Limits(seconds=seconds))
    except (Ended, OSError) as error:
        return CannotScore(f"passes_tests could not start its child. {error}")
    token = secrets.token_hex(16)
    with child:
        try:
            child.send(code=code)
            child.receive()
            child.send(tests=tests, token=token)
            told = child.receive()
        except Ended as error:
            return Outcome(0, 1, str(error))
    if told.get("token") != token:
        return Outcome(0, 1, "It wrote a result of its own.")
    if not told["of"]:
        return CannotScore(f"passes_tests failed. {told['wrong']}")
    return Outcome(told["passed"], told["of"], told["wrong"])


def code_in(text: str) -> str:
    """The last fenced block of Python, or of no named language; without a fence, the answer."""
    blocks, block, language = [], None, ""
    for line in text.splitlines():
        mark = line.strip()
        if block is None and mark.startswith(FENCE):
            block, language = [], mark.strip("`").strip().lower()
        elif block is not None and mark == FENCE:
            blocks.append((language, block))
            block = None
        elif block is not None:
            block.append(line)
    if block is not None:
        blocks.append((language, block))  # it was cut
    fitting = [lines for language, lines in blocks if language in PYTHON]
    if blocks:
        return "\n".join(fitting[-1]) if fitting else ""
    return final_answer(text)


def given_tests(value: Any) -> str:
    """The tests as one text; a list of them may also be written as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if isinstance(value, list):
        return "\n".join(map(str, value)).strip()
    return str(value or "").strip()
