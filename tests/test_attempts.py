"""Engines as real processes: attempts one after the other, several at once, questions, ends.

This machine's engine is the CPU's; what is listed before it fails.
"""

import json
import os
import signal
import sys

import psutil
import pytest
import torch

from lab.core import events, problems
from lab.core.catalog import RECIPES
from lab.core.hardware import engines
from lab.core.prompts import messages
from lab.core.settings import CPU, TRL, UNSLOTH
from lab.services import machine
from lab.services.data import load as datasets
from lab.services.run_record import from_the_one_that_worked, record
from lab.services.workers import worker_of
from lab.worker import reasons
from tests.test_pause import answered, paused_run
from tests.test_training import start_long, steps_of, wait_for


def start_with(lab, quick, *attempts: dict, command: list[str] = ()):
    """A run whose attempts are these, then the CPU's in a process of its own.

    An attempt without a command is the worker's own for its engine; `command` is the CPU's, where
    it is to be another, with {folder} in place of the run's.
    """
    lab.workspace.make()
    folder = lab.workspace.new_run("attempts")
    datasets.write_split(datasets.load(quick.data, quick.train.seed), folder.path)
    made = record(quick, machine.look(lab.workspace.root), "attempts", [], folder,
                  lab.workspace.caches)

    def attempt(**told) -> dict:
        command = engines.launch_command(sys.executable, str(folder.path), quick,
                                         engines.Plan(told.get("engine", CPU), ""))
        return made["plans"][0] | {"command": command} | told

    last = {"command": [part.format(folder=folder.path) for part in command]} if command else {}
    made["plans"] = [*(attempt(**told) for told in attempts), attempt(**last)]
    folder.settings.write_text(json.dumps(made))
    lab.jobs._launch(folder)
    return folder


UNSLOTH_ATTEMPT = {"engine": UNSLOTH, "title": "Unsloth + vLLM"}


def test_an_engine_that_cannot_be_used_is_told_and_the_next_one_trains(lab, quick):
    folder = start_with(lab, quick, UNSLOTH_ATTEMPT | {
        "command": [sys.executable, "-c", "import sys; sys.exit(75)"]})
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished" and run.step == 6, folder.log.read_text()
    told = [notice.text for notice in lab.runs.log(folder.id).notices]
    assert any("Trying TRL on the CPU" in text for text in told)


@pytest.mark.skipif("unsloth" in machine.versions(), reason="it can be used here")
def test_the_reason_of_an_engine_that_is_not_installed_is_shown(lab, quick):
    folder = start_with(lab, quick, UNSLOTH_ATTEMPT)
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished", folder.log.read_text()
    told = " ".join(notice.text for notice in lab.runs.log(folder.id).notices)
    assert "Unsloth + vLLM cannot be used here" in told and "unsloth" in told


UNSETTLED = """
import os, sys
from pathlib import Path
from lab import worker
import lab.backends.train as training

tried = Path(sys.argv[1])
if sys.argv[2] == "always" or not tried.exists():
    def fail(*told, **more):
        tried.touch()
        raise RuntimeError("Error in memory profiling. Initial free memory 73.35 GiB, ...")

    training.train = fail
os._exit(worker.main(sys.argv[3:]))
"""


@pytest.mark.parametrize(("processes", "how"), [
    pytest.param(2, "once", marks=pytest.mark.slow), (1, "always")])
def test_an_engine_is_tried_once_more_where_the_memory_of_the_gpu_was_in_motion(
        lab, quick, tmp_path, processes, how):
    script = tmp_path / "unsettled.py"
    script.write_text(UNSETTLED)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    folder = start_with(
        lab, quick.with_values({"hardware.num_processes": processes, "train.max_steps": 2,
                                "train.prompts_per_step": 4}),
        command=[sys.executable, *(launcher if processes == 2 else []), str(script),
                 str(tmp_path / "tried"), how, "engine", "{folder}", CPU])
    run = lab.jobs.wait(folder.id)
    told = [notice.text for notice in lab.runs.log(folder.id).notices]
    assert told.count("Trying TRL on the CPU in a new process.") == 1, told
    assert any("could not measure the GPU's memory" in text for text in told)
    if how == "once":
        assert run.status == "finished", folder.log.read_text()
    else:
        assert run.status == "failed" and run.problem.kind == "gpu_unsettled"


@pytest.mark.skipif(os.name == "nt", reason="signals are another matter there")
def test_an_engine_that_is_killed_at_the_start_is_followed_by_the_next(lab, quick):
    folder = start_with(lab, quick, UNSLOTH_ATTEMPT | {
        "command": [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]})
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished", folder.log.read_text()
    told = " ".join(notice.text for notice in lab.runs.log(folder.id).notices)
    assert "ended by itself (signal 9)" in told


