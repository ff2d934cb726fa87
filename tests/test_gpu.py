"""On a machine with an NVIDIA GPU and the gpu stack: every engine on the starter, end to end.

    .venv/bin/python -m pytest -m gpu tests/test_gpu.py

Nothing is downloaded. Starts of vLLM dominate: some minutes in all, less with warm caches.
"""

import subprocess
import sys
import threading

import psutil
import pytest

from lab.backends.release import holders, wait_for_release
from lab.core.catalog import RECIPES
from lab.core.engines import choose_stack
from lab.core.problems import BadModel
from lab.core.prompts import messages
from lab.core.settings import TRL, TRL_VLLM, UNSLOTH, Sampling
from lab.services import machine
from lab.services.chat import Side
from lab.services.evaluate import evaluate
from lab.services.lab import Lab
from lab.services.processes import family
from lab.services.runs import worker_of
from lab.services.workspace import PROJECT, STARTER_FOLDER
from tests.test_training import steps_of, wait_for

FACTS = machine.look(PROJECT)
STACK = choose_stack("auto", FACTS)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(STACK.value != "gpu", reason=f"no gpu stack: {STACK.why}"),
]
STARTER = RECIPES["starter"].settings().with_values({
    "data.rows": 600, "data.held_out": 48, "train.save_steps": 3,
    "hardware.gpu_memory_utilization": 0.2})
QUESTION = "Tom has 3 apples. He buys 4 more. How many apples does Tom have now?"
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=60)
LOADS = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = torch.tensor([[5, 6, 7, 8]])
before = base(ids).logits
after = PeftModel.from_pretrained(base, sys.argv[2])(ids).logits
print("changed", float((after - before).abs().max()))
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """One root for all: what the engines compile is found again by the next test."""
    lab = Lab.at(tmp_path_factory.mktemp("gpu"))
    yield lab
    lab.chat.close()
    for folder in lab.workspace.folders():
        lab.jobs.kill(folder.id)


def settings_for(engine: str, **changes):
    return STARTER.with_values({
        "hardware.engine": engine, "model.fast_inference": engine != TRL,
        **{key.replace("__", "."): value for key, value in changes.items()}})


def pids_of(folder) -> set[int]:
    worker = worker_of(folder)
    return {worker.pid, *(p.pid for p in family(worker.pid))} if worker else set()


def until_step(lab, folder, step: int) -> None:
    wait_for(lambda: (steps_of(lab, folder.id) or [0])[-1] >= step
             or not lab.runs.get(folder.id).is_active, f"step {step}")
    assert lab.runs.get(folder.id).is_active, folder.log.read_text()[-4000:]


@pytest.fixture(scope="module")
def stopped(lab):
    """A run of Unsloth with vLLM that was asked a question, and then to stop."""
    folder = lab.jobs.start(settings_for(UNSLOTH, train__max_steps=500), "unsloth")
    until_step(lab, folder, 3)
    pids = pids_of(folder)
    lab.jobs.ask(folder.id, QUESTION, seed=5)
    wait_for(lambda: lab.runs.log(folder.id).answers, "an answer")
    lab.jobs.stop(folder.id)
    run = lab.jobs.wait(folder.id)
    assert run.status == "stopped", folder.log.read_text()[-4000:]
    return folder, pids


def test_unsloth_trains_answers_between_steps_and_stops(lab, stopped):
    folder, _ = stopped
    log = lab.runs.log(folder.id)
    facts = log.started.facts
    assert facts["engine"] == UNSLOTH and facts["rollouts"] == "vLLM inside Unsloth"
    assert set(log.metrics) >= {"loss", "reward/weighted", "entropy/sampled", "gpu/memory_gb",
                                "seconds/generation", "seconds/update", "tokens_per_second"}
    curves = log.curves()
    assert curves["reward/weighted"] == pytest.approx(curves["reward"], abs=1e-5)
    assert log.answers[0].base["text"] and log.answers[0].tuned["text"]
    # What Unsloth was given is what it uses, but for its own word for "no limit".
    assert set(facts["changed"]) <= {"top_k"}


def test_after_a_stop_no_process_of_the_run_holds_the_gpu(stopped):
    _, pids = stopped
    assert pids and wait_for_release(pids), holders() & pids


def test_the_adapter_of_unsloth_loads_with_peft_alone(stopped):
    folder, _ = stopped
    done = subprocess.run([sys.executable, "-c", LOADS, str(STARTER_FOLDER), str(folder.adapter)],
                          capture_output=True, text=True, env=None)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split("changed")[1]) > 0


def test_a_stopped_run_of_unsloth_resumes(lab, stopped):
    folder, _ = stopped
    last = lab.runs.get(folder.id).step
    lab.jobs.resume(folder.id, last + 3)
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished" and run.step == last + 3, folder.log.read_text()[-4000:]
    assert lab.runs.log(folder.id).started.resumed_from == last


