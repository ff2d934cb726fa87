"""By what the trainer compares the answers of a group, and the advantages that come of it.

An advantage is how far an answer's reward is above the mean of its group, over a deviation
(DeepSeekMath, arXiv 2402.03300, section 4.1): of the group, of the whole batch (arXiv 2508.08221),
or none (Dr. GRPO, arXiv 2503.20783).

TRL knows two ways (`multi_objective_aggregation`). `sum_then_normalize` compares the weighted sums
of a group. `normalize_then_sum` (GDPO, arXiv 2601.05242) first brings each reward of a group to
mean 0 and deviation 1, sums those by their weights, and brings the sums of the whole rollout to
deviation 1: a reward of a small scale then moves an advantage as far as one of a large scale.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from lab.core.insight import metrics
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.scoring import total_of

SUM_FIRST, NORMALIZE_FIRST = AGGREGATIONS = ("sum_then_normalize", "normalize_then_sum")
SCALES = ("group", "batch", "none")
TINY = 1e-4  # what TRL adds to a standard deviation before it divides by it


@dataclass(frozen=True)
class Group:
    """The answers to one question, each with what it is compared by.

    `totals` are weighted sums of raw scores, `compared` what advantages are made of: the same, or
    sums of normalised scores. Both are None for an answer that is left out.
    """

    totals: list[float | None]
    compared: list[float | None]


def group_of(lines: Sequence[Mapping[str, float | None]], failed: Sequence[Collection[str]],
             chosen: Sequence[Chosen], aggregation: str = SUM_FIRST) -> Group:
    """One group from its raw scores, {name: score or None} for each answer.

    `failed` names, for each answer, the rewards that failed on it; see `metrics.left_out` for what
    becomes of such an answer.
    """
    counting = [one for one in chosen if one.weight > 0]
    out = metrics.left_out([[line[one.name] for one in counting] for line in lines],
                           [any(one.name in names for one in counting) for names in failed])
    totals = [None if left else total_of(line, (), chosen)
              for left, line in zip(out, lines, strict=True)]
    if aggregation == SUM_FIRST:
        return Group(totals, totals)
    columns = [(one.weight, _standardized([None if left else line[one.name]
                                           for left, line in zip(out, lines, strict=True)]))
               for one in counting]
    return Group(totals, [None if total is None else sum(
        weight * (scores[i] or 0.0) for weight, scores in columns)
        for i, total in enumerate(totals)])


@dataclass(frozen=True)
class Ruler:
    """What the answers of a group are measured by: an advantage is (value - baseline) / divisor."""

    baseline: float  # the mean that a value is compared with
    divisor: float  # 1 where nothing is scaled


def ruler_of(group: Group, rollout: Sequence[float | None], scale: str = "group",
             aggregation: str = SUM_FIRST) -> Ruler:
    """The baseline of a group and what its distances are divided by, as TRL takes them.

    `rollout` holds `compared` of all answers of the step. `scale` is TRL's `scale_rewards`, which
    `normalize_then_sum` does not look at: it takes mean and deviation of the whole rollout.
    """
    own, everyone = _known(group.compared), _known(rollout)
    if aggregation == NORMALIZE_FIRST:
        return Ruler(fmean(everyone or [0.0]), _deviation(everyone) + TINY)
    spread = {"group": own, "batch": everyone}.get(scale)
    return Ruler(fmean(own or [0.0]), 1.0 if spread is None else _deviation(spread) + TINY)


def advantages_of(group: Group, rollout: Sequence[float | None], scale: str = "group",
                  aggregation: str = SUM_FIRST) -> list[float]:
    """The advantages of one group, as TRL's `GRPOTrainer` computes them; 0 where left out. See
    `ruler_of` for what is given."""
    ruler = ruler_of(group, rollout, scale, aggregation)
    return [0.0 if value is None else (value - ruler.baseline) / ruler.divisor
            for value in group.compared]


def _standardized(scores: Sequence[float | None]) -> list[float | None]:
    """A reward's scores in one group, brought to mean 0 and deviation 1; None where there is none
    to compare with."""
    known = _known(scores)
    if len(known) < 2:
        return [None] * len(scores)
    mean, divisor = fmean(known), _deviation(known) + TINY
    return [None if score is None else (score - mean) / divisor for score in scores]


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _deviation(values: Sequence[float]) -> float:
    """Of a sample (n - 1), as TRL takes it; 0 where there are not two values."""
    if len(values) < 2:
        return 0.0
    mean = fmean(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