@pytest.mark.skipif(os.name == "nt", reason="signals are another matter there")
def test_an_engine_killed_while_it_trains_ends_the_run_which_can_be_resumed(lab, quick):
    folder = start_with(lab, quick.with_values({"train.max_steps": 5000}))
    wait_for(lambda: folder.checkpoints(), "a checkpoint")
    child, = psutil.Process(worker_of(folder).pid).children()
    child.send_signal(signal.SIGKILL)
    run = lab.jobs.wait(folder.id)
    assert run.status == "failed" and "signal 9" in run.problem.why
    assert "Resume" in run.problem.next


@pytest.mark.skipif(sys.platform != "linux", reason="a child that ends with its parent is Linux's")
def test_an_engine_ends_with_the_worker_that_started_it(lab, quick):
    folder = start_with(lab, quick.with_values({"train.max_steps": 5000}))
    wait_for(lambda: steps_of(lab, folder.id), "a step")
    worker = worker_of(folder)
    child, = worker.children()
    worker.send_signal(signal.SIGKILL)
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_resumed_run_starts_with_the_engine_that_has_trained_it(lab, quick):
    def plans(*names):
        return [{"engine": name} for name in names]

    log = lab.runs.log(start_with(lab, quick).id)
    assert from_the_one_that_worked(plans(UNSLOTH, TRL), log) == plans(UNSLOTH, TRL)
    wait_for(lambda: log.refresh().started, "the trainer")
    assert log.started.facts["engine"] == CPU
    assert from_the_one_that_worked(plans(UNSLOTH, CPU), log) == plans(CPU)


def test_a_resumed_run_whose_worker_says_nothing_has_failed_and_is_not_as_it_was(lab, quick):
    folder = start_with(lab, quick)
    assert lab.jobs.wait(folder.id).status == "finished", folder.log.read_text()
    told = json.loads(folder.settings.read_text())
    for broken in ({"engine": CPU}, told["plans"][0] | {"command": [
            sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]}):
        folder.settings.write_text(json.dumps(told | {"plans": [broken]}))
        lab.jobs._launch(folder)
        run = lab.jobs.wait(folder.id)
        assert run.status == "failed" and "without a last word" in run.problem.what


def test_two_processes_train_one_run_and_it_is_the_same_run_folder(lab, quick):
    changes = {"hardware.num_processes": 2, "train.prompts_per_step": 4, "hardware.stack": "cpu",
               "train.eval_steps": 2, "train.eval_questions": 8}
    folder = lab.jobs.start(quick.with_values(changes))
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished" and run.step == 6, folder.log.read_text()
    log = lab.runs.log(folder.id)
    assert list(log.steps) == [1, 2, 3, 4, 5, 6] and folder.checkpoints() == [2, 4, 6]
    assert log.started.facts["processes"] == 2  # as the trainer counts them
    step, groups = log.groups_at()
    assert all(len(group["answers"]) == 4 for group in groups)
    # The trainer's own mean is gathered over both processes; so must ours be.
    curves = log.curves()
    assert curves["reward/weighted"] == pytest.approx(curves["reward"], abs=1e-5)
    assert all(0 < seconds < whole for seconds, whole in zip(  # for the answers of the other
        curves["seconds/waiting"], curves["seconds/step"], strict=True))
    resumed = lab.jobs.wait(lab.jobs.resume(folder.id, 8).id)
    assert resumed.status == "finished" and resumed.step == 8, folder.log.read_text()
    assert list(lab.runs.log(folder.id).held_out) == [0, 2, 4, 6, 8]  # one asks, the other waits


PADDED = """
import os, sys
from lab import worker
import lab.backends.engines.packed as packed

packed.unfit = lambda model: "this test asks for TRL's own pass"
os._exit(worker.main(sys.argv[1:]))
"""


def test_two_processes_that_pad_nothing_have_the_gradient_of_trls_own_pass(lab, quick, tmp_path):
    asked = quick.with_values({
        "hardware.num_processes": 2, "train.prompts_per_step": 4, "train.max_steps": 1,
        "train.save_steps": 1, "train.answers_at_once": 2})  # in several passes
    script = tmp_path / "padded.py"
    script.write_text(PADDED)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                "--nproc_per_node", "2"]
    moments, told = [], []
    for what in (["-m", "lab.worker"], [str(script)]):
        folder = start_with(lab, asked, command=[*launcher, *what, "engine", "{folder}", CPU])
        assert lab.jobs.wait(folder.id).status == "finished", folder.log.read_text()
        log = lab.runs.log(folder.id)
        told.append((log.started.facts["processes"], log.started.facts["learning"]))
        saved = torch.load(folder.checkpoint(1) / "optimizer.pt", weights_only=True)["state"]
        moments.append([saved[place]["exp_avg"] for place in sorted(saved)])
    assert told == [(2, "packed"), (2, "padded")]
    assert any(float(one.abs().max()) > 1e-6 for one in moments[0])
    torch.testing.assert_close(*moments, rtol=1e-4, atol=1e-8)


