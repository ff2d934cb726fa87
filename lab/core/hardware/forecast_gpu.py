"""How long a step of a run on one GPU will take, told before it starts.

Counted from the model's shape, the settings, and what makers say of the card: multiplications over
its rate, bytes over its bandwidth, and what the launches of kernels take, which no card's figures
tell. Fitted to steps on H100s (docs/gpu.md); for other cards nothing was measured. Seconds.
"""

from dataclasses import dataclass

from lab.core.hardware.forecast import (
    PROMPT_USED,
    ROOM_USED,
    Forecast,
    evaluation_seconds,
)
from lab.core.hardware.memory import weights_gb
from lab.core.hardware.shapes import Shape
from lab.core.settings import TRL, TRL_VLLM, UNSLOTH, Settings


@dataclass(frozen=True)
class Card:
    """Dense 16-bit multiplications and additions, 1e12 a second; memory, 1e9 bytes a second."""

    tflops: float
    gb_per_second: float


# By what nvidia-smi calls them; the first that is found in a name counts.
CARDS = {
    "B200": Card(2250, 8000), "H200": Card(989, 4800), "H100 PCIe": Card(756, 2000),
    "H100": Card(989, 3350), "A100": Card(312, 1800), "L40S": Card(362, 864),
    "L40": Card(181, 864), "L4": Card(121, 300), "A10G": Card(70, 600), "A10": Card(125, 600),
    "T4": Card(65, 320), "RTX 6000 Ada": Card(364, 960), "RTX A6000": Card(155, 768),
    "RTX 5090": Card(210, 1792), "RTX 4090": Card(165, 1008), "RTX 3090": Card(71, 936),
}

# Every number below was fitted to measured steps (docs/gpu.md). Calibrate here only.

EFFICIENCY = 0.35  # of a card's multiplications that the layers of small models reach
TOKEN = 2.5e-3  # vLLM's own work for one token of all answers, with CUDA graphs
SEQUENCE = 2e-5  # the same for each answer that goes on
ADAPTER = 2.5e-5  # more of it for each layer, where the adapter is a LoRA request
LAYER = 7e-4  # launches of a layer's kernels for one token, without vLLM; a guess
LAYER_PASS = 4.2e-3  # launches of a layer's kernels in one pass of learning, under Unsloth
LEAN_PASS = 2.0e-3  # the same where the lab learns packed (lab/backends/engines/lean_layers.py)
BESIDE = 0.15  # optimiser and metrics of a step that learns packed
START = {UNSLOTH: 75.0, TRL_VLLM: 75.0, TRL: 20.0}  # from Start to the first step


def card_named(name: str) -> Card | None:
    return next((card for word, card in CARDS.items() if word in name), None)


def forecast_gpu(shape: Shape, settings: Settings, engine: str, card: Card, mean: float = 0.0,
                 longest: float = 0.0, prompt: float = 0.0) -> Forecast:
    """The step to expect. `mean` and `longest` are tokens of an answer, `prompt` those of a prompt;
    0 where they are not known."""
    train, known = settings.train, mean > 0
    mean = mean or ROOM_USED * train.max_completion_length
    longest = longest or train.max_completion_length
    mean, longest = (min(length, train.max_completion_length) for length in (mean, longest))
    prompt = prompt or PROMPT_USED * train.max_prompt_length
    answers = train.answers_per_step()
    drawing = _drawing(shape, settings, engine, card, answers, mean, longest)
    drawing /= train.num_iterations
    learning = _learning(shape, settings, engine, card, answers, mean, longest, prompt)
    asked = train.eval_questions or 1
    question = _drawing(shape, settings, engine, card, asked, mean, longest) / asked
    evaluating = evaluation_seconds(train, drawing + learning, question)
    return Forecast(drawing, learning, evaluating, train.max_steps, mean, known, START[engine])


def leaving_out_pays(shape: Shape, card: Card, tokens: int, passes: int) -> bool:
    """Whether `passes` over so many tokens take longer than one more pass does that is empty: in
    a small batch kernels are launched slower than they work."""
    saved = _multiplying(card, 2e-12 * tokens * passes * shape.linear_parameters())
    return saved > LEAN_PASS * shape.layers


def _multiplying(card: Card, tera: float) -> float:
    """Seconds of so many 1e12 multiplications and additions."""
    return tera / (EFFICIENCY * card.tflops)


def _drawing(shape: Shape, settings: Settings, engine: str, card: Card, answers: int, mean: float,
             longest: float) -> float:
    """A pass for each token of the longest answer, over the answers that still go on."""
    going_on = answers * mean / longest
    read = weights_gb(shape, settings.model.load_in_4bit)
    cache = 2e-9 * going_on * longest / 2 * shape.kv_per_token()
    own = LAYER * shape.layers if engine == TRL else (
        TOKEN + SEQUENCE * going_on + (ADAPTER * shape.layers if engine == UNSLOTH else 0.0))
    multiplied = _multiplying(card, 2e-12 * going_on * shape.parameters())
    return longest * (own + max(multiplied, (read + cache) / card.gb_per_second))


def _learning(shape: Shape, settings: Settings, engine: str, card: Card, answers: int, mean: float,
              longest: float, prompt: float) -> float:
    """There and back over prompts and answers: packed, or with Unsloth each answer behind a copy of
    its prompt, as wide as the widest."""
    train = settings.train
    rounds = train.gradient_accumulation_steps()
    if engine == UNSLOTH:
        tokens, predicted = answers * (prompt + longest), answers * longest
        launches, beside = LAYER_PASS, 0.0
    else:
        launches, beside = LEAN_PASS, BESIDE
        batch = train.per_device_train_batch_size()
        tokens = rounds * min(batch, train.prompts_per_step) * prompt + answers * mean
        predicted = answers * mean
    passes = 2 + (settings.lora.gradient_checkpointing != "off") + (train.beta > 0)
    multiplied = 2e-12 * (tokens * passes * shape.linear_parameters()
                          + predicted * 3 * shape.vocabulary * shape.hidden)
    elements = 1e-9 * (predicted * shape.vocabulary * 32
                       + tokens * shape.layers * 80 * shape.hidden)
    return (_multiplying(card, multiplied) + elements / card.gb_per_second
            + rounds * passes * launches * shape.layers + beside)
