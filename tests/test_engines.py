"""Which stack and engine are chosen, how they are started, and attempts in real processes."""

import dataclasses
import json
import logging
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from lab import bootstrap
from lab.backends import phases
from lab.core import checks, engines, events, problems
from lab.core.catalog import RECIPES
from lab.core.machine import Choice, Gpu, GpuProcess, Machine
from lab.core.settings import CPU, SHARDINGS, TRL, TRL_VLLM, UNSLOTH, Settings
from lab.services import datasets, machine
from lab.services.jobs import _from_the_one_that_worked, record
from lab.services.runs import worker_of
from tests.test_training import start_long, steps_of, wait_for

PACKAGES = {"torch": "2.11.0", "unsloth": "2026.10.7", "vllm": "0.26.0", "trl": "1.14.2"}
BARE = Machine("Linux x86_64", "3.12.3", 16, 128.0, 100.0, 500.0)
WITH_GPU = dataclasses.replace(
    BARE, gpus=(Gpu("NVIDIA H200", 150.8, 150.0, "580.159.04", 9.0),), packages=PACKAGES)
TWO = dataclasses.replace(WITH_GPU, gpus=WITH_GPU.gpus * 2)
NOTEBOOK = RECIPES["notebook"].settings()
SIXTEEN_BIT = NOTEBOOK.with_values({"model.load_in_4bit": False})


def with_gpu(**changes) -> Machine:
    return dataclasses.replace(WITH_GPU, gpus=(dataclasses.replace(WITH_GPU.gpus[0], **changes),))


def test_the_stack_is_the_gpus_where_driver_capability_and_torch_allow_it():
    assert engines.choose_stack("auto", WITH_GPU).value == "gpu"
    for facts, word in ((BARE, "no CUDA device"), (with_gpu(driver="570.86.15"), "570.86.15"),
                        (with_gpu(capability=7.0), "7.0"),
                        (dataclasses.replace(WITH_GPU, packages={"torch": "2.13.0+cpu"}), "CUDA"),
                        (dataclasses.replace(BARE, no_gpu="it is hidden"), "it is hidden")):
        found = engines.choose_stack("auto", facts)
        assert found.value == "cpu" and word in found.why
    assert engines.choose_stack("cpu", WITH_GPU) == Choice("cpu", "it was asked for")


def test_the_set_up_and_the_lab_ask_the_same_of_a_gpu():
    assert (bootstrap.GPU_DRIVER, bootstrap.GPU_CAPABILITY) == (
        engines.DRIVER, engines.CAPABILITY)


def values(ladder: engines.Ladder) -> tuple[list[str], list[str]]:
    return [c.value for c in ladder.tried], [c.value for c in ladder.skipped]


def test_the_ladder_goes_from_unsloth_over_vllm_to_plain_trl():
    assert values(engines.choose_engines(SIXTEEN_BIT, WITH_GPU)) == (
        [UNSLOTH, TRL_VLLM, TRL], [])
    assert values(engines.choose_engines(NOTEBOOK, WITH_GPU)) == ([UNSLOTH, TRL], [TRL_VLLM])
    starter = RECIPES["starter"].settings()
    assert values(engines.choose_engines(starter, WITH_GPU)) == ([TRL], [UNSLOTH, TRL_VLLM])
    assert values(engines.choose_engines(starter, BARE)) == ([CPU], [])


def test_every_skipped_engine_has_its_reason():
    without = dataclasses.replace(WITH_GPU, packages={"torch": "2.11.0"})
    found = engines.choose_engines(SIXTEEN_BIT, without)
    assert values(found) == ([TRL], [UNSLOTH, TRL_VLLM])
    assert "unsloth and vllm" in found.skipped[0].why and "vllm" in found.skipped[1].why
    several = SIXTEEN_BIT.with_values({"hardware.num_processes": 2})
    found = engines.choose_engines(several, TWO)
    assert values(found) == ([TRL_VLLM, TRL], [UNSLOTH]) and "one GPU" in found.skipped[0].why
    asked = SIXTEEN_BIT.with_values({"hardware.engine": TRL})
    assert values(engines.choose_engines(asked, WITH_GPU)) == ([TRL], [UNSLOTH, TRL_VLLM])


