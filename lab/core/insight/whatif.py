"""What if other rewards had been paid: the recorded groups of a run, scored and ranked anew.

Nothing is trained and nothing answered: it tells how the same answers would have been compared, not
what the model would have learnt from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.core.insight.advantages import SUM_FIRST, group_of
from lab.core.insight.metrics import ALMOST, signal_metrics, signal_shares
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.scoring import score_all


@dataclass(frozen=True)
class Ranked:
    """One group under some rewards.

    `compared` is what advantages are made of, None for an answer that is left out; `weighted` holds
    the weighted scores of those that are compared. `errors` counts answers on which a reward of
    weight above 0 failed.
    """

    compared: list[float | None]
    weighted: list[dict[str, float]]
    errors: int

    @property
    def dead(self) -> bool:
        """Whether its advantages are all 0."""
        known = [value for value in self.compared if value is not None]
        return not known or max(known) - min(known) < ALMOST

    @property
    def order(self) -> list[tuple[bool, ...]]:
        """For each pair of answers, whether the first is better and whether it is worse."""
        values = [float("-inf") if value is None else value for value in self.compared]
        return [(a > b + ALMOST, a < b - ALMOST) for i, a in enumerate(values)
                for b in values[i + 1:]]


def whatif(groups: Sequence[Mapping[str, Any]], now: Sequence[Chosen], then: Sequence[Chosen],
           aggregation: str = SUM_FIRST) -> dict[str, Any]:
    """How recorded groups (see `metrics.group_record`) are compared now, and would be then.

    Returns {"groups": how many, "rank_changes": in how many of them the answers come in another
    order, "dead": {"now", "then"}: the share that teaches nothing, "signal_share": {name: {"now",
    "then"}}: each reward's mean part of the learning signal (None where it is not chosen or no
    group teaches), "errors": {"now", "then"}: answers on which a reward failed}. Raises ValueError
    where `then` cannot be used.
    """
    before = [_ranked(group, now, now, aggregation) for group in groups]
    after = [_ranked(group, then, now, aggregation) for group in groups]
    shares = {"now": _shares(before), "then": _shares(after)}
    names = dict.fromkeys(one.name for one in (*now, *then))
    return {
        "groups": len(groups),
        "rank_changes": sum(a.order != b.order for a, b in zip(before, after, strict=True)),
        "dead": {"now": _dead(before), "then": _dead(after)},
        "signal_share": {name: {when: told.get(name) for when, told in shares.items()}
                         for name in names},
        "errors": {"now": sum(one.errors for one in before),
                   "then": sum(one.errors for one in after)},
    }


def _ranked(group: Mapping[str, Any], chosen: Sequence[Chosen], recorded: Sequence[Chosen],
            aggregation: str) -> Ranked:
    """A score that was recorded is taken; a reward that is new, or has other parameters, is asked.
    What is asked sees the text alone, and the columns that were recorded."""
    answers = group["answers"]
    known = {one.name for one in chosen
             if any(old.name == one.name and old.params == one.params for old in recorded)}
    asked = [one for one in chosen if one.name not in known]
    columns = group.get("columns") or {}
    rows = [columns | {"completion_tokens": one.get("tokens")} for one in answers]
    fresh = score_all([one["text"] for one in answers], rows, asked) if asked else []
    lines, failed = [], []
    for place, answer in enumerate(answers):
        line = {name: answer["rewards"].get(name) for name in known}
        errors = {name for name in answer.get("errors", {}) if name in known}
        if fresh:
            line |= fresh[place].rewards
            errors |= set(fresh[place].errors)
        lines.append(line)
        failed.append(errors)
    counting = [one for one in chosen if one.weight > 0]
    compared = group_of(lines, failed, chosen, aggregation).compared
    weighted = [{one.name: one.weight * (line[one.name] or 0.0) for one in counting}
                for line, value in zip(lines, compared, strict=True) if value is not None]
    return Ranked(compared, weighted,
                  sum(any(one.name in names for one in counting) for names in failed))


def _dead(ranked: Sequence[Ranked]) -> float | None:
    return sum(one.dead for one in ranked) / len(ranked) if ranked else None


def _shares(ranked: Sequence[Ranked]) -> dict[str, float]:
    found = signal_metrics([signal_shares(one.weighted) for one in ranked])
    return {name.removeprefix("signal/"): share for name, share in found.items()}
