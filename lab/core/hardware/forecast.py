"""How long a step of a run on this CPU will take, told before it starts.

Counted from the model's shape, the settings, and what this machine's cores were measured to do:
multiplications over the measured rate, weights read over the measured bandwidth, whichever takes
longer, and what is done element by element. Seconds.
"""

from dataclasses import dataclass

from lab.core.hardware.shapes import Shape
from lab.core.settings import Settings, Train

# Every number below was fitted to measured steps (docs/preflight.md). Calibrate here only.

CALLS = 4.0  # small layers, as measured, that the small operations of one real layer take
BACK = 1.0  # the way back in forward passes: the base gets no gradient, only what lies below it
PASSES_OF_LOGITS = 9  # element by element, over logits: logarithms, entropy, gradient
PASSES_OF_LAYER = 34  # the same over a token's hidden states in one layer, there and back
MOVED = 3  # times that the cache of keys and values is read or written for one more token
ROOM_USED = 0.6  # of the longest answer, where nothing is known of a model's answers
PROMPT_USED = 0.5  # of the longest prompt


@dataclass(frozen=True)
class Speed:
    """What this machine does with the threads of a run, measured (see `lab/backends/speed.py`)."""

    gflops: float  # multiplications and additions of matrices of many rows in 32 bit, 1e9 a second
    gflops_few: float  # the same of few rows, over weights that no cache holds
    gb_per_second: float  # of weights read, for one row
    gelements: float  # exponentials of a large tensor, 1e9 a second
    call: float  # seconds of a layer so small that it is nothing but calls

    @classmethod
    def from_dict(cls, told: dict) -> "Speed":
        """Raises KeyError, TypeError or ValueError for what is no measurement."""
        speed = cls(**{name: float(told[name]) for name in cls.__dataclass_fields__})
        if min(vars(speed).values()) <= 0:
            raise ValueError("A speed must be above 0.")
        return speed


@dataclass(frozen=True)
class Forecast:
    """Seconds of one step, and the answers that were assumed."""

    drawing: float
    learning: float
    evaluating: float  # in the whole run
    steps: int
    tokens: float  # mean length of an answer
    known: bool  # whether that length was measured
    starting: float = 0.0  # from Start to the first step, where that is long

    @property
    def step(self) -> float:
        return self.drawing + self.learning

    @property
    def run(self) -> float:
        return self.starting + self.step * self.steps + self.evaluating


def evaluation_seconds(train: Train, step: float, question: float) -> float:
    """What held-out questions take in a whole run whose steps take `step` seconds, at so many
    seconds a question. By their share of the time it is that share at most."""
    if not train.eval_steps:
        return train.eval_share * step * train.max_steps
    times = 1 + train.max_steps // train.eval_steps  # the base model answers first
    return times * train.eval_questions * question


def forecast(shape: Shape, settings: Settings, speed: Speed, mean: float = 0.0,
             longest: float = 0.0, prompt: float = 0.0) -> Forecast:
    """The step to expect. `mean` and `longest` are tokens of an answer, `prompt` those of a prompt;
    0 where they are not known."""
    train = settings.train
    answers, known = train.answers_per_step(), mean > 0
    mean = mean or ROOM_USED * train.max_completion_length
    longest = longest or (2 * mean if known else train.max_completion_length)
    mean, longest = (min(length, train.max_completion_length) for length in (mean, longest))
    prompt = prompt or PROMPT_USED * train.max_prompt_length
    drawing = _drawing(shape, speed, answers, mean, longest, prompt, train.prompts_per_step)
    learning = _learning(shape, settings, speed, answers, mean, longest, prompt)
    step = drawing / train.num_iterations + learning
    asked = _drawing(shape, speed, answers, mean, longest, prompt, answers) / answers
    return Forecast(drawing / train.num_iterations, learning,
                    evaluation_seconds(train, step, asked), train.max_steps, mean, known)


def _drawing(shape: Shape, speed: Speed, answers: int, mean: float, longest: float, prompt: float,
             questions: int) -> float:
    """Each prompt is read once; then a pass for each token of the longest answer, over the answers
    that still go on."""
    weights = shape.linear_parameters() + shape.vocabulary * shape.hidden
    calls = CALLS * speed.call * shape.layers
    read = 2e-9 * shape.linear_parameters() * questions * prompt / speed.gflops + calls
    rows = answers * mean / longest
    matrices = max(2e-9 * weights * rows / speed.gflops_few, 4e-9 * weights / speed.gb_per_second)
    cache = (4e-9 * MOVED * rows * (prompt + longest / 2) * shape.kv_per_token()
             / speed.gb_per_second)
    chance = 3e-9 * rows * shape.vocabulary / speed.gelements  # softmax, clock, division
    return read + longest * (matrices + cache + chance + calls)


def _learning(shape: Shape, settings: Settings, speed: Speed, answers: int, mean: float,
              longest: float, prompt: float) -> float:
    """Forward and back over prompts and answers: each prompt of a batch is read once and nothing is
    padded (`lab/backends/engines/packed.py`), but where the base is cut over processes."""
    train = settings.train
    rounds, batch = train.gradient_accumulation_steps(), train.per_device_train_batch_size()
    body, head = shape.linear_parameters(), shape.vocabulary * shape.hidden
    lora = shape.lora_parameters(settings.lora.rank, settings.lora.target_modules)
    packed = settings.hardware.whole()
    width = mean if packed or batch == 1 else longest
    prompts = rounds * min(batch, train.prompts_per_step) if packed else answers
    tokens = prompts * prompt + answers * width
    passes = 1 + BACK + (1 if settings.lora.gradient_checkpointing != "off" else 0)
    passes += 1 if train.beta > 0 else 0
    matrices = 2e-9 * (tokens * (passes * body + 3 * lora)
                       + answers * width * head * (1 + BACK)) / speed.gflops
    elements = 1e-9 * (PASSES_OF_LOGITS * answers * width * shape.vocabulary
                       + PASSES_OF_LAYER * tokens * shape.layers * shape.hidden) / speed.gelements
    return matrices + elements + rounds * passes * CALLS * speed.call * shape.layers
