"""Changed settings that cure what a rule found: each within what its setting allows, or none."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lab.core.rewards.chosen import Chosen
from lab.core.rewards.registry import GOAL, REWARDS, SHAPE
from lab.core.settings import Settings, setting_named
from lab.core.task import LEVELS

SHAPES_AT_MOST = 0.25  # of what the goals can give: then no format outweighs a right answer
ROOM = 64  # tokens: below, hardly anything can be reasoned
THINKING = "thinking"  # the reward for reasoning
GENTLE, BRISK = 1e-4, 1e-3  # learning rates of LoRA: up to the first a rate may well be raised


def longer_answers(settings: Settings) -> dict[str, Any]:
    """Twice the limit of an answer, and room for reasoning at the least; more of the whole
    sequence where that needs it."""
    train = settings.train
    length = max(ROOM, 2 * train.max_completion_length)
    found = {"train.max_completion_length": length}
    needed = train.max_prompt_length + length
    if needed > settings.model.max_seq_length:
        found["model.max_seq_length"] = 64 * -(-needed // 64)
    return _allowed(found)


def more_answers(settings: Settings) -> dict[str, Any]:
    """More answers to a question, and fewer questions where the answers of a step stay the same."""
    train = settings.train
    if train.num_generations >= 16:
        return {}
    size = 8 if train.num_generations < 8 else 16
    return _allowed({"train.num_generations": size, "train.prompts_per_step": max(
        2, train.answers_per_step() // size)})


def other_level(settings: Settings, harder: bool) -> dict[str, Any]:
    """The next level of the lab's own word problems; nothing for other data."""
    level = settings.data.level + (1 if harder else -1)
    return {"data.level": level} if settings.data.source == "word-problems" and level in LEVELS \
        else {}


def lighter_shapes(settings: Settings) -> dict[str, Any]:
    """The shapes weigh so little that all of them together give a part of what the goals can."""
    goals = sum(c.weight * c.best for c in settings.rewards.chosen if c.takes_as == GOAL)
    shapes = sum(c.weight * c.best for c in settings.rewards.chosen if c.takes_as == SHAPE)
    if not goals or shapes <= 1.01 * SHAPES_AT_MOST * goals:
        return {}
    factor = SHAPES_AT_MOST * goals / shapes
    return rewards(settings, lambda one: one if one.takes_as == GOAL else replace(
        one, weight=float(f"{one.weight * factor:.2g}")))


def rewards(settings: Settings, change: Callable[[Chosen], Chosen | None]) -> dict[str, Any]:
    """The chosen rewards, each changed or (None) left out; nothing where none would be left to
    learn from, or nothing changes."""
    made = [new for one in settings.rewards.chosen if (new := change(one))]
    if not any(one.weight > 0 for one in made) or tuple(made) == settings.rewards.chosen:
        return {}
    return {"rewards.chosen": [one.to_dict() for one in made]}


def without(settings: Settings, names: Sequence[str]) -> dict[str, Any]:
    """These rewards are only watched: their weight is 0."""
    return rewards(settings, lambda one: replace(one, weight=0.0) if one.name in names else one)


def instead(settings: Settings, name: str, others: Sequence[str]) -> dict[str, Any]:
    """The first of `others` that there is in the place of a reward; else it is only watched."""
    known = [other for other in others if other in REWARDS
             and other not in {c.name for c in settings.rewards.chosen}]
    if not known:
        return without(settings, [name])

    def change(one: Chosen) -> Chosen:
        if one.name != name:
            return one
        new = Chosen(known[0], one.weight)
        # A goal is to weigh as much among the others as before, whatever its highest score is.
        return replace(new, weight=_rounded(one.weight * one.best / new.best)) \
            if one.takes_as == GOAL else new

    return rewards(settings, change)


def think_aloud(settings: Settings) -> dict[str, Any]:
    """Lighter shapes, and one among them that pays for reasoning."""
    lighter = lighter_shapes(settings)
    changed = settings.with_values(lighter)
    if THINKING not in REWARDS or THINKING in {c.name for c in changed.rewards.chosen}:
        return lighter
    return {"rewards.chosen": [one.to_dict()
                               for one in (*changed.rewards.chosen, Chosen(THINKING))]}


def more_rows(settings: Settings) -> dict[str, Any]:
    """All questions that there are, where only some were taken."""
    return {"data.rows": 0} if settings.data.rows else {}


def slower(settings: Settings, divided_by: float) -> dict[str, Any]:
    return _allowed({"train.learning_rate": _rounded(settings.train.learning_rate / divided_by)})


def faster(settings: Settings) -> dict[str, Any]:
    """A higher learning rate, as far as LoRA bears it."""
    rate = settings.train.learning_rate
    raised = min(BRISK, rate * (5 if rate < GENTLE else 2))
    return _allowed({"train.learning_rate": _rounded(raised)}) if raised > rate else {}


def more_varied(settings: Settings) -> dict[str, Any]:
    """DAPO's wider upper clip, which lets rare tokens grow; where it is set already, more heat."""
    if settings.train.epsilon_high < 0.28:
        return {"train.epsilon_high": 0.28}
    return _allowed({"train.temperature": round(settings.train.temperature + 0.2, 2)})


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def _allowed(values: dict[str, Any]) -> dict[str, Any]:
    """These values, or none where one of them is out of its setting's range."""
    for key, value in values.items():
        look = setting_named(key).knob
        if (look.high is not None and value > look.high) or (
                look.low is not None and value < look.low):
            return {}
    return values


def in_words(settings: Settings, changes: dict[str, Any]) -> list[str]:
    """What a cure would change, one sentence part for each: "Learning rate 5e-06 → 2.5e-05"."""
    changed = settings.with_values(changes)
    found = []
    for key in changes:
        before, after = settings.get(key), changed.get(key)
        if key == "rewards.chosen":
            found += _rewards_in_words(before, after)
        elif before != after:
            found.append(f"{setting_named(key).knob.label} {_plain(before)} → {_plain(after)}")
    return found


def _rewards_in_words(before: Sequence[Chosen], after: Sequence[Chosen]) -> list[str]:
    was, now = ({one.name: one for one in side} for side in (before, after))
    found = [f"{now[name].reward.label} {_plain(was[name].weight)} → {_plain(now[name].weight)}"
             for name in was if name in now and was[name].weight != now[name].weight]
    found += [f"without {was[name].reward.label}" for name in was if name not in now]
    return found + [f"with {now[name].reward.label}" for name in now if name not in was]


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
