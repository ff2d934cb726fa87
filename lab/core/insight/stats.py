"""Paired comparison of two sides' scores of the same questions: difference, interval, p, wins."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

DRAWS = 4000
Z95 = NormalDist().inv_cdf(0.975)
Z80 = NormalDist().inv_cdf(0.8)  # a difference that is there is found four times in five


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
    if not any(gaps):
        return Difference(mean, means[0], means[-1], 1.0)
    return Difference(mean, means[int(0.025 * DRAWS)], means[int(0.975 * DRAWS) - 1],
                      sign_flips(gaps, draw))


def sign_flips(gaps: Sequence[float], draw: random.Random) -> float:
    """How often chance alone would make a sum of these gaps at least so far from 0, were either
    side as likely to be the better one: two-sided, counting the seen case itself."""
    # Gaps of one size flip together: so many of their random signs are plus.
    sizes = Counter(round(abs(g), 9) for g in gaps if g)
    seen = abs(sum(gaps)) - 1e-6
    extreme = sum(abs(sum(size * (2 * draw.getrandbits(count).bit_count() - count)
                          for size, count in sizes.items())) >= seen for _ in range(DRAWS))
    return (extreme + 1) / (DRAWS + 1)


def wins(first: Sequence[float], second: Sequence[float]) -> tuple[int, int, int]:
    """(second is better, second is worse, alike), item by item."""
    better = sum(b > a + 1e-9 for a, b in zip(first, second, strict=True))
    worse = sum(b < a - 1e-9 for a, b in zip(first, second, strict=True))
    return better, worse, len(first) - better - worse


def paired_shares(first: Sequence[bool], second: Sequence[bool]) -> Difference:
    """Compare right and wrong on the same items: the share of the second minus that of the first.

    The interval is Newcombe's for paired shares (Statistics in Medicine 17, 1998, method 10): it
    has a width also where no item changed, which a bootstrap has not. p is that of the exact
    McNemar test. Raises ValueError on lists of unequal length or without items.
    """
    if len(first) != len(second) or not first:
        raise ValueError("Two lists of the same, non-zero length are compared.")
    n, pairs = len(first), list(zip(first, second, strict=True))
    both, lost, won = (sum(1 for pair in pairs if pair == kind)
                       for kind in ((True, True), (True, False), (False, True)))
    neither = n - both - lost - won
    before, after = (both + lost) / n, (both + won) / n
    (low_1, high_1), (low_2, high_2) = wilson(both + lost, n), wilson(both + won, n)
    margins = (both + lost) * (won + neither) * (both + won) * (lost + neither)
    product = both * neither - lost * won
    if product > 0:
        product = max(product - n / 2, 0)
    phi = product / math.sqrt(margins) if margins else 0.0

    def reach(down: float, up: float) -> float:
        return math.sqrt(max(0.0, down * down - 2 * phi * down * up + up * up))

    mean = after - before
    return Difference(mean, max(-1.0, mean - reach(after - low_2, high_1 - before)),
                      min(1.0, mean + reach(before - low_1, high_2 - after)), mcnemar(won, lost))


def mcnemar(won: int, lost: int) -> float:
    """Two-sided exact McNemar test: how often chance alone would split the items that changed at
    least so unevenly. 1 where none changed."""
    changed = won + lost
    tail = sum(math.comb(changed, k) for k in range(min(won, lost) + 1))
    return min(1.0, 2 * tail / 2 ** changed)


def wilson(right: float, n: float) -> tuple[float, float]:
    """95 % interval of a share, by Wilson's score (1927). Raises ValueError where n is 0."""
    if not 0 <= right <= n or n == 0:
        raise ValueError("A share needs items, and no more hits than items.")
    share, z = right / n, Z95 * Z95
    middle = (right + z / 2) / (n + z)
    reach = Z95 / (n + z) * math.sqrt(n * share * (1 - share) + z / 4)
    return (0.0 if right == 0 else middle - reach), (1.0 if right == n else middle + reach)


def clustered_shares(first: Sequence[float], second: Sequence[float],
                     seed: int = 0) -> Difference:
    """Compare the shares of right answers to the same questions, each asked several times.

    Item i is a question: first[i] and second[i] are shares of its answers, 0 to 1. The answers to a
    question are alike, so a question counts once however often it is asked: the error is that of
    the mean of the questions' differences, which is the paired error clustered by question of
    Miller (Adding Error Bars to Evals, 2024, arXiv 2411.00640). It is never less than if half a
    question had changed each way, as Agresti and Min count it (Statistics in Medicine 24, 2005):
    where nothing changed, the interval has a width too. p is that of `sign_flips` over the
    questions; with one answer each that is McNemar's. Raises ValueError on lists of unequal length
    or without items.
    """
    if len(first) != len(second) or not first:
        raise ValueError("Two lists of the same, non-zero length are compared.")
    gaps = [b - a for a, b in zip(first, second, strict=True)]
    mean, n = fmean(gaps), len(gaps)
    spread = sum((gap - mean) ** 2 for gap in gaps) / max(1, n - 1)
    reach = Z95 * max(math.sqrt(spread / n), 1 / (n + 2))
    return Difference(mean, max(-1.0, mean - reach), min(1.0, mean + reach),
                      sign_flips(gaps, random.Random(seed)) if any(gaps) else 1.0)


def clustered_share(shares: Sequence[float], each: int) -> tuple[float, float]:
    """95 % interval of the mean of questions' shares, of `each` answers to a question: Wilson's, of
    as many answers as are worth it. These are at least the questions and at most the answers; in
    between, the error clustered by question says it (Kish's design effect). Raises ValueError
    without a question."""
    n = len(shares)
    if not n:
        raise ValueError("A share needs items, and no more hits than items.")
    mean = fmean(shares)
    error = sum((share - mean) ** 2 for share in shares) / (n * max(1, n - 1))
    worth = min(n * each, max(n, mean * (1 - mean) / error)) if error else n
    return wilson(mean * worth, worth)


def items_needed(difference: float, changed: float, each: int = 1) -> int:
    """How many items would tell a difference of two paired shares from chance four times in five.

    `changed` is the mean square of the items' differences. Of one answer to each it is the share of
    items that are right on one side only; of several (`each`) it is less, for what is drawn evens
    out. Connor's formula (Biometrics 43, 1987), at the 5 % level, two-sided; two digits of it are
    worth telling. Raises ValueError where the difference is 0.
    """
    size = abs(difference)
    if not 0 < size <= 1:
        raise ValueError("A difference of two shares that is not 0 is needed.")
    changed = max(changed, size / each, size * size)  # an item differs by 1 / each, or not at all
    needed = ((Z95 * math.sqrt(changed) + Z80 * math.sqrt(changed - size * size)) / size) ** 2
    digits = 10 ** max(0, math.floor(math.log10(needed)) - 1)
    return math.ceil(needed / digits) * digits
