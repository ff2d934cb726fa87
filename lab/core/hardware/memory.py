"""How much memory a run will need, part by part.

Everything is computed from the model's shape and the settings; nothing is loaded. GB are 1e9 bytes.
A run has two phases, drawing answers and learning from them. What both hold is added up; of what
only one holds, the larger counts, since the other phase uses the same memory again.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lab.core.hardware.engines import MOST_SEQUENCES, Plan, chunks_of_an_answer, plan_of
from lab.core.hardware.machine import Choice
from lab.core.hardware.shapes import Shape
from lab.core.settings import CPU, TRL, TRL_VLLM, UNSLOTH, Settings

GB = 1e9
SNUG = 0.90  # of the memory: an estimate above it is a warning
ROOMY = 0.85  # of the memory: so much a run may take that keeps its activations without being asked
CHECKPOINTING = "lora.gradient_checkpointing"

# Every number below that was not counted from a model's shape. Calibrate here and nowhere else.

CONTEXT_GB = 0.5  # CUDA context and loaded kernels of one process
# With vLLM in the process an H100 held 0.8 to 0.9 GB outside torch's pools before the first step,
# and 1.4 after it.
KERNELS_GB = 0.9
LIBRARIES_GB = 0.5  # torch, transformers, trl, peft in a worker on the CPU: resident, measured
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # with an 8-bit scale for 64, a 32-bit one for 16,384
LORA_BYTES = 4 + 4  # weight and gradient of the adapter, in 32 bit in every engine
OPTIMISER_BYTES = {"adamw_8bit": 2, "paged_adamw_8bit": 2}  # two moments of a weight
OPTIMISER_BYTES_32 = 8  # the same for all other optimisers
VLLM_FIXED_GB = 0.08  # what vLLM counts of its share as outside torch's pools
GRAPHS = 172  # CUDA graphs that vLLM keeps with LoRA, each about a layer's input: Unsloth's rule
GRAPHS_GB = (0.16, 1.07)  # its bounds for all of them together
# Sampling sorts the logits of all answers: scores, sorted scores, their places, sums.
SAMPLING_BYTES = 32  # for each answer and word of the vocabulary
TRL_BATCHED_TOKENS = 4096  # tokens of prompts that vLLM takes in at once under TRL
# The same under Unsloth, by the GiB that are left to the KV cache.
UNSLOTH_BATCHED_TOKENS = ((4, 2048), (12, 4096), (24, 6144), (math.inf, 8192))
VLLM_LORA_BYTES = 2  # of vLLM's own place for the adapter
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # it rounds the rank up to one of them
KV_SPARE = 1.05  # blocks that are not full, and the requests that are being swapped
# Log-probabilities, in bytes for each token of an answer and word of the vocabulary.
# Unsloth makes the logits of one piece at a time, and again in the backward pass: logits and their
# gradient in 16 bit, and in 32 bit logits, logarithms, probabilities, gradients, the chosen word.
LOGITS_UNSLOTH = 23
# Compiled, it keeps those of all pieces in 16 bit; one piece's gradients and copies come on top.
LOGITS_UNSLOTH_COMPILED, LOGITS_UNSLOTH_CHUNK = 2, 12
# torch's blocks of one layer do not fit the next thing, nor those of one batch the next: the peaks
# of one run of 1.5B and two of 8B, with a 4-bit base under Unsloth, lay so many times as far above
# what stays, and so do those of packed passes whose activations are made again (where they are kept
# it is on the safe side).
SPARE = 1.9
# The whole batch at once: logits in 16 bit and once more over the temperature, their logarithms
# in 32 bit, and the gradients of all three.
LOGITS_TRL = 14
LOGITS_CPU = 16  # without the fused kernel: and the parts of the gradient before they are added
# Logits that the packed pass makes at a time; it has chances beside them, and one more while they
# are made, each in 32 bit.
PIECE, PIECE_ON_GPU = 2**23, 2**27
PIECE_BYTES = 3 * 4
COPY_SHARE = 0.2  # of the memory that is left: up to so much a merged copy of the base may take


@dataclass(frozen=True)
class Part:
    name: str
    gb: float


@dataclass(frozen=True)
class Estimate:
    """What a run will hold at its peak, on each GPU or (engine `cpu`) in the machine's memory."""

    parts: tuple[Part, ...]
    memory_gb: float  # what there is
    on_gpu: bool
    vllm_gb: float = 0.0  # vLLM's share
    vllm_needs_gb: float = 0.0  # the least with which it can draw one answer

    @property
    def total_gb(self) -> float:
        return sum(part.gb for part in self.parts)

    @property
    def fits(self) -> bool:
        return self.total_gb <= self.memory_gb and self.vllm_needs_gb <= self.vllm_gb

    @property
    def fits_well(self) -> bool:
        """It fits with the room that an estimate should leave."""
        return self.fits and self.total_gb <= SNUG * self.memory_gb


