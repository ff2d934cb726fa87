"""What other rewards would have paid: by hand, on a real run, and by the command."""

import json
import subprocess
import sys

import pytest

from lab.core.insight.whatif import whatif
from lab.core.problems import BadSettings
from lab.core.rewards.chosen import Chosen, parse_chosen
from lab.core.rewards.scoring import score_all
from lab.services.whatif import whatif as of_run
from lab.services.workspace import PROJECT

LETTER = parse_chosen("correctness,int")
LENIENT = parse_chosen("number,int:weight=0")


def group(*texts: str, reference: str = "1000") -> dict:
    """As a run that was paid by LETTER records it."""
    answers = [f"<reasoning>\nso\n</reasoning>\n<answer>\n{text}\n</answer>\n" for text in texts]
    scored = score_all(answers, [{"answer": reference}] * len(answers), LETTER)
    return {"columns": {"question": "?", "answer": reference}, "answers": [
        {"text": text, "tokens": 9, "rewards": one.rewards, "errors": one.errors}
        for text, one in zip(answers, scored, strict=True)]}


def test_a_right_answer_in_another_spelling_moves_up_and_wakes_a_dead_group():
    spelled, plain = group("1,000", "7", "7"), group("1000", "7", "7")
    same = whatif([spelled, plain], LETTER, LETTER)
    assert same["rank_changes"] == 0 and same["dead"]["now"] == same["dead"]["then"] == 0
    told = whatif([spelled, plain], LETTER, LENIENT)
    # To the letter '1,000' was the worst answer, since 7 is made of digits; as a number it is best.
    assert told["groups"] == 2 and told["rank_changes"] == 1
    assert told["signal_share"]["number"] == {"now": None, "then": pytest.approx(1)}
    assert told["signal_share"]["correctness"] == {"now": pytest.approx(0.5), "then": None}
    assert told["dead"] == {"now": 0, "then": 0}
    only = whatif([spelled], parse_chosen("correctness"), parse_chosen("number"))
    assert only["dead"] == {"now": 1, "then": 0} and only["rank_changes"] == 1


def test_an_answer_on_which_a_reward_failed_is_left_out_and_counted():
    one = group("1000", "7", "7")
    one["answers"][0]["errors"] = {"correctness": "it broke"}
    told = whatif([one], LETTER, parse_chosen("int"))
    assert told["errors"] == {"now": 1, "then": 0}
    assert told["dead"] == {"now": 1, "then": 1}  # the two that are left are alike


def test_a_real_run_is_ranked_as_it_recorded_it(finished):
    lab, run_id = finished
    chosen = lab.runs.get(run_id).settings.rewards.chosen
    told = of_run(lab, run_id, chosen)
    log = lab.runs.log(run_id)
    groups = [one for step in log.samples for one in log.groups_at(step)[1]]
    dead = [all(abs(a["advantage"]) < 1e-3 for a in one["answers"]) for one in groups]
    assert told["groups"] == len(groups) > 0 and told["rank_changes"] == 0
    assert told["dead"]["now"] == told["dead"]["then"] == sum(dead) / len(dead)
    with pytest.raises(BadSettings, match="All weights are 0"):
        of_run(lab, run_id, [Chosen("int", 0.0)])


def test_the_command_gives_the_object_of_the_contract(finished):
    lab, run_id = finished
    def asked(*more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "lab", "whatif", run_id, "--root", lab.workspace.root,
             "--rewards", "number,thinking:weight=0.5", *more], cwd=PROJECT, capture_output=True,
            text=True)
    told = json.loads(asked("--json").stdout.splitlines()[-1])
    assert {"groups", "rank_changes", "dead", "signal_share"} <= set(told)
    assert {"number", "thinking", "correctness"} <= set(told["signal_share"])
    shown = asked().stdout
    assert f"{told['groups']} recorded groups" in shown and "dead groups" in shown
