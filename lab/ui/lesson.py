"""How GRPO works: a group of a run, in steps, whose figures follow whatever a person moves.

The browser (assets/lesson.js) draws; every figure is asked of the server, which counts it with the
functions that training is recorded by. It only reads, for anyone can call it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from lab.core.insight import losses
from lab.core.insight.advantages import AGGREGATIONS, SCALES
from lab.core.insight.lesson import LARGEST, RATIOS, WIDEST, Moves, lesson
from lab.core.rewards.chosen import Chosen
from lab.services.lab import Lab
from lab.services.lesson import Found, find
from lab.ui.panel import panel

LONGEST = 4000  # characters of a text that are sent
MOVES = ("", "before", "next", "first", "newest")


def lesson_view(lab: Lab) -> gr.HTML:
    return panel("lesson", "lesson", {}, explain_group=lambda asked: told(lab, asked))


def told(lab: Lab, asked: Any) -> dict:
    """What the page shows. `asked` has "run", "at": [step, group] or null, "move", and what was
    moved: "scores", "weights", "scale", "aggregation", "beta", "ratio", "likelier". What cannot be
    used of it is left out."""
    asked = asked if isinstance(asked, dict) else {}
    wanted, move = asked.get("run"), asked.get("move")
    found = find(lab, wanted if isinstance(wanted, str) else "", _place(asked.get("at")),
                 move if move in MOVES else "")
    chosen = found.settings.rewards.chosen
    group = found.groups[found.place]
    moves = moves_of(asked, chosen, len(group["answers"]))
    figures = lesson(found.groups, found.place, chosen, found.settings.train, moves)
    return _about(found) | {
        "rewards": [_reward(one) for one in chosen],
        "answers": [_answer(one, chosen) for one in group["answers"]],
        "figures": _rounded(figures), "ratios": RATIOS,
        "losses": [{"name": one.name, "formula": one.formula, "weighs": one.weighs,
                    "paper": one.paper.title, "arxiv": one.paper.arxiv}
                   for one in losses.ALL.values()]}


def _about(found: Found) -> dict:
    train, group = found.settings.train, found.groups[found.place]
    columns = group.get("columns") if isinstance(group.get("columns"), dict) else {}
    question = columns.get("question") or group.get("prompt") or ""
    reference = columns.get("answer")
    return {
        "run": found.run.id if found.run else "", "name": found.run.name if found.run else "",
        "at": [found.step, found.place], "recorded": len(found.groups),
        "made": train.prompts_per_step, "before": found.before, "after": found.after,
        "question": _text(question), "reference": None if reference is None else _text(reference),
        "how": {"scale": train.scale_rewards, "aggregation": train.multi_objective_aggregation,
                "loss": train.loss_type, "low": train.epsilon, "high": train.epsilon_high,
                "beta": train.beta, "temperature": train.temperature,
                "longest": train.max_completion_length, "iterations": train.num_iterations}}


def _reward(one: Chosen) -> dict:
    try:
        label, kind, best = one.reward.label, one.takes_as, one.best
    except ValueError:  # one of one's own, whose file is gone
        label, kind, best = one.name, one.kind, 1.0
    return {"name": one.name, "label": label, "kind": kind, "best": best, "weight": one.weight}


def _answer(one: Mapping[str, Any], chosen: Sequence[Chosen]) -> dict:
    gain = one.get("advantage")
    return {"text": _text(one.get("text")), "tokens": one.get("tokens"),
            "cut": bool(one.get("cut")), "failed": sorted(one.get("errors") or ()),
            "scores": [one["rewards"].get(reward.name) for reward in chosen],
            "recorded": gain if isinstance(gain, int | float) and math.isfinite(gain) else None}


def moves_of(asked: Mapping[str, Any], chosen: Sequence[Chosen], answers: int) -> Moves:
    """What a person moved, as far as it can be used."""
    names = [one.name for one in chosen]
    weights = asked.get("weights")
    weights = {name: value for name, value in weights.items() if name in names
               and _is_number(value, 0, LARGEST)} if isinstance(weights, dict) else {}
    return Moves(
        _scores(asked.get("scores"), names, answers), weights,
        asked["scale"] if asked.get("scale") in SCALES else "",
        asked["aggregation"] if asked.get("aggregation") in AGGREGATIONS else "",
        asked["beta"] if _is_number(asked.get("beta"), 0, 10) else None,
        *(asked[name] if _is_number(asked.get(name), 1 / WIDEST, WIDEST) else 1.0
          for name in ("ratio", "likelier")))


def _scores(given: Any, names: Sequence[str], answers: int
            ) -> list[dict[str, float | None]] | None:
    """A line for each answer, a score or null for each reward; or nothing."""
    if not isinstance(given, list) or len(given) != answers or not all(
            isinstance(line, list) and len(line) == len(names) and all(
                one is None or _is_number(one, -LARGEST, LARGEST) for one in line)
            for line in given):
        return None
    return [dict(zip(names, line, strict=True)) for line in given]


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _place(value: Any) -> tuple[int, int] | None:
    fits = isinstance(value, list) and len(value) == 2 and all(
        isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in value)
    return (value[0], value[1]) if fits else None


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _rounded(value: Any) -> Any:
    """Numbers with six digits, and none that JSON lacks."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value
