"""One group of a run, step by step: its rewards, baseline, advantages, and the push in each loss.

All arithmetic of the page "How GRPO works" is here, of the same functions that training, `whatif`
and the playground take; what a person moved there (`Moves`) stands in place of what was recorded.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import stdev
from typing import Any

from lab.core.insight import losses
from lab.core.insight.advantages import Group, advantages_of, group_of, ruler_of
from lab.core.insight.metrics import ALMOST
from lab.core.rewards.chosen import Chosen
from lab.core.settings import Train

RATIOS = [round(0.4 + 0.05 * i, 2) for i in range(33)]  # of the curves: 0.4 to 2
LARGEST = 1e6  # of a score or a weight
WIDEST = 20.0  # of a ratio, and of how much likelier a token is; at least one over it


@dataclass(frozen=True)
class Moves:
    """What is looked at otherwise than it was: None and empty stand for the run's own."""

    scores: Sequence[Mapping[str, float | None]] | None = None  # of each answer
    weights: Mapping[str, float] = field(default_factory=dict)
    scale: str = ""
    aggregation: str = ""
    beta: float | None = None
    ratio: float = 1.0  # how likely each token is now, over when it was drawn
    likelier: float = 1.0  # how likely it is now, over under the base model


def lesson(groups: Sequence[Mapping[str, Any]], place: int, chosen: Sequence[Chosen],
           train: Train, moves: Moves) -> dict[str, Any]:
    """The figures of group `place` among the recorded groups of its step, which stand for the step.

    Returns {"totals", "advantages": one for each answer, None and 0 where it is left out,
    "baseline", "divisor", "error": the standard error of the baseline, "dead", "counted": answers
    that are in the loss, "losses": {name: {"push": on a token of each answer, "whole": on all of
    its tokens, "gate_up", "gate_down": at RATIOS, what is left of an advantage above and below 0,
    "now_up", "now_down": at this ratio}}, "pull": of the KL term on a token}.
    """
    chosen = [replace(one, weight=moves.weights.get(one.name, one.weight)) for one in chosen]
    scale = moves.scale or train.scale_rewards
    aggregation = moves.aggregation or train.multi_objective_aggregation
    ranked = [_ranked(group, chosen, aggregation, moves.scores if i == place else None)
              for i, group in enumerate(groups)]
    rollout = [value for group in ranked for value in group.compared]
    gains = [advantages_of(group, rollout, scale, aggregation) for group in ranked]
    ruler = ruler_of(ranked[place], rollout, scale, aggregation)
    known = [value for value in ranked[place].compared if value is not None]
    sizes = [[_tokens(one, train) for one in group["answers"]] for group in groups]
    return {
        "totals": ranked[place].totals, "advantages": gains[place],
        "baseline": ruler.baseline if known else None, "divisor": ruler.divisor,
        "error": stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None,
        "dead": not known or max(known) - min(known) < ALMOST,
        "counted": [size > 0 for size in sizes[place]],
        "pull": losses.pull(_beta(moves, train), moves.likelier, moves.ratio),
        "losses": {name: _loss(name, gains, sizes, place, train, moves) for name in losses.ALL},
    }


def _ranked(group: Mapping[str, Any], chosen: Sequence[Chosen], aggregation: str,
            scores: Sequence[Mapping[str, float | None]] | None) -> Group:
    answers = group["answers"]
    lines = [{one.name: answer["rewards"].get(one.name) for one in chosen} for answer in answers]
    failed = [set(answer.get("errors") or ()) for answer in answers]
    if scores is not None:  # a score that a person gave stands for one that failed
        lines = [line | {name: value for name, value in given.items() if name in line}
                 for line, given in zip(lines, scores, strict=True)]
        failed = [{name for name in names if line.get(name) is None}
                  for names, line in zip(failed, lines, strict=True)]
    return group_of(lines, failed, chosen, aggregation)


def _tokens(answer: Mapping[str, Any], train: Train) -> int:
    """Tokens of an answer that are in the loss."""
    if answer.get("cut") and train.mask_truncated_completions:
        return 0
    tokens = answer.get("tokens")
    return max(1, tokens) if isinstance(tokens, int) else 1


def _beta(moves: Moves, train: Train) -> float:
    return train.beta if moves.beta is None else moves.beta


def _loss(name: str, gains: Sequence[Sequence[float]], sizes: Sequence[Sequence[int]], place: int,
          train: Train, moves: Moves) -> dict[str, Any]:
    high = losses.highest_ratio(name, train.epsilon_high)
    held = (train.epsilon, high, train.sapo_temperature_pos, train.sapo_temperature_neg)
    flat = losses.pushes(
        name, [gain for group in gains for gain in group], [n for group in sizes for n in group],
        train.max_completion_length, moves.ratio, held, _beta(moves, train), moves.likelier)
    begin = sum(len(group) for group in sizes[:place])
    push = flat[begin:begin + len(sizes[place])]
    return {"push": push, "high": high,
            "whole": [one * size for one, size in zip(push, sizes[place], strict=True)],
            "gate_up": [losses.gate(name, 1.0, ratio, *held) for ratio in RATIOS],
            "gate_down": [losses.gate(name, -1.0, ratio, *held) for ratio in RATIOS],
            "now_up": losses.gate(name, 1.0, moves.ratio, *held),
            "now_down": losses.gate(name, -1.0, moves.ratio, *held)}
