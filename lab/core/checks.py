"""What cannot work, found before the start: settings and the machine's facts -> problems."""

import os
from collections.abc import Sequence
from pathlib import Path

from lab.core.hardware.engines import (
    MOST_COMPILED,
    TITLES,
    choose_engines,
    choose_stack,
    chunks_of_an_answer,
    compiled_chunks,
    plan_of,
)
from lab.core.hardware.machine import Machine
from lab.core.insight import losses
from lab.core.problems import Problem
from lab.core.rewards import gym, permission
from lab.core.rewards.checks import (
    overlong_can_be_reached,
    rewards_have_a_goal,
    rewards_have_their_packages,
)
from lab.core.rewards.known import known_with
from lab.core.rewards.registry import GOAL
from lab.core.settings import (
    ALL,
    MADE,
    REASONING_GYM,
    STARTER,
    TRL,
    TRL_VLLM,
    UNSLOTH,
    Settings,
    listed,
    problem_of,
    setting_named,
)

HOTTEST = 2.0  # temperature that vLLM takes

ADVISED_ROWS = 500  # the classic notebook advises at least so many before judging a run


def problems_of(settings: Settings, machine: Machine) -> list[Problem]:
    """Everything that speaks against starting, errors first. Run on every change of the form."""
    found = [p for check in CHECKS for p in check(settings, machine)]
    return sorted(found, key=lambda p: p.level != "error")


def in_short(found: Sequence[Problem]) -> list[Problem]:
    """The same problems for one look: what lacks a GPU is one problem, not one for each setting."""
    lacking = [p for p in found if p.kind == "no_gpu"]
    if len(lacking) < 2:
        return list(found)
    asking = [p.what.removesuffix(" needs a GPU.") for p in lacking]
    one = Problem("This run needs a GPU.", f"{lacking[0].why} Asked for by: "
                  f"{', '.join(asking)}.", "Take a recipe that runs here, or change these "
                  "settings.", kind="no_gpu")
    return [one, *(p for p in found if p.kind != "no_gpu")]


def errors_of(settings: Settings, machine: Machine) -> list[Problem]:
    return [p for p in problems_of(settings, machine) if p.level == "error"]


def each_setting(settings: Settings, machine: Machine) -> list[Problem]:
    return [Problem(f"'{s.knob.label}' ({s.key}) {wrong}.", field=s.key)
            for s in ALL if (wrong := problem_of(s, settings.get(s.key)))]


def model_is_named(settings: Settings, machine: Machine) -> list[Problem]:
    if settings.model.name.strip():
        return []
    return [Problem("No model is chosen.", next=f"Take '{STARTER}', a Hub id or a folder.",
                    field="model.name")]


def lengths_fit(settings: Settings, machine: Machine) -> list[Problem]:
    train, longest = settings.train, settings.model.max_seq_length
    together = train.max_prompt_length + train.max_completion_length
    if together <= longest:
        return []
    return [Problem(
        "Prompt and answer do not fit in the sequence.",
        f"{train.max_prompt_length} + {train.max_completion_length} = {together} tokens are more "
        f"than the longest sequence, {longest}.",
        "Lower 'Longest answer' or 'Longest prompt', or raise 'Longest sequence'.",
        field="train.max_completion_length")]


def gpu_settings_have_a_gpu(settings: Settings, machine: Machine) -> list[Problem]:
    stack = choose_stack(settings.hardware.stack, machine)
    if stack.value == "gpu":
        return []
    wanted = [
        (settings.hardware.stack == "gpu", "The GPU stack", "hardware.stack", "'auto'"),
        (settings.model.load_in_4bit, "Loading in 4 bit", "model.load_in_4bit", "off"),
        (settings.model.fast_inference, "Fast inference (vLLM)", "model.fast_inference", "off"),
        (settings.lora.gradient_checkpointing == "unsloth", "Unsloth's gradient checkpointing",
         "lora.gradient_checkpointing", "'off' or 'on'"),
        ("8bit" in settings.train.optim, f"The optimiser {settings.train.optim}", "train.optim",
         "'adamw_torch'"),
    ]
    return [Problem(f"{name} needs a GPU.", f"The stack is 'cpu', because {stack.why}.",
                    f"Set '{setting_named(key).knob.label}' to {value}.", field=key, kind="no_gpu")
            for is_on, name, key, value in wanted if is_on]


