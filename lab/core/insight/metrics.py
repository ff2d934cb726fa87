"""Our own metrics of a rollout, the same for every version of TRL; and which chart shows what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

ALMOST = 1e-6  # rewards of a group closer than this are alike: its advantages are all 0


def rollout_metrics(totals: Sequence[Sequence[float | None]], best: float,
                    compared: Sequence[Sequence[float | None]] | None = None) -> dict[str, float]:
    """Metrics of whole groups: `totals[g][i]` is the weighted reward of answer i of group g.

    A group is dead when all its rewards are alike, so that every advantage is 0 and it teaches
    nothing: "right" when they reach `best` (the highest total the chosen rewards can give),
    else "wrong". Answers that no reward could judge are left out. `compared` is what advantages
    are made of where that is not the totals (see `advantages.Group`).
    """
    judged = [[t for t in group if t is not None] for group in totals]
    signals = judged if compared is None else [
        [c for c in group if c is not None] for group in compared]
    signals = [group for group in signals if group]
    judged = [group for group in judged if group]
    flat = [t for group in judged for t in group]
    if not flat:
        return {}
    dead = [group for group, signal in zip(judged, signals, strict=True)
            if max(signal) - min(signal) < ALMOST]
    right = [group for group in dead if min(group) >= best - ALMOST]
    return {
        "reward/weighted": fmean(flat),
        "reward/low": fmean(flat) - pstdev(flat),
        "reward/high": fmean(flat) + pstdev(flat),
        "reward/within_group_std": fmean(pstdev(group) for group in judged),
        "groups/dead": len(dead) / len(judged),
        "groups/dead_right": len(right) / len(judged),
        "groups/dead_wrong": (len(dead) - len(right)) / len(judged),
    }


def goal_metrics(goals: Sequence[float | None], reached: Sequence[bool | None],
                 shapes: Sequence[float | None]) -> dict[str, float]:
    """Goal and shape of a rollout's answers, each from 0 to 1 (see `scoring.share_of`).

    `goal/reached` is the share of answers in which every goal reward gave its highest score. What
    could not be judged is left out; a name is missing where nothing could.
    """
    found = {}
    for name, values in (("goal/mean", goals), ("goal/reached", reached), ("shape/mean", shapes)):
        known = [float(value) for value in values if value is not None]
        if known:
            found[name] = fmean(known)
    return found


def signal_shares(group: Sequence[Mapping[str, float]]) -> dict[str, float] | None:
    """Which part of a group's learning signal comes from each reward; the parts add up to 1.

    `group` holds, for each answer that is compared, the weighted score of each reward. A part is
    the reward's covariance with the sum over the sum's variance: how much of what an advantage
    tells apart it explains. A reward that pulls against the others has a negative one. None for a
    dead group, which has no signal.
    """
    names = list(group[0]) if group else []
    totals = [sum(answer.values()) for answer in group]
    if not totals or max(totals) - min(totals) < ALMOST:
        return None
    middle = fmean(totals)
    spread = fmean((total - middle) ** 2 for total in totals)
    found = {}
    for name in names:
        mean = fmean(answer[name] for answer in group)
        found[name] = fmean((answer[name] - mean) * (total - middle)
                            for answer, total in zip(group, totals, strict=True)) / spread
    return found


def signal_metrics(shares: Sequence[dict[str, float] | None]) -> dict[str, float]:
    """`signal/NAME`: mean of `signal_shares` over the groups that teach; empty where none does."""
    live = [share for share in shares if share is not None]
    return {f"signal/{name}": fmean(share[name] for share in live)
            for name in (live[0] if live else ())}


def distinct_share(texts: Sequence[str]) -> float:
    """Share of different texts among a group's answers: 1 where no two are alike."""
    return len(set(texts)) / len(texts)


def derived_goal(metrics: Mapping[str, float | None],
                 goals: Mapping[str, float]) -> dict[str, float]:
    """goal/mean of a step that was logged without it, from the goal rewards' means.

    `goals` holds their highest scores. Empty where it is there, or cannot be told.
    """
    means = [metrics.get(f"rewards/{name}/mean") for name in goals]
    if "goal/mean" in metrics or not means or None in means:
        return {}
    return {"goal/mean": fmean(max(0.0, mean) / best
                               for mean, best in zip(means, goals.values(), strict=True))}


def left_out(scores: Sequence[Sequence[float | None]], failed: Sequence[bool]) -> list[bool]:
    """Which answers of one group cannot be compared with the others, and so teach nothing.

    `scores[i]` are the raw scores of answer i by the rewards that count (weight above 0), None
    where there is none; `failed[i]` tells whether one of them failed on it. An answer on which one
    failed is left out. So is one without a score that another answer of the group has: its sum
    lacks those points. A reward that judged no answer of the group is missing for all alike.
    """
    judged = [any(line[k] is not None for line in scores) for k in range(len(scores[0]))] \
        if scores else []
    return [bad or all(score is None for score in line)
            or any(score is None and known for score, known in zip(line, judged, strict=True))
            for line, bad in zip(scores, failed, strict=True)]


def group_record(prompt: str, columns: dict, answers: Sequence[dict]) -> dict:
    """One group as a `samples` event carries it.

    Each of `answers` has `text`, `tokens`, `cut` (hit the length limit), `rewards` {name: raw
    score or None}, `errors` {name: text}, `total` (weighted) and `advantage`.
    """
    return {"prompt": prompt, "columns": columns, "answers": list(answers)}


# TRL's name: |log-probability by the weights that learn - by those that drew|, mean over tokens.
DIFFERENCE = "sampling/sampling_logp_difference/mean"


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
    Chart("goal", "Goal: answers right", ("goal/reached", "goal/mean"), "Share of answers that "
          "reach every goal reward: whether it learns what was meant. Held out: of questions that "
          "it is not trained on, the base model's at step 0.", percent=True, optional=True),
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
    Chart("kl", "KL", ("kl", "kl/target"), "Distance from the base model in nats a token; drawn "
          "when its weight (beta) is above 0."),
    Chart("beta", "KL weight", ("kl/beta",), "Beta, as the KL target moves it.", optional=True),
    Chart("entropy", "Entropy", ("entropy", "entropy/sampled"), "How open the choice of the next "
          "token is. Near 0 the answers of a group become alike. 'Sampled' is estimated from the "
          "drawn tokens.", optional=True),
    Chart("difference", "Drawn and learnt", (DIFFERENCE,), "How far the log-probability of a drawn "
          "token is from what the learning weights give it, mean, in nats. vLLM draws from weights "
          "that are rounded to 16 bit, and 0.01 is usual; far above that it draws from another "
          "model than learns.", optional=True),
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