def answers(lab, folder, sides, sampling=GREEDY, seed=1) -> dict[int, str]:
    settings, last = lab.runs.get(folder.id).settings, {}
    for update in lab.chat.stream(settings, sides, sampling, seed, threading.Event()):
        last[update.side] = update
    assert all(update.done for update in last.values())
    return {side: update.text for side, update in last.items()}


def test_base_and_checkpoints_answer_in_one_engine_which_gives_its_memory_back(lab, stopped):
    folder, _ = stopped
    settings = lab.runs.get(folder.id).settings
    asked = messages(QUESTION, settings.data.system_prompt)
    newest, first = str(folder.adapter), str(folder.checkpoint(folder.checkpoints()[0]))
    both = answers(lab, folder, [Side(asked), Side(asked, newest)])
    engine = {p.pid for p in family(lab.chat._process.pid)} & holders()
    assert engine, "vLLM's engine is a process of its own"
    assert answers(lab, folder, [Side(asked), Side(asked, newest)]) == both
    two = answers(lab, folder, [Side(asked, first), Side(asked, newest)])
    assert two[0] and two[1]
    with pytest.raises(BadModel, match="no adapter"):
        answers(lab, folder, [Side(asked, str(folder.path / "nowhere"))])
    assert answers(lab, folder, [Side(asked)])[0]
    assert {p.pid for p in family(lab.chat._process.pid)} & holders() == engine
    assert lab.chat.adapter_effect(settings, folder.adapter, asked) > 0
    lab.chat.close()
    assert wait_for_release(engine), holders()


def test_in_4_bit_unsloth_uses_nf4(lab):
    folder = lab.jobs.start(settings_for(UNSLOTH, train__max_steps=2, model__load_in_4bit=True,
                                         train__optim="paged_adamw_8bit",
                                         lora__gradient_checkpointing="unsloth"), "nf4")
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished", folder.log.read_text()[-4000:]
    assert lab.runs.log(folder.id).started.facts["dtype"] == "nf4"


def test_a_killed_worker_leaves_nothing_on_the_gpu(lab):
    folder = lab.jobs.start(settings_for(TRL, train__max_steps=500), "killed")
    wait_for(lambda: folder.checkpoints(), "a checkpoint")
    pids = pids_of(folder)
    worker_of(folder).kill()
    assert lab.jobs.wait(folder.id).status == "failed"
    assert wait_for_release(pids), holders() & pids


@pytest.mark.parametrize("engine", [TRL, TRL_VLLM])
def test_plain_trl_trains_stops_and_resumes(lab, engine):
    folder = lab.jobs.start(settings_for(engine, train__max_steps=500), engine)
    until_step(lab, folder, 3)
    pids = pids_of(folder)
    lab.jobs.stop(folder.id)
    run = lab.jobs.wait(folder.id)
    assert run.status == "stopped", folder.log.read_text()[-4000:]
    assert lab.runs.log(folder.id).started.facts["engine"] == engine
    assert wait_for_release(pids)
    lab.jobs.resume(folder.id, run.step + 2)
    assert lab.jobs.wait(folder.id).status == "finished", folder.log.read_text()[-4000:]


def test_without_vllm_the_gpu_answers_and_evaluates_too(lab):
    folder = lab.jobs.start(settings_for(TRL, train__max_steps=2), "plain answers")
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished", folder.log.read_text()[-4000:]
    asked = messages(QUESTION, run.settings.data.system_prompt)
    both = answers(lab, folder, [Side(asked), Side(asked, str(folder.adapter))])
    assert both[0] and both[1]
    assert lab.chat.adapter_effect(run.settings, folder.adapter, asked) > 0
    lab.chat.close()
    assert evaluate(run, n=8)["n"] == 8


def test_held_out_questions_are_answered_through_vllm(lab, stopped):
    folder, _ = stopped
    result = evaluate(lab.runs.get(folder.id), n=48)
    assert result["n"] == 48 and result["adapter_live"]
    assert not holders() & {p.pid for p in family(psutil.Process().pid)}


@pytest.mark.skipif(len(FACTS.gpus) < 2, reason="one GPU")
@pytest.mark.parametrize("engine", [TRL, TRL_VLLM])
def test_two_gpus_train_one_run_and_stop_at_the_same_step(lab, engine):
    folder = lab.jobs.start(settings_for(engine, train__max_steps=500, hardware__num_processes=2),
                            f"two {engine}")
    until_step(lab, folder, 3)
    pids = pids_of(folder)
    lab.jobs.stop(folder.id)
    run = lab.jobs.wait(folder.id)
    assert run.status == "stopped" and run.step in folder.checkpoints(), folder.log.read_text()
    facts = lab.runs.log(folder.id).started.facts
    assert facts["engine"] == engine and facts["processes"] == 2
    assert wait_for_release(pids)
