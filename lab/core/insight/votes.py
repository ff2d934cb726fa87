"""Blind votes in figures: which side is preferred, how surely, and which rewards agree."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.core.insight.headline import percent
from lab.core.insight.stats import items_needed, mcnemar, wilson

LEFT, RIGHT, ALIKE, BAD = "left", "right", "alike", "bad"  # what a person can say of two answers
VOTES = (LEFT, RIGHT, ALIKE, BAD)
PLACES = (LEFT, RIGHT)
TOTAL = "total"  # the weighted sum, among the rewards
SURE = 0.05  # of chance alone, below which a split is told as a preference
FEWEST = 6  # votes: no split of fewer is that rare
ALMOST = 1e-9

Vote = Mapping[str, Any]  # see services/votes.py


def identity(side: Mapping[str, Any]) -> tuple[str, str]:
    """Which weights answered: (run, the adapter's fingerprint), both empty for the base model."""
    return side["run"], side["adapter"]


def between(votes: Iterable[Vote], first: tuple[str, str], second: tuple[str, str]) -> list[Vote]:
    """The votes on just these two, whichever stood on the left."""
    return [vote for vote in votes
            if {identity(vote[place]) for place in PLACES} == {first, second}]


@dataclass(frozen=True)
class Tally:
    """How a person voted on two sides: for the second (`won`), the first (`lost`), or neither."""

    won: int = 0
    lost: int = 0
    alike: int = 0
    bad: int = 0

    @property
    def decided(self) -> int:
        """Votes in which one side was preferred: those that the sign test counts."""
        return self.won + self.lost

    @property
    def p(self) -> float:
        """Of the exact two-sided sign test: how often a coin would split the decided votes at least
        so unevenly. (McNemar's exact test is the sign test of what changed.)"""
        return mcnemar(self.won, self.lost)

    @property
    def share(self) -> float:
        return self.won / self.decided

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of `share`. Raises ValueError where nothing is decided."""
        return wilson(self.won, self.decided)

    @property
    def needed(self) -> int | None:
        """So many decided votes would tell such a split from a coin four times in five; None for an
        even one."""
        gap = 2 * self.share - 1
        return max(FEWEST, items_needed(gap, 1.0)) if gap else None


def tally(votes: Iterable[Vote], second: tuple[str, str]) -> Tally:
    """Count votes on two sides, `second` being one of them."""
    won = lost = alike = bad = 0
    for vote in votes:
        if vote["vote"] in PLACES:
            took_second = identity(vote[vote["vote"]]) == second
            won, lost = won + took_second, lost + (not took_second)
        else:
            alike, bad = alike + (vote["vote"] == ALIKE), bad + (vote["vote"] == BAD)
    return Tally(won, lost, alike, bad)


def sentence(counted: Tally, first: str, second: str) -> str:
    """What the votes on two sides come to, in one sentence. `first` and `second` are their names.
    """
    ties = _ties(counted)
    if not counted.decided:
        if not ties:
            return f"No vote yet on {first} and {second}."
        return f"You preferred neither {first} nor {second} ({ties})."
    if counted.lost > counted.won:  # the one that leads comes first
        return sentence(Tally(counted.lost, counted.won, counted.alike, counted.bad), second, first)
    low, high = counted.interval
    said = (f"You preferred {second} to {first} in {counted.won} of {counted.decided} "
            f"{'vote' if counted.decided == 1 else 'votes'} ({percent(counted.share, 0)}, 95 % "
            f"between {percent(low, 0)} and {percent(high, 0)}{'; ' if ties else ''}{ties}): "
            f"{_p(counted.p)}, ")
    if counted.p < SURE:
        return f"{said}hardly chance. You prefer {second}."
    if counted.needed is None:
        return said + "no preference so far."
    if counted.needed <= counted.decided:
        return said + "too few to tell."
    return said + f"too few to tell. About {counted.needed} would, if it goes on like this."


def _ties(counted: Tally) -> str:
    told = [(counted.alike, "alike"), (counted.bad, "both bad")]
    return ", ".join(f"{count} {what}" for count, what in told if count)


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


@dataclass(frozen=True)
class Agreement:
    """How often a score preferred the answer that the person preferred. Of `votes` in which the
    person preferred one, it told the two answers apart in `differs`, the same way in `agrees`."""

    votes: int
    differs: int
    agrees: int

    @property
    def p(self) -> float:
        return mcnemar(self.agrees, self.differs - self.agrees)

    @property
    def judgement(self) -> str:
        """Whether it wants what the person wants, in a few words."""
        if not self.differs:
            return "sees no difference" if self.votes else "no vote yet"
        if self.p >= SURE:
            return "too few to tell"
        return "wants what you want" if 2 * self.agrees > self.differs else "wants the opposite"


def agreements(votes: Sequence[Vote], names: Iterable[str]) -> dict[str, Agreement]:
    """{reward: Agreement}, and that of the weighted sum under TOTAL. A vote that a reward could not
    judge on both sides is none in which it differs."""
    decided = [vote for vote in votes if vote["vote"] in PLACES]
    found = {}
    for name in (*names, TOTAL):
        differs = agrees = 0
        for vote in decided:
            left, right = (_score(vote[place], name) for place in PLACES)
            if left is None or right is None or abs(left - right) <= ALMOST:
                continue
            differs += 1
            agrees += (LEFT if left > right else RIGHT) == vote["vote"]
        found[name] = Agreement(len(decided), differs, agrees)
    return found


def _score(side: Mapping[str, Any], name: str) -> float | None:
    return side["total"] if name == TOTAL else side["rewards"].get(name)


def wanted(total: Agreement) -> str:
    """Whether the weighted sum wants what the person wants, in a sentence."""
    if not total.votes:
        return "No vote yet in which you preferred one answer."
    of = f"{total.votes} {'vote' if total.votes == 1 else 'votes'} in which you preferred one"
    if not total.differs:
        return f"The weighted rewards saw no difference in {of}."
    blind = total.votes - total.differs
    said = (f"The weighted rewards preferred the answer that you preferred in {total.agrees} of "
            f"{total.differs}")
    said += f"; in {blind} more they saw no difference" if blind else ""
    ending = {"wants what you want": "they want what you want.",
              "wants the opposite": "they want the opposite of what you want: training on them "
                                    "leads away from it.",
              "too few to tell": "too few to tell whether they want what you want."}
    return f"{said} ({_p(total.p)}): {ending[total.judgement]}"
