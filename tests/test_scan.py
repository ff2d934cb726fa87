"""The static scan of a file of own rewards: what it finds, and what it says is wrong where."""

import pytest

from lab.core.knobs import Knob
from lab.core.rewards.scan import LONGEST, scan

HEAD = "from typing import Annotated\nfrom lab.core.rewards import Knob, reward, GOAL\n"
GOOD = HEAD + '''
Limit = Annotated[int, Knob("Limit", "Characters.", low=1)]
HIGHEST = 2.0

@reward("Short", max_score=HIGHEST, kind="shape", examples=[("yes", {}, 2.0)])
def short(completion, *, limit: Limit = 200, word: Annotated[str, Knob("Word", "")] = ""):
    """1 when it is short,
    else 0."""
    return 2.0 if len(completion) <= limit else 0.0

@reward(label="Right", max_score=1, name="is_right")
async def right(completion: str, answer: str) -> float:
    return float(answer in completion)

@reward("Many", max_score=1)
def many(completions, answer, *, scale: Annotated[float, Knob("Scale", "")] = 1.0, **columns):
    return [scale for _ in completions]

def tidy_ends(prompts, completions, completion_ids, level, extra=None, *, topic, **kwargs):
    return [1.0] * len(completions)

tidy_ends.max_score = 3
tidy_ends.kind = "shape"
tidy_ends.label = "Ends well"

def plain(completions, **kwargs):
    "TRL's own."

def _hidden(completions): ...

def helper(text): ...

class Thing:
    def method(self, completions): ...
'''


def test_it_finds_both_forms_and_all_that_they_declare():
    found = scan(GOOD)
    assert found.mistakes == ()
    short, right, many, tidy, plain = found.rewards
    assert (short.name, short.label, short.kind, short.max_score, short.needs) == (
        "short", "Short", "shape", 2.0, ("completion",))
    assert short.help == "1 when it is short, else 0." and not short.many
    assert short.knobs["limit"].knob == Knob("Limit", "Characters.", low=1)
    assert (short.knobs["limit"].default, short.knobs["limit"].kind) == (200, int)
    assert (short.knobs["word"].default, short.knobs["word"].kind) == ("", str)
    assert (right.name, right.function, right.kind, right.needs, right.many) == (
        "is_right", "right", "goal", ("completion", "answer"), True)
    assert many.needs == ("completions", "answer") and list(many.knobs) == ["scale"]
    assert (tidy.label, tidy.max_score, tidy.kind) == ("Ends well", 3.0, "shape")
    assert tidy.needs == ("completions", "level", "topic") and not tidy.knobs and tidy.many
    assert (plain.label, plain.max_score, plain.kind, plain.help) == (
        "Plain", 1.0, "goal", "TRL's own.")


def test_it_never_runs_the_file(tmp_path):
    trap = tmp_path / "trap"
    text = HEAD + (f"open({str(trap)!r}, 'w').close()\n"
                   "@reward('A', max_score=1, examples=[print('ran')])\n"
                   f"def a(completion, *, k: Annotated[int, Knob('K', '')] = 1): ...\n")
    assert [one.name for one in scan(text).rewards] == ["a"] and not trap.exists()


