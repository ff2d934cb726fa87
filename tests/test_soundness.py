"""A number that is none: the worker stops at it, keeps what is sound, and a damaged adapter is
named wherever it is loaded."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab.backends import plain
from lab.core import weights
from lab.core.insight import doctor
from lab.core.problems import BadModel, LabError
from lab.core.prompts import messages
from lab.services.export import adapter_zip
from lab.services.lab import Lab
from lab.services.workspace import PROJECT, STARTER_FOLDER

STOPPED = """
import json, sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from lab.backends.engines.base import Engine
from lab.backends.train import train
from lab.core.catalog import RECIPES
from lab.core.hardware.engines import Plan
from lab.core.problems import WorkFailed
from lab.core.task import problems

settings = RECIPES["starter"].settings().with_values({
    "train.prompts_per_step": 2, "train.num_generations": 2, "train.max_completion_length": 8,
    "train.max_steps": 4, "train.save_steps": 2})
rows = [{"question": p.question, "answer": p.answer} for p in problems(1, 20, 1)]
root, told = Path(sys.argv[2]), {}


class Planted(TrainerCallback):
    def __init__(self, what):
        self.what = what

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.what == "weight" and state.global_step == 2:
            next(p for p in model.parameters() if p.requires_grad).data[0, 0] = float("inf")

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if self.what == "gradient" and state.global_step == 2:
            weight = next(p for p in model.parameters() if p.requires_grad)
            weight.register_hook(lambda gradient: gradient * float("nan"))


for what in ("weight", "gradient", "loss"):
    engine = Engine(Plan("cpu", "", on_gpu=False), settings, sys.argv[1])
    bind = engine.bind

    def plant(trainer, bind=bind, what=what):
        bind(trainer)
        trainer.add_callback(Planted(what))
        if what == "loss":
            compute = trainer.compute_loss
            trainer.compute_loss = lambda *a, **k: compute(*a, **k) * (
                float("nan") if trainer.state.global_step == 2 else 1.0)

    engine.bind = plant
    folder = root / what
    folder.mkdir()
    try:
        train(engine, settings, rows, folder, lambda event: None)
        told[what] = None
    except WorkFailed as error:
        told[what] = [error.step, error.problem.to_dict(), sorted(
            p.parent.name for p in folder.rglob("adapter_model.safetensors"))]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """What three trainings told, in which a number was spoilt in their third step."""
    done = subprocess.run([sys.executable, "-c", STOPPED, str(STARTER_FOLDER),
                           str(tmp_path_factory.mktemp("stopped"))],
                          cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("what, words", [("weight", "A weight of the adapter"),
                                         ("gradient", "The gradient"), ("loss", "The loss")])
def test_training_stops_in_the_step_and_saves_nothing_more(stopped, what, words):
    step, problem, saved = stopped[what]
    assert step == 3 and "step 3" in problem["what"] and problem["why"].startswith(words)
    assert problem["kind"] == doctor.NON_FINITE
    assert "step 2" in problem["next"]  # the last sound checkpoint
    assert saved == ["step-2"]  # and no adapter/


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_number_among_the_largest_is_found(tmp_path, monkeypatch, dtype, value):
    monkeypatch.setattr(weights, "PIECE", 1024)
    largest = torch.finfo(dtype).max
    sound = {"a": torch.full((40, 50), largest, dtype=dtype), "b": torch.zeros(7, dtype=dtype)}
    save_file(sound, tmp_path / "sound.safetensors")
    assert weights.damaged_tensor(tmp_path / "sound.safetensors") is None
    sound["b"][6] = value
    save_file(sound, tmp_path / weights.WEIGHTS)
    assert weights.damaged_tensor(tmp_path / weights.WEIGHTS) == "b"
    assert not weights.is_sound(tmp_path)
    with pytest.raises(BadModel, match="damaged"):
        weights.check_sound(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\x02" + b"\0" * 7 + b"[]", b"{}" * 9])
def test_what_cannot_be_read_is_left_to_its_loader(tmp_path, content):
    (tmp_path / weights.WEIGHTS).write_bytes(content)
    weights.check_sound(tmp_path)


@pytest.fixture(scope="module")
def damaged(finished, tmp_path_factory):
    """(lab, run id) of a finished run whose newest checkpoint holds a NaN."""
    space, run_id = finished
    root = tmp_path_factory.mktemp("damaged")
    shutil.copytree(space.workspace.run(run_id).path, root / run_id)
    lab = Lab.at(root)
    folder = lab.workspace.run(run_id)
    path = folder.path / "checkpoints" / "step-6" / weights.WEIGHTS
    held = load_file(path)
    next(iter(held.values()))[0, 0] = float("nan")
    save_file(held, path, metadata={"format": "pt"})
    yield lab, run_id
    lab.chat.close()


def test_a_damaged_adapter_is_named_as_such_in_compare_eval_and_export(damaged, tmp_path):
    lab, run_id = damaged
    folder = lab.workspace.run(run_id)
    with pytest.raises(LabError, match="This adapter is damaged."):  # as Compare asks
        lab.chat.adapter_effect(lab.runs.get(run_id).settings, folder.checkpoint(6),
                                messages("Tom has 3 apples and buys 4. How many has he?", ""))
    with pytest.raises(BadModel, match="damaged"):  # vLLM loads it after this
        plain.check_adapter(str(STARTER_FOLDER), folder.path / "checkpoints" / "step-6")
    with pytest.raises(BadModel, match="damaged"):
        adapter_zip(folder, 6, tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()
    adapter_zip(folder, 4, tmp_path / "out.zip")
    told = subprocess.run([sys.executable, "-m", "lab", "eval", run_id, "--root",
                           str(lab.workspace.root), "--checkpoint", "6", "--n", "2"],
                          cwd=PROJECT, capture_output=True, text=True)
    assert told.returncode == 1 and "This adapter is damaged." in told.stderr


def test_an_adapter_of_another_rank_than_it_says_is_refused_before_room_is_made(
        finished, tmp_path):
    lab, run_id = finished
    folder = tmp_path / "adapter"
    shutil.copytree(lab.workspace.run(run_id).adapter, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"r": 10**7}))
    with pytest.raises(BadModel, match="not of rank 10000000"):
        weights.check_sound(folder)
    with pytest.raises(LabError, match="not of rank 10000000"):  # as Compare asks
        lab.chat.adapter_effect(lab.runs.get(run_id).settings, folder, messages("7?", ""))


def test_a_resume_from_a_damaged_checkpoint_ends_at_once_and_names_the_sound_one(damaged):
    lab, run_id = damaged
    folder = lab.workspace.run(run_id)
    before = (folder.adapter / weights.WEIGHTS).read_bytes()
    lab.jobs.resume(run_id, 8)
    run = lab.jobs.wait(run_id)
    assert run.status == "failed" and run.problem.kind == doctor.NON_FINITE
    assert run.problem.what == "The checkpoint of step 6 is damaged."
    assert "step 4" in run.problem.next
    assert (folder.adapter / weights.WEIGHTS).read_bytes() == before
    report = lab.doctor.report(run)
    (found,) = [one for one in report.findings if one.rule == doctor.NON_FINITE]
    assert report.verdict == doctor.WARNED and found.since == 6 and found.level == doctor.ERROR
    assert found.back_to == 4
    assert found.set["train.learning_rate"] < run.settings.train.learning_rate
