"""What a recorded group tells at a glance, the way through the groups of a run, and what became of
each question.

A run records some groups of each step whole (see `metrics.group_record`). Whoever looks through a
long run must not read them all: a `Glance` of each is kept instead.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from sys import intern
from typing import Any

from lab.core.insight.metrics import ALMOST
from lab.core.prompts import in_one_line
from lab.core.rewards.scoring import all_full

LONGEST = 160  # characters of a question that are kept


@dataclass(frozen=True, slots=True)
class Glance:
    """One group in short. `right` counts the answers that reach every goal, of `judged`."""

    key: str  # of its question: the same wherever this is asked
    question: str  # on one line, its beginning
    answers: int
    judged: int
    right: int
    taught: bool  # whether any advantage is not 0
    errors: int  # answers on which a reward failed
    cut: int

    @property
    def rate(self) -> float | None:
        """Share of right answers; None where nothing says which are."""
        return self.right / self.judged if self.judged else None


def glance_of(group: Any, goals: Mapping[str, float]) -> Glance | None:
    """A recorded group in short; None for what is no group. `goals` are the highest scores of the
    goal rewards."""
    if not isinstance(group, dict) or not isinstance(group.get("answers"), list):
        return None
    answers = [one for one in group["answers"] if isinstance(one, dict)]
    columns = group.get("columns")
    asked = in_one_line(columns if isinstance(columns, dict) and columns.get("question")
                        else {"question": group.get("prompt") or ""})
    reached = [all_full(_scores(one.get("rewards")), goals) for one in answers]
    gains = [one.get("advantage") for one in answers]
    return Glance(
        intern(blake2b(asked.encode(errors="replace"), digest_size=8).hexdigest()),
        intern(asked if len(asked) <= LONGEST else f"{asked[:LONGEST - 1]}…"), len(answers),
        sum(one is not None for one in reached), sum(one is True for one in reached),
        any(isinstance(gain, int | float) and abs(gain) > ALMOST for gain in gains),
        sum(bool(one.get("errors")) for one in answers), sum(bool(one.get("cut"))
                                                             for one in answers))


def _scores(rewards: Any) -> dict[str, float]:
    return {name: score for name, score in rewards.items() if isinstance(score, int | float)} \
        if isinstance(rewards, dict) else {}


Glances = Mapping[int, Sequence[Glance | None]]  # of each step, in the order of its groups
Place = tuple[int, int]  # step, and which of its groups

KINDS: dict[str, Callable[[Glance], bool]] = {
    "all": lambda one: True,
    "mixed": lambda one: one.taught,
    "dead": lambda one: not one.taught,
    "right": lambda one: one.rate == 1,
    "wrong": lambda one: one.rate == 0,
    "errors": lambda one: one.errors > 0,
    "cut": lambda one: one.cut > 0,
}


def places(glances: Glances, kind: str = "all") -> list[Place]:
    """Where the groups of a kind are, in the order of the run."""
    fits = KINDS[kind]
    return [(step, place) for step in sorted(glances)
            for place, one in enumerate(glances[step]) if one is not None and fits(one)]


def moved(there: Sequence[Place], at: Place | None, move: str) -> Place | None:
    """Where a move leads among groups that are `there` (sorted): "next", "before", "step after",
    "step before" (to its first group), "first", "newest", or "" (where it is, else nearest).

    None where nothing is there in that direction.
    """
    if not there:
        return None
    if move in ("first", "newest") or at is None:
        return there[0 if move == "first" else -1]
    if move == "next":
        return _at(there, bisect_right(there, at))
    if move == "before":
        return _at(there, bisect_left(there, at) - 1)
    if move == "step after":
        return _at(there, bisect_left(there, (at[0] + 1, 0)))
    if move == "step before":
        last = _at(there, bisect_left(there, (at[0], 0)) - 1)
        return last and there[bisect_left(there, (last[0], 0))]
    return there[min(bisect_left(there, at), len(there) - 1)]


def _at(there: Sequence[Place], index: int) -> Place | None:
    return there[index] if 0 <= index < len(there) else None


SOLVED, LEARNING, NEVER, FORGOTTEN, UNKNOWN = STATES = (
    "solved", "learning", "never", "forgotten", "unknown")
ONCE = 0.5  # right answers of a group that show that the question could be answered


@dataclass
class Question:
    """One question of a run, with the groups that answered it, in their order."""

    key: str
    text: str
    visits: list[tuple[Place, Glance]] = field(default_factory=list)

    @property
    def rate(self) -> float | None:
        """Of its newest group that could be judged."""
        rates = self.rates
        return rates[-1] if rates else None

    @property
    def rates(self) -> list[float]:
        return [one.rate for _, one in self.visits if one.rate is not None]

    @property
    def state(self) -> str:
        """Solved: all answers of its newest group are right. Forgotten: none is, and at least half
        were once. Never: no answer ever was right. Unknown: nothing says which are."""
        rates = self.rates
        if not rates:
            return UNKNOWN
        if rates[-1] == 1:
            return SOLVED
        if not any(rates):
            return NEVER
        return FORGOTTEN if rates[-1] == 0 and max(rates) >= ONCE else LEARNING


def questions_of(glances: Glances) -> list[Question]:
    """The questions of the recorded groups: those that were asked most often first, and of those
    alike in that the one that was asked last comes last."""
    found: dict[str, Question] = {}
    for step, place in places(glances):
        one = glances[step][place]
        found.setdefault(one.key, Question(one.key, one.question)).visits.append(
            ((step, place), one))
    return sorted(found.values(), key=lambda one: (-len(one.visits), one.visits[-1][0]))
