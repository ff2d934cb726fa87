"""The child that judges what could hang: it is really ended, and the next answer is judged."""

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from lab.core.checks import problems_of
from lab.core.hardware.machine import Machine
from lab.core.rewards import limited
from lab.core.rewards.chosen import Chosen, parse_chosen
from lab.core.rewards.limited import ask
from lab.core.rewards.registry import REWARDS
from lab.core.rewards.scoring import BatchReward, score
from lab.core.settings import Settings
from lab.services import machine
from lab.services.workspace import PROJECT

CATASTROPHE = ("(a+)+$", "a" * 60 + "b", False, False)
MACHINE = Machine("Linux", "3.11", 2, 8.0, 8.0, 100.0)


def test_a_pattern_that_never_ends_is_ended_and_the_next_one_is_judged():
    with pytest.raises(TimeoutError, match="no verdict within 0.2 s"):
        ask("pattern", 0.2, *CATASTROPHE)
    assert ask("pattern", 5.0, "a+b", "aab", True, False) is True


def test_a_run_goes_on_with_an_error_that_is_counted():
    batch = BatchReward(Chosen("pattern", params={"pattern": CATASTROPHE[0]}))
    assert batch(["?"] * 2, [CATASTROPHE[1], "aaa"]) == [None, 1.0]
    assert batch.error_count == 1 and "no verdict within 0.5 s" in batch.errors[0].error


def test_a_child_that_died_is_an_error_once():
    ask("pattern", 5.0, "a", "a", False, False)
    child = limited._child
    child.process.kill()
    with pytest.raises(RuntimeError, match="died"):
        child.ask("pattern", 5.0, ("a", "a", False, False))
    assert ask("pattern", 5.0, "a", "a", False, False) is True
    assert limited._child is not child


@pytest.mark.parametrize("source", ["(" * 100_000, "-" * 1_000_000 + "1", "\x00", "x = \ud800",
                                    "f(" * 5000 + ")" * 5000, "9" * 10_000])
def test_no_program_brings_the_parser_down(source):
    assert ask("python", 5.0, source) in (True, False)


def test_the_reference_may_be_a_pattern_that_cannot_be_read():
    scored = score("42", {"answer": "("}, [Chosen("pattern")])
    assert scored.errors["pattern"].startswith("pattern failed: ValueError: error: missing ),")


def test_threads_get_their_own_verdicts():
    with ThreadPoolExecutor(8) as threads:
        texts = ["a" * (i % 7) for i in range(200)]
        verdicts = threads.map(lambda t: ask("pattern", 5.0, "a{3}", t, True, False), texts)
        assert list(verdicts) == [len(text) == 3 for text in texts]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_has_a_child_of_its_own():
    ask("pattern", 5.0, "a", "a", False, False)
    script = ("import os, sys\nfrom lab.core.rewards.limited import ask\n"
              "ask('pattern', 5.0, 'a', 'a', False, False)\n"
              "pid = os.fork()\n"
              "verdict = ask('pattern', 5.0, 'a', 'b' * bool(pid), False, False)\n"
              "if pid:\n    sys.exit(os.waitpid(pid, 0)[1] or verdict)\n"
              "os._exit(not verdict)\n")
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=PROJECT,
                          timeout=120).returncode == 0


@pytest.mark.skipif(os.name != "posix", reason="the system has no such timer")
def test_a_child_at_work_ends_by_itself_when_the_lab_is_killed():
    script = ("from lab.core.rewards import limited\n"
              "limited.ask('pattern', 5.0, 'a', 'a', False, False)\n"
              "print(limited._child.process.pid, flush=True)\n"
              f"limited.ask('pattern', 2.0, *{CATASTROPHE!r})\n")
    lab = subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE,
                           text=True)
    child = psutil.Process(int(lab.stdout.readline()))
    lab.kill()
    lab.wait()
    child.wait(timeout=120)  # of the clock, and generously: it has two seconds of a processor


def test_what_is_not_installed_is_said_before_the_start_and_with_how_to_get_it():
    for name in ("math", "json_schema"):
        package = REWARDS[name].package
        chosen = Settings().with_values({"rewards.chosen": parse_chosen(name)})
        told, = [p for p in problems_of(chosen, MACHINE) if package in p.what]
        assert told.level == "error" and f"pip install {package}" in told.next
        there = Machine("Linux", "3.11", 2, 8.0, 8.0, 100.0, packages={package: "1.0"})
        assert not [p for p in problems_of(chosen, there) if package in p.what]
        assert package in machine.PACKAGES


@pytest.mark.skipif(importlib.util.find_spec("math_verify") is not None,
                    reason="math-verify is installed")
def test_without_its_package_a_reward_fails_with_how_to_get_it():
    scored = score("42", {"answer": "42"}, [Chosen("math")])
    assert scored.rewards == {"math": None}
    assert scored.errors["math"].endswith("run `pip install math-verify`")


@pytest.mark.skipif(importlib.util.find_spec("math_verify") is None,
                    reason="math-verify is not installed")
def test_algebra_that_never_ends_is_ended():
    scored = score(r"<answer>$10^{10^{10^{10}}}$</answer>", {"answer": "72"}, [Chosen("math")])
    assert "no verdict within 5 s" in scored.errors["math"]
    assert score("<answer>$71 + 1$</answer>", {"answer": "72"}, [Chosen("math")]).reached is True


@pytest.mark.skipif(importlib.util.find_spec("jsonschema") is None,
                    reason="jsonschema is not installed")
@pytest.mark.parametrize(("schema", "text", "valid"), [
    ('{"type": "object", "required": ["city"]}', '{"city": "Paris"}', True),
    ('{"type": "object", "required": ["city"]}', '{"town": "Paris"}', False),
    ('{"properties": {"n": {"type": "integer"}}}', '{"n": 1.5}', False),
    ("false", "{}", False)])
def test_a_schema_decides(schema, text, valid):
    chosen = [Chosen("json_schema", params={"schema": schema})]
    assert score(text, {}, chosen).total == (0.25 if valid else 0.0)


@pytest.mark.skipif(importlib.util.find_spec("jsonschema") is None,
                    reason="jsonschema is not installed")
def test_a_schema_fetches_nothing():
    chosen = [Chosen("json_schema", params={"schema": '{"$ref": "http://127.0.0.1:1/schema"}'})]
    assert "Unresolvable" in score("{}", {}, chosen).errors["json_schema"]


def test_dapo_s_penalty_that_no_answer_can_meet_is_told():
    def told(text, most):
        values = {"rewards.chosen": parse_chosen(f"number,{text}"),
                  "train.max_completion_length": most}
        return [p.level for p in problems_of(Settings().with_values(values), MACHINE)
                if "overlong" in p.what]

    assert told("overlong", 256) == told("overlong", 193) == []
    assert told("overlong", 192) == told("overlong:longest=1024", 512) == ["warning"]
