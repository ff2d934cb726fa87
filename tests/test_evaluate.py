"""Held-out verdicts of a real run: by service and command, kept, read again, and cancelled."""

import dataclasses
import json
import shutil
import subprocess
import sys
import threading

import pytest

from lab.backends.answering.evaluate import seed_of
from lab.commands.evaluate import figures
from lab.core.insight.verdict import CONTRACT
from lab.core.problems import BadData, BadSettings, RunError
from lab.core.rewards.chosen import parse_chosen
from lab.services import against, verdicts
from lab.services.against import Against
from lab.services.data.load import read_rows
from lab.services.evaluate import evaluate
from lab.services.lab import Lab
from lab.services.one_job import Cancelled
from lab.services.runs import Runs
from lab.services.workspace import PROJECT, RunFolder, Workspace


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run, for what is kept in its folder."""
    lab, run_id = finished
    copy = shutil.copytree(lab.workspace.run(run_id).path, tmp_path / "runs" / run_id)
    (copy / "verdicts.jsonl").unlink(missing_ok=True)  # other tests may have asked for some
    return Lab.at(tmp_path / "runs").runs.get(run_id)


def test_the_figures_are_those_of_the_answers_and_are_kept_with_their_adapter(run):
    told = []
    found = evaluate(run, n=6, progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (12, 12) and found["n"] == 6 and found["step"] == 6
    for side in ("base", "tuned"):
        answers = [row[side] for row in found["answers"]]
        assert found[side]["tokens"] == sum(a["tokens"] for a in answers) / 6
        assert 0 < found[side]["tokens"] <= run.settings.train.max_completion_length
        assert found[side]["accuracy"] == sum(a["correct"] for a in answers) / 6
        assert found[side]["cut"] == sum(a["cut"] for a in answers) / 6
        assert 0 <= found[side]["in_format"] <= 1
    assert found["headline"].startswith("Right on ")
    newest = verdicts.newest(run.folder)
    assert newest["headline"] == found["headline"] and "answers" not in newest
    assert verdicts.of_adapter(run.folder, run.folder.adapter) == newest
    assert verdicts.of_adapter(run.folder, run.folder.checkpoint(2)) is None
    evaluate(run, n=2, rows=[{"question": "Tom has 3 apples.", "answer": "3"}])  # not its own
    assert len(verdicts.of_run(run.folder)) == 1


def test_answers_may_be_longer_or_shorter_than_in_training_which_is_told(run):
    trained = run.settings.train.max_completion_length
    drawn = evaluate(run, n=24, sampled=True)
    assert any(row["base"]["tokens"] > 8 for row in drawn["answers"]) and drawn["notes"] == []
    found = evaluate(run, n=24, sampled=True, longest=8)
    for row, before in zip(found["answers"], drawn["answers"], strict=True):
        assert row["base"]["tokens"] == min(8, before["base"]["tokens"])
    note = f"Answers had up to 8 tokens here, and up to {trained} in training."
    assert note in verdicts.told_beside(verdicts.newest(run.folder))
    assert evaluate(run, n=2, longest=trained)["notes"] == []
    with pytest.raises(BadSettings, match="'Longest answer'.*must be at least 8, not 0"):
        evaluate(run, n=2, longest=0)


def evaluated(folder: RunFolder, goals: dict[int, float], n: int) -> None:
    """Let the run have been asked so many held-out questions, with these outcomes."""
    with folder.events.open("a") as file:
        for step, goal in goals.items():
            file.write(json.dumps({"event": "held_out", "time": 1.0, "step": step, "metrics": {
                "n": n, "goal": goal, "reached": goal, "reward": goal}}) + "\n")


def test_of_a_checkpoint_that_the_same_questions_picked_it_is_said_and_more_is_asked(run):
    told = "was picked as the best of 3 by its answers to"
    evaluated(run.folder, {0: 0.1, 2: 0.4, 4: 0.9, 6: 0.5}, n=3)
    runs = Runs(Workspace(run.folder.path.parent))
    run = runs.get(run.id)
    assert evaluate(run, 4, n=21)["picked"] == [1, 1]  # they are the last of the 24
    found = evaluate(run, 4, n=24)
    assert found["picked"] == verdicts.newest(run.folder)["picked"] == [1, 3]
    note, = found["notes"]
    assert f"This checkpoint {told} 3 of these 24 questions" in note and "p = 0.017" in note
    assert "The first 21 did not pick it" in note and note in " ".join(figures(found))
    newest = evaluate(run, 6, n=24)
    assert newest["picked"] == [1, 1] and newest["notes"] == []
    both = evaluate(run, 6, n=24, other=against.find(f"{run.id}:4", runs))
    assert both["picked"] == [3, 1] and f"What it is compared with {told} 3" in both["notes"][0]
    strange = [{"question": "Tom has 3 apples.", "answer": "3"}]
    assert evaluate(run, 4, rows=strange)["picked"] == [1, 1]


def test_the_command_prints_the_contract_and_the_headline_first(run):
    def lab(*more: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "lab", "eval", run.id, "--root", run.folder.path.parent, "--n",
             "4", "--checkpoint", "4", *more], cwd=PROJECT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().splitlines()

    told = json.loads(lab("--json")[-1])
    assert set(told) == set(CONTRACT) == {
        "n", "base", "tuned", "difference", "wins", "losses", "ties", "adapter_live", "headline",
        "needed", "seeds", "against", "seen", "picked", "notes"}
    assert told["against"] is None and told["seeds"] == 1 and told["seen"] == 0
    for side in ("base", "tuned"):
        assert set(told[side]) == {"reward", "rewards", "accuracy", "in_format", "tokens", "cut"}
    for gap in ("reward", "accuracy"):
        assert set(told["difference"][gap]) == {"mean", "low", "high", "p"}
    shown = lab()
    assert shown[0] == told["headline"]
    assert any("adapter of step 4" in line for line in shown)
    assert [one["step"] for one in verdicts.of_run(run.folder)] == [4, 4]


@pytest.fixture
def another(run):
    """A second run of the same model, of which three of the run's held-out questions are trained
    on. Its checkpoints are those of the run."""
    folder = RunFolder(shutil.copytree(run.folder.path, run.folder.path.with_name("another")))
    record = json.loads(folder.settings.read_text())
    folder.settings.write_text(json.dumps(record | {"name": "another"}))
    lines = run.folder.held_out.read_text().splitlines(keepends=True)
    with folder.data.open("a") as file:
        file.writelines(lines[:3])
    return Runs(Workspace(folder.path.parent)).get("another")


def test_two_checkpoints_are_compared_as_each_is_with_the_base(run):
    """Greedy answers of step 2 are the same words, whatever they stand beside."""
    early = evaluate(run, 2, n=6)
    found = evaluate(run, 6, n=6, other=against.find(f"{run.id}:2", Runs(
        Workspace(run.folder.path.parent))))
    assert [row["base"]["text"] for row in found["answers"]] == [
        row["tuned"]["text"] for row in early["answers"]]
    assert [row["tuned"]["text"] for row in found["answers"]] != [
        row["base"]["text"] for row in found["answers"]]
    assert found["adapter_live"] and found["adapter_effect"] != early["adapter_effect"]
    assert found["names"] == ["Step 2", "Step 6"] and "Step 6 is right on" in found["headline"]
    assert found["against"]["adapter"] == verdicts.fingerprint(run.folder.checkpoint(2))
    assert [one["headline"] for one in verdicts.of_run(run.folder)] == [early["headline"]]
    assert verdicts.of_adapter(run.folder, run.folder.adapter, run.folder.checkpoint(2)) == (
        verdicts.newest_against(run.folder))


def test_what_the_other_side_was_trained_on_is_left_out_and_counted(run, another):
    kept = read_rows(run.folder.held_out)
    found = evaluate(run, 6, n=4, other=Against(another, another.folder.saved_at(2)), seeds=3)
    assert found["n"] == 4 and found["seen"] == 3 and found["seeds"] == 3 and found["drawn"]
    assert [row["question"] for row in found["answers"][::3]] == [
        row["question"] for row in kept[3:7]]
    assert found["names"] == ["another (step 2)", "finished run (step 6)"]
    assert "(3 drawn answers each)" in found["headline"]
    texts = [row["tuned"]["text"] for row in found["answers"]]
    assert any(len(set(texts[at:at + 3])) > 1 for at in range(0, 12, 3))  # each seed draws anew
    again = evaluate(run, 6, n=4, other=Against(another, another.folder.saved_at(2)),
                     sampled=True)
    assert [row["tuned"]["text"] for row in again["answers"]] == texts[::3]  # of the first seed
    another.folder.data.write_text(run.folder.held_out.read_text())
    with pytest.raises(BadData, match="None of the 24 held-out questions"):
        evaluate(run, 6, n=4, other=Against(another, another.folder.saved_at(2)))
    another.folder.data.unlink()
    rows, told = against.unseen(kept, run, Against(another, another.folder.saved_at(2)))
    assert rows == kept and "What another was trained on cannot be read" in told[0]


def test_what_a_run_that_it_began_from_was_trained_on_is_left_out_too(run, another):
    kept = read_rows(run.folder.held_out)
    run.record["begin"] = {"run": "another", "step": 2}
    assert against.unseen(kept, run, None) == (kept[3:], [])
    run.record["begin"] = {"run": "lost", "step": 2}
    rows, told = against.unseen(kept, run, None)
    assert rows == kept and "of which the data are not here" in told[0]


def test_two_that_cannot_be_compared_are_refused_before_anything_is_loaded(run, another):
    runs = Runs(Workspace(run.folder.path.parent))
    with pytest.raises(RunError, match="Both sides are the same adapter"):
        evaluate(run, 2, other=against.find("another:2", runs))
    with pytest.raises(RunError, match="There is no run 'nowhere'"):
        against.find("nowhere", runs)
    with pytest.raises(RunError, match="no checkpoint at step 3"):
        against.find("another:3", runs)
    assert against.find("base", runs) is against.find(None, runs) is None
    strange = dataclasses.replace(another, settings=another.settings.with_values(
        {"model.name": "some/model", "data.system_prompt": "Be brief.",
         "rewards.chosen": parse_chosen("int")}))
    with pytest.raises(RunError, match="different base models"):
        evaluate(run, other=Against(strange, strange.folder.saved_at(2)))
    told = against.differing(run, Against(strange, strange.folder.saved_at(2)))
    assert "the system prompt of its own run" in told[0] and "trained with others" in told[1]


def test_the_command_compares_two_sides(run, another):
    done = subprocess.run(
        [sys.executable, "-m", "lab", "eval", run.id, "--root", run.folder.path.parent, "--n", "3",
         "--against", "another:2", "--seeds", "2", "--json"], cwd=PROJECT, capture_output=True,
        text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert set(told) == set(CONTRACT) and told["n"] == 3 and told["seen"] == 3
    assert told["against"]["run"] == "another" and told["against"]["step"] == 2
    lines = figures(verdicts.newest_against(run.folder))
    assert lines[0].endswith("this is finished run (step 6), other is another (step 2)")
    assert "errors clustered by question" in lines[0] and "3 held-out questions" in lines[1]
    assert lines[2].split() == ["other", "this"]
    wrong = subprocess.run(
        [sys.executable, "-m", "lab", "eval", run.id, "--root", run.folder.path.parent, "--seeds",
         "0"], cwd=PROJECT, capture_output=True, text=True)
    assert wrong.returncode == 2 and "--seeds must be from 1 to" in wrong.stderr


def test_questions_of_one_seed_do_not_share_their_luck():
    """Also with vLLM, which takes a seed for each request: one for all would draw alike."""
    seeds = {seed_of(seed, place) for seed in range(4) for place in range(200)}
    assert len(seeds) == 800 and seed_of(0, 7) == seed_of(0, 7)


def test_a_cancelled_one_ends_its_child_and_keeps_nothing(run, children):
    stop = threading.Event()
    many = [{"question": "Tom has 3 apples and buys 4. How many?", "answer": "7"}] * 4000

    with pytest.raises(Cancelled):
        evaluate(run, n=4000, rows=many, progress=lambda done, of: stop.set(), stop=stop)
    assert children() == set()
    assert verdicts.newest(run.folder) is None


def test_damaged_verdicts_are_left_out(run):
    evaluate(run, n=2)
    good = run.folder.verdicts.read_text()
    for line in ("{", "[]", "{}", '{"base": 1}', good.replace('"n": 2', '"n": "many"'),
                 good.replace('"judgement": "', '"judgement": "un')):
        run.folder.verdicts.write_text(line.rstrip("\n") + "\n" + good)
        assert len(verdicts.of_run(run.folder)) == 1
    run.folder.verdicts.write_text(good + good[:50])
    assert len(verdicts.of_run(run.folder)) == 1
