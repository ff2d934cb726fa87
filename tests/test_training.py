"""Real runs of the real trainer on the starter model: start, stop, kill, resume, bad days."""

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time

import psutil
import pytest

from lab.core.adapters import is_whole
from lab.core.hardware.allocator import keep_freed_memory
from lab.core.problems import BadData, BadSettings, RunError
from lab.services.jobs import Jobs, supervise
from lab.services.lab import Lab
from lab.services.processes import birth
from lab.services.runs import Runs
from lab.services.workers import is_worked_on, worker_of
from lab.services.workspace import RunFolder

LONG = {"train.max_steps": 5000, "train.save_steps": 3}


def wait_for(condition, what: str, seconds: float = 300):
    """Poll until something is true; the limit only ends a test that would hang for ever."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"gave up waiting for {what}"
        threading.Event().wait(0.05)
    return found


def steps_of(lab, run_id: str) -> list[int]:
    return list(lab.runs.log(run_id).steps)


def start_long(lab, quick, **changes):
    folder = lab.jobs.start(quick.with_values(LONG | changes))
    wait_for(lambda: len(steps_of(lab, folder.id)) >= 4 or not lab.runs.get(folder.id).is_active,
             "four steps")
    assert lab.runs.get(folder.id).is_active, folder.log.read_text()
    return folder


def test_a_finished_run_has_all_that_the_contract_names(finished):
    lab, run_id = finished
    folder, run = lab.workspace.run(run_id), lab.runs.get(run_id)
    assert run.step == run.steps == 6 and steps_of(lab, run_id) == [1, 2, 3, 4, 5, 6]
    assert {p.name for p in folder.adapter.iterdir()} >= {
        "adapter_config.json", "adapter_model.safetensors"}
    assert folder.checkpoints() == [2, 4, 6]
    record = json.loads(folder.settings.read_text())
    assert record["stack"]["value"] == "cpu"
    assert record["stack"]["why"].startswith("no CUDA device was found")
    assert record["effective"]["per_device_train_batch_size"] == 8
    assert lab.runs.log(run_id).started.facts["learning"] == "packed"
    assert record["versions"]["trl"]


def test_each_point_has_the_trainers_metrics_and_ours(finished):
    lab, run_id = finished
    metrics = lab.runs.log(run_id).metrics
    assert set(metrics) >= {
        "loss", "grad_norm", "learning_rate", "completions/mean_length",
        "completions/clipped_ratio", "reward/weighted", "reward/within_group_std", "groups/dead",
        "groups/dead_right", "groups/dead_wrong", "tokens_per_second", "seconds/step",
        "seconds/generation", "seconds/reward", "seconds/update", "rewards/correctness/mean",
        "rewards/strict_format/std"}
    assert "kl" not in metrics  # beta is 0
    for ours, theirs in zip(metrics["reward/weighted"], metrics["reward"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    for dead, theirs in zip(metrics["groups/dead"], metrics["frac_reward_zero_std"], strict=True):
        assert dead == pytest.approx(theirs)


def test_what_a_checkpoint_takes_to_write_is_not_told_as_learning(finished):
    lab, run_id = finished
    _, steps, curves = lab.runs.log(run_id).columns()
    written = dict(zip(steps, curves["seconds/checkpoint"], strict=True))
    assert [step for step in steps if written[step] > 0] == [3, 5]  # those after the saved ones
    spent = [sum(parts) for parts in zip(*(curves[f"seconds/{part}"] for part in (
        "generation", "reward", "update")), strict=True)]
    for step, rest, whole in zip(steps, spent, curves["seconds/step"], strict=True):
        assert rest + (written[step] if step in (3, 5) else 0) == pytest.approx(whole)


def test_samples_are_whole_groups_and_their_totals_add_up(finished):
    lab, run_id = finished
    weights = {c.name: c.weight for c in lab.runs.get(run_id).settings.rewards.chosen}
    step, groups = lab.runs.log(run_id).groups_at()
    assert step == 6 and len(groups) == 2
    for group in groups:
        assert group["columns"]["question"] in group["prompt"]
        assert len(group["answers"]) == 4
        for answer in group["answers"]:
            assert answer["total"] == pytest.approx(
                sum(weights[name] * score for name, score in answer["rewards"].items()))
        gains = [a["advantage"] for a in group["answers"]]
        assert sum(gains) == pytest.approx(0, abs=1e-3)


def test_the_same_seed_learns_the_same(lab, quick):
    rewards = []
    for _ in range(2):
        folder = lab.jobs.start(quick.with_values({"train.max_steps": 2}))
        lab.jobs.wait(folder.id)
        rewards.append(list(lab.runs.log(folder.id).metrics["reward/weighted"]))
    assert rewards[0] == rewards[1]


def test_stop_ends_after_the_step_saves_the_adapter_and_resume_goes_on(lab, quick):
    folder = start_long(lab, quick)
    lab.jobs.stop(folder.id)
    run = lab.jobs.wait(folder.id)
    assert run.status == "stopped"
    assert (folder.adapter / "adapter_model.safetensors").is_file()
    assert folder.checkpoints()[-1] == run.step
    with pytest.raises(RunError, match="ask for more steps"):
        lab.jobs.resume(folder.id, run.step)
    lab.jobs.resume(folder.id, run.step + 2)
    again = lab.jobs.wait(folder.id)
    assert again.status == "finished"
    assert steps_of(lab, folder.id) == list(range(1, run.step + 3))
    assert lab.runs.log(folder.id).started.resumed_from == run.step


def test_a_killed_worker_loses_nothing_that_was_logged(lab, quick, anew):
    folder = start_long(lab, quick)
    assert keep_freed_memory().items() <= worker_of(folder).environ().items()
    worker_of(folder).kill()
    before = steps_of(lab, folder.id)
    run = lab.jobs.wait(folder.id)
    assert run.status == "failed" and "signal 9" in str(run.problem)  # not by its owner
    assert steps_of(lab, folder.id)[:len(before)] == before
    checkpoint = folder.checkpoints()[-1]
    lab.jobs.resume(folder.id, checkpoint + 1)
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished"
    assert steps_of(lab, folder.id) == list(range(1, checkpoint + 2))


def test_a_second_start_is_refused_while_one_runs_and_another_lab_finds_it(lab, quick):
    folder = start_long(lab, quick)
    with pytest.raises(RunError, match="still training"):
        lab.jobs.start(quick)
    restarted = Jobs(lab.workspace)  # as an app that was started anew
    assert restarted.runs.active().id == folder.id
    with pytest.raises(RunError, match="still training"):
        restarted.start(quick)
    with pytest.raises(RunError, match="Stop it first"):
        restarted.delete(folder.id)
    restarted.stop(folder.id)
    assert restarted.wait(folder.id).status == "stopped"
    restarted.delete(folder.id)
    assert Runs(lab.workspace).all() == []


def test_a_worker_that_lives_is_told_by_its_start_time_not_by_its_number(lab, quick, finished):
    other, run_id = finished
    folder = other.workspace.run(run_id)
    kept = folder.process.read_text()
    try:  # the number now belongs to somebody else: this very process
        folder.process.write_text(json.dumps({
            "pid": psutil.Process().pid, "began": birth(1), "said": 0}))
        assert worker_of(folder) is None and not is_worked_on(folder)
        folder.process.write_text(json.dumps({
            "pid": psutil.Process().pid, "began": birth(psutil.Process().pid), "said": 0}))
        assert worker_of(folder).pid == psutil.Process().pid
    finally:
        folder.process.write_text(kept)


def test_beta_follows_the_kl_target_and_a_resumed_run_goes_on_with_it(lab, quick):
    """And accumulation changes nothing of it: a step has four passes."""
    settings = quick.with_values({
        "train.beta": 0.04, "train.kl_target": 0.002, "train.answers_at_once": 3,
        "train.lr_scheduler_type": "constant", "train.max_steps": 4, "train.save_steps": 2})
    run = lab.jobs.wait(lab.jobs.start(settings).id)
    assert run.status == "finished", run.folder.log.read_text()
    assert run.record["effective"]["per_device_train_batch_size"] == 2
    assert run.record["effective"]["gradient_accumulation_steps"] == 4
    mapping = run.record["mapping"]
    lab.jobs.resume(run.id, 6)
    assert lab.jobs.wait(run.id).status == "finished"
    assert mapping and lab.runs.get(run.id).record["mapping"] == mapping
    told = lab.runs.log(run.id).metrics
    kl, betas = list(told["kl"]), list(told["kl/beta"])
    assert len(kl) == len(betas) == 6 and set(told["kl/target"]) == {0.002}
    assert betas[0] == pytest.approx(0.04 * 0.98)  # nothing is learnt yet: KL is 0
    assert max(kl) > 0.002 and max(betas) > min(betas)  # it went to both sides
    for distance, before, after in zip(kl[1:], betas[:-1], betas[1:], strict=True):
        assert after == pytest.approx(next_beta(before, distance, 0.002), rel=1e-3)


def next_beta(beta: float, kl: float, target: float) -> float:
    """Ziegler et al. 2019, section 2.2."""
    return beta * (1 + 0.1 * max(-0.2, min(0.2, (kl - target) / target)))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own that can be filled up."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(disk)],
                          capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a disk of its own needs the right to mount one: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(("changes", "saved"), [
    ({"train.num_iterations": 2, "train.save_steps": 3}, [4, 6, 8]),
    ({"train.logging_steps": 3, "train.save_steps": 2}, [2, 4, 6, 8]),
])
def test_a_run_that_is_resumed_ends_as_the_unbroken_one(lab, quick, changes, saved):
    folder = lab.jobs.start(quick.with_values(
        changes | {"train.max_steps": 8, "train.save_total_limit": 9}))
    assert lab.jobs.wait(folder.id).status == "finished", folder.log.read_text()
    assert folder.checkpoints() == saved
    whole = (folder.adapter / "adapter_model.safetensors").read_bytes()
    for step in saved[1:]:
        shutil.rmtree(folder.checkpoint(step))
    shutil.rmtree(folder.adapter)
    renamed = RunFolder(folder.path.with_name("renamed"))  # as a person may
    folder.path.rename(renamed.path)
    lab.jobs.resume("renamed")
    assert lab.jobs.wait("renamed").status == "finished", renamed.log.read_text()
    assert lab.runs.log("renamed").started.resumed_from == saved[0]
    assert (renamed.adapter / "adapter_model.safetensors").read_bytes() == whole
    assert renamed.newest().step == 8


def killed_in_its_last_save(lab, settings, moments) -> RunFolder:
    """A run whose worker was killed as soon as one of these was there, before its adapter was."""
    for _ in range(5):  # a busy machine may let us look too late
        folder = lab.jobs.start(settings)
        worker, places = worker_of(folder), [folder.path / "checkpoints" / one for one in moments]
        while worker.is_running() and not any(one.exists() for one in places):
            pass  # no pause: the moment is a short one
        worker.kill()
        run = lab.jobs.wait(folder.id)
        if not folder.adapter.exists():
            assert run.status == "failed", folder.log.read_text()
            return folder
    raise AssertionError("its adapter was there each time")


@pytest.mark.parametrize("moments", [["checkpoint-6", "step-6"], ["step-6"]])
def test_a_run_that_is_killed_in_its_last_save_is_resumed_to_its_end(lab, quick, moments):
    folder = killed_in_its_last_save(lab, quick, moments)
    assert lab.runs.get(folder.id).can_go_on
    lab.jobs.resume(folder.id)
    assert lab.jobs.wait(folder.id).status == "finished", folder.log.read_text()
    assert folder.newest().step == 6 and is_whole(folder.adapter)
    assert steps_of(lab, folder.id) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(RunError, match="ask for more steps"):
        lab.jobs.resume(folder.id)
    assert not (folder.adapter / "optimizer.pt").exists()


def test_a_disk_that_fills_up_ends_the_run_with_the_reason_and_it_can_be_resumed(
        small_disk, quick):
    lab = Lab.at(small_disk / "runs")
    folder = start_long(lab, quick)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as f, contextlib.suppress(OSError):
        while True:
            f.write(b"x" * 65536)
    run = lab.jobs.wait(folder.id)
    assert run.status == "failed" and "The disk is full" in run.problem.what
    logged = steps_of(lab, folder.id)
    assert len(logged) >= 4
    filler.unlink()
    lab.jobs.resume(folder.id, folder.checkpoints()[-1] + 1)
    assert lab.jobs.wait(folder.id).status == "finished"


@pytest.mark.parametrize("changes", [
    {"train.loss_type": "dr_grpo", "train.scale_rewards": "none"},
    {"train.loss_type": "cispo", "train.epsilon_high": 5.0, "train.num_iterations": 2},
    {"train.loss_type": "sapo", "train.sapo_temperature_neg": 2.0, "train.num_iterations": 2},
    {"train.num_iterations": 2, "train.importance_sampling_level": "sequence",
     "train.scale_rewards": "batch", "train.mask_truncated_completions": True,
     "train.top_p": 0.9, "train.epsilon_high": 0.28, "lora.gradient_checkpointing": "on",
     "lora.target_modules": ("q_proj", "v_proj"), "train.lr_scheduler_type": "linear"},
])
def test_the_other_choices_train_too(lab, quick, changes):
    folder = lab.jobs.start(quick.with_values({**changes, "train.max_steps": 2}))
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished", folder.log.read_text()
    assert lab.runs.log(folder.id).started.facts["learning"] == "packed"
    assert any(lab.runs.log(folder.id).metrics["grad_norm"])


def test_prompts_that_are_too_long_are_counted_and_shown(lab, quick):
    folder = lab.jobs.start(quick.with_values(
        {"train.max_prompt_length": 56, "train.max_steps": 1}))
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished", folder.log.read_text()
    log = lab.runs.log(folder.id)
    left_out = log.started.facts["too_long"]
    assert 0 < left_out < 600 and log.started.facts["rows"] == 600 - left_out
    assert any(f"{left_out} of 600 questions" in n.text for n in log.notices)


def test_a_run_without_a_prompt_that_fits_says_so(lab, quick):
    folder = lab.jobs.start(quick.with_values({"train.max_prompt_length": 8}))
    run = lab.jobs.wait(folder.id)
    assert run.status == "failed"
    assert "Too few questions are left" in run.problem.what and "Longest prompt" in run.problem.next


@pytest.mark.parametrize("changes, error, words", [
    ({"model.name": "no-such-model"}, BadSettings, "neither a folder here nor a Hub id"),
    ({"model.name": "/no/such/folder"}, BadSettings, "no such folder"),
    ({"model.max_seq_length": 4096}, BadSettings, "more than the model allows"),
    ({"data.source": "file", "data.path": "/no/such/file.csv"}, BadData, "/no/such/file.csv"),
])
def test_what_cannot_start_leaves_nothing_behind(lab, quick, changes, error, words):
    with pytest.raises(error) as told:
        lab.jobs.start(quick.with_values(changes))
    assert words in str(told.value)
    assert lab.workspace.folders() == []


def test_a_folder_without_weights_is_no_model(lab, quick, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadSettings, match="has no weights"):
        lab.jobs.start(quick.with_values({"model.name": str(tmp_path)}))


def test_an_unknown_hub_model_fails_with_a_sentence(lab, quick):
    folder = lab.jobs.start(quick.with_values({"model.name": "nobody/no-such-model-here"}))
    run = lab.jobs.wait(folder.id)
    assert run.status == "failed" and run.problem.next
    assert "does not know" not in run.problem.what


def test_fewer_rows_than_prompts_per_step_is_said_before_the_start(lab, quick, tmp_path):
    data = tmp_path / "few.jsonl"
    data.write_text('{"question": "What is 1 + 1?", "answer": "2"}\n')
    with pytest.raises(BadData, match="fewer rows than questions per step"):
        lab.jobs.start(quick.with_values({
            "data.source": "file", "data.path": str(data), "data.held_out": 0}))


def test_a_run_that_its_owner_ends_at_once_is_stopped_and_can_be_resumed(lab, quick):
    folder = start_long(lab, quick)
    lab.jobs.kill(folder.id)
    run = lab.jobs.wait(folder.id)
    assert run.status == "stopped" and run.problem is None
    lab.jobs.resume(folder.id, folder.checkpoints()[-1] + 1)
    assert lab.jobs.wait(folder.id).status == "finished"


def test_a_last_word_for_a_run_that_is_being_deleted_leaves_nothing_behind(lab, quick):
    """So many files that its worker ends, and is written about, while they are deleted."""
    folder = lab.workspace.new_run()
    folder.settings.write_text(json.dumps({"settings": quick.to_dict()}))
    for number in range(20_000):
        (folder.path / f"file-{number}").touch()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    writing = threading.Thread(target=supervise, args=(folder, ended, 0))
    writing.start()
    lab.jobs.delete(folder.id)
    writing.join()
    lab.trash.empty()
    assert list(lab.workspace.root.iterdir()) == []
