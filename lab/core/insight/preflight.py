"""What a preflight tells of a run before its start: arithmetic over groups of scored answers.

A preflight lets the base model answer some questions, several times each, just as the first step of
the run would, and scores the answers with the run's own rewards.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Any

from lab.core.hardware.forecast import evaluation_seconds
from lab.core.insight.metrics import ALMOST, left_out
from lab.core.prompts import final_answer
from lab.core.rewards.chosen import Chosen, format_chosen
from lab.core.settings import TRL_VLLM, UNSLOTH, Settings

SIZES = (2, 4, 8, 16)  # group sizes that dead groups are told for, besides the run's own
ANSWERS = 16  # to each question, at least: as many as the largest of these
SHOWN = 600  # characters of an example
# What an update takes where vLLM draws the answers, as a share of what drawing them takes: 1.5B on
# an H100, 256 tokens an answer (docs/gpu.md). Elsewhere it is measured.
UPDATE_SHARE = {UNSLOTH: 0.68, TRL_VLLM: 0.73}


@dataclass(frozen=True)
class Answer:
    """One answer of the base model under the run's rewards.

    `other` holds the scores of other forms of these rewards (see `FORMS`), by their text.
    """

    text: str
    tokens: int
    cut: bool
    rewards: Mapping[str, float | None]
    errors: Mapping[str, str]
    total: float | None
    reached: bool | None
    other: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """The answers to one question; `columns` is its row of the data."""

    columns: Mapping[str, Any]
    answers: tuple[Answer, ...]

    @property
    def question(self) -> str:
        return str(self.columns.get("question", ""))

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> "Group":
        return cls(told["columns"], tuple(Answer(**answer) for answer in told["answers"]))


@dataclass(frozen=True)
class Sample:
    """What the worker brings home. `prompt_tokens` are the lengths of all prompts, of those too
    long for the run too. Seconds are for all `groups`; `update_seconds` is one whole update of a
    step, None where it was not measured."""

    groups: tuple[Group, ...]
    prompt_tokens: tuple[int, ...]
    generation_seconds: float
    reward_seconds: float
    update_seconds: float | None
    engine: str

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> "Sample":
        return cls(tuple(map(Group.from_dict, told["groups"])), tuple(told["prompt_tokens"]),
                   told["generation_seconds"], told["reward_seconds"], told["update_seconds"],
                   told["engine"])


@dataclass(frozen=True)
class Dead:
    """Share of the groups that would teach nothing, and what it is made of."""

    share: float
    right: float
    wrong: float


def comparable(group: Group, chosen: Sequence[Chosen]) -> list[float | None]:
    """The total of each answer as training compares them; None for one that it leaves out."""
    counting = [one.name for one in chosen if one.weight > 0]
    out = left_out([[answer.rewards.get(name) for name in counting] for answer in group.answers],
                   [any(name in answer.errors for name in counting) for answer in group.answers])
    return [None if bad else answer.total
            for bad, answer in zip(out, group.answers, strict=True)]


def pass_rates(groups: Sequence[Group], chosen: Sequence[Chosen]) -> list[float | None]:
    """For each question, the share of its answers that reach every goal; where no goal is chosen,
    that have the highest total there is. None where none could be judged."""
    best = best_total(chosen)
    rates = []
    for group in groups:
        passed = [answer.reached for answer in group.answers if answer.reached is not None] or [
            total >= best - ALMOST for total in comparable(group, chosen) if total is not None]
        rates.append(fmean(passed) if passed else None)
    return rates


def best_total(chosen: Sequence[Chosen]) -> float:
    """The highest weighted sum that the chosen rewards can give."""
    return sum(one.weight * one.best for one in chosen)


def dead_groups(totals: Sequence[Sequence[float | None]], size: int, best: float) -> Dead | None:
    """The share of dead groups to expect of groups of `size` answers, as `groups/dead` counts it.

    `totals[q]` are those of the n answers to question q. Of all ways to take `size` of the n, the
    share in which all have the same total: the unbiased estimate of the sum of p_k ** size over the
    totals k, whatever n is. None (left out of its group) is like anything, and a group of nothing
    else counts nowhere. The mean is over questions: that of the mean pass rate would be too low.
    None where a question has fewer answers than `size`, or nothing could be judged.
    """
    if not totals or min(map(len, totals)) < size:
        return None
    right = wrong = judged = 0.0
    for of_question in totals:
        known = sorted(total for total in of_question if total is not None)
        unknown = len(of_question) - len(known)
        ways = math.comb(len(of_question), size)
        nothing = math.comb(unknown, size)
        judged += 1 - nothing / ways
        for value, count in _alike(known):
            share = (math.comb(count + unknown, size) - nothing) / ways
            if value >= best - ALMOST:
                right += share
            else:
                wrong += share
    return Dead((right + wrong) / judged, right / judged, wrong / judged) if judged else None


def _alike(ordered: Sequence[float]) -> list[tuple[float, int]]:
    """[(value, how many)]: ascending values closer than `ALMOST` to the first of them are alike."""
    found: list[tuple[float, int]] = []
    for value in ordered:
        if found and value - found[-1][0] < ALMOST:
            found[-1] = found[-1][0], found[-1][1] + 1
        else:
            found.append((value, 1))
    return found


def signal_shares(groups: Sequence[Group], chosen: Sequence[Chosen],
                  scaled: bool = True) -> dict[str, float | None]:
    """Each reward's share of what the answers of a group differ in: of the learning signal.

    Within a group cov(weight * score, total) / var(total), which adds up to 1 over the rewards; a
    negative one works against the others. With `scaled` (advantages are divided by the group's
    standard deviation) every group that differs counts alike, otherwise by its variance. None for
    all where no group differs.
    """
    parts: dict[str, float] = {one.name: 0.0 for one in chosen}
    whole = 0.0
    for group in groups:
        kept = [(total, answer) for total, answer
                in zip(comparable(group, chosen), group.answers, strict=True) if total is not None]
        totals = [total for total, _ in kept]
        if not totals or max(totals) - min(totals) < ALMOST:
            continue
        mean = fmean(totals)
        variance = fmean((total - mean) ** 2 for total in totals)
        weight = 1.0 if scaled else variance
        whole += weight
        for one in chosen:
            scores = [one.weight * (answer.rewards.get(one.name) or 0.0) for _, answer in kept]
            middle = fmean(scores)
            together = fmean((score - middle) * (total - mean)
                             for score, total in zip(scores, totals, strict=True))
            parts[one.name] += weight * together / variance
    return {name: part / whole if whole else None for name, part in parts.items()}


def rewards_table(groups: Sequence[Group], chosen: Sequence[Chosen],
                  scaled: bool = True) -> dict[str, dict[str, float | None]]:
    """{reward: {"mean", "std", "signal_share", "fired"}} of the raw scores; `fired` is the share of
    the judged answers that scored above 0."""
    shares = signal_shares(groups, chosen, scaled)
    table: dict[str, dict[str, float | None]] = {}
    for one in chosen:
        scores = scores_of(groups, one.name)
        table[one.name] = {
            "mean": fmean(scores) if scores else None, "std": pstdev(scores) if scores else None,
            "signal_share": shares[one.name],
            "fired": fmean(score > 0 for score in scores) if scores else None}
    return table


def scores_of(groups: Sequence[Group], name: str) -> list[float]:
    """Every raw score that this reward gave."""
    return [score for group in groups for answer in group.answers
            if (score := answer.rewards.get(name)) is not None]


def never_fired(groups: Sequence[Group], chosen: Sequence[Chosen]) -> list[dict[str, str]]:
    """Rewards that no answer has earned anything of: {"reward", "question", "answered", "wanted"}.

    The example is the answer that came closest, as far as that can be told: one that states the
    reference somewhere, else the one with the highest total.
    """
    found = []
    for one in chosen:
        scores = scores_of(groups, one.name)
        if not scores or max(scores) > 0 or one.best <= 0:
            continue
        group, answer = max(((group, answer) for group in groups for answer in group.answers
                             if answer.rewards.get(one.name) is not None),
                            key=lambda pair: _closeness(*pair))
        found.append({"reward": one.name, "question": group.question[:SHOWN],
                      "answered": answer.text[:SHOWN], "wanted": _wanted(one, group)[:SHOWN]})
    return found


def _closeness(group: Group, answer: Answer) -> tuple[bool, bool, float]:
    reference = str(group.columns.get("answer") or "")
    says = final_answer(answer.text)
    return (bool(reference) and reference in says, not answer.cut, answer.total or 0.0)


def _wanted(one: Chosen, group: Group) -> str:
    """What would have earned this reward: its columns of this row, else its own example."""
    reward = one.reward
    if reward.columns:
        return "\n".join(str(group.columns.get(name)) for name in reward.columns)
    return next((text for text, _, score in reward.examples
                 if score is not None and score >= reward.max_score - ALMOST), reward.help)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def seconds_of_a_step(sample: Sample, settings: Settings) -> dict[str, float]:
    """{"generation", "reward", "update"} to expect of one step as long as answers stay as they are.

    Drawing is counted per answer: the preflight draws about as many at once as a step does. With
    several updates per rollout each step has its part of the drawing.
    """
    answers = sum(len(group.answers) for group in sample.groups)
    a_step = settings.train.answers_per_step() / max(1, answers) / settings.train.num_iterations
    drawing = sample.generation_seconds * a_step
    update = sample.update_seconds
    if update is None:
        update = drawing * settings.train.num_iterations * UPDATE_SHARE.get(sample.engine, 0.0)
    return {"generation": drawing, "reward": sample.reward_seconds * a_step, "update": update}


def summary(sample: Sample, settings: Settings, seconds: float,
            memory_gb: float | None) -> dict[str, Any]:
    """The object that `preflight --json` prints, without its advice, and what the page shows more.
    `seconds` are those of the preflight itself."""
    chosen, train, groups = settings.rewards.chosen, settings.train, sample.groups
    best = best_total(chosen)
    totals = [comparable(group, chosen) for group in groups]
    answers = [answer for group in groups for answer in group.answers]
    sizes = sorted({*SIZES, train.num_generations})
    dead = {size: dead_groups(totals, size, best) for size in sizes}
    own = dead[train.num_generations]
    tokens = [answer.tokens for answer in answers]
    parts = seconds_of_a_step(sample, settings)
    a_step = sum(parts.values())
    held_out = evaluation_seconds(train, a_step, sample.generation_seconds / len(answers))
    return {
        "prompts": len(groups), "answers": len(answers), "seconds": round(seconds, 1),
        "pass_rates": pass_rates(groups, chosen),
        "dead": {str(size): found.share if found else None for size, found in dead.items()},
        "dead_right": own.right if own else None, "dead_wrong": own.wrong if own else None,
        "cut": fmean(answer.cut for answer in answers),
        "distinct": fmean(len({answer.text for answer in group.answers}) / len(group.answers)
                          for group in groups),
        "rewards": rewards_table(groups, chosen, train.scale_rewards == "group"),
        "seconds_per_step": a_step, "run_seconds": a_step * train.max_steps + held_out,
        "memory_gb": memory_gb,
        "questions": [group.question[:SHOWN] for group in groups],
        "labels": {one.name: one.reward.label for one in chosen},
        "group_size": train.num_generations, "step_parts": parts, "engine": sample.engine,
        "tokens": {"mean": fmean(tokens), "p95": percentile(tokens, 0.95), "max": max(tokens)},
        "prompt_tokens": {
            "p50": percentile(sample.prompt_tokens, 0.5),
            "p95": percentile(sample.prompt_tokens, 0.95), "max": max(sample.prompt_tokens),
            "too_long": sum(length > train.max_prompt_length for length in sample.prompt_tokens),
            "of": len(sample.prompt_tokens)},
        "left_out": sum(total is None for of_question in totals for total in of_question),
        "errors": {name: text for answer in answers for name, text in answer.errors.items()},
        "never_fired": never_fired(groups, chosen),
        "rewarded_for": format_chosen(chosen),
    }
