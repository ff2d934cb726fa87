"""Which stack and engine train a run on this machine and how it is started, with reasons."""

from dataclasses import dataclass
from math import ceil
from pathlib import Path

from lab.core.hardware.machine import Choice, Machine
from lab.core.settings import CPU, TRL, TRL_VLLM, UNSLOTH, Settings

DRIVER = 580  # the first that runs CUDA 13, which torch and vllm of the gpu stack are built with
CAPABILITY = 7.5  # CUDA 13 knows no older GPU
TITLES = {UNSLOTH: "Unsloth + vLLM", TRL_VLLM: "TRL + vLLM", TRL: "TRL on the GPU",
          CPU: "TRL on the CPU"}


# CUDA graphs, as measured on an H200 (docs/gpu.md). Of decoding alone they are captured in about
# 5 s and save about 3 ms for each token of the longest answer; with torch.compile they cost 27 s
# more on a cold start. What compiling saves beyond that was not measured: from so many tokens on
# it is a hundredth of the run at most.
GRAPHS_COST, GRAPHS_GAIN = 5.0, 0.003
COMPILE_FROM = 100_000
# Tokens of an answer whose logits Unsloth holds at a time. Each piece costs launches of kernels,
# forwards and backwards: where activations are kept memory is not what is short.
PIECE, PIECE_WITH_ROOM = 128, 384
# Unsloth's compiled loss is unrolled, one piece of the graph for each chunk of a batch's logits:
# 8 took 19 s to compile, 32 took 72 s, and 64 were not done after two minutes (docs/gpu.md).
COMPILE_A_CHUNK, MOST_COMPILED = 2.3, 32
FREE_TO_TAKE = 0.9  # of the free memory of a GPU that is shared
MOST_SEQUENCES = 248  # at once in vLLM, see `with_a_graph`; Unsloth takes 256 for "choose yourself"


@dataclass(frozen=True)
class Plan:
    """How one engine is started: what settings.json keeps, and the worker is told."""

    engine: str
    why: str
    share: float = 0.0  # of the GPU's memory that vLLM takes; 0 without vLLM
    cuda_graphs: str = "off"  # "decode": of decoding alone, quick to make; "full": vLLM's own way
    compile_loss: bool = False
    max_num_seqs: int = 0  # answers that vLLM draws at once
    notes: tuple[str, ...] = ()  # reasons for the choices above, as sentences
    checkpointing: str = ""  # of gradients, where the settings leave it to the lab
    on_gpu: bool = True  # the engines but one are meant for a GPU; tests run them on a CPU too

    @classmethod
    def from_dict(cls, told: dict) -> "Plan":
        return cls(**{"on_gpu": told["engine"] != CPU, **told,
                      "notes": tuple(told.get("notes", ()))})

    def applied_to(self, settings: Settings) -> Settings:
        """The settings with what was decided for them."""
        decided = {"lora.gradient_checkpointing": self.checkpointing} if self.checkpointing else {}
        return settings.with_values(decided)


@dataclass(frozen=True)
class Ladder:
    """The engines to try in order, and those that cannot be tried, each with its reason."""

    tried: tuple[Choice, ...]
    skipped: tuple[Choice, ...] = ()

    @property
    def first(self) -> Choice:
        return self.tried[0]


def choose_stack(wanted: str, machine: Machine) -> Choice:
    """The stack a run will use: `cpu` or `gpu`."""
    if wanted == "cpu":
        return Choice("cpu", "it was asked for")
    if not machine.gpus:
        return Choice("cpu", machine.no_gpu or "no CUDA device was found")
    gpu = machine.gpus[0]
    if wrong := trouble_with_driver(gpu.driver):
        return Choice("cpu", wrong)
    if gpu.capability and gpu.capability < CAPABILITY:
        return Choice("cpu", f"the {gpu.name} has compute capability {gpu.capability} and the gpu "
                      f"stack needs {CAPABILITY}")
    if machine.packages.get("torch", "").endswith("+cpu"):
        return Choice("cpu", f"the {gpu.name} was found, but the torch that is installed has no "
                      "CUDA; `STACK=gpu make setup` installs the gpu stack")
    return Choice("gpu", f"the {gpu.name} with {gpu.memory_gb:.0f} GB was found")