def engine_is_possible(settings: Settings, machine: Machine) -> list[Problem]:
    """On a GPU: an engine that was asked for by name and cannot be had is an error."""
    ladder = choose_engines(settings, machine)
    wanted = settings.hardware.engine
    if choose_stack(settings.hardware.stack, machine).value == "cpu":
        if wanted == "auto":
            return []
        return [Problem(f"{TITLES[wanted]} needs a GPU.", f"The stack is 'cpu', because "
                        f"{ladder.first.why}.", "Set 'Engine' to auto.", field="hardware.engine",
                        kind="no_gpu")]
    reasons = {choice.value: choice.why for choice in ladder.skipped}
    if wanted in reasons:
        return [Problem(f"{TITLES[wanted]} cannot be used.", f"{reasons[wanted]}.",
                        "Set 'Engine' to auto, or change that.", field="hardware.engine")]
    if settings.lora.gradient_checkpointing == "unsloth" and ladder.first.value != UNSLOTH:
        return [Problem("Unsloth's gradient checkpointing is Unsloth's own.",
                        f"{TITLES[ladder.first.value]} trains this run and uses the plain one.",
                        field="lora.gradient_checkpointing", level="warning")]
    return []


def vllm_can_draw(settings: Settings, machine: Machine) -> list[Problem]:
    if choose_engines(settings, machine).first.value not in (UNSLOTH, TRL_VLLM):
        return []
    if settings.train.temperature <= HOTTEST:
        return []
    return [Problem("The rollout temperature is too high for vLLM.",
                    f"It draws at {HOTTEST:g} at most, not {settings.train.temperature:g}.",
                    f"Set it to {HOTTEST:g} or less, or 'Fast inference (vLLM)' to off.",
                    field="train.temperature")]


