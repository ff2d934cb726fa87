"""Going on: from an adapter made before, from a run that died early, with more steps; trackers."""

import json
import shutil
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler, TrainerControl, TrainerState

from lab.backends import trackers as guarding
from lab.core.problems import BadSettings
from lab.core.schedule import planned_anew, rate_at
from lab.services import begin, export, trackers
from lab.services.lab import Lab
from tests import odd_models
from tests.odd_models import copied, edited


@pytest.fixture
def adapter(finished, tmp_path):
    """A copy of a trained adapter, to be changed."""
    lab, run = finished
    return shutil.copytree(lab.workspace.run(run).adapter, tmp_path / "adapter")


def config(**values):
    return lambda folder: edited(folder / "adapter_config.json", lambda told: told.update(values))


def another_rank(folder):
    path = folder / "adapter_model.safetensors"
    save_file({name: one[:3].contiguous() if "lora_A" in name else one
               for name, one in load_file(path).items()}, path, {"format": "pt"})


def half_of_it(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize(("change", "values", "level", "said"), [
    (None, {}, None, ""),
    (None, {"lora.rank": 8}, "error", "It has 16, not 8. Set 'Rank (r)' to 16."),
    (None, {"lora.alpha": 8}, "error", "Set 'Alpha' to 32."),
    (None, {"lora.target_modules": ("q_proj",)}, "error", "other target modules. It has down_proj"),
    (None, {"lora.target_modules": ("all-linear",)}, None, ""),
    (config(r=10**7), {}, "error", "It says 10000000, and may say 1 to 512"),
    (config(peft_type="IA3"), {}, "error", "no LoRA adapter"),
    (config(use_dora=True), {}, "error", "It has DoRA"),
    (config(modules_to_save=["lm_head"]), {}, "error", "whole layers beside LoRA's"),
    (config(base_model_name_or_path="a/b"), {}, "warning", "was trained on a/b, not on starter"),
    (another_rank, {}, "error", "Its weights are not of rank 16"),
    (half_of_it, {}, "error", "not whole"),
    (lambda folder: (folder / "adapter_config.json").write_text("{"), {}, "error",
     "cannot be read"),
])
def test_an_adapter_to_begin_with_is_checked_before_the_start(adapter, quick, change, values, level,
                                                              said):
    if change:
        change(adapter)
    found = begin.problems(quick.with_values({"lora.begin_from": str(adapter), **values}), None)
    assert [p.level for p in found] == ([level] if level else [])
    assert all(said in str(p) for p in found)


def test_an_adapter_of_another_model_does_not_fit(adapter, quick, tmp_path):
    odd_models.phi3(copied(tmp_path, "other"))
    found, *_ = begin.problems(quick.with_values({
        "lora.begin_from": str(adapter), "model.name": str(tmp_path / "other")}), None)
    assert "does not fit the model. model.layers.0." in str(found)


def test_an_adapter_is_found_by_run_step_folder_or_file(finished):
    lab, run = finished
    folder = lab.workspace.run(run)
    newest = begin.find(run, lab.workspace)
    assert (newest.run, newest.step, newest.setting) == (run, 6, f"{run}:6")
    assert begin.find(f" {run}:4 ", lab.workspace).path == folder.checkpoint(4)
    assert begin.find(f'"{folder.path}"', lab.workspace).step == 6
    assert begin.find(str(folder.adapter / "adapter_config.json"), None).path == folder.adapter
    for wrong in (f"{run}:5", "no-such-run", str(lab.workspace.root), "a/b", f"{run}:x"):
        with pytest.raises(BadSettings, match="."):
            begin.find(wrong, lab.workspace)


def test_a_run_begins_with_an_adapter_also_after_it_died_and_goes_on_for_longer(
        lab, quick, adapter, tmp_path, monkeypatch):
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    wanted = load_file(adapter / "adapter_model.safetensors")
    folder = lab.jobs.start(quick.with_values({
        "lora.begin_from": str(adapter), "data.source": "file", "data.path": "rows.jsonl",
        "data.held_out": 4, "train.max_steps": 1, "train.learning_rate": 1e-9, "train.beta": 0.1,
        "train.lr_scheduler_type": "linear", "train.warmup_ratio": 0.0}), "second stage")
    lab.jobs.kill(folder.id)  # long before its first checkpoint
    died = lab.jobs.wait(folder.id)
    assert died.begins_again
    assert died.settings.data.path == str(tmp_path / "rows.jsonl")  # from wherever it is looked at
    shutil.rmtree(adapter)  # the run has its own copy
    data = folder.data.read_bytes()
    lab.jobs.resume(folder.id)
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished", run.problem
    assert folder.data.read_bytes() == data
    learnt = load_file(folder.adapter / "adapter_model.safetensors")
    assert learnt.keys() == wanted.keys()
    assert all((learnt[name] - one).abs().max() < 1e-6 for name, one in wanted.items())
    told = [notice.text for notice in lab.runs.log(folder.id).notices]
    assert any("begins with the adapter of the folder" in text and "without any adapter" in text
               for text in told)
    lab.jobs.resume(folder.id, steps=2)
    longer = lab.jobs.wait(folder.id)
    assert longer.status == "finished", longer.problem
    told = [notice.text for notice in Lab.at(lab.workspace.root).runs.log(folder.id).notices]
    assert any("the schedule of 2 steps from here on" in text for text in told)
    card = export.card(longer, "base", 2, export.Judged())
    digest = longer.record["begin"]["sha256"]
    assert f"| Began with | the adapter in the folder adapter, sha256 `{digest}`" in card
    assert "planned for 1 steps until step 1" in card


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant", "constant_with_warmup"])
def test_the_rate_is_that_of_transformers(quick, kind):
    import torch
    from transformers import get_scheduler

    train = quick.with_values({"train.lr_scheduler_type": kind, "train.max_steps": 20}).train
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=train.learning_rate)
    schedule = get_scheduler(kind, optimizer, round(train.warmup_ratio * 20), 20)
    for step in range(20):
        assert rate_at(train, step) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()


