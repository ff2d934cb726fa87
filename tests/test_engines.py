"""Which stack and engine are chosen with which reasons, how they are started, what they say."""

import dataclasses
import logging
from pathlib import Path

import pytest

from lab import bootstrap
from lab.backends import phases
from lab.core import checks, events, problems
from lab.core.catalog import RECIPES
from lab.core.hardware import allocator, engines
from lab.core.hardware.machine import Choice, Gpu, GpuProcess, Machine
from lab.core.settings import CPU, SHARDINGS, TRL, TRL_VLLM, UNSLOTH, Settings

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


@pytest.mark.parametrize(("answers", "sequences"), [
    (2, 2), (3, 4), (6, 8), (8, 8), (12, 16), (128, 128), (250, 248), (256, 248), (2048, 248)])
def test_vllm_is_started_for_so_many_answers_that_whole_graphs_fit_them(answers, sequences):
    asked = RECIPES["gsm8k"].settings().with_values({
        "train.num_generations": 2, "train.prompts_per_step": answers // 2}) \
        if answers % 2 == 0 else RECIPES["gsm8k"].settings().with_values({
            "train.num_generations": answers, "train.prompts_per_step": 1})
    assert engines.plan_of(Choice(UNSLOTH, ""), asked).max_num_seqs == sequences


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
    assert engines.chunks_of_an_answer(asked, False) == 6  # 768 tokens
    roomy = asked.with_values({"lora.gradient_checkpointing": "off"})
    assert engines.chunks_of_an_answer(roomy, False) == 2
    short = asked.with_values({"train.max_completion_length": 80})
    assert engines.chunks_of_an_answer(short, False) == 1
    long = asked.with_values({"model.max_seq_length": 20_480,
                              "train.max_completion_length": 20_000})
    assert engines.chunks_of_an_answer(long, True) == 4  # 20,256 tokens
    assert checks.errors_of(asked, WITH_GPU) == []


def test_so_many_answers_at_once_as_are_advised_can_be_compiled():
    long = NOTEBOOK.with_values({
        "hardware.compile_loss": "on", "model.max_seq_length": 20_480,
        "train.max_completion_length": 20_000, "train.num_generations": 16,
        "train.answers_at_once": 16})
    told, = checks.loss_can_be_compiled(long, WITH_GPU)
    assert "to 8 or less" in told.next  # each is four pieces
    fewer = long.with_values({"train.answers_at_once": 8})
    assert checks.loss_can_be_compiled(fewer, WITH_GPU) == []


@pytest.mark.parametrize("told, largest", [
    ("glibc 2.36", 2**30), ("glibc 2.31", 2**25), ("musl 1.2", None), ("", None)])
def test_the_allocator_is_told_what_its_version_takes(monkeypatch, told, largest):
    monkeypatch.setattr(allocator.os, "confstr", lambda name: told, raising=False)
    found = allocator.keep_freed_memory()
    assert found.get("MALLOC_MMAP_THRESHOLD_") == (largest and str(largest))
    assert bool(found) == bool(largest)


def test_each_engine_gets_its_environment_and_no_other():
    def told(engine, settings=NOTEBOOK, visible=None):
        plan = engines.plan_of(Choice(engine, ""), settings)
        return engines.environment(settings, plan, Path("/caches"), PACKAGES, visible)

    assert told(CPU) == {}
    unsloth = told(UNSLOTH)
    assert unsloth["UNSLOTH_COMPILE_DISABLE"] == unsloth["UNSLOTH_GRPO_LOGPROB_RECOMPUTE"] == "1"
    compiled = told(UNSLOTH, NOTEBOOK.with_values({"hardware.compile_loss": "on"}))
    assert not {"UNSLOTH_COMPILE_DISABLE", "UNSLOTH_GRPO_LOGPROB_RECOMPUTE"} & set(compiled)
    assert "2026.10.7" in unsloth["UNSLOTH_COMPILE_LOCATION"]
    assert unsloth["CUDA_VISIBLE_DEVICES"] == "0"
    assert told(UNSLOTH, visible="3,1")["CUDA_VISIBLE_DEVICES"] == "3"
    assert "UNSLOTH_COMPILE_LOCATION" not in told(TRL)
    answering = engines.plan_to_answer(NOTEBOOK, WITH_GPU)
    asked = engines.environment(NOTEBOOK, answering, Path("/caches"), PACKAGES, None)
    assert asked["VLLM_LORA_ENABLE_DUAL_STREAM"] == "1"
    assert unsloth["VLLM_LORA_ENABLE_DUAL_STREAM"] == "1"
    assert "VLLM_LORA_ENABLE_DUAL_STREAM" not in told(TRL)
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
    assert args.main_process_port == (0 if hosts == 1 else 29500)  # 0: a free one is found
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
    assert "10.0.0.9" in served and server[3:6] == ["vllm-serve", "--model", "owner/name"]
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
     "gpu_unsettled"),
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
