"""Which references the chosen rewards can pay for: the right answer itself, scored in each form.

A reference that no answer can match makes a run in which nothing is ever right, and nothing fails.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.core.rewards.attempts import FORMS, THOUGHT, one_of
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.registry import GOAL
from lab.core.rewards.scoring import ALMOST, judge_all
from lab.core.rewards.timed import is_costly

CHUNK = 250  # rows that are scored at once
PATIENCE = 5.0  # seconds after which no more rows are begun


@dataclass(frozen=True)
class Reach:
    """What the right answer earns.

    `missed` has every goal that looks at the reference, and each other reward that some right
    answers earn in full and others cannot: the places (from 0) of the rows that it does not pay in
    full whatever the form. `never` are the rows that no goal pays in full. `looked_at` is how many
    rows were tried, `left_out` which rewards were not: they ask another machine or run code.
    """

    missed: dict[str, list[int]]
    never: list[int]
    looked_at: int
    left_out: list[str]


def reach(rows: Sequence[Mapping[str, Any]], chosen: Sequence[Chosen],
          patience: float = PATIENCE) -> Reach:
    """Score the reference of each row as an answer to it. Rows without one are passed over."""
    asked = [one for one in chosen if not is_costly(one)
             and (one.takes_as != GOAL or "answer" in one.reward.needs)]
    missed: dict[str, list[int]] = {one.name: [] for one in asked}
    begun, looked_at = time.perf_counter(), 0
    for start in range(0, len(rows), CHUNK):
        if time.perf_counter() - begun > patience:
            break
        places = range(start, min(start + CHUNK, len(rows)))
        looked_at = places.stop
        there = [place for place in places if rows[place].get("answer") is not None]
        for one in asked:
            missed[one.name] += _missed(there, rows, one)
    goals = [set(missed[one.name]) for one in asked if one.takes_as == GOAL]
    kinds = {one.name: one.takes_as for one in asked}
    # A shape that no form of ours has says nothing of the references.
    told = {name: gone for name, gone in missed.items()
            if kinds[name] == GOAL or 0 < len(gone) < looked_at}
    return Reach(told, sorted(set.intersection(*goals)) if goals else [], looked_at,
                 [one.name for one in chosen if is_costly(one)])


def _missed(places: Sequence[int], rows: Sequence[Mapping[str, Any]], one: Chosen) -> list[int]:
    """The rows whose reference gets less than the highest score in every form."""
    left = list(places)
    for form in FORMS:
        if not left:
            break
        texts = []
        for place in left:
            answer = one_of(rows[place]["answer"])
            texts.append(form(THOUGHT.format(answer=answer), answer))
        judged = judge_all(texts, [rows[place] for place in left], one, {})
        left = [place for place, (score, _) in zip(left, judged, strict=True)
                if score is None or score < one.best - ALMOST]
    return left