def weights_gb(shape: Shape, in_4bit: bool, bytes_each: int = 2) -> float:
    """The base model alone. 4 bit quantises the linear layers; the rest stays as it is."""
    linear = shape.linear_parameters()
    each = NF4_BYTES if in_4bit else bytes_each
    return (linear * each + (shape.parameters() - linear) * bytes_each) / GB


def decided(shape: Shape | None, settings: Settings, engine: str,
            gpu_memory_gb: float) -> Settings:
    """These settings with `auto` of gradient checkpointing decided: off where there is room for
    the activations, for making them again takes a third pass. Where the model's shape is not known
    it is on."""
    if settings.get(CHECKPOINTING) != "auto":
        return settings
    off = settings.with_values({CHECKPOINTING: "off"})
    if shape and estimate(shape, off, engine, gpu_memory_gb).total_gb <= ROOMY * gpu_memory_gb:
        return off
    return settings.with_values({CHECKPOINTING: "unsloth" if engine == UNSLOTH else "on"})


def as_decided(settings: Settings) -> str:
    """What `decided` has made of `auto`, as a sentence."""
    how = settings.get(CHECKPOINTING)
    sure = "" if how == "off" else "not surely "
    return (f"Gradient checkpointing: {how}, because there is {sure}memory to keep the "
            "activations.")


def estimate(shape: Shape, settings: Settings, engine: str, gpu_memory_gb: float) -> Estimate:
    """The peak of a run. `gpu_memory_gb` is one GPU's memory, for engine `cpu` the machine's."""
    settings = decided(shape, settings, engine, gpu_memory_gb)
    if engine == CPU:
        return _on_cpu(shape, settings, gpu_memory_gb)
    if engine == UNSLOTH or (engine == TRL_VLLM and settings.hardware.vllm_mode == "colocate"):
        return _with_vllm(shape, settings, engine, gpu_memory_gb)
    return _on_gpu(shape, settings, engine, gpu_memory_gb)


def _on_cpu(shape: Shape, settings: Settings, memory_gb: float) -> Estimate:
    weights = weights_gb(shape, False, 4)
    copy = weights if weights < COPY_SHARE * memory_gb else 0.0
    same = [Part("Python and its libraries", LIBRARIES_GB), Part("Base model, 32 bit", weights),
            Part("Merged copy that draws the answers", copy), *_adapter(shape, settings)]
    phase = _larger(_drawing(shape, settings, 4), _learning(shape, settings, CPU, False))
    # All processes of a host share its memory.
    own = settings.hardware.num_processes
    return Estimate(tuple(Part(p.name, p.gb * own) for p in (*same, *phase) if p.gb), memory_gb,
                    False)


def _on_gpu(shape: Shape, settings: Settings, engine: str, memory_gb: float) -> Estimate:
    weights = _base(shape, settings)
    left = memory_gb - CONTEXT_GB - weights.gb
    copy = weights.gb if (engine == TRL and not settings.model.load_in_4bit
                          and settings.hardware.sharding == "ddp"
                          and weights.gb < COPY_SHARE * left) else 0.0
    same = [Part("CUDA and its libraries", CONTEXT_GB), weights,
            Part("Merged copy that draws the answers", copy), *_adapter(shape, settings)]
    learning = _learning(shape, settings, engine, False)
    phase = _larger(_drawing(shape, settings, 2), learning) if engine == TRL else learning
    return Estimate(tuple(p for p in (*same, *phase) if p.gb), memory_gb, True)


def _with_vllm(shape: Shape, settings: Settings, engine: str, memory_gb: float) -> Estimate:
    """vLLM takes its share once and for all: weights, workspace, and the KV cache gets the rest.

    Learning uses the workspace again. Under Unsloth it uses the weights too.
    """
    plan = plan_of(Choice(engine, ""), settings)
    taken = plan.share * memory_gb
    held = _vllm_held(shape, settings, engine, plan)
    room = taken - sum(p.gb for p in held)
    workspace = _workspace_gb(shape, settings, engine, plan, room)
    learning = _learning(shape, settings, engine, plan.compile_loss)
    reused = min(workspace, sum(p.gb for p in learning))
    parts = [Part("CUDA and its libraries", CONTEXT_GB + KERNELS_GB), *held,
             Part("CUDA graphs of vLLM", _graphs_gb(shape, plan)),
             Part("KV cache of vLLM", max(0.0, room - workspace)),
             Part("Workspace of vLLM, beyond what learning uses again", workspace - reused),
             *([_base(shape, settings)] if engine == TRL_VLLM else []),
             *_adapter(shape, settings), *learning]
    one = _kv_gb(shape, settings, 1)
    least = _workspace_gb(shape, settings, engine, plan, one)
    return Estimate(tuple(p for p in parts if p.gb), memory_gb, True, taken,
                    sum(p.gb for p in held) + least + one)