def trouble_with_driver(driver: str) -> str:
    """Half a sentence if this NVIDIA driver is too old, else empty."""
    major = driver.split(".")[0]
    if not major.isdecimal() or int(major) >= DRIVER:
        return ""
    return f"the NVIDIA driver is {driver} and the gpu stack needs {DRIVER} or newer"


def choose_engines(settings: Settings, machine: Machine) -> Ladder:
    """Every engine that can train these settings here, best first.

    Unsloth + vLLM, then TRL + vLLM, then TRL with transformers; the last has no conditions.
    """
    stack = choose_stack(settings.hardware.stack, machine)
    if stack.value == "cpu":
        return Ladder((Choice(CPU, stack.why),))
    tried, skipped = [], []
    for engine, reasons in ((UNSLOTH, _against_unsloth), (TRL_VLLM, _against_trl_vllm)):
        why = _not_wanted(engine, settings) or reasons(settings, machine)
        if why:
            skipped.append(Choice(engine, why))
        else:
            tried.append(Choice(engine, stack.why))
    wanted = settings.hardware.engine
    if wanted in ("auto", TRL) or not tried:
        why = stack.why if tried or not skipped else skipped[-1].why
        tried.append(Choice(TRL, "it was asked for" if wanted == TRL else why))
    return Ladder(tuple(tried), tuple(skipped))


def _not_wanted(engine: str, settings: Settings) -> str:
    wanted = settings.hardware.engine
    if wanted not in ("auto", engine):
        return f"{TITLES[wanted]} was asked for"
    if not settings.model.fast_inference:
        return "'Fast inference (vLLM)' is off"
    return ""


def _against_unsloth(settings: Settings, machine: Machine) -> str:
    if missing := [name for name in ("unsloth", "vllm") if name not in machine.packages]:
        return f"{' and '.join(missing)} not installed"
    if settings.hardware.processes() > 1:
        return "Unsloth trains on one GPU"
    return ""


def _against_trl_vllm(settings: Settings, machine: Machine) -> str:
    if "vllm" not in machine.packages:
        return "vllm is not installed"
    if settings.model.load_in_4bit:
        return "TRL cannot hand weights in 4 bit to vLLM"
    return ""


def plan_of(choice: Choice, settings: Settings) -> Plan:
    """How this engine will be started for these settings."""
    if choice.value in (CPU, TRL):
        return Plan(choice.value, choice.why, on_gpu=choice.value != CPU)
    share = settings.hardware.gpu_memory_utilization
    sequences = with_a_graph(min(MOST_SEQUENCES, settings.train.answers_per_step()))
    if choice.value == TRL_VLLM:
        if settings.hardware.vllm_mode == "server":
            return Plan(choice.value, choice.why)
        note = "CUDA graphs: full, because TRL starts vLLM itself and leaves no choice."
        return Plan(choice.value, choice.why, share, "full", False, sequences, (note,))
    graphs, loss = _cuda_graphs(settings), _compiled_loss(settings)
    notes = (f"CUDA graphs: {graphs.value}, because {graphs.why}.",
             f"The loss is {'' if loss.value == 'on' else 'not '}compiled, because {loss.why}.")
    return Plan(choice.value, choice.why, share, graphs.value, loss.value == "on", sequences,
                notes)


def with_a_graph(sequences: int) -> int:
    """So many sequences, or a few more: vLLM captures whole graphs for 1, 2, 4, 8, 16, 24, ...
    sequences, and none for more than it is started for. Started for 6, it would draw 5 and 6 at a
    time with the attention of each layer outside of its graphs."""
    return next((size for size in (1, 2, 4) if size >= sequences), 8 * ceil(sequences / 8))