@pytest.mark.parametrize("changes, facts, field", [
    ({"hardware.engine": UNSLOTH}, BARE, "hardware.engine"),
    ({"hardware.engine": UNSLOTH, "model.fast_inference": False}, WITH_GPU, "hardware.engine"),
    ({"train.temperature": 3.0}, WITH_GPU, "train.temperature"),
    ({"hardware.num_processes": 2, "train.prompts_per_step": 3}, TWO, "train.prompts_per_step"),
    ({"hardware.num_processes": 4, "train.prompts_per_step": 4}, TWO, "hardware.num_processes"),
    ({"hardware.num_machines": 2, "train.prompts_per_step": 2}, WITH_GPU,
     "hardware.main_process_ip"),
    ({"hardware.num_processes": 2, "hardware.sharding": "zero3", "train.prompts_per_step": 2},
     TWO, "hardware.sharding"),
    ({"hardware.compile_loss": "on", "train.prompts_per_step": 8, "train.answers_at_once": 48},
     WITH_GPU, "hardware.compile_loss"),
    ({"hardware.num_processes": 2, "hardware.sharding": "fsdp", "train.prompts_per_step": 2},
     BARE, "hardware.sharding"),
    ({}, with_gpu(processes=(GpuProcess(7, "other", 100.0),)),
     "hardware.gpu_memory_utilization"),
    ({"hardware.vllm_mode": "server"}, WITH_GPU, "hardware.vllm_mode"),
    ({"hardware.vllm_mode": "server", "hardware.engine": TRL_VLLM, "model.load_in_4bit": False,
      "hardware.vllm_server": "nowhere"}, WITH_GPU, "hardware.vllm_server"),
])
def test_what_an_engine_cannot_do_is_said_at_its_field(changes, facts, field):
    assert field in [p.field for p in checks.errors_of(NOTEBOOK.with_values(changes), facts)]
    assert checks.errors_of(NOTEBOOK, WITH_GPU) == []


def test_what_is_said_of_vllm_is_what_is_done():
    asked = SIXTEEN_BIT.with_values({"hardware.cuda_graphs": "off"})
    assert engines.plan_of(Choice(UNSLOTH, ""), asked).cuda_graphs == "off"
    beside = engines.plan_of(Choice(TRL_VLLM, ""), asked)
    assert beside.cuda_graphs == "full" and "TRL starts vLLM itself" in beside.notes[0]
    server = asked.with_values({"hardware.vllm_mode": "server"})
    assert engines.plan_of(Choice(TRL_VLLM, ""), server).share == 0  # nothing of this GPU


def test_cuda_graphs_are_made_where_the_run_is_long_enough_to_pay_for_them():
    def graphs(**changes):
        settings = NOTEBOOK.with_values({k.replace("__", "."): v for k, v in changes.items()})
        return engines.plan_of(Choice(UNSLOTH, ""), settings)

    long, some, short = (graphs(train__max_steps=steps) for steps in (5000, 50, 1))
    assert [p.cuda_graphs for p in (long, some, short)] == ["full", "decode", "off"]
    assert graphs(train__max_steps=1, hardware__cuda_graphs="full").cuda_graphs == "full"
    assert any("CUDA graphs" in note for note in short.notes)


def test_a_compiled_loss_is_cut_into_few_pieces_and_says_what_it_costs():
    asked = NOTEBOOK.with_values({"hardware.compile_loss": "on", "train.answers_at_once": 6})
    assert not engines.plan_of(Choice(UNSLOTH, ""), NOTEBOOK).compile_loss
    plan = engines.plan_of(Choice(UNSLOTH, ""), asked)
    assert plan.compile_loss and any("about 14 s longer" in note for note in plan.notes)
    assert engines.chunks_of_an_answer(asked, True) == 1
    assert engines.chunks_of_an_answer(asked, False) == 4  # Unsloth's own
    long = asked.with_values({"model.max_seq_length": 20_480,
                              "train.max_completion_length": 20_000})
    assert engines.chunks_of_an_answer(long, True) == 4  # 20,256 tokens
    assert checks.errors_of(asked, WITH_GPU) == []