def test_processes_that_did_not_come_together_are_a_failed_run(lab, quick):
    folder = lab.workspace.new_run("alone")
    asked = quick.with_values({"hardware.num_processes": 2, "train.prompts_per_step": 4})
    facts = machine.look(lab.workspace.root)
    datasets.write_split(datasets.load(asked.data, 1), folder.path)
    told = record(asked, facts, "alone", [], folder, lab.workspace.caches)
    told["plans"][0]["command"] = [sys.executable, "-m", "lab.worker", "engine",
                                   str(folder.path), CPU]  # as a launcher that starts only one
    folder.settings.write_text(json.dumps(told))
    lab.jobs._launch(folder)
    run = lab.jobs.wait(folder.id)
    assert run.status == "failed" and "did not find each other" in run.problem.what
    assert "needs 2, and 1 came" in run.problem.why


@pytest.mark.slow
def test_a_reason_that_a_killed_worker_left_is_not_the_next_ones(lab, quick):
    asked = quick.with_values({"hardware.num_processes": 2, "train.prompts_per_step": 4,
                               "train.max_steps": 2, "hardware.stack": "cpu"})
    folder = lab.jobs.start(asked)
    assert lab.jobs.wait(folder.id).status == "finished", folder.log.read_text()
    reasons(folder.path).mkdir(parents=True)
    (reasons(folder.path) / "1.json").write_text(events.line_of(events.Failed(1, "Long ago.")))
    assert lab.jobs.wait(lab.jobs.resume(folder.id, 3).id).status == "finished"


WITHOUT_MEMORY = """
import os, sys
from lab import worker
import lab.backends.train as training

def without_memory(*told, **more):
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")

if os.environ["RANK"] == "1":
    training.train = without_memory
os._exit(worker.main(sys.argv[1:]))
"""


def test_the_reason_of_the_process_that_failed_is_the_runs(lab, quick, tmp_path):
    """The first process only hears that another is gone: it is ended, or loses its connection."""
    script = tmp_path / "second_fails.py"
    script.write_text(WITHOUT_MEMORY)
    folder = start_with(lab, quick.with_values({
        "hardware.num_processes": 2, "train.prompts_per_step": 4}), command=[
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            str(script), "engine", "{folder}", CPU])
    run = lab.jobs.wait(folder.id)
    assert run.status == "failed" and run.problem.kind == "out_of_memory", folder.log.read_text()
    assert "ran out of memory" in run.problem.what


