"""Held-out questions while it learns: the real trainer's evaluations, and what is made of them."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from lab.cli import main
from lab.commands.shown import progress, summary
from lab.core import checks, events
from lab.core.insight import held_out
from lab.core.rewards.chosen import parse_chosen
from lab.core.settings import Train
from lab.services.lab import Lab
from lab.services.run_log import RunLog
from lab.services.workspace import PROJECT, STARTER_FOLDER, RunFolder
from lab.ui.compare.sides import checkpoints_of
from lab.ui.history.table import table_of
from lab.ui.live import Feed

TIMED = ("seconds/", "tokens_per_second", "step_time")  # differ from run to run


@pytest.fixture(scope="module")
def evaluated(finished, tmp_path_factory):
    """(lab, run id) of the finished run once more, with held-out questions every second step."""
    other, run_id = finished
    lab = Lab.at(tmp_path_factory.mktemp("evaluated"))
    folder = lab.jobs.start(other.runs.get(run_id).settings.with_values(
        {"train.eval_steps": 2, "train.eval_questions": 20}))
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished", folder.log.read_text()
    return lab, folder.id


def test_the_base_and_every_second_step_are_asked_the_last_held_out_questions(evaluated):
    lab, run_id = evaluated
    told = lab.runs.log(run_id).held_out
    assert list(told) == [0, 2, 4, 6]
    names = [c.name for c in lab.runs.get(run_id).settings.rewards.chosen]
    for metrics in told.values():
        assert list(metrics) == ["n", "goal", "reached", "reward", "tokens", "cut",
                                 *(f"rewards/{name}" for name in names)]
        assert metrics["n"] == 20 and metrics["tokens"] > 1
        assert metrics["goal"] == metrics["rewards/correctness"] / 2  # its highest score


def test_a_run_learns_the_same_with_it_and_without(finished, evaluated):
    (plain, one), (watched, two) = finished, evaluated
    without, curves = plain.runs.log(one).curves(), watched.runs.log(two).curves()
    assert set(without) == set(curves)
    assert {name for name in curves if without[name] != curves[name]} <= {
        name for name in curves if name.startswith(TIMED)}
    assert not plain.runs.log(one).held_out  # too short to bear it, as its notice says
    assert any("too short" in notice.text for notice in plain.runs.log(one).notices)


def test_what_it_takes_is_no_part_of_a_step(evaluated):
    lab, run_id = evaluated
    with (lab.workspace.run(run_id).events).open() as lines:
        told = [json.loads(line) for line in lines]
    when = {(e["event"], e.get("step")): e["time"] for e in told}
    steps = {e["step"]: e["metrics"]["seconds/step"] for e in told if e["event"] == "step"}
    first = max(e["time"] for e in told if "held-out questions" in e.get("text", ""))
    asking = when["held_out", 0] - first
    for step in (2, 4, 6):  # learnt, then asked, then told
        beside = when["step", step] - when["step", step - 1] - steps[step]
        assert beside > asking / 4


def test_the_best_step_is_the_earliest_that_beats_the_base():
    def goals(*values):
        return {5 * i: {"goal": value, "reward": 9.0 - i} for i, value in enumerate(values)}

    assert held_out.best_step(goals(0.3, 0.2, 0.5, 0.5, 0.4)) == 10
    assert held_out.best_step(goals(0.3, 0.2, 0.3)) is None
    assert held_out.best_step(goals(0.3, 0.4, 0.5, 0.5), among=[5, 15]) == 15
    assert held_out.best_step({}) is None
    assert held_out.best_step({0: {"goal": None, "reward": 1.0}, 5: {"goal": None, "reward": 1.5},
                               9: {"goal": None, "reward": None}}) == 5  # no goal is chosen
    assert held_out.best_step({10: {"goal": 0.1, "reward": 0.0}}) == 10  # the base was not asked


def test_of_checkpoints_that_did_alike_the_latest_is_offered():
    """As the starter does: greedy answers are all right at step 30, drawn ones not before 45."""
    told = {0: {"goal": 0.35}, 20: {"goal": 0.3}, 30: {"goal": 1.0}, 60: {"goal": 0.99},
            100: {"goal": 1.0}}
    assert held_out.best_step(told) == 30  # nothing new came after it
    assert held_out.best_of(told, [20, 30, 60, 100]).step == 100
    assert held_out.best_of(told, [20, 30, 60]).step == 30
    assert held_out.best_of(told, [0, 20]) is None


def test_the_standard_error_is_that_of_a_share():
    assert held_out.standard_error({"goal": 0.5, "n": 100}) == pytest.approx(0.05, abs=0.001)
    assert held_out.standard_error({"goal": 1.0, "n": 100}) == pytest.approx(0.014, abs=0.001)
    assert held_out.standard_error({"goal": None, "n": 100}) is None


@pytest.mark.parametrize(("steps", "every"), [(1, 1), (20, 1), (60, 5), (100, 5), (250, 20),
                                              (1000, 50), (100_000, 5000)])
def test_evaluations_come_at_round_steps_and_at_most_twenty_of_them(steps, every):
    assert held_out.grid(steps) == every
    assert math.ceil(steps / every) <= held_out.MOST


HILL = """
import json, sys
from pathlib import Path
from lab.backends.engines.base import Engine
from lab.backends.train import train
from lab.core import events
from lab.core.catalog import RECIPES
from lab.core.hardware.engines import Plan
from lab.core.rewards.chosen import parse_chosen
from lab.core.rewards.registry import GOAL, reward
from lab.core.task import problems