def test_each_engine_gets_its_environment_and_no_other():
    def told(engine, settings=NOTEBOOK, visible=None):
        plan = engines.plan_of(Choice(engine, ""), settings)
        return engines.environment(settings, plan, Path("/caches"), PACKAGES, visible)

    assert told(CPU) == {}
    unsloth = told(UNSLOTH)
    assert unsloth["UNSLOTH_COMPILE_DISABLE"] == "1"
    assert "2026.10.7" in unsloth["UNSLOTH_COMPILE_LOCATION"]
    assert unsloth["CUDA_VISIBLE_DEVICES"] == "0"
    assert told(UNSLOTH, visible="3,1")["CUDA_VISIBLE_DEVICES"] == "3"
    assert "UNSLOTH_COMPILE_LOCATION" not in told(TRL)
    several = SIXTEEN_BIT.with_values({"hardware.num_processes": 2})
    assert "CUDA_VISIBLE_DEVICES" not in told(TRL_VLLM, several)


def test_several_processes_go_through_accelerate():
    plan = engines.plan_of(Choice(TRL, ""), NOTEBOOK)
    alone = engines.launch_command("python", "/run", NOTEBOOK, plan)
    assert alone == ["python", "-m", "lab.worker", "engine", "/run", TRL]
    hosts = NOTEBOOK.with_values({
        "hardware.num_processes": 4, "hardware.num_machines": 2,
        "hardware.main_process_ip": "10.0.0.1", "hardware.sharding": "fsdp"})
    told = " ".join(engines.launch_command("python", "/run", hosts, plan, rank=1))
    on_cpu = engines.launch_command("python", "/run", hosts, dataclasses.replace(
        plan, on_gpu=False), rank=1)
    assert "torch.distributed.run" in on_cpu and "10.0.0.1" in on_cpu  # accelerate starts one
    for part in ("accelerate.commands.launch", "--num_processes 8", "--num_machines 2",
                 "--machine_rank 1", "--main_process_ip 10.0.0.1", "--use_fsdp",
                 "-m lab.worker engine /run trl"):
        assert part in told


