"""Our own metrics of a rollout, the same for every version of TRL; and which chart shows what."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

ALMOST = 1e-6  # rewards of a group closer than this are alike: its advantages are all 0


def rollout_metrics(totals: Sequence[Sequence[float | None]], best: float) -> dict[str, float]:
    """Metrics of whole groups: `totals[g][i]` is the weighted reward of answer i of group g.

    A group is dead when all its rewards are alike, so that every advantage is 0 and it teaches
    nothing: "right" when they reach `best` (the highest total the chosen rewards can give),
    else "wrong". Answers that no reward could judge are left out.
    """
    judged = [[t for t in group if t is not None] for group in totals]
    judged = [group for group in judged if group]
    flat = [t for group in judged for t in group]
    if not flat:
        return {}
    dead = [group for group in judged if max(group) - min(group) < ALMOST]
    right = [group for group in dead if group[0] >= best - ALMOST]
    return {
        "reward/weighted": fmean(flat),
        "reward/low": fmean(flat) - pstdev(flat),
        "reward/high": fmean(flat) + pstdev(flat),
        "reward/within_group_std": fmean(pstdev(group) for group in judged),
        "groups/dead": len(dead) / len(judged),
        "groups/dead_right": len(right) / len(judged),
        "groups/dead_wrong": (len(dead) - len(right)) / len(judged),
    }


def advantages(totals: Sequence[float | None], scale: bool = True) -> list[float]:
    """Group-relative advantages as TRL computes them: minus the mean, over std + 1e-4.

    The standard deviation is the sample's (n - 1), as in TRL's `GRPOTrainer`. What could not be
    judged gets 0.
    """
    known = [t for t in totals if t is not None]
    if len(known) < 2:
        return [0.0] * len(totals)
    mean = fmean(known)
    std = math.sqrt(sum((t - mean) ** 2 for t in known) / (len(known) - 1)) if scale else 0.0
    divisor = std + 1e-4 if scale else 1.0
    return [0.0 if t is None else (t - mean) / divisor for t in totals]


def group_record(prompt: str, columns: dict, answers: Sequence[dict]) -> dict:
    """One group as a `samples` event carries it.

    Each of `answers` has `text`, `tokens`, `cut` (hit the length limit), `rewards` {name: raw
    score or None}, `errors` {name: text}, `total` (weighted) and `advantage`.
    """
    return {"prompt": prompt, "columns": columns, "answers": list(answers)}


@dataclass(frozen=True)
class Chart:
    """One chart of the live view. A name that ends in * takes every metric that starts so."""

    key: str
    title: str
    metrics: tuple[str, ...]
    help: str
    percent: bool = False
    band: tuple[str, str] | None = None  # metrics of the lower and upper edge
    optional: bool = False  # drawn only where the run has such a metric


CHARTS = (
    Chart("reward", "Reward", ("reward/weighted",), "Mean weighted reward of the answers; the band "
          "is one standard deviation to each side.", band=("reward/low", "reward/high")),
    Chart("rewards", "Each reward", ("rewards/*/mean",), "Mean raw score of each reward function."),
    Chart("length", "Answer length", ("completions/mean_length",), "Tokens per answer, mean."),
    Chart("cut", "Cut answers", ("completions/clipped_ratio",), "Share of answers that hit the "
          "longest length.", percent=True),
    Chart("dead", "Dead groups", ("groups/dead_right", "groups/dead_wrong"), "Groups whose answers "
          "all score alike teach nothing: all right, or all wrong.", percent=True),
    Chart("loss", "Loss", ("loss",), "Hovers around 0 in GRPO and says little: watch the reward."),
    Chart("lr", "Learning rate", ("learning_rate",), "Follows the schedule."),
    Chart("kl", "KL", ("kl",), "Distance from the base model; drawn when its weight (beta) is "
          "above 0."),
    Chart("entropy", "Entropy", ("entropy", "entropy/sampled"), "How open the choice of the next "
          "token is. Near 0 the answers of a group become alike. 'Sampled' is estimated from the "
          "drawn tokens.", optional=True),
    Chart("gpu", "GPU memory", ("gpu/memory_gb",), "The most that was in use on the GPU, by "
          "whatever runs there, in GB.", optional=True),
)


def names_in(chart: Chart, available: Sequence[str]) -> list[str]:
    """The metrics of `available` that this chart draws, in its order."""
    found = []
    for pattern in chart.metrics:
        start, star, end = pattern.partition("*")
        found += [name for name in available
                  if (name.startswith(start) and name.endswith(end) if star else name == pattern)
                  and name not in found]
    return found