folder, resume_from, heights = Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
told = []

@reward("What the test says of the next evaluation", max_score=1.0, kind=GOAL)
def hill(completion):
    return heights[min(len(told), len(heights) - 1)]

def say(event):
    write(event)
    if isinstance(event, events.HeldOut):
        told.append(event.step)

settings = RECIPES["starter"].settings().with_values({
    "train.prompts_per_step": 2, "train.num_generations": 2, "train.max_completion_length": 12,
    "train.max_steps": 6, "train.save_steps": 3, "train.save_total_limit": 1,
    "train.eval_steps": 1, "train.eval_questions": 4, "train.patience": int(sys.argv[5]),
    "rewards.chosen": parse_chosen("hill,xmlcount")})
rows = [{"question": p.question, "answer": p.answer} for p in problems(1, 30, 1)]
write = events.EventWriter(folder / "events.jsonl")
engine = Engine(Plan("cpu", "", on_gpu=False), settings, sys.argv[1])
say(train(engine, settings, rows[6:], folder, say, resume_from, held_out=rows[:6]))
"""


def climb(folder, heights, patience=0, resume_from=0):
    """Run the real trainer; evaluation i finds the goal at `heights[i]`. Returns all its events."""
    done = subprocess.run(
        [sys.executable, "-c", HILL, str(STARTER_FOLDER), str(folder), str(resume_from),
         json.dumps(heights), str(patience)], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [events.read_line(line)[1] for line in lines]


def steps_of(told, kind) -> list[int]:
    return [event.step for event in told if isinstance(event, kind)]


def test_the_best_checkpoint_is_saved_at_its_step_and_outlives_the_others(tmp_path):
    told = climb(tmp_path, [0.2, 0.5, 0.8, 0.8, 0.6, 0.7, 0.7])
    assert steps_of(told, events.HeldOut) == [0, 1, 2, 3, 4, 5, 6]
    assert steps_of(told, events.Checkpoint) == [1, 2, 3, 6]  # 3 and 6 as in save_steps
    assert RunFolder(tmp_path).checkpoints() == [2, 6]  # save_total_limit is 1
    log = RunLog(tmp_path / "events.jsonl").refresh()
    assert held_out.best_of(log.held_out, [2, 6]).title == "step 2 · held-out 80 % ± 17"
    assert isinstance(told[-1], events.Finished)


def test_a_plateau_ends_the_run_with_its_reason_and_a_resumed_one_remembers_its_best(tmp_path):
    told = climb(tmp_path, [0.2, 0.8, 0.7, 0.8], patience=2)
    assert told[-1] == events.Stopped(3, "The last 2 evaluations brought no new best. The best was "
                                      "80 % ± 17 at step 1.")
    assert RunFolder(tmp_path).checkpoints() == [1, 3]
    told = climb(tmp_path, [0.7, 0.9, 0.9], patience=2, resume_from=3)
    assert steps_of(told, events.HeldOut) == [0, 1, 2, 3, 4, 5, 6]  # the base only once
    assert isinstance(told[-1], events.Finished)
    assert RunFolder(tmp_path).checkpoints() == [5, 6]


@pytest.mark.parametrize(("goals", "settings", "resumed_from", "words"), [
    ([0.3, 0.5, 0.7], {"stop_at": 0.7}, 0, "The held-out goal is at 70 % ± 5, and the run was to "
     "end at 70 %."),
    ([0.3, 0.5, 0.6], {"stop_at": 0.7}, 0, ""),
    ([0.9], {"stop_at": 0.7}, 0, ""),  # the base: nothing was learnt yet
    ([0.3, 0.8, 0.8], {"stop_at": 0.7}, 5, ""),  # it went on all the same
    ([0.3, 0.8, 0.8], {"stop_at": 0.7}, 0, "end at 70 %."),
    ([0.3, 0.2, 0.1], {"patience": 2}, 0, "None beat the base model."),
    ([0.3, 0.5, 0.4], {"patience": 2}, 0, ""),
    ([0.3, 0.2, 0.1], {"patience": 2}, 5, ""),  # new patience after a resume
    ([0.3, 0.2, 0.1, 0.1], {}, 0, ""),
])
def test_a_run_ends_itself_at_a_target_or_after_a_plateau(goals, settings, resumed_from, words):
    train = replace(Train(), **settings)
    told = {5 * i: {"goal": goal, "n": 100} for i, goal in enumerate(goals)}
    reason = held_out.reason_to_stop(told, train, resumed_from)
    assert reason.endswith(words) if words else reason == ""


@pytest.mark.parametrize(("changes", "field"), [
    ({"train.stop_at": 0.8, "train.eval_share": 0}, "train.stop_at"),
    ({"train.patience": 3, "data.held_out": 0}, "train.patience"),
    ({"train.patience": 3, "hardware.num_processes": 2, "hardware.sharding": "fsdp"},
     "train.patience"),
    ({"train.stop_at": 0.8, "rewards.chosen": parse_chosen("xmlcount")}, "train.stop_at"),
])
def test_an_end_that_could_never_come_is_refused_before_the_start(quick, changes, field):
    problems = [p for p in checks.evaluation_has_what_it_needs(quick.with_values(changes), None)]
    assert [(p.level, p.field) for p in problems] == [("error", field)] and problems[0].next


@pytest.fixture
def with_best(finished, tmp_path):
    """(lab, run) of a finished run whose held-out questions were best at step 4."""
    other, run_id = finished
    shutil.copytree(other.workspace.run(run_id).path, tmp_path / run_id)
    write = events.EventWriter(tmp_path / run_id / "events.jsonl")
    for step, goal in ((0, 0.3), (2, 0.4), (4, 0.62), (6, 0.5)):
        write(events.HeldOut(step, {"n": 100, "goal": goal, "reward": 1.0}))
    write(events.Stopped(6, "Enough."))
    write.close()
    lab = Lab.at(tmp_path)
    return lab, lab.runs.get(run_id)


def test_of_how_many_steps_one_was_picked():
    told = {step: {"n": 100, "goal": goal} for step, goal in
            ((0, 0.3), (2, 0.4), (4, 0.6), (6, 0.6), (8, None))}
    assert [held_out.picked_from(told, step) for step in (None, 0, 2, 4, 6, 8, 10)] == [
        1, 1, 1, 3, 3, 1, 1]
    assert held_out.picked_from({}, 4) == held_out.picked_from({0: told[0]}, 4) == 1
    assert held_out.picked_from({4: {"reward": 2.0}, 6: {"reward": 1.0}}, 4) == 2


def test_the_best_checkpoint_is_offered_first_and_told_everywhere(with_best, tmp_path):
    lab, run = with_best
    assert checkpoints_of(run)[:2] == [("Best · step 4 · held-out 62 % ± 5", "best"),
                                       ("Newest · step 6", "newest")]
    assert "step 6 (best: 4)" in table_of([run], run.id)
    assert (run.best.step, run.to_dict()["best_step"], run.reason) == (4, 4, "Enough.")
    assert "The best checkpoint: step 4" in summary(run) and "Enough." in summary(run)
    assert "held-out 30 % -> 50 % ± 5" in progress(run, lab.runs.log(run.id))
    assert Feed(lab).detail([run.id])["notices"][-1]["text"] == "Enough."


def test_commands_take_the_best_checkpoint_by_name(with_best, tmp_path, capsys):
    lab, run = with_best
    out = tmp_path / "out.zip"
    assert main(["export", run.id, "--root", str(tmp_path), "--checkpoint", "best", "--out",
                 str(out), "--json", "--n", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 4 and out.is_file()
    shutil.rmtree(run.folder.checkpoint(4))  # then the next best of those that are there
    assert lab.runs.get(run.id).best.step == 6
    for step in (2, 6):
        shutil.rmtree(run.folder.checkpoint(step))
    assert main(["export", run.id, "--root", str(tmp_path), "--checkpoint", "best", "--out",
                 str(out)]) == 1
    assert "has no best checkpoint" in capsys.readouterr().err
    assert main(["export", run.id, "--root", str(tmp_path), "--checkpoint", "worst", "--out",
                 str(out)]) == 1
    assert "It is named by its step, or 'best', or 'newest'" in capsys.readouterr().err