def smallest_share(shape: Shape, settings: Settings, engine: str, gpu_memory_gb: float,
                   together: int | None = None) -> float:
    """The least `gpu_memory_utilization` with which the answers of a step are drawn together.

    Weights, workspace and the KV cache of all of them fit in it, or of `together` of them: then
    the others wait. It may be above 1: then they do not fit on this GPU.
    """
    plan = plan_of(Choice(engine, ""), settings)
    fixed = sum(p.gb for p in _vllm_held(shape, settings, engine, plan))
    cache = _kv_gb(shape, settings, together or _sequences(settings))
    needed = cache
    for _ in UNSLOTH_BATCHED_TOKENS:  # more room makes Unsloth take a larger workspace
        needed = cache + _workspace_gb(shape, settings, engine, plan, needed)
    return max(0.001, math.ceil((fixed + needed) / gpu_memory_gb * 1000) / 1000)


# The parts


def _base(shape: Shape, settings: Settings) -> Part:
    """The base as the training process holds it."""
    in_4bit = settings.model.load_in_4bit
    size = weights_gb(shape, in_4bit)
    if settings.hardware.sharding != "ddp":  # cut in parts; one layer at a time is put together
        size = size / settings.hardware.processes() + size / shape.layers
    return Part(f"Base model, {4 if in_4bit else 16} bit", size)


def _adapter(shape: Shape, settings: Settings) -> Iterator[Part]:
    count = shape.lora_parameters(settings.lora.rank, settings.lora.target_modules)
    each = OPTIMISER_BYTES.get(settings.train.optim, OPTIMISER_BYTES_32)
    yield Part("LoRA adapter and its gradient", count * LORA_BYTES / GB)
    yield Part("Optimiser", count * each / GB)


def _vllm_held(shape: Shape, settings: Settings, engine: str, plan: Plan) -> list[Part]:
    """What vLLM holds besides workspace and KV cache."""
    fixed = VLLM_FIXED_GB
    if engine == TRL_VLLM:  # the adapter reaches it merged, in weights of its own
        return [Part("Base model again, of vLLM", weights_gb(shape, False)),
                Part("vLLM itself", fixed)]
    rank = next(r for r in VLLM_RANKS if r >= settings.lora.rank)
    lora = shape.lora_parameters(rank, tuple(shape.projections())) * VLLM_LORA_BYTES / GB
    return [_base(shape, settings), Part("vLLM itself", fixed + lora)]


def _graphs_gb(shape: Shape, plan: Plan) -> float:
    """vLLM captures them when its share is taken: they come on top."""
    low, high = GRAPHS_GB
    wanted = GRAPHS * shape.layers * shape.hidden * 4 / GB
    return min(high, max(low, wanted)) if plan.cuda_graphs != "off" else 0.0


def _workspace_gb(shape: Shape, settings: Settings, engine: str, plan: Plan,
                  room_gb: float) -> float:
    """What vLLM keeps free for one pass, where `room_gb` is left for it and the KV cache."""
    tokens = TRL_BATCHED_TOKENS
    if engine == UNSLOTH:
        tokens = next(t for most, t in UNSLOTH_BATCHED_TOKENS if room_gb * GB / 2**30 <= most)
    sequences = _sequences(settings)
    tokens = max(sequences, min(tokens, sequences * settings.model.max_seq_length))
    one_pass = tokens * _pass_elements(shape) * 2 + _dequantised(shape, settings)
    return max(one_pass, sequences * shape.vocabulary * SAMPLING_BYTES) / GB


def _kv_gb(shape: Shape, settings: Settings, answers: int) -> float:
    return answers * _length(settings) * shape.kv_per_token() * 2 * KV_SPARE / GB


