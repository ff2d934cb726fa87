"""Code that must pass tests: really run, in limited children."""

import pytest

from lab.core.rewards import permission
from lab.core.rewards.chosen import parse_chosen
from lab.core.rewards.code import code_in, given_tests
from lab.core.rewards.registry import REWARDS
from lab.core.rewards.scoring import score, score_all

TESTS = "import math\nassert double(2) == 4\nassert double(3) == 6\nassert not double(0)"
GOOD = "```python\ndef double(x):\n    return 2 * x\n```"


@pytest.fixture(autouse=True)
def allowed(monkeypatch):
    monkeypatch.setenv(permission.VARIABLE, "1")


def fenced(code: str) -> str:
    return f"Here it is:\n```python\n{code}\n```"


@pytest.mark.parametrize("code, all_of_them, share", [
    ("def double(x): return 2 * x", 1.0, 1.0),
    ("def double(x): return 4", 0.0, 1 / 3),
    ("def double(x): return 0", 0.0, 1 / 3),
    ("def double(x): return x ** 2", 0.0, 2 / 3),
    ("double = 5", 0.0, 0.0),
    ("def double(x):\n    while True: pass", 0.0, 0.0),
    ("while True: pass", 0.0, 0.0),
    ("import os\nos._exit(0)", 0.0, 0.0),
    ("raise SystemExit(0)\ndef double(x): return 2 * x", 0.0, 0.0),
    ("import os\ndef double(x): os._exit(0)", 0.0, 0.0),
    ("def double(x): raise SystemExit", 0.0, 0.0),
    ("import sys\nprint('{\"passed\": 3, \"of\": 3, \"wrong\": \"\"}')\n", 0.0, 0.0),
    ("import os\nfor n in range(3, 9):\n  try: os.write(n, b'{\"ran\": \"\"}\\n{\"passed\": 3, "
     "\"of\": 3, \"wrong\": \"\", \"token\": \"\"}\\n')\n  except OSError: pass", 0.0, 0.0),
    ("x = bytearray(10 ** 11)\ndef double(x): return 2 * x", 0.0, 0.0),
    ("import os\nos.fork()\ndef double(x): return 2 * x", 0.0, 0.0),
    ("not python (", 0.0, 0.0),
    ("\0", 0.0, 0.0),
], ids=lambda value: str(value)[:30])
def test_it_pays_for_what_holds_and_for_nothing_else(code, all_of_them, share):
    row = {"tests": TESTS}
    one = score(fenced(code), row, parse_chosen("passes_tests:seconds=2"))
    part = score(fenced(code), row, parse_chosen("passes_tests:seconds=2:all_or_nothing=false"))
    assert one.errors == part.errors == {}
    assert one.rewards["passes_tests"] == all_of_them
    assert part.rewards["passes_tests"] == pytest.approx(share)


def test_a_batch_is_judged_together_each_in_its_own_process():
    spoil = fenced("import builtins\nbuiltins.len = lambda _: 0\ndef double(x): return 0")
    sound = fenced("assert len('ab') == 2\ndouble = lambda x: 2 * x")
    texts = [GOOD, spoil, "no code", GOOD, sound]
    found = score_all(texts, [{"tests": TESTS}] * len(texts), parse_chosen("passes_tests"))
    assert [one.rewards["passes_tests"] for one in found] == [1.0, 0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("tests, score_, words", [
    ("", None, ""),
    (None, None, ""),
    ("assert double(", None, "The tests are no Python"),
    ("def check(f):\n    assert f(2) == 4\ncheck(double)", 1.0, ""),
    ("def check(f):\n    assert f(2) == 5\ncheck(double)", 0.0, ""),
    ('["assert double(2) == 4", "assert double(1) == 2"]', 1.0, ""),
    ("[double(2)]", 1.0, ""),
])
def test_tests_come_in_the_forms_of_data_sets(tests, score_, words):
    found = score(GOOD, {"tests": tests}, parse_chosen("passes_tests"))
    assert found.rewards["passes_tests"] == score_
    assert words in found.errors.get("passes_tests", "") and bool(words) == bool(found.errors)


def test_it_is_off_with_all_code(monkeypatch):
    monkeypatch.delenv(permission.VARIABLE)
    found = score(GOOD, {"tests": TESTS}, parse_chosen("passes_tests"))
    assert "Reward code is off here." in found.errors["passes_tests"] and found.total is None
    assert REWARDS["passes_tests"].runs_code and REWARDS["passes_tests"].columns == ("tests",)


@pytest.mark.parametrize("text, code", [
    (GOOD, "def double(x):\n    return 2 * x"),
    ("```\nx = 1\n```\nand\n```py\nx = 2\n```", "x = 2"),
    ("```python\nx = 1\n```\n```bash\nls\n```", "x = 1"),
    ("```bash\nls\n```", ""),
    ("```python\nx = 1", "x = 1"),  # it was cut
    ("<answer>x = 1</answer>", "x = 1"),
    ("x = 1", "x = 1"),
    ("", ""),
])
def test_the_code_is_found(text, code):
    assert code_in(text) == code


def test_the_tests_are_found():
    assert given_tests(["assert a", "assert b"]) == "assert a\nassert b"
    assert given_tests('["assert a"]') == "assert a" and given_tests("[a") == "[a"