def loss_can_be_compiled(settings: Settings, machine: Machine) -> list[Problem]:
    """Compiling takes the longer the more answers learn at once; at some point it seems to hang."""
    chunks = compiled_chunks(settings)
    if (settings.hardware.compile_loss != "on" or chunks <= MOST_COMPILED
            or choose_engines(settings, machine).first.value != UNSLOTH):
        return []
    most = max(1, MOST_COMPILED // chunks_of_an_answer(settings, True))
    return [Problem("The loss is too large to compile.",
                    f"Unsloth unrolls it into {chunks} pieces, one or more for each answer at "
                    "once; with 64 it was not done after two minutes.",
                    f"Set 'Answers at once' to {most} or less, or 'Compile the loss' to auto.",
                    field="hardware.compile_loss")]


def gpu_is_free(settings: Settings, machine: Machine) -> list[Problem]:
    """What vLLM is to take must not be in the hands of other programs."""
    plan = plan_of(choose_engines(settings, machine).first, settings)
    if not plan.share:
        return []
    gpu = machine.gpus[0]
    held = sum(process.memory_gb for process in gpu.processes)
    wanted = plan.share * gpu.memory_gb
    if gpu.memory_gb - held >= wanted:
        return []
    largest = max(gpu.processes, key=lambda process: process.memory_gb)
    return [Problem(
        "The GPU is in use by others.",
        f"vLLM is to take {wanted:.1f} GB, and others hold {held:.1f} of {gpu.memory_gb:.1f} GB: "
        f"{largest.name} (process {largest.pid}) {largest.memory_gb:.1f} GB.",
        f"End it, or set 'GPU share of vLLM' to {(gpu.memory_gb - held) / gpu.memory_gb:.2f} or "
        "less.", field="hardware.gpu_memory_utilization", kind="gpu_busy")]


def processes_can_share(settings: Settings, machine: Machine) -> list[Problem]:
    """Several GPUs or hosts: whole groups for each process, and what a launch needs."""
    hardware, found = settings.hardware, []
    processes = hardware.processes()
    if processes == 1:
        return []
    if settings.train.prompts_per_step % processes:
        found.append(Problem(
            "The questions of a step cannot be shared out.",
            f"{settings.train.prompts_per_step} questions over {processes} processes.",
            f"Set 'Questions per step' to a multiple of {processes}.",
            field="train.prompts_per_step"))
    stack = choose_stack(hardware.stack, machine)
    if stack.value == "gpu" and hardware.num_processes > len(machine.gpus):
        found.append(Problem(
            f"There are not {hardware.num_processes} GPUs here.",
            f"{len(machine.gpus)} are visible.", f"Set 'GPUs' to {len(machine.gpus)}.",
            field="hardware.num_processes"))
    if hardware.num_machines > 1 and not hardware.main_process_ip.strip():
        found.append(Problem("The first host has no address.", "The other hosts must find it.",
                             "Fill in 'Address of the first host'.",
                             field="hardware.main_process_ip"))
    if hardware.sharding != "ddp" and stack.value == "cpu":
        found.append(Problem("A base is cut over GPUs only.",
                             f"The stack is 'cpu', because {stack.why}.",
                             "Set 'Over several GPUs' to ddp.", field="hardware.sharding"))
    if hardware.sharding == "zero3" and "deepspeed" not in machine.packages:
        found.append(Problem("DeepSpeed is not installed.", "ZeRO-3 is its own.",
                             "Run `pip install deepspeed`, or take ddp or fsdp.",
                             field="hardware.sharding"))
    if hardware.sharding != "ddp" and settings.model.load_in_4bit:
        found.append(Problem("A base in 4 bit cannot be cut over several GPUs here.",
                             "It is small: each GPU can hold the whole of it.",
                             "Set 'Over several GPUs' to ddp, or load in 16 bit.",
                             field="hardware.sharding"))
    return found


def server_is_named(settings: Settings, machine: Machine) -> list[Problem]:
    hardware = settings.hardware
    if hardware.vllm_mode != "server" or hardware.engine == TRL:
        return []
    found = []
    host, _, port = hardware.vllm_server.rpartition(":")
    if not host or not port.isdecimal():
        found.append(Problem("The vLLM server cannot be reached under that name.",
                             f"{hardware.vllm_server!r} is not host:port.",
                             "Write it as 127.0.0.1:8000.", field="hardware.vllm_server"))
    if hardware.engine != TRL_VLLM:
        found.append(Problem("Only TRL + vLLM uses a vLLM server.", "Unsloth has vLLM inside.",
                             "Set 'Engine' to trl-vllm, or 'vLLM runs' to colocate.",
                             field="hardware.vllm_mode"))
    return found


def rewards_have_their_columns(settings: Settings, machine: Machine) -> list[Problem]:
    if settings.data.answer_column or settings.data.source in ("gsm8k", *MADE):
        return []
    return [Problem(f"The reward '{c.name}' needs a reference answer.",
                    "No answer column is chosen.", "Choose one under Data, or switch it off.",
                    field="data.answer_column")
            for c in settings.rewards.chosen
            if "answer" in getattr(known_with(c.file).get(c.name), "columns", ())]


def judge_has_its_key(settings: Settings, machine: Machine) -> list[Problem]:
    names = [dict(c.params).get("key_variable", "") for c in settings.rewards.chosen
             if c.name == "judge"]
    return [Problem(f"The judge has no key: {name} is not set.", "The key is only read from the "
                    "environment of the lab.", f"Start the lab with {name}, or leave the key "
                    "away.", field="rewards.chosen")
            for name in names if name and not os.environ.get(name)]


def code_may_run(settings: Settings, machine: Machine) -> list[Problem]:
    """Rewards that run code of others are off, unless who started the lab allowed it."""
    running = [c for c in settings.rewards.chosen
               if getattr(known_with(c.file).get(c.name), "runs_code", False)]
    found = [Problem(f"The reward '{running[0].name}' runs code, and that is off here.",
                     next=permission.HOW, field="rewards.file" if running[0].file
                     else "rewards.chosen")] if running and not permission.code_allowed() else []
    if settings.rewards.file and not settings.rewards.own:
        found.append(Problem("None of the rewards of your file is chosen.",
                             f"{Path(settings.rewards.file).name} is not used.",
                             "Choose some by name, or take the file away.", field="rewards.file",
                             level="warning"))
    return found


def source_has_its_package(settings: Settings, machine: Machine) -> list[Problem]:
    if settings.data.source != REASONING_GYM:
        return []
    if gym.PACKAGE not in machine.packages:
        return [Problem("reasoning-gym is not installed.", "The tasks are its own.", f"Run `pip "
                        f"install {gym.PACKAGE}`, or take other data.", field="data.source")]
    if not listed(settings.data.tasks):
        return [Problem("No task of reasoning-gym is chosen.", next="Name one or several.",
                        field="data.tasks")]
    if any(one.name == gym.NAME for one in settings.rewards.chosen):
        return []
    return [Problem("The tasks' own scorers are not asked.", f"The reward '{gym.NAME}' knows what "
                    "else is right than the answer to the letter.", "Add it under Rewards.",
                    field="rewards.chosen", level="warning")]


def source_is_complete(settings: Settings, machine: Machine) -> list[Problem]:
    data = settings.data
    if data.source in ("hub", "file") and not data.path.strip():
        what = "Hub dataset" if data.source == "hub" else "file"
        return [Problem(f"No {what} is chosen.",
                        next=f"Give the {'owner/name' if data.source == 'hub' else 'path'} "
                        "under Data.", field="data.path")]
    if 0 < data.rows < settings.train.prompts_per_step:
        return [Problem("There are fewer rows than questions per step.",
                        f"{data.rows} rows, {settings.train.prompts_per_step} questions a step.",
                        "Raise 'Rows' or lower 'Questions per step'.", field="data.rows")]
    if 0 < data.rows < ADVISED_ROWS:
        return [Problem(f"Only {data.rows} rows.", f"At least {ADVISED_ROWS} are advised, or the "
                        "model may learn them by heart.", field="data.rows", level="warning")]
    return []


def kl_target_has_a_beta(settings: Settings, machine: Machine) -> list[Problem]:
    if not settings.train.kl_target or settings.train.beta:
        return []
    return [Problem("'KL target' needs a KL weight to begin with.",
                    "At beta 0 no distance from the base model is computed.",
                    "Set 'KL weight (beta)' to 0.04, say, or 'KL target' to 0.",
                    field="train.kl_target")]


def cap_lets_the_push_through(settings: Settings, machine: Machine) -> list[Problem]:
    """What is a clip above 1 to the other losses is the largest ratio to this one."""
    train = settings.train
    if losses.highest_ratio(train.loss_type, train.epsilon_high) == train.epsilon_high:
        return []
    value = losses.CISPO_HIGH
    return [Problem(
        f"The loss '{train.loss_type}' would cut every push.",
        f"It takes 'Clip above' as the largest ratio itself, and {train.epsilon_high:g} is below "
        "the 1 of a policy that has not moved: the ratio would weigh nothing any more.",
        f"Set it to {value:g}.", field="train.epsilon_high",
        cures=((f"Set 'Clip above' to {value:g}", (("train.epsilon_high", value),)),))]


def evaluation_has_what_it_needs(settings: Settings, machine: Machine) -> list[Problem]:
    """Held-out questions, and an end of the run that is to come from them."""
    train, cure = settings.train, ""
    if not train.evaluates:
        cure = "Set 'Evaluate every' or 'Evaluation's share of the time' above 0."
    elif not settings.data.held_out:
        cure = "Raise 'Held-out rows' above 0."
    elif not settings.hardware.whole():
        cure = "Set 'Over several GPUs' to ddp: a base that is cut in parts cannot be asked."
    found = []
    for field, is_on in (("train.stop_at", train.stop_at), ("train.patience", train.patience)):
        label = setting_named(field).knob.label
        if is_on and cure:
            found.append(Problem(f"'{label}' needs held-out questions that are asked while it "
                                 "trains.", "None are.", cure, field=field))
    if train.stop_at and not any(c.name in known_with(c.file) and c.takes_as == GOAL
                                 for c in settings.rewards.chosen):
        found.append(Problem("'Stop at' needs a goal.", "Every chosen reward is a shape.",
                             "Choose a reward that says what is right, or take one as a goal.",
                             field="train.stop_at"))
    if train.eval_steps and cure:
        found.append(Problem("Held-out questions will not be asked while it trains.", next=cure,
                             field="train.eval_steps", level="warning"))
    return found


def reporter_is_installed(settings: Settings, machine: Machine) -> list[Problem]:
    name = settings.train.report_to
    if name == "none" or name in machine.packages:
        return []
    return [Problem(f"{name} is not installed.", "Metrics cannot be reported to it.",
                    f"Run `pip install {name}`, or set 'Report to' to none.",
                    field="train.report_to")]


CHECKS = (each_setting, model_is_named, lengths_fit, gpu_settings_have_a_gpu,
          engine_is_possible, vllm_can_draw, loss_can_be_compiled, gpu_is_free,
          processes_can_share, server_is_named, rewards_have_their_columns, code_may_run,
          judge_has_its_key, rewards_have_their_packages, overlong_can_be_reached,
          rewards_have_a_goal,
          source_has_its_package, source_is_complete, kl_target_has_a_beta,
          cap_lets_the_push_through, evaluation_has_what_it_needs, reporter_is_installed)