def test_what_more_steps_make_of_the_rate_is_said(quick):
    short = quick.with_values({"train.lr_scheduler_type": "cosine", "train.max_steps": 20}).train
    longer = quick.with_values({"train.lr_scheduler_type": "cosine", "train.max_steps": 40}).train
    assert "at step 20 it goes from 0 to 0.0002" in planned_anew(short, longer, 20)
    assert planned_anew(short, short, 20) == planned_anew(quick.train, quick.train, 3) == ""


class UsageError(Exception):
    """As wandb's, by name and words."""


class Tracker(TrainerCallback):
    def __init__(self):
        self.heard = []

    def on_train_begin(self, *args, **kwargs):
        raise UsageError("No API key configured. Use `wandb login` to log in.")

    def on_log(self, *args, **kwargs):
        self.heard.append("log")


def test_a_tracker_that_fails_does_not_end_the_run():
    tracker, said = Tracker(), []
    handler = CallbackHandler([], None, None, None, None)
    handler.callbacks[:] = [tracker]
    Tracker.__module__ = guarding.HOME + ".mine"
    guarding.guard(SimpleNamespace(callback_handler=handler), "wandb", said.append)
    control = TrainerControl()
    assert handler.on_train_begin(None, TrainerState(), control) is control
    handler.on_log(None, TrainerState(), control, {})
    assert tracker.heard == []
    assert [notice.text for notice in said] == [
        "The run goes on without wandb. wandb is not logged in. It has no key on this machine. Run "
        "`wandb login`, or set WANDB_MODE=offline, or 'Report to' to none."]


def test_a_missing_login_of_wandb_is_said_before_the_start(quick, tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb = quick.with_values({"train.report_to": "wandb"})
    told, = trackers.problems(wandb)
    assert (told.level, told.field) == ("warning", "train.report_to")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password not-a-real-one\n")
    assert trackers.problems(wandb) == []
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert trackers.problems(wandb) == trackers.problems(quick) == []