@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("hosts", [1, 2])
def test_accelerate_takes_the_command_and_starts_as_many_processes(sharding, hosts):
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    asked = SIXTEEN_BIT.with_values({
        "hardware.num_processes": 2, "hardware.num_machines": hosts, "hardware.sharding": sharding,
        "hardware.main_process_ip": "10.0.0.1" if hosts > 1 else ""})
    plan = engines.plan_of(Choice(TRL, ""), asked)
    _, _, _, *told = engines.launch_command("python", "/run", asked, plan, rank=hosts - 1)
    args = launch_command_parser().parse_args(told)
    if sharding == "zero3":
        args.deepspeed_fields_from_accelerate_config = ""  # set on the way by launch_command
        command, set_up = prepare_deepspeed_cmd_env(args)
        assert command is None  # torch's launcher: not one that starts the other hosts over ssh
        assert set_up["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "3"
    else:
        set_up = prepare_multi_gpu_env(args)
        assert set_up.get("ACCELERATE_USE_FSDP", "false") == str(sharding == "fsdp").lower()
    assert args.nproc_per_node == "2" and args.module
    assert (args.training_script, args.training_script_args[-1]) == ("lab.worker", TRL)


def test_what_has_to_be_started_elsewhere_is_named():
    hosts = SIXTEEN_BIT.with_values({
        "hardware.num_processes": 2, "hardware.num_machines": 2, "train.prompts_per_step": 4,
        "hardware.main_process_ip": "10.0.0.1", "hardware.engine": TRL_VLLM,
        "hardware.vllm_mode": "server", "hardware.vllm_server": "10.0.0.9:8001"})
    plan = engines.plan_of(Choice(TRL_VLLM, ""), hosts)
    (where, other), (served, server) = engines.commands_elsewhere(
        "python", "/run", "owner/name", hosts, plan)
    assert where == "on host 2" and other[other.index("--machine_rank") + 1] == "1"
    assert "10.0.0.9" in served and server[:4] == ["trl", "vllm-serve", "--model", "owner/name"]
    assert "8001" in server
    assert engines.commands_elsewhere("python", "/run", "m", NOTEBOOK, plan) == []


def test_the_answers_of_a_step_are_shared_out_evenly():
    train = Settings().with_values({"train.prompts_per_step": 6, "train.num_generations": 4,
                                    "train.answers_at_once": 5}).train
    for processes in (1, 2, 3):
        batch = train.per_device_train_batch_size(processes)
        assert batch <= 5
        assert batch * train.gradient_accumulation_steps(processes) * processes == 24


def test_to_answer_vllm_takes_what_is_free_and_says_so():
    alone = engines.plan_to_answer(NOTEBOOK, WITH_GPU)
    assert (alone.engine, alone.share, alone.notes) == (TRL_VLLM, 0.6, ())
    shared = engines.plan_to_answer(NOTEBOOK, with_gpu(free_gb=30.0))
    assert shared.share * 150.8 < 30 and "120.8 GB are in use" in shared.notes[0]
    assert engines.plan_to_answer(NOTEBOOK, BARE).engine == CPU
    starter = RECIPES["starter"].settings()
    assert engines.plan_to_answer(starter, WITH_GPU).engine == TRL


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


def test_a_lack_of_memory_says_what_the_step_was_busy_with():
    def compute_loss():
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def _generate_single_turn():
        compute_loss()

    for step, words in ((compute_loss, "while it learnt"),
                        (_generate_single_turn, "while it answered")):
        with pytest.raises(OutOfMemoryError) as caught:
            step()
        told = problems.explain_in_training(caught.value)
        assert told.kind == "out_of_memory" and words in told.what


@pytest.mark.parametrize("words, kind", [
    ("Free memory on device cuda:0 (2.1/139.8 GiB) on startup is less than desired GPU memory "
     "utilization (0.6, 83.9 GiB).", "gpu_busy"),
    ("Error in memory profiling. Initial free memory 111.86 GiB, current free memory 126.09 GiB.",
     "gpu_busy"),
    ("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
     "out_of_memory"),
    ("EngineCore encountered an issue. See stack trace (above) for the root cause.",
     "engine_died"),
    ("The NVIDIA driver on your system is too old (found version 12040).", "driver"),
    ("No CUDA GPUs are available", "no_gpu"),
    ("Unsloth cannot find any torch accelerator? You need a GPU.", "no_gpu"),
])
def test_bad_days_of_a_gpu_are_known_by_their_words(words, kind):
    told = problems.explain(RuntimeError(words))
    assert told.kind == kind and told.what and told.next


def test_an_engine_that_died_is_explained_by_its_log():
    dead = problems.explain(RuntimeError("Engine core initialization failed. See root cause"))
    log = "INFO fine\nValueError: No available memory for the cache blocks. Try increasing\nbye\n"
    assert dead.kind == "engine_died"
    assert problems.explained_by_log(dead, log).kind == "out_of_memory"
    assert problems.explained_by_log(dead, "nothing known") == dead


def test_what_vllm_is_busy_with_becomes_phases_each_once():
    said = []
    log = logging.getLogger("vllm.v1.worker.gpu_worker")
    logging.getLogger("vllm").setLevel(logging.INFO)
    with phases.of_vllm(said.append):
        log.info("Compiling a graph for compile range (1, 8192) takes 10.79 s")
        log.info("Compiling a graph for compile range (1, 16) takes 1.2 s")
        log.info("Something else")
        log.info("init engine (profile, create kv cache, warmup model) took 50.34 s")
    log.info("Available KV cache memory: 27.65 GiB")
    assert said == [events.Phase("Compiling for vLLM"), events.Phase("vLLM is ready")]


# Attempts in real processes. This machine's engine is the CPU's; what is listed before it fails.


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
    assert _from_the_one_that_worked(plans(UNSLOTH, TRL), log) == plans(UNSLOTH, TRL)
    wait_for(lambda: log.refresh().started, "the trainer")
    assert log.started.facts["engine"] == CPU
    assert _from_the_one_that_worked(plans(UNSLOTH, CPU), log) == plans(CPU)


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
    changes = {"hardware.num_processes": 2, "train.prompts_per_step": 4, "hardware.stack": "cpu"}
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
    resumed = lab.jobs.wait(lab.jobs.resume(folder.id, 8).id)
    assert resumed.status == "finished" and resumed.step == 8, folder.log.read_text()


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


def test_two_processes_stop_at_the_same_step(lab, quick):
    folder = start_long(lab, quick, **{"hardware.num_processes": 2, "hardware.stack": "cpu"})
    lab.jobs.stop(folder.id)
    run = lab.jobs.wait(folder.id)
    assert run.status == "stopped" and run.step in folder.checkpoints(), folder.log.read_text()
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
        "train.max_completion_length": 300})
    wait_for(lambda: folder.checkpoints(), "a checkpoint")
    lab.jobs.kill(folder.id)
    lab.jobs.wait(folder.id)
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