def _cuda_graphs(settings: Settings) -> Choice:
    wanted = settings.hardware.cuda_graphs
    if wanted != "auto":
        return Choice(wanted, "it was asked for")
    tokens = settings.train.max_steps * settings.train.max_completion_length
    if tokens >= COMPILE_FROM:
        return Choice("full", f"with up to {tokens:,} tokens in a row a slow start does not matter")
    if tokens * GRAPHS_GAIN > GRAPHS_COST:
        return Choice("decode", f"with up to {tokens:,} tokens in a row they save more than the "
                      f"{GRAPHS_COST:.0f} s they cost at the start")
    return Choice("off", f"up to {tokens:,} tokens in a row do not make up for the "
                  f"{GRAPHS_COST:.0f} s they cost at the start")


def chunks_of_an_answer(settings: Settings, compiled: bool) -> int:
    """In how many pieces Unsloth takes an answer's logits; compiling unrolls them."""
    train, kept = settings.train, settings.lora.gradient_checkpointing == "off"
    if compiled:
        return max(1, (train.max_prompt_length + train.max_completion_length) // 4096)
    return ceil(train.max_completion_length / (PIECE_WITH_ROOM if kept else PIECE))


def compiled_chunks(settings: Settings) -> int:
    """Pieces of the graph that compiling the loss unrolls."""
    return settings.train.per_device_train_batch_size() * chunks_of_an_answer(settings, True)


def _compiled_loss(settings: Settings) -> Choice:
    wanted = settings.hardware.compile_loss
    if wanted == "on":
        return Choice(wanted, "it was asked for; the first step takes about "
                      f"{compiled_chunks(settings) * COMPILE_A_CHUNK:.0f} s longer")
    if wanted == "off":
        return Choice(wanted, "it was asked for")
    return Choice("off", "compiling takes from 20 s to minutes, and later steps were no quicker")


def plan_to_answer(settings: Settings, machine: Machine) -> Plan:
    """What answers in Compare, and in evaluations: vLLM where it can, with its share of the GPU.

    Where something else uses the GPU, the share is cut to what is free, and a note says so.
    """
    stack = choose_stack(settings.hardware.stack, machine)
    if stack.value == "cpu":
        return Plan(CPU, stack.why, on_gpu=False)
    if "vllm" not in machine.packages:
        return Plan(TRL, "vllm is not installed")
    if settings.hardware.engine == TRL:
        return Plan(TRL, "it was asked for")
    if not settings.model.fast_inference:  # a small model answers before vLLM has started
        return Plan(TRL, "'Fast inference (vLLM)' is off")
    gpu, wanted = machine.gpus[0], settings.hardware.gpu_memory_utilization
    share = min(wanted, round(FREE_TO_TAKE * gpu.free_gb / gpu.memory_gb, 3))
    notes = []
    if share < wanted:
        notes.append(f"The GPU is shared: vLLM takes {share * gpu.memory_gb:.1f} of its "
                     f"{gpu.memory_gb:.0f} GB, and {gpu.memory_gb - gpu.free_gb:.1f} GB are in use "
                     "by others.")
    graphs = settings.hardware.cuda_graphs
    return Plan(TRL_VLLM, stack.why, share, "off" if graphs == "off" else "decode",
                notes=tuple(notes))


def environment(settings: Settings, plan: Plan, caches: Path, versions: dict[str, str],
                visible: str | None) -> dict[str, str]:
    """The environment variables that this engine's process starts with.

    `caches` is a folder of the lab's root: what was compiled once is found again. `visible` is
    CUDA_VISIBLE_DEVICES as it is, or None.
    """
    if plan.engine == CPU:
        return {}
    told = {
        "VLLM_CACHE_ROOT": str(caches / "vllm"), "VLLM_NO_USAGE_STATS": "1",
        # TRL silences vLLM, whose lines say what a start is busy with, and why it failed.
        "VLLM_LOGGING_LEVEL": "INFO",
        # FlashInfer compiles its sampler with nvcc and ninja, which few machines have.
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "TRITON_CACHE_DIR": str(caches / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        # By PCI bus, as nvidia-smi numbers them.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    if plan.engine in (TRL_VLLM, UNSLOTH) and plan.on_gpu:
        # An adapter's small products run beside the large ones of the base, not after them: a tenth
        # quicker with six answers at once, and no slower with many (docs/gpu.md).
        told["VLLM_LORA_ENABLE_DUAL_STREAM"] = "1"
    if settings.hardware.processes() == 1:
        # TRL refuses to train in one process that sees several GPUs.
        told["CUDA_VISIBLE_DEVICES"] = (visible or "0").split(",")[0]
    if plan.engine == UNSLOTH:
        stamp = "-".join(f"{name}-{versions.get(name, 'none')}" for name in ("unsloth", "trl"))
        told |= {"UNSLOTH_DISABLE_STATISTICS": "1",
                 # Made for one pair of versions; an old one breaks a new Unsloth.
                 "UNSLOTH_COMPILE_LOCATION": str(caches / stamp)}
        if not plan.compile_loss:
            told |= {"UNSLOTH_COMPILE_DISABLE": "1",
                     # The backward pass makes the logits again, piece by piece, and keeps none.
                     "UNSLOTH_GRPO_LOGPROB_RECOMPUTE": "1"}
    return told


def launch_command(python: str, folder: str, settings: Settings, plan: Plan,
                   rank: int = 0) -> list[str]:
    """The command that runs this engine for a run's folder, on the host of this rank.

    One process runs the worker itself; several go through `accelerate launch`, which starts only
    one on a CPU, whatever it is told: there torch's own launcher does it.
    """
    hardware = settings.hardware
    worker = ["-m", "lab.worker", "engine", folder, plan.engine]
    if hardware.processes() == 1:
        return [python, *worker]
    port = str(hardware.main_process_port)
    if not plan.on_gpu:
        where = ["--standalone"] if hardware.num_machines == 1 else [
            "--nnodes", str(hardware.num_machines), "--node_rank", str(rank),
            "--master_addr", hardware.main_process_ip, "--master_port", port]
        return [python, "-m", "torch.distributed.run",
                "--nproc_per_node", str(hardware.num_processes), *where, *worker]
    # Of one host accelerate finds a free port itself: another job may have the usual one.
    where = ["--num_machines", str(hardware.num_machines), "--machine_rank", str(rank),
             "--main_process_port", port if hardware.num_machines > 1 else "0"]
    if hardware.num_machines > 1:
        where += ["--main_process_ip", hardware.main_process_ip]
    return [python, "-m", "accelerate.commands.launch",
            "--num_processes", str(hardware.processes()), *where, "--dynamo_backend", "no",
            "--mixed_precision", "bf16", *SHARDING[hardware.sharding], *worker]


def commands_elsewhere(python: str, folder: str, model: str, settings: Settings,
                       plan: Plan) -> list[tuple[str, list[str]]]:
    """[(where, command)] of what has to be started besides the lab's own command."""
    hardware = settings.hardware
    found = [(f"on host {rank + 1}", launch_command(python, folder, settings, plan, rank))
             for rank in range(1, hardware.num_machines)]
    if hardware.vllm_mode == "server" and plan.engine == TRL_VLLM:
        host, _, port = hardware.vllm_server.rpartition(":")
        found.append((f"on {host}, on GPUs of its own, before the start",
                      [python, "-m", "trl.cli.main", "vllm-serve", "--model", model, "--port",
                       port, "--max_model_len", str(settings.model.max_seq_length)]))
    return found


SHARDING = {
    "ddp": ("--multi_gpu",),
    "fsdp": ("--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy",
             "TRANSFORMER_BASED_WRAP", "--fsdp_reshard_after_forward", "true",
             "--fsdp_state_dict_type", "FULL_STATE_DICT"),
    # Over several hosts its own launcher would start all of them from one, over ssh.
    "zero3": ("--use_deepspeed", "--deepspeed_multinode_launcher", "standard", "--zero_stage", "3",
              "--zero3_init_flag", "true", "--zero3_save_16bit_model", "true"),
}
