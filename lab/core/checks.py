"""What cannot work, found before the start: settings and the machine's facts -> problems."""

from lab.core.engines import (
    MOST_COMPILED,
    TITLES,
    choose_engines,
    choose_stack,
    chunks_of_an_answer,
    compiled_chunks,
    plan_of,
)
from lab.core.machine import Machine
from lab.core.problems import Problem
from lab.core.rewards.registry import REWARDS
from lab.core.settings import (
    ALL,
    STARTER,
    TRL,
    TRL_VLLM,
    UNSLOTH,
    Settings,
    problem_of,
    setting_named,
)

HOTTEST = 2.0  # temperature that vLLM takes

ADVISED_ROWS = 500  # the classic notebook advises at least so many before judging a run


def problems_of(settings: Settings, machine: Machine) -> list[Problem]:
    """Everything that speaks against starting, errors first. Run on every change of the form."""
    found = [p for check in CHECKS for p in check(settings, machine)]
    return sorted(found, key=lambda p: p.level != "error")


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
                    f"Set '{setting_named(key).knob.label}' to {value}.", field=key)
            for is_on, name, key, value in wanted if is_on]


def engine_is_possible(settings: Settings, machine: Machine) -> list[Problem]:
    """On a GPU: an engine that was asked for by name and cannot be had is an error."""
    ladder = choose_engines(settings, machine)
    wanted = settings.hardware.engine
    if choose_stack(settings.hardware.stack, machine).value == "cpu":
        if wanted == "auto":
            return []
        return [Problem(f"{TITLES[wanted]} needs a GPU.", f"The stack is 'cpu', because "
                        f"{ladder.first.why}.", "Set 'Engine' to auto.", field="hardware.engine")]
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
    if settings.data.answer_column or settings.data.source in ("word-problems", "gsm8k"):
        return []
    return [Problem(f"The reward '{c.name}' needs a reference answer.",
                    "No answer column is chosen.", "Choose one under Data, or switch it off.",
                    field="data.answer_column")
            for c in settings.rewards.chosen
            if c.name in REWARDS and "answer" in REWARDS[c.name].needs]


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


def reporter_is_installed(settings: Settings, machine: Machine) -> list[Problem]:
    name = settings.train.report_to
    if name == "none" or name in machine.packages:
        return []
    return [Problem(f"{name} is not installed.", "Metrics cannot be reported to it.",
                    f"Run `pip install {name}`, or set 'Report to' to none.",
                    field="train.report_to")]


CHECKS = (each_setting, model_is_named, lengths_fit, gpu_settings_have_a_gpu,
          engine_is_possible, vllm_can_draw, loss_can_be_compiled, gpu_is_free,
          processes_can_share, server_is_named, rewards_have_their_columns, source_is_complete,
          reporter_is_installed)