def _drawing(shape: Shape, settings: Settings, bytes_each: int) -> list[Part]:
    """Answers drawn with transformers: all of a process's step together."""
    answers = settings.train.answers_of_a_process(settings.hardware.processes())
    cache = answers * _length(settings) * shape.kv_per_token() * bytes_each
    # One layer at a time is copied to make it longer, and its heads are repeated.
    layer = cache / shape.layers + answers * _length(settings) * 2 * shape.query * bytes_each
    prompts = max(1, answers // settings.train.num_generations)
    first = prompts * settings.train.max_prompt_length * _pass_elements(shape) * bytes_each
    scores = answers * shape.vocabulary * SAMPLING_BYTES
    return [Part("KV cache of the answers", cache / GB),
            Part("Drawing a token", max(layer + scores, first) / GB)]


def _learning(shape: Shape, settings: Settings, engine: str, compiled: bool) -> list[Part]:
    """Activations of one batch. Logits and the recomputed layer do not exist at the same time."""
    batch = settings.train.per_device_train_batch_size(settings.hardware.processes())
    tokens = batch * _length(settings)
    each = 4 if engine == CPU else 2
    copied = 0
    packed = _is_packed(settings, engine)
    if packed:  # each prompt once; attention copies what each answer sees, and what it gives
        own = settings.train.prompts_per_step / settings.hardware.processes()
        prompts = min(batch, math.ceil(own))
        seen = shape.key_value if engine == CPU else shape.query  # a GPU's kernel wants all heads
        copied = each * (tokens * 2 * seen
                         + batch * settings.train.max_completion_length * 2 * shape.query)
        tokens = (prompts * settings.train.max_prompt_length
                  + batch * settings.train.max_completion_length)
    whole_layer = tokens * _layer_bytes(shape, engine, packed) + copied
    border = tokens * shape.hidden * each  # what enters a layer
    how = settings.lora.gradient_checkpointing
    if how == "off":
        kept = whole_layer * shape.layers
    elif how == "unsloth" and engine == UNSLOTH:
        kept = 2 * border  # the rest waits in the CPU's memory; two are on their way
    else:
        kept = border * shape.layers
    backward = (whole_layer + tokens * 2 * (shape.intermediate + shape.hidden) * each
                + _dequantised(shape, settings))
    logits = _logits_bytes(shape, settings, engine, compiled, batch)
    if engine == UNSLOTH and not compiled:
        logits, backward = logits * SPARE, backward * SPARE
    elif packed and engine != CPU:
        backward *= SPARE
    return [Part("Activations kept for the backward pass", kept / GB),
            Part("Log-probabilities" if logits > backward else "Backward pass of one layer",
                 max(logits, backward) / GB)]


def _logits_bytes(shape: Shape, settings: Settings, engine: str, compiled: bool,
                  batch: int) -> float:
    answer = settings.train.max_completion_length * shape.vocabulary
    if _is_packed(settings, engine):
        hidden = batch * settings.train.max_completion_length * shape.hidden * 4
        piece = PIECE if engine == CPU else PIECE_ON_GPU
        return min(piece * PIECE_BYTES, batch * answer * LOGITS_CPU) + 3 * hidden
    if engine != UNSLOTH:
        return batch * answer * (LOGITS_CPU if engine == CPU else LOGITS_TRL)
    chunks = chunks_of_an_answer(settings, compiled)
    if not compiled:
        return answer / chunks * LOGITS_UNSLOTH
    # Prompts stand on the left: with an answer go the tokens by which its prompt may be longer
    # than the others of its batch.
    words = _length(settings) * shape.vocabulary
    return batch * words * LOGITS_UNSLOTH_COMPILED + words / chunks * LOGITS_UNSLOTH_CHUNK


def _is_packed(settings: Settings, engine: str) -> bool:
    """Whether it learns through `lab/backends/engines/packed.py`."""
    return engine != UNSLOTH and settings.hardware.whole()


def _layer_bytes(shape: Shape, engine: str, packed: bool) -> float:
    """What one layer keeps of a token for its backward pass, from reading the layers' code."""
    h, i, qkv = shape.hidden, shape.intermediate, shape.query + 2 * shape.key_value
    if engine == UNSLOTH:  # inputs of two norms, of QKV and feed-forward; gate and up
        return 2 * (4 * h + qkv + 2 * shape.query + 2 * i)
    if engine == CPU:  # in 32 bit; each norm keeps two and gives one; all four of feed-forward
        return 4 * (6 * h + qkv + shape.query + 4 * i)
    if packed:  # inputs of two norms and what they give, for all LoRA layers; all of feed-forward
        return 2 * (4 * h + qkv + shape.query + 4 * i)
    # TRL's pass. Norms in 32 bit, an own 16-bit input for each LoRA layer, all of feed-forward.
    return 2 * (9 * h + qkv + 2 * shape.query + 4 * i)


def _pass_elements(shape: Shape) -> int:
    """Elements of a token in one layer of a pass without gradients."""
    return (4 * shape.hidden + shape.query + 2 * shape.key_value + 3 * shape.intermediate)


def _dequantised(shape: Shape, settings: Settings) -> float:
    """Bytes of the 4-bit weights that are unpacked at one time: gate and up together."""
    return 2 * shape.hidden * shape.intermediate * 2 if settings.model.load_in_4bit else 0.0


def _length(settings: Settings) -> int:
    """Tokens of the longest prompt with the longest answer."""
    return settings.train.max_prompt_length + settings.train.max_completion_length


def _sequences(settings: Settings) -> int:
    """Answers that vLLM draws at once."""
    return min(MOST_SEQUENCES,
               settings.train.answers_of_a_process(settings.hardware.processes()))


def _larger(one: list[Part], other: list[Part]) -> list[Part]:
    return max(one, other, key=lambda parts: sum(p.gb for p in parts))
