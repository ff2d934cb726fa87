"""How the goal of a run moved: which source counts, in words, and for runs of an older lab."""

import json
from pathlib import Path

import pytest

from lab.commands.shown import goal_line, summary
from lab.core import events
from lab.core.insight.goal import progress, shares
from lab.core.insight.metrics import derived_goal
from lab.core.rewards.chosen import parse_chosen
from lab.core.settings import Settings
from lab.services import verdicts
from lab.services.lab import Lab
from tests.test_verdict import a_verdict

GAMED = Path(__file__).resolve().parents[2] / "shared" / "runs" / "gamed-0.5b.jsonl"
CURVES = {"goal/reached": (0.12, 0.55), "goal/mean": (0.2, 0.6)}


def asked(**shares: float | None) -> dict:
    return {int(step[1:]): {"reached": share, "goal": share} for step, share in shares.items()}


@pytest.mark.parametrize(("held", "made", "curves", "told"), [
    ({}, [], {}, "None"),
    ({}, [], {"goal/mean": (0.25, 0.5)}, "25 % → 50 % in training"),
    ({}, [], CURVES, "12 % → 55 % in training"),
    (asked(_0=0.1), [], CURVES, "12 % → 55 % in training"),  # the base alone says nothing
    (asked(_0=0.1, _20=0.4), [], CURVES, "10 % → 40 % held out"),
    (asked(_0=0.1, _20=0.6, _40=0.4), [], CURVES, "10 % → 40 % held out, best 60 % at step 20"),
    (asked(_20=0.6, _40=0.4), [], CURVES, "12 % → 55 % in training"),  # without a base
    (asked(_0=0.1, _20=None), [], CURVES, "12 % → 55 % in training"),  # nothing was judged
    (asked(_0=0.1, _20=0.4), [(40, 0.007, 0.037)], CURVES, "0.7 % → 3.7 % held out"),
    (asked(_0=0.1, _60=0.4), [(40, 0.007, 0.037)], CURVES, "10 % → 40 % held out"),
    ({}, [(40, 0.5, 0.6), (40, None, None)], CURVES, "50 % → 60 % held out"),
])
def test_held_out_questions_count_before_those_of_training(held, made, curves, told):
    found = [{"step": step, "base": {"accuracy": before}, "tuned": {"accuracy": after}}
             for step, before, after in made]
    assert str(progress(held, found, curves)) == told


def test_held_out_points_are_in_order_and_those_without_a_judgement_left_out():
    assert shares(asked(_40=0.5, _0=0.1, _20=None)) == [(0, 0.1), (40, 0.5)]
    assert shares({5: {"goal": 0.3, "reached": None}}) == [(5, 0.3)]


@pytest.mark.parametrize(("metrics", "goals", "found"), [
    ({"rewards/correctness/mean": 0.5}, {"correctness": 2.0}, {"goal/mean": 0.25}),
    ({"rewards/a/mean": 1.0, "rewards/b/mean": -1.0}, {"a": 1.0, "b": 1.0}, {"goal/mean": 0.5}),
    ({"rewards/a/mean": 1.0}, {"a": 1.0, "b": 1.0}, {}),
    ({"rewards/a/mean": None}, {"a": 1.0}, {}),
    ({"rewards/a/mean": 1.0, "goal/mean": 0.1}, {"a": 1.0}, {}),
    ({"rewards/a/mean": 1.0}, {}, {}),
])
def test_points_without_a_goal_get_it_from_the_rewards_where_that_can_be_told(
        metrics, goals, found):
    assert derived_goal(metrics, goals) == found


@pytest.fixture
def made(tmp_path):
    """Makes a run folder with these points and rewards; returns (lab, id)."""
    lab = Lab.at(tmp_path / "runs")

    def make(points: list[dict], **values) -> tuple[Lab, str]:
        folder = lab.workspace.make().new_run("a run")
        settings = Settings().with_values(values)
        folder.settings.write_text(json.dumps({"settings": settings.to_dict(), "name": "a run"}))
        write = events.EventWriter(folder.events)
        write(events.Started(len(points), 0, {}))
        for step, metrics in enumerate(points, 1):
            write(events.Step(step, metrics))
        write(events.Finished(len(points), 3.0))
        write.close()
        return lab, folder.id

    return make


def test_commands_lead_with_the_goal(made):
    lab, run_id = made([{"goal/reached": step / 8, "reward/weighted": 1.0} for step in range(8)])
    run = lab.runs.get(run_id)
    assert run.goal_told == "6.2 % → 81 % in training"
    lines = summary(run).splitlines()
    assert lines[0].startswith("Goal: answers right ") and "lab eval" in lines[0]
    assert lines[1].startswith("Finished after 8 of 8 steps")
    verdicts.keep(run.folder, a_verdict(12, 55, 100, step=8))
    assert goal_line(lab.runs.get(run_id)) == (
        "Goal: answers right 12 % → 55 % held out (after step 8).")
    assert lab.runs.get(run_id).to_dict()["goal"]["last"] == 0.55


def test_without_a_goal_that_is_said_and_no_share_is_made_up(made):
    lab, run_id = made([{"reward/weighted": 1.0, "rewards/int/mean": 0.5}] * 4,
                       **{"rewards.chosen": parse_chosen("int,correctness:kind=shape")})
    run = lab.runs.get(run_id)
    assert run.goal is None and run.goal_told == "no goal"
    assert "No goal reward is chosen" in goal_line(run)


@pytest.mark.skipif(not GAMED.exists(), reason="the recorded run is not beside the checkout")
def test_the_goal_of_the_gamed_run_stays_low_while_its_reward_rises(made):
    lab, run_id = made([], **{"train.max_steps": 60})
    lab.workspace.run(run_id).events.write_bytes(GAMED.read_bytes())
    run = lab.runs.get(run_id)
    assert run.reward_last - run.reward_first > 0.5
    assert run.goal.source == "in training" and run.goal.last < 0.1
