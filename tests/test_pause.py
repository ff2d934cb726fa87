"""A pause of a real run: it waits with everything in memory, and ends as if nothing had been."""

import json

import pytest

from lab.cli import main
from lab.commands import shown
from lab.core import events
from lab.core.problems import RunError
from lab.services.run_log import RunLog
from lab.services.runs import PAUSED
from lab.ui.header import chip_of
from lab.ui.live import Feed
from tests.test_training import LONG, steps_of, wait_for

TIMED = ("seconds/", "tokens_per_second", "step_time")  # what no two runs have alike


def paused_run(lab, run_id: str):
    """The run, once it waits."""
    def waits():
        run = lab.runs.get(run_id)
        assert run.is_active, run.folder.log.read_text()
        return run if run.status == PAUSED else None

    return wait_for(waits, "the pause")


def answered(lab, run_id: str) -> events.Answered:
    """What the worker answers to a question: a sign of it that time goes by."""
    name = lab.jobs.ask(run_id, "Tom has 3 apples. He buys 4 more. How many has he?")
    return wait_for(lambda: next((one for one in lab.runs.log(run_id).answers if one.ask == name),
                                 None), "an answer")


def test_a_held_run_does_no_step_and_goes_on_as_the_unbroken_one(lab, quick, finished, capsys):
    folder = lab.jobs.start(quick)
    root = ["--root", str(lab.workspace.root)]
    assert main(["pause", folder.id, *root, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "pausing"
    at = paused_run(lab, folder.id)
    assert folder.checkpoints() == [1] and at.step == 1
    with pytest.raises(RunError, match="is paused at step 1 of 6 and keeps its memory"):
        lab.jobs.start(quick)
    for _ in range(2):
        assert answered(lab, folder.id).step == 1
    again = lab.runs.get(folder.id)
    assert (again.step, again.seconds, again.status) == (1, at.seconds, PAUSED)
    told = Feed(lab).tick([folder.id, "", -1, 0, 0])
    assert told["status"] == PAUSED and told["for"] > 0 and told["seconds"] == round(at.seconds, 1)
    assert chip_of(lab)["text"].endswith("paused, step 1 of 6")
    assert shown.progress(again, lab.runs.log(folder.id)).endswith("paused")
    assert main(["runs", *root]) == 0 and " paused " in capsys.readouterr().out
    assert main(["pause", folder.id, "--go-on", *root]) == 0
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished", folder.log.read_text()

    other, whole = finished
    ours, theirs = lab.runs.log(folder.id), other.runs.log(whole)
    assert steps_of(lab, folder.id) == steps_of(other, whole)
    same = [name for name in theirs.metrics if not name.startswith(TIMED)]
    assert {"loss", "grad_norm", "reward/weighted", "learning_rate"} <= set(same)
    assert {name: ours.metrics[name].tobytes() for name in same} == {
        name: theirs.metrics[name].tobytes() for name in same}
    assert (folder.adapter / "adapter_model.safetensors").read_bytes() == (
        other.workspace.run(whole).adapter / "adapter_model.safetensors").read_bytes()
    assert ours.held > sum(one.seconds for one in ours.answers)
    assert run.seconds == pytest.approx(ours.ended_at - ours.started_at - ours.held)
    assert sum(ours.metrics["seconds/step"]) < run.seconds  # the step after it counts none of it
    with pytest.raises(RunError, match="nothing to pause"):
        lab.jobs.pause(folder.id)


def test_a_paused_run_is_stopped_and_one_that_is_killed_is_resumed_from_there(lab, quick, capsys):
    """And a pause waits until answers that are used twice are used up, and between two points."""
    folder = lab.jobs.start(quick.with_values(LONG | {
        "train.num_iterations": 2, "train.logging_steps": 3}))
    with pytest.raises(RunError, match="is not paused"):
        lab.jobs.go_on(folder.id)
    lab.jobs.pause(folder.id)
    paused_run(lab, folder.id)
    assert folder.checkpoints() == [2] and steps_of(lab, folder.id) == []
    root = ["--root", str(lab.workspace.root)]
    assert main(["pause", folder.id, "--release", *root]) == 0
    assert f"train --resume {folder.id}" in capsys.readouterr().out
    run = lab.jobs.wait(folder.id)
    assert (run.status, run.step, folder.newest().step) == ("stopped", 2, 2)

    lab.jobs.resume(folder.id)
    assert lab.runs.get(folder.id).status == "starting"  # no longer to be paused
    lab.jobs.pause(folder.id)
    paused = paused_run(lab, folder.id)
    assert folder.checkpoints() == [2, 4]
    lab.jobs.kill(folder.id)
    killed = lab.jobs.wait(folder.id)
    assert killed.status == "stopped" and killed.seconds == pytest.approx(paused.seconds)
    assert main(["pause", folder.id, "--go-on", *root]) == 1
    assert "Resume it from its last checkpoint" in capsys.readouterr().err
    lab.jobs.resume(folder.id, 6)
    assert lab.jobs.wait(folder.id).status == "finished", folder.log.read_text()
    assert lab.runs.log(folder.id).resumed == [2, 4]


def test_pauses_are_no_time_of_training(tmp_path):
    """Of two stretches: one with a pause that ended, and one that was killed in its pause."""
    said = [(0, events.Started(9, 0, {})), (10, events.Step(1, {})), (10, events.Paused(1)),
            (70, events.WentOn(1)), (75, events.Step(2, {})),
            (80, events.Paused(2)), (500, events.Answered(2, "1", "?", {}, {}, 1.0)),
            (900, events.Stopped(2)),
            (1000, events.Started(9, 2, {})), (1004, events.Step(3, {}))]
    path = tmp_path / "events.jsonl"
    path.write_text("".join(
        json.dumps(json.loads(events.line_of(event)) | {"time": 1e9 + when}) + "\n"
        for when, event in said))
    log = RunLog(path).refresh()
    assert (log.seconds, log.held, log.paused_at, log.damaged) == (20, 0, 0, 0)