# accelerate cuts a base over GPUs only. Told that these processes have one each, it cuts it
# over them with the same FSDP of torch, through gloo.
CUT = """
import os, sys
from accelerate import state
from accelerate.utils import DistributedType

own = state.PartialState.__init__

def on_gpus(self, *told, **more):
    own(self, *told, **more)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU

state.PartialState.__init__ = on_gpus
from lab import worker
import lab.backends.train as training

came_together = training.came_together
training.came_together = lambda accelerator, hardware, on_gpu: came_together(
    accelerator, hardware, on_gpu=True)
os._exit(worker.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_base_that_is_cut_in_parts_trains_saves_whole_adapters_and_resumes(
        lab, quick, tmp_path, monkeypatch):
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    script = tmp_path / "cut.py"
    script.write_text(CUT)
    asked = quick.with_values({"hardware.num_processes": 2, "train.prompts_per_step": 4,
                               "hardware.sharding": "fsdp", "train.max_steps": 3})
    # As accelerate sets it up for the command that runs on GPUs.
    command = engines.launch_command("python", "", asked, engines.Plan(TRL, ""))
    set_up = prepare_multi_gpu_env(launch_command_parser().parse_args(command[3:]))
    for name in set_up:
        if name.startswith(("FSDP_", "ACCELERATE_USE_FSDP")):
            monkeypatch.setenv(name, set_up[name])
    folder = start_with(lab, asked, command=[
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        str(script), "engine", "{folder}", CPU])
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished" and run.step == 3, folder.log.read_text()
    facts = lab.runs.log(folder.id).started.facts
    assert facts["processes"] == 2 and facts["rollouts"] == "transformers, through TRL"
    question = messages("Tom has 3 apples and buys 4. How many has he?", "")
    assert lab.chat.adapter_effect(asked, folder.adapter, question) > 0
    told = json.loads(folder.settings.read_text())
    told["settings"]["train"]["max_steps"] = 5
    folder.settings.write_text(json.dumps(told))
    lab.jobs._launch(folder)
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished" and run.step == 5, folder.log.read_text()
    assert lab.runs.log(folder.id).started.resumed_from == 3


@pytest.mark.skipif(os.name == "nt", reason="signals are another matter there")
def test_a_killed_one_of_two_processes_ends_the_run_which_can_be_resumed(lab, quick):
    folder = start_long(lab, quick, **{"hardware.num_processes": 2, "hardware.stack": "cpu"})
    wait_for(lambda: folder.checkpoints(), "a checkpoint")
    supervisor = psutil.Process(worker_of(folder).pid)
    learning = [p for p in supervisor.children(recursive=True)
                if p.environ().get("RANK") in ("0", "1")]
    assert {p.environ()["RANK"] for p in learning} == {"0", "1"}
    next(p for p in learning if p.environ()["RANK"] == "1").kill()
    run = lab.jobs.wait(folder.id)
    assert run.status == "failed" and run.problem.next
    assert psutil.wait_procs([*learning, supervisor], 60)[1] == []
    resumed = lab.jobs.wait(lab.jobs.resume(folder.id, folder.checkpoints()[-1] + 2).id)
    assert resumed.status == "finished", folder.log.read_text()


@pytest.mark.slow
def test_two_processes_wait_together_and_stop_at_the_same_step(lab, quick):
    folder = start_long(lab, quick, **{"hardware.num_processes": 2, "hardware.stack": "cpu"})
    paused = []
    for _ in range(2):
        lab.jobs.pause(folder.id)
        paused.append(paused_run(lab, folder.id).step)
        answered(lab, folder.id)
        assert steps_of(lab, folder.id)[-1] == paused[-1]
        lab.jobs.go_on(folder.id)
        wait_for(lambda: steps_of(lab, folder.id)[-1] > paused[-1], "a step after the pause")
    lab.jobs.pause(folder.id)
    paused.append(paused_run(lab, folder.id).step)
    lab.jobs.stop(folder.id)
    run = lab.jobs.wait(folder.id)
    assert run.status == "stopped" and run.step == paused[-1], folder.log.read_text()
    assert set(paused[-1:]) <= set(folder.checkpoints())
    assert (folder.adapter / "adapter_model.safetensors").is_file()


def test_a_run_that_trains_answers_a_question_with_and_without_its_adapter(lab, quick):
    folder = start_long(lab, quick)
    name = lab.jobs.ask(folder.id, "Tom has 3 apples. He buys 4 more. How many has he?", seed=5)
    found = wait_for(lambda: lab.runs.log(folder.id).answers, "an answer")[0]
    assert found.ask == name and found.base["text"] and found.tuned["text"]
    assert found.step in steps_of(lab, folder.id)
    lab.jobs.stop(folder.id)
    assert lab.jobs.wait(folder.id).status == "stopped"
    with pytest.raises(problems.RunError, match="not training"):
        lab.jobs.ask(folder.id, "And now?")


def test_after_a_lack_of_memory_a_change_that_fits_is_offered_and_taken(lab, quick):
    folder = start_long(lab, quick, **{
        "train.prompts_per_step": 8, "train.num_generations": 8,
        "train.max_completion_length": 300, "lora.gradient_checkpointing": "auto"})
    wait_for(lambda: folder.checkpoints(), "a checkpoint")
    lab.jobs.kill(folder.id)
    lab.jobs.wait(folder.id)
    told = [notice.text for notice in lab.runs.log(folder.id).notices]
    assert any(text.startswith("Gradient checkpointing: off, because") for text in told), told
    kept = folder.checkpoint(folder.checkpoints()[-1]) / "training_args.bin"
    assert torch.load(kept, weights_only=False).gradient_checkpointing is False  # and it was off
    assert lab.jobs.offers(folder.id) == []
    say = events.EventWriter(folder.events)
    say(events.Failed(4, "The GPU ran out of memory while it learnt.", kind="out_of_memory"))
    say.close()
    offers = lab.jobs.offers(folder.id)
    assert offers and all(cure.changes and cure.sentence for cure in offers)
    before = lab.runs.get(folder.id).settings
    again = lab.jobs.start_again(folder.id, offers[0].changes)
    now = lab.runs.get(again.id)
    assert now.settings == before.with_values(offers[0].changes)
    lab.jobs.kill(again.id)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(lab):
    """The whole starter recipe, once in one process and once in two: the same rise."""
    ends = []
    for processes in (1, 2):
        folder = lab.jobs.start(RECIPES["starter"].settings().with_values({
            "hardware.num_processes": processes, "hardware.stack": "cpu"}))
        run = lab.jobs.wait(folder.id)
        assert run.status == "finished", folder.log.read_text()
        ends.append((run.reward_first, run.reward_last, run.seconds))
    (first_1, last_1, _), (first_2, last_2, _) = ends
    assert last_1 - first_1 > 1.5 and last_2 - first_2 > 1.5, ends
    assert abs(last_1 - last_2) < 0.5, ends
