"""On a machine with an NVIDIA GPU and the gpu stack: every engine on the starter, end to end.

    .venv/bin/python -m pytest -m gpu tests/test_gpu.py

Nothing is downloaded. Starts of vLLM dominate: some minutes in all, less with warm caches.
"""

import contextlib
import math
import os
import subprocess
import sys
import threading

import psutil
import pytest

from lab.backends.release import holders, wait_for_release
from lab.core.catalog import RECIPES
from lab.core.hardware.engines import (
    TITLES,
    choose_engines,
    choose_stack,
    commands_elsewhere,
    plan_of,
)
from lab.core.problems import BadModel, LabError
from lab.core.prompts import messages
from lab.core.settings import TRL, TRL_VLLM, UNSLOTH, Sampling
from lab.services import machine
from lab.services.chat import Side
from lab.services.environment import answering_environment, worker_environment
from lab.services.evaluate import evaluate
from lab.services.export.state import DONE, Asked
from lab.services.lab import Lab
from lab.services.processes import family
from lab.services.runs import PAUSED
from lab.services.workers import worker_of
from lab.services.workspace import PROJECT, STARTER_FOLDER
from tests.bench import measure
from tests.ports import free_port
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

BROKEN = "raise ImportError('libcudart.so.99: cannot open shared object file')"
# Another program on the same GPU: for each line it takes all but so many GB of what is free.
HOLDER = """
import sys, torch
held = []
for line in sys.stdin:
    spare = torch.cuda.mem_get_info()[0] - int(float(line) * 1e9)
    held.append(torch.empty(max(0, spare), dtype=torch.uint8, device="cuda"))
    print("held", flush=True)
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


def answers(lab, settings, sides, sampling=GREEDY, seed=1) -> dict[int, str]:
    last = {}
    for update in lab.chat.stream(settings, sides, sampling, seed, threading.Event()):
        last[update.side] = update
    assert all(update.done for update in last.values())
    return {side: update.text for side, update in last.items()}


def test_base_and_checkpoints_answer_in_one_engine_which_gives_its_memory_back(lab, stopped):
    folder, _ = stopped
    settings = lab.runs.get(folder.id).settings
    asked = messages(QUESTION, settings.data.system_prompt)
    newest, first = str(folder.adapter), str(folder.checkpoint(folder.checkpoints()[0]))
    both = answers(lab, settings, [Side(asked), Side(asked, newest)])
    engine = {p.pid for p in family(lab.chat._process.pid)} & holders()
    assert engine, "vLLM's engine is a process of its own"
    assert answers(lab, settings, [Side(asked), Side(asked, newest)]) == both
    two = answers(lab, settings, [Side(asked, first), Side(asked, newest)])
    assert two[0] and two[1]
    with pytest.raises(BadModel, match="no adapter"):
        answers(lab, settings, [Side(asked, str(folder.path / "nowhere"))])
    assert answers(lab, settings, [Side(asked)])[0]
    assert {p.pid for p in family(lab.chat._process.pid)} & holders() == engine
    assert lab.chat.adapter_effect(settings, folder.adapter, asked) > 0
    lab.chat.close()
    assert wait_for_release(engine), holders()


def test_unsloth_checks_its_pass_without_padding_in_the_first_step_only(lab, monkeypatch):
    """Batches become longer and shorter: by itself it checks each that is longer than all before.
    """
    monkeypatch.setenv("UNSLOTH_ENABLE_LOGGING", "1")
    settings = settings_for(UNSLOTH, train__max_steps=12, train__temperature=1.3)
    folder = lab.jobs.start(settings)
    run = lab.jobs.wait(folder.id)
    said = folder.log.read_text()
    assert run.status == "finished", said[-4000:]
    checks = said.count("GRPO seq-packing (grad) verify")
    assert 1 <= checks <= settings.train.gradient_accumulation_steps()  # the batches of one step


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
    facts = lab.runs.log(folder.id).started.facts
    assert (facts["engine"], facts["learning"]) == (engine, "packed")
    assert wait_for_release(pids)
    lab.jobs.resume(folder.id, run.step + 2)
    assert lab.jobs.wait(folder.id).status == "finished", folder.log.read_text()[-4000:]


def test_without_vllm_the_gpu_answers_and_evaluates_too(lab):
    folder = lab.jobs.start(settings_for(TRL, train__max_steps=2), "plain answers")
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished", folder.log.read_text()[-4000:]
    asked = messages(QUESTION, run.settings.data.system_prompt)
    both = answers(lab, run.settings, [Side(asked), Side(asked, str(folder.adapter))])
    assert both[0] and both[1]
    assert lab.chat.adapter_effect(run.settings, folder.adapter, asked) > 0
    lab.chat.close()
    assert evaluate(run, n=8)["n"] == 8


def test_held_out_questions_are_answered_through_vllm(lab, stopped):
    folder, _ = stopped
    result = evaluate(lab.runs.get(folder.id), n=48)
    assert result["n"] == 48 and result["adapter_live"]
    assert not holders() & {p.pid for p in family(psutil.Process().pid)}


def test_where_vllm_is_broken_each_engine_says_so_and_the_last_one_trains(lab, tmp_path,
                                                                          monkeypatch):
    package = tmp_path / "vllm"
    package.mkdir()
    (package / "__init__.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(
        filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))))
    folder = lab.jobs.start(settings_for("auto", train__max_steps=2), "ladder")
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished", folder.log.read_text()[-4000:]
    log = lab.runs.log(folder.id)
    assert log.started.facts["engine"] == TRL
    told = [notice.text for notice in log.notices]
    for engine in (UNSLOTH, TRL_VLLM):
        assert any(text.startswith(f"{TITLES[engine]} cannot be used here.") for text in told), told
    assert f"Trying {TITLES[TRL]} in a new process." in told


@pytest.fixture(scope="module")
def learnt(lab):
    """A run that has moved its adapter further than 16 bit round."""
    folder = lab.jobs.start(settings_for(TRL, train__max_steps=60, train__save_steps=60), "learnt")
    assert lab.jobs.wait(folder.id).status == "finished", folder.log.read_text()[-4000:]
    return folder


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_an_export_is_loaded_again_by_vllm_and_answers_alike(lab, learnt, kind, tmp_path):
    folder = learnt
    export = lab.exports.wait(lab.exports.start(
        Asked(folder.id, kind, questions=24, out=str(tmp_path / "home"))))
    assert export.status == DONE, export.log()
    check = export.check
    assert "Loaded by vLLM" in check["how"] and "by transformers" in check["how"], check
    assert check["passed"] and check["n"] == 24, check


@pytest.mark.parametrize(("engine", "loss"), [(UNSLOTH, "cispo"), (TRL_VLLM, "sapo"),
                                              (TRL, "cispo")])
def test_it_begins_from_an_adapter_is_paused_answers_and_goes_on(lab, stopped, engine, loss):
    earlier, _ = stopped
    low_high = {"train__epsilon_high": 5.0} if loss == "cispo" else {}
    folder = lab.jobs.start(settings_for(
        engine, train__max_steps=6, train__loss_type=loss, lora__begin_from=earlier.id,
        **low_high), f"from {engine}")
    until_step(lab, folder, 1)
    lab.jobs.pause(folder.id)
    wait_for(lambda: lab.runs.get(folder.id).status == PAUSED
             or not lab.runs.get(folder.id).is_active, "the pause")
    name = lab.jobs.ask(folder.id, QUESTION, seed=5)
    wait_for(lambda: any(one.ask == name for one in lab.runs.log(folder.id).answers), "an answer")
    lab.jobs.go_on(folder.id)
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished", folder.log.read_text()[-4000:]
    log = lab.runs.log(folder.id)
    assert log.started.facts["engine"] == engine and log.held > 0
    assert len(log.metrics["loss"]) == 6 and all(map(math.isfinite, log.metrics["loss"]))


@contextlib.contextmanager
def holder():
    """A function that makes another process take the GPU's memory, all but so many GB."""
    plan = plan_of(choose_engines(STARTER, FACTS).first, STARTER)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=answering_environment(STARTER, plan, FACTS, PROJECT))

    def leave(gb: float) -> None:
        process.stdin.write(f"{gb}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "held\n"

    try:
        yield leave
    finally:
        process.kill()
        process.wait()
        assert wait_for_release({process.pid})


def test_a_lack_of_memory_is_told_and_the_change_that_is_offered_trains(lab, tmp_path):
    model = measure.model("qwen2.5-0.5b", tmp_path)
    settings = settings_for(
        TRL, model__name=str(model), train__prompts_per_step=8, train__num_generations=16,
        train__answers_at_once=64, train__max_completion_length=128, train__max_steps=2)
    with holder() as leave:
        folder = lab.jobs.start(settings, "no room")
        leave(12)  # 37 are needed
        run = lab.jobs.wait(folder.id)
        assert run.status == "failed", folder.log.read_text()[-4000:]
        assert run.problem.kind == "out_of_memory"
        assert run.problem.what == "The GPU ran out of memory while it learnt."
        leave(1)
        asked = messages(QUESTION, settings.data.system_prompt)
        with pytest.raises(LabError) as refused:
            answers(lab, settings_for(UNSLOTH), [Side(asked)])
        assert refused.value.problem.kind in ("out_of_memory", "gpu_busy"), refused.value
        lab.chat.close()
    offered = lab.jobs.offers(folder.id)[0]
    again = lab.jobs.start_again(folder.id, offered.changes)
    run = lab.jobs.wait(again.id)
    assert run.status == "finished", again.log.read_text()[-4000:]
    assert run.settings == settings.with_values(offered.changes)


TWO = pytest.mark.skipif(len(FACTS.gpus) < 2, reason="one GPU")


@TWO
@pytest.mark.parametrize(("engine", "sharding"), [
    (TRL, "ddp"), (TRL_VLLM, "ddp"), (TRL, "fsdp"), pytest.param(
        TRL, "zero3", marks=pytest.mark.skipif("deepspeed" not in FACTS.packages,
                                               reason="DeepSpeed is not installed"))])
def test_two_gpus_train_one_run_stop_at_the_same_step_and_resume(lab, engine, sharding):
    folder = lab.jobs.start(settings_for(
        engine, train__max_steps=500, train__eval_steps=2, train__eval_questions=16,
        hardware__num_processes=2, hardware__sharding=sharding), f"two {engine} {sharding}")
    until_step(lab, folder, 3)
    pids = pids_of(folder)
    lab.jobs.stop(folder.id)
    run = lab.jobs.wait(folder.id)
    assert run.status == "stopped" and run.step in folder.checkpoints(), folder.log.read_text()
    log = lab.runs.log(folder.id)
    assert log.started.facts["engine"] == engine and log.started.facts["processes"] == 2
    assert log.started.facts["learning"] == ("packed" if sharding == "ddp" else "padded")
    if sharding == "ddp":  # one process asks, the other waits
        assert set(log.held_out) >= {0, 2}, log.notices
    else:
        assert not log.held_out and any("cut in parts" in n.text for n in log.notices)
    assert wait_for_release(pids)
    lab.jobs.resume(folder.id, run.step + 2)
    assert lab.jobs.wait(folder.id).status == "finished", folder.log.read_text()[-4000:]


@TWO
def test_a_vllm_server_on_another_gpu_draws_the_answers(lab, tmp_path):
    port = free_port()
    settings = settings_for(TRL_VLLM, train__max_steps=3, hardware__vllm_mode="server",
                            hardware__vllm_server=f"127.0.0.1:{port}")
    plan = plan_of(choose_engines(settings, FACTS).first, settings)
    (_, command), = commands_elsewhere(sys.executable, "", str(STARTER_FOLDER), settings, plan)
    log = tmp_path / "server.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            env=worker_environment() | {"CUDA_VISIBLE_DEVICES": "1"})
    pids = {server.pid}
    try:
        folder = lab.jobs.start(settings, "served")  # TRL waits for the server
        run = lab.jobs.wait(folder.id)
        pids |= {p.pid for p in family(server.pid)}
        assert run.status == "finished", folder.log.read_text()[-4000:] + log.read_text()[-4000:]
        assert lab.runs.log(folder.id).started.facts["rollouts"] == "vLLM, server"
    finally:
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()
        server.wait()
    assert wait_for_release(pids)


@pytest.mark.parametrize("engine", [UNSLOTH, TRL_VLLM, TRL])
def test_every_engine_answers_held_out_questions_while_it_learns(lab, engine):
    folder = lab.jobs.start(settings_for(
        engine, train__max_steps=4, train__eval_steps=2, train__eval_questions=40), "held out")
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished", folder.log.read_text()[-4000:]
    log = lab.runs.log(folder.id)
    assert log.started.facts["engine"] == engine
    assert not [n for n in log.notices if "Held-out" in n.text], log.notices
    assert list(log.held_out) == [0, 2, 4]
    for told in log.held_out.values():
        assert told["n"] == 40 and 1 < told["tokens"] <= 80 and told["cut"] < 1
        assert 0 <= told["goal"] <= 1
    # The starter answers greedily on any engine alike, but for rounding.
    assert log.held_out[0]["goal"] == pytest.approx(0.325, abs=0.1)  # as on a CPU
