"""Our advantages are the trainer's, and an answer that a reward failed on is left out of both."""

import json
import subprocess
import sys

import pytest

from lab.core.insight import metrics
from lab.core.insight.advantages import AGGREGATIONS, NORMALIZE_FIRST, SUM_FIRST, group_of
from lab.core.rewards.chosen import parse_chosen
from lab.services.workspace import PROJECT, STARTER_FOLDER


@pytest.mark.parametrize("scores, failed, out", [
    ([[1.0, 2.0], [0.0, 2.0]], [False, False], [False, False]),
    ([[1.0, None], [0.0, 2.0]], [True, False], [True, False]),  # it failed
    ([[1.0, None], [0.0, 2.0]], [False, False], [True, False]),  # others have points it lacks
    ([[1.0, None], [0.0, None]], [False, False], [False, False]),  # nobody has them
    ([[1.0, None], [0.0, None]], [True, True], [True, True]),
    ([[None], [None]], [False, False], [True, True]),
])
def test_only_answers_that_were_judged_alike_are_compared(scores, failed, out):
    assert metrics.left_out(scores, failed) == out


TRAINED = """
import json, sys
from pathlib import Path
from lab.backends.engines.base import Engine
from lab.backends.train import train
from lab.core import events
from lab.core.catalog import RECIPES
from lab.core.hardware.engines import Plan
from lab.core.rewards.chosen import parse_chosen
from lab.core.rewards.registry import reward
from lab.core.task import problems

calls = 0

@reward("Fails on every third answer", max_score=5.0)
def brittle(completion):
    global calls
    calls += 1
    if calls % 3 == 0:
        raise RuntimeError("no idea")
    return 5.0

@reward("Differs from answer to answer", max_score=1.0)
def varied(completion):
    return len(completion) % 7 / 10

@reward("Differs from question to question only", max_score=9.0)
def alike(completion, question):
    return round(len(question) * 0.0137, 3)

seen = []
settings = RECIPES["starter"].settings().with_values({
    "train.num_generations": 6, "train.max_completion_length": 24, "train.max_steps": 1,
    "train.log_groups": 100, **json.loads(sys.argv[2]),
    "rewards.chosen": parse_chosen(sys.argv[4])})
rows = [{"question": p.question, "answer": p.answer} for p in problems(1, 20, 1)]
engine = Engine(Plan("cpu", "", on_gpu=False), settings, sys.argv[1])

def watch(trainer):
    compute = trainer._prepare_inputs

    def computed(inputs):
        out = compute(inputs)
        seen.extend(out["advantages"].tolist())
        return out

    trainer._prepare_inputs = computed

bind = engine.bind
engine.bind = lambda trainer: (bind(trainer), watch(trainer))
said = []
folder = Path(sys.argv[3])
train(engine, settings, rows, folder, said.append)
groups, = [event.groups for event in said if isinstance(event, events.Samples)]
points, = [event.metrics for event in said if isinstance(event, events.Step)]
print(json.dumps({"trainer": seen, "groups": groups, "metrics": points}))
"""


def trained(folder, chosen: str, **settings) -> dict:
    """One step of the real trainer: the advantages it learnt from, our records, our metrics."""
    values = {f"train.{name}": value for name, value in settings.items()}
    done = subprocess.run([sys.executable, "-c", TRAINED, str(STARTER_FOLDER), json.dumps(values),
                           str(folder), chosen], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("aggregation", "scale"), [
    (SUM_FIRST, "group"), (SUM_FIRST, "batch"), (SUM_FIRST, "none"), (NORMALIZE_FIRST, "group")])
def test_a_failed_answer_has_no_advantage_and_no_part_in_the_baseline(tmp_path, aggregation, scale):
    told = trained(tmp_path, "brittle,varied:weight=2,xmlcount", prompts_per_step=2,
                   multi_objective_aggregation=aggregation, scale_rewards=scale)
    answers = [answer for group in told["groups"] for answer in group["answers"]]
    failed = [answer for answer in answers if answer["errors"]]
    assert len(failed) == len(answers) // 3
    assert all(answer["total"] is None and answer["advantage"] == 0 for answer in failed)
    assert told["metrics"]["answers/left_out"] == pytest.approx(1 / 3)
    assert sorted(told["trainer"]) == pytest.approx(
        sorted(answer["advantage"] for answer in answers), abs=1e-4)
    assert max(told["trainer"]) > 0.1
    for group in told["groups"]:
        known = [a["total"] for a in group["answers"] if a["total"] is not None]
        assert len(known) == 4 and min(known) >= 4  # none is ranked without the points of `brittle`
        assert sum(a["advantage"] for a in group["answers"]) == pytest.approx(0, abs=1e-3)


def test_where_all_answers_of_each_group_score_alike_nothing_is_learnt(tmp_path):
    told = trained(tmp_path, "alike", prompts_per_step=8,
                   multi_objective_aggregation=NORMALIZE_FIRST)
    assert len({group["answers"][0]["total"] for group in told["groups"]}) > 4
    assert told["trainer"] == pytest.approx([0.0] * 48, abs=1e-6)
    assert told["metrics"]["groups/dead"] == 1


def test_a_group_of_equal_sums_is_not_dead_where_each_reward_is_normalised_first():
    chosen = parse_chosen("int,correctness:weight=0.25")
    lines = [{"int": 0.5, "correctness": 0.0}, {"int": 0.0, "correctness": 2.0},
             {"int": 0.5, "correctness": 0.0}]
    groups = {how: group_of(lines, [()] * 3, chosen, how) for how in AGGREGATIONS}
    assert {how: metrics.rollout_metrics([group.totals], 1, [group.compared])["groups/dead"]
            for how, group in groups.items()} == {SUM_FIRST: 1, NORMALIZE_FIRST: 0}
