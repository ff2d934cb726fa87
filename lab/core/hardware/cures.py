"""What to change where a run does not fit in memory, or where it leaves room to be quicker."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lab.core.hardware.memory import SNUG, Estimate, decided, estimate, smallest_share
from lab.core.hardware.shapes import Shape
from lab.core.problems import Problem
from lab.core.settings import TRL, UNSLOTH, Settings, setting_named

TOO_MUCH = 1.15  # of the memory: an estimate above it is an error, since it may be off by so much


@dataclass(frozen=True)
class Cure:
    """A change of settings with which a run fits: {"train.answers_at_once": 4}, said in words."""

    changes: dict[str, Any]
    sentence: str
    total_gb: float


@dataclass(frozen=True)
class _Place:
    """Where a model of this shape learns: what no setting that is a cure can change."""

    shape: Shape
    engine: str
    memory_gb: float

    def estimate(self, settings: Settings) -> Estimate:
        return estimate(self.shape, settings, self.engine, self.memory_gb)

    def passes(self, settings: Settings) -> int:
        """Through the model in one update: there and back, and once more where activations are made
        again, for each batch."""
        made = decided(self.shape, settings, self.engine, self.memory_gb)
        return (made.train.gradient_accumulation_steps(made.hardware.processes())
                * (2 + (made.lora.gradient_checkpointing != "off")))


def cures(shape: Shape, settings: Settings, engine: str, gpu_memory_gb: float) -> list[Cure]:
    """Changes with which the run fits, those that cost least first; none where it fits already.

    Each is one change where one is enough; otherwise there is one cure that joins several.
    """
    place = _Place(shape, engine, gpu_memory_gb)
    now = place.estimate(settings)
    if now.fits_well:
        return []
    # A share in which vLLM cannot start comes first: no other change could help without it.
    first = (next(_fitting_share(place, settings), {})
             if now.vllm_needs_gb > now.vllm_gb else {})
    found = []
    for candidates in CANDIDATES:
        fitting = (_cure(place, settings, first | changes)
                   for changes in candidates(place, settings))
        found += [cure for cure in [next(filter(None, fitting), None)] if cure]
    if found:
        return found
    joined = first
    for candidates in CANDIDATES:
        strongest: dict[str, Any] = {}
        for changes in candidates(place, settings.with_values(joined)):
            if cure := _cure(place, settings, joined | changes):
                return [cure]
            strongest = changes
        joined = joined | strongest
    return []


def roomier(shape: Shape, settings: Settings, engine: str, gpu_memory_gb: float) -> Cure | None:
    """So many more answers at once, among those with which the run fits, as take the fewest passes;
    None where that is no less than now.

    Same result: passes of a small batch are mostly launches of kernels.
    """
    train, processes = settings.train, settings.hardware.processes()
    own, now = train.answers_of_a_process(processes), train.per_device_train_batch_size(processes)
    most = min(own, setting_named("train.answers_at_once").knob.high)
    place = _Place(shape, engine, gpu_memory_gb)
    more = [_cure(place, settings, {"train.answers_at_once": count})
            for count in range(most, now, -1) if own % count == 0]
    best = min(filter(None, more), default=None,
               key=lambda cure: place.passes(settings.with_values(cure.changes)))
    return best if best and (place.passes(settings.with_values(best.changes))
                             < place.passes(settings)) else None


def memory_problems(shape: Shape, settings: Settings, engine: str,
                    gpu_memory_gb: float) -> list[Problem]:
    """What is too large, as Problems with the figures; an error only where that is beyond doubt."""
    found = estimate(shape, settings, engine, gpu_memory_gb)
    ways = cures(shape, settings, engine, gpu_memory_gb)
    advice = " Or: ".join(c.sentence for c in ways[:3])
    pressed = tuple((c.sentence, tuple(c.changes.items())) for c in ways[:3])
    problems = []
    if found.vllm_needs_gb > found.vllm_gb:
        share = settings.hardware.gpu_memory_utilization
        certain = found.vllm_needs_gb > TOO_MUCH * found.vllm_gb
        problems.append(Problem(
            "vLLM's share of the GPU is too small.",
            f"{share:g} of {gpu_memory_gb:.0f} GB is {found.vllm_gb:.1f} GB; the weights, the "
            f"workspace and one answer need about {found.vllm_needs_gb:.1f} GB.",
            advice or "Take a smaller model or shorter answers.", "hardware.gpu_memory_utilization",
            "error" if certain else "warning", cures=pressed))
    if found.total_gb > SNUG * gpu_memory_gb:
        certain = found.total_gb > TOO_MUCH * gpu_memory_gb
        what = "GPU" if found.on_gpu else "machine"
        field = next(iter(ways[0].changes)) if ways else "model.name"
        problems.append(Problem(
            f"This run {'does' if certain else 'may'} not fit in the memory of this {what}.",
            f"It needs about {found.total_gb:.1f} GB; there are {gpu_memory_gb:.1f} GB.",
            advice or f"Take a smaller model{'' if found.on_gpu else ', or a machine with a GPU'}.",
            field, "error" if certain else "warning", cures=pressed))
    return problems


# The cures, cheapest first: each function gives changes to try, the gentlest first


def _fewer_at_once(place: _Place, settings: Settings) -> Iterator[dict[str, Any]]:
    """Same result, a little slower."""
    now = settings.train.per_device_train_batch_size(settings.hardware.processes())
    while now > 1:
        now //= 2
        yield {"train.answers_at_once": now}


def _checkpointing(place: _Place, settings: Settings) -> Iterator[dict[str, Any]]:
    """Same result, slower."""
    better = "unsloth" if place.engine == UNSLOTH else "on"
    if settings.lora.gradient_checkpointing not in (better, "unsloth"):
        yield {"lora.gradient_checkpointing": better}


def _fitting_share(place: _Place, settings: Settings) -> Iterator[dict[str, Any]]:
    """Same result: with this share the answers of a step need not wait for each other."""
    if not place.estimate(settings).vllm_gb:
        return
    share = smallest_share(place.shape, settings, place.engine, place.memory_gb)
    highest = setting_named("hardware.gpu_memory_utilization").knob.high
    for value in dict.fromkeys((math.ceil(share * 100) / 100, share)):
        if value != settings.hardware.gpu_memory_utilization and value <= highest:
            yield {"hardware.gpu_memory_utilization": value}


def _quantised(place: _Place, settings: Settings) -> Iterator[dict[str, Any]]:
    """A slightly less exact base."""
    if not settings.model.load_in_4bit and place.engine in (UNSLOTH, TRL):
        yield from _with_share(place, settings, {"model.load_in_4bit": True})


def _shorter_answers(place: _Place, settings: Settings) -> Iterator[dict[str, Any]]:
    """Less room to reason."""
    now = settings.train.max_completion_length
    while (now := now // 2 // 8 * 8) >= SHORTEST_ANSWER:
        yield from _with_share(place, settings, {"train.max_completion_length": now})


def _with_share(place: _Place, settings: Settings,
                changes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What is saved inside vLLM's share only helps where the share is made smaller with it."""
    yield changes
    for share in _fitting_share(place, settings.with_values(changes)):
        yield changes | share


CANDIDATES = (_fewer_at_once, _checkpointing, _fitting_share, _quantised, _shorter_answers)
SHORTEST_ANSWER = 64  # tokens that a cure leaves to an answer


def _cure(place: _Place, settings: Settings, changes: dict[str, Any]) -> Cure | None:
    """This change as a cure, or None where it is not enough."""
    found = place.estimate(settings.with_values(changes))
    if not found.fits_well:
        return None
    told = [f"'{setting_named(key).knob.label}' to {'on' if value is True else value}"
            for key, value in changes.items()]
    listed = " and ".join(filter(None, (", ".join(told[:-1]), told[-1])))
    return Cure(changes, f"Set {listed}: about {found.total_gb:.1f} GB.", found.total_gb)
