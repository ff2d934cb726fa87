"""Answers scored, and how long each reward took for one of them."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from lab.core.rewards.chosen import Chosen
from lab.core.rewards.registry import GOAL
from lab.core.rewards.scoring import Scored, reached, score_all, share_of, total_of


def timed_scores(completions: Sequence[str], rows: Sequence[Mapping[str, Any]],
                 chosen: Sequence[Chosen]) -> tuple[list[Scored], dict[str, float]]:
    """What `score_all` says, and the seconds that each reward took for an answer, on average.
    Raises ValueError as it does."""
    rewards: list[dict[str, float | None]] = [{} for _ in completions]
    errors: list[dict[str, str]] = [{} for _ in completions]
    seconds: dict[str, float] = {}
    for one in chosen:
        begun = time.perf_counter()
        found = score_all(completions, rows, [one])
        seconds[one.name] = (time.perf_counter() - begun) / max(1, len(completions))
        for place, scored in enumerate(found):
            rewards[place] |= scored.rewards
            errors[place] |= scored.errors
    return [Scored(line, wrong, total_of(line, wrong, chosen), share_of(line, chosen, GOAL),
                   reached(line, chosen))
            for line, wrong in zip(rewards, errors, strict=True)], seconds


def is_costly(chosen: Chosen) -> bool:
    """Whether it asks another machine or runs code in a child: not to be done at each letter that
    is typed."""
    return chosen.reward.remote or chosen.reward.runs_code
