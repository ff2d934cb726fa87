"""Paired comparison of two lists of scores: difference, interval, p-value, wins."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

DRAWS = 4000


@dataclass(frozen=True)
class Difference:
    """Mean of second minus first, its 95 % interval, and how often chance alone would differ so."""

    mean: float
    low: float
    high: float
    p: float


def paired_difference(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Difference:
    """Compare scores of the same items.

    The interval is the percentile bootstrap over items; p is that of the sign-flip permutation
    test, two-sided, counting the seen case itself. Raises ValueError on lists of unequal length
    or without items.
    """
    if len(first) != len(second) or not first:
        raise ValueError("Two lists of the same, non-zero length are compared.")
    gaps = [b - a for a, b in zip(first, second, strict=True)]
    mean, n = fmean(gaps), len(gaps)
    draw = random.Random(seed)
    means = sorted(sum(draw.choices(gaps, k=n)) / n for _ in range(DRAWS))
    size = [abs(g) for g in gaps if g]
    if not size:
        return Difference(mean, means[0], means[-1], 1.0)
    seen = abs(sum(gaps)) - 1e-9
    extreme = sum(abs(sum(s if draw.random() < 0.5 else -s for s in size)) >= seen
                  for _ in range(DRAWS))
    return Difference(mean, means[int(0.025 * DRAWS)], means[int(0.975 * DRAWS) - 1],
                      (extreme + 1) / (DRAWS + 1))


def wins(first: Sequence[float], second: Sequence[float]) -> tuple[int, int, int]:
    """(second is better, second is worse, alike), item by item."""
    better = sum(b > a + 1e-9 for a, b in zip(first, second, strict=True))
    worse = sum(b < a - 1e-9 for a, b in zip(first, second, strict=True))
    return better, worse, len(first) - better - worse