@pytest.mark.parametrize("text, line, words", [
    ("def broken(:", 1, "This is no Python: invalid syntax"),
    ("x = 1\n  y = 2", 2, "This is no Python: unexpected indent"),
    ("x = '\0'", 1, "This is no Python"),
    ("", 1, "There is no reward in this file. Write @reward("),
    ("def helper(text): ...", 1, "There is no reward in this file."),
    ("x = 1\n" * LONGEST, 1, "more than 200,000 characters"),
    ("(" * 500 + ")" * 500, 1, "This is no Python"),
    ("@reward('A', max_score=1)\ndef a(completion): ...", 1, "The decorator is not imported."),
    (HEAD + "@reward\ndef a(completion): ...", 3, "lacks its label and highest score"),
    (HEAD + "@reward('A')\ndef a(completion): ...", 3, "lacks max_score"),
    (HEAD + "@reward(max_score=1)\ndef a(completion): ...", 3, "takes one label"),
    (HEAD + "@reward('A', 1.0)\ndef a(completion): ...", 3, "takes one label"),
    (HEAD + "@reward('A', max_score=1, weight=2)\ndef a(completion): ...", 3, "has no 'weight'"),
    (HEAD + "@reward('A', max_score=0)\ndef a(completion): ...", 3, "a number above 0"),
    (HEAD + "@reward('A', max_score=f())\ndef a(completion): ...", 3, "a number above 0"),
    (HEAD + "@reward('A', max_score=True)\ndef a(completion): ...", 3, "a number above 0"),
    (HEAD + "@reward('A', max_score=1e999)\ndef a(completion): ...", 3, "a number above 0"),
    (HEAD + "@reward(A, max_score=1)\ndef a(completion): ...", 3, "label must be text"),
    (HEAD + "@reward('A', max_score=1, kind='both')\ndef a(completion): ...", 3,
     "kind must be 'goal' or 'shape'"),
    (HEAD + "@reward('A', max_score=1, name='a:b')\ndef a(completion): ...", 4,
     "'a:b' cannot be the name"),
    (HEAD + "@reward('A', max_score=1)\ndef correctness(completion): ...", 4,
     "There is a reward 'correctness' in the lab already."),
    ("def int(completions): ...", 1, "There is a reward 'int' in the lab already."),
    ("def a(completions): ...\ndef a(completions): ...", 2, "There are two rewards 'a'."),
    (HEAD + "@reward('A', max_score=1)\ndef a(text): ...", 4, "takes neither `completion`"),
    (HEAD + "@reward('A', max_score=1)\ndef a(completion, completions): ...", 4, "takes both"),
    (HEAD + "@reward('A', max_score=1)\ndef a(completion, *args): ...", 4, "*args does not"),
    (HEAD + "@reward('A', max_score=1)\ndef a(completion, **kwargs): ...", 4, "**kwargs does not"),
    (HEAD + "@reward('A', max_score=1)\ndef a(completion, /): ...", 4, "Leave the `/` out."),
    (HEAD + "@reward('A', max_score=1)\ndef a(completion, *, k=1): ...", 4,
     "'k' of a does not say what it is. Write `k: Annotated[int, Knob("),
    (HEAD + "@reward('A', max_score=1)\ndef a(completion, *, k: int = 1): ...", 4,
     "does not say what it is"),
    (HEAD + "@reward('A', max_score=1)\ndef a(completion, *, k: Annotated[int, Knob()] = 1): ...",
     4, "The Knob of 'k' cannot be read"),
    (HEAD + "@reward('A', max_score=1)\n"
     "def a(completion, *, k: Annotated[int, Knob('K', x())] = 1): ...", 4, "cannot be read"),
    (HEAD + "@reward('A', max_score=1)\n"
     "def a(completion, *, k: Annotated[int, Knob('K', '')]): ...", 4, "'k' needs a default value"),
    (HEAD + "@reward('A', max_score=1)\n"
     "def a(completion, *, weight: Annotated[int, Knob('K', '')] = 1): ...", 4, "'weight'"),
    (HEAD + "@reward('A', max_score=1)\n"
     "def a(completion, *, k: Annotated[int, Knob('K', '', low=5)] = 1): ...", 4,
     "The default of 'k' must be at least 5"),
    (HEAD + "@reward('A', max_score=1)\n"
     "def a(completion, *, k: Annotated[int, Knob('K', '')] = f()): ...", 4, "no plain value"),
    ("def a(completions): ...\na.max_score = -1", 2, "a number above 0"),
    ("def a(completions): ...\na.kind = 'x'", 2, "kind must be"),
])
def test_a_mistake_is_told_with_its_line_and_what_to_do(text, line, words):
    found = scan(text)
    (mistake,) = found.mistakes
    assert mistake.line == line and words in str(mistake)


def test_several_mistakes_are_told_at_once():
    text = HEAD + ("@reward('A')\ndef a(completion): ...\n"
                   "@reward('B', max_score=1)\ndef b(text): ...\n"
                   "@reward('C', max_score=1)\ndef c(completion): ...\n")
    found = scan(text)
    assert [m.line for m in found.mistakes] == [3, 6]
    assert [one.name for one in found.rewards] == ["c"]
