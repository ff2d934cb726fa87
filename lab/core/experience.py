"""Advice from experience, where a setting goes against it: warnings, which never keep a run back.

Each rule says where it comes from: the classic notebook's own advice, what sources of this field
agree on, or a run that was measured with this lab.
"""

import re
from collections.abc import Iterator

from lab.core.hardware.engines import choose_engines
from lab.core.hardware.machine import Machine
from lab.core.problems import Problem
from lab.core.settings import CPU, STARTER, Settings

ADVISED_STEPS = 300  # the classic notebook: before judging a run
# A learning rate from which on tens of steps show what a run will do: at 4e-5 a model of half a
# billion parameters had learnt the form of its answers within ten.
SWIFT = 4e-5
FASTEST, LARGE_FOR_FAST = 3e-4, 300  # a rate, and millions of parameters that it is too much for
SMALLEST_REAL = "HuggingFaceTB/SmolLM2-135M-Instruct"
SLOWEST = 1e-5  # below it an adapter hardly moves
REASONING_FROM = 1500  # millions of parameters; the classic notebook: for reasoning to emerge
SMALLEST_GROUP = 4
# The field's rules of memory, in GB for each billion of parameters.
GB_4BIT, GB_16BIT = 1.0, 4.0


def warnings(settings: Settings, machine: Machine, parameters: float | None) -> list[Problem]:
    """What experience says against these settings. `parameters` are the model's in millions, None
    where its shape is not known. The starter model is small on purpose, and learns quickly."""
    rules = [small_groups(settings), slow_rate(settings), few_steps(settings)]
    if settings.model.name.strip() != STARTER:
        rules += [small_model(settings, parameters), newline_at_the_end(settings)]
        rules.append(fast_rate(settings, parameters))
    else:
        rules.append(another_task(settings))
    if parameters is None:
        rules.append(memory_by_name(settings, machine))
    return [problem for rule in rules for problem in rule]


def few_steps(settings: Settings) -> Iterator[Problem]:
    train = settings.train
    if train.max_steps < ADVISED_STEPS and train.learning_rate < SWIFT:
        yield _warning(
            f"{train.max_steps} steps are few.", f"The classic notebook advises at least "
            f"{ADVISED_STEPS} before judging a run; at such a learning rate the first hundred may "
            "show nothing.", f"Raise 'Steps' to {ADVISED_STEPS} or more, or do not give up on a "
            "flat curve.", "train.max_steps")


def slow_rate(settings: Settings) -> Iterator[Problem]:
    """"LoRA Without Regret" (Thinking Machines, 2025): about ten times the rate of full tuning."""
    rate = settings.train.learning_rate
    if rate < SLOWEST:
        yield _warning(
            f"A learning rate of {rate:g} moves an adapter slowly.", "LoRA wants about ten times "
            "the rate of full tuning: 1e-5 to 1e-4. At 5e-6 a model of 0.5 billion parameters had "
            "moved nearly nothing after 60 steps of 128 answers.",
            "Raise 'Learning rate', or plan for many steps.", "train.learning_rate")


def fast_rate(settings: Settings, parameters: float | None) -> Iterator[Problem]:
    rate = settings.train.learning_rate
    if rate >= FASTEST and (parameters or 0) >= LARGE_FOR_FAST:
        yield _warning(
            f"A learning rate of {rate:g} is high for {parameters:,.0f} million parameters.",
            "It is what taught models of 2 and 135 million. One of 500 million learnt at 5e-5.",
            "Lower 'Learning rate' to 5e-5 or so.", "train.learning_rate")


def another_task(settings: Settings) -> Iterator[Problem]:
    """The starter was made for the lab's own word problems (docs/starter.md)."""
    if settings.data.source != "word-problems":
        yield _warning(
            "The starter knows one kind of word problem and nothing else.", "Of other data it can "
            "learn next to nothing.", f"To learn from yours, choose a real model: {SMALLEST_REAL} "
            "is the smallest here that learns on a CPU.", "model.name")


def small_groups(settings: Settings) -> Iterator[Problem]:
    size = settings.train.num_generations
    if size < SMALLEST_GROUP:
        yield _warning(
            f"Groups of {size} answers are small.", "Answers are only compared within a group: of "
            f"{size}, all are often right or all wrong, and teach nothing.",
            f"Take {SMALLEST_GROUP} or more; 8 is usual.", "train.num_generations")


def small_model(settings: Settings, parameters: float | None) -> Iterator[Problem]:
    if (parameters is None or parameters >= REASONING_FROM
            or "reasoning" not in settings.data.system_prompt.lower()):
        return
    size = f"{parameters / 1000:.2g} billion" if parameters >= 1000 else f"{parameters:.0f} million"
    yield _warning(
        f"A model of {size} parameters may not learn to reason.", "The classic notebook advises "
        "1.5 billion or more for reasoning to emerge. Smaller ones learn the form first: watch the "
        "goal, not the sum of the rewards.", "Take a larger model, or a task that needs few steps.",
        "model.name")


def newline_at_the_end(settings: Settings) -> Iterator[Problem]:
    """Measured with a chat model of 0.5 billion parameters: in 60 steps no answer ended in one."""
    if not any(c.name == "strict_format" and c.weight > 0 for c in settings.rewards.chosen):
        return
    yield _warning(
        "'strict_format' wants a newline at the end of the answer.", "Chat models end without one, "
        "so that no answer may ever earn it: none did in 60 steps of a model of 0.5 billion "
        "parameters.", "Take 'asked_format' instead, which does not ask for it.", "rewards.chosen")


def memory_by_name(settings: Settings, machine: Machine) -> Iterator[Problem]:
    """Where a model's shape is not known there is no estimate; its name often tells its size."""
    engine = choose_engines(settings, machine).first.value
    told = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)[bB](?![a-zA-Z])", settings.model.name)
    if told is None or engine == CPU:
        return
    each = GB_4BIT if settings.model.load_in_4bit else GB_16BIT
    needed, there = each * float(told[1]), min(gpu.memory_gb for gpu in machine.gpus)
    if needed > there:
        yield _warning(
            f"A model of {told[1]} billion parameters may not fit in {there:.0f} GB.",
            f"The field's rule is about {each:g} GB for each billion in "
            f"{'4' if settings.model.load_in_4bit else '16'} bit: {needed:.0f} GB.",
            "Look the model up under Model & LoRA for an estimate of this run"
            + ("." if settings.model.load_in_4bit else ", or load it in 4 bit."), "model.name")


def _warning(what: str, why: str, next: str, field: str) -> Problem:
    return Problem(what, why, next, field, "warning")
