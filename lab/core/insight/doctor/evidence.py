"""What the doctor's rules look at: a run's curves up to one of its points, with what is noise."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.core.rewards.chosen import Chosen
from lab.core.rewards.registry import GOAL, SHAPE
from lab.core.settings import Settings

FIRST = 5  # points at most that tell how it was at the start: later ones have learnt already
NEWEST = 10  # points at most that tell how it is now
SLOPED = 100  # points at most that a straight line is laid through
FEWEST = 3  # points without which nothing is compared
GOAL_CURVE, SHAPE_CURVE = "goal/mean", "shape/mean"


@dataclass(frozen=True)
class Change:
    """How a curve has moved: mean of its first points, of its newest, and the standard error of
    the difference."""

    before: float
    after: float
    error: float

    @property
    def rise(self) -> float:
        return self.after - self.before

    @property
    def least(self) -> float:
        """The least that it has risen, for all that the noise lets one say (two errors)."""
        return self.rise - 2 * self.error

    @property
    def most(self) -> float:
        return self.rise + 2 * self.error

    def is_sure(self, errors: float = 4.0) -> bool:
        """Whether it moved at all. Four errors, for a rule is asked anew at each point."""
        return abs(self.rise) > errors * self.error


def mean_of(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def with_goal(settings: Settings, metrics: Mapping[str, Sequence[float]]
              ) -> Mapping[str, Sequence[float]]:
    """The metrics with goal and shape. Runs from before they were told apart have theirs from the
    means of the rewards."""
    found = dict(metrics)
    for name, kind in ((GOAL_CURVE, GOAL), (SHAPE_CURVE, SHAPE)):
        columns = [[max(0.0, v) / one.best if v == v else v for v in column]
                   for one in settings.rewards.chosen if one.takes_as == kind
                   if (column := metrics.get(f"rewards/{one.name}/mean")) is not None]
        if name not in metrics and columns:
            found[name] = [sum(point) / len(columns) for point in zip(*columns, strict=True)]
    return metrics if found.keys() == metrics.keys() else found


class Evidence:
    """A run up to point `count`; all that a rule may look at.

    `metrics` are columns as long as `steps`, NaN where a point lacks a value. `held_out` is
    {step: metrics} as in `events.HeldOut`. `groups` are the newest recorded groups, for examples
    only: they are those of the run's end, whatever `count` is. `failure` is (step, kind) of a run
    that failed.
    """

    def __init__(self, settings: Settings, steps: Sequence[int],
                 metrics: Mapping[str, Sequence[float]], count: int | None = None,
                 held_out: Mapping[int, Mapping[str, Any]] | None = None,
                 groups: Sequence[dict] = (), failure: tuple[int, str] | None = None) -> None:
        self.settings, self.steps, self.groups = settings, steps, groups
        self.metrics = with_goal(settings, metrics)
        self.count = len(steps) if count is None else count
        self.failure = failure
        self._noise: dict[str, float] = {}
        self.held_out = {step: told for step, told in (held_out or {}).items()
                         if self.count and step <= steps[self.count - 1]}

    @property
    def step(self) -> int:
        return self.steps[self.count - 1] if self.count else 0

    @property
    def train(self):
        return self.settings.train

    @property
    def chosen(self) -> tuple[Chosen, ...]:
        return self.settings.rewards.chosen

    def counting(self, kind: str = "") -> list[Chosen]:
        """The rewards that are trained on, of a kind or all."""
        return [one for one in self.chosen if one.weight > 0 and kind in ("", one.takes_as)]

    @property
    def answers(self) -> int:
        """Answers behind one point."""
        return self.train.answers_per_step() * max(1, self.train.logging_steps)

    @property
    def window(self) -> int:
        """Newest points that are looked at now: a third of what there is."""
        return min(self.count, NEWEST, max(FEWEST, self.count // 3))

    def values(self, name: str, first: int, last: int) -> list[float]:
        """The values of a metric from point `first` up to `last`, without those that are missing.
        """
        return [v for v in self.metrics.get(name, ())[max(0, first):last] if v == v]

    def first(self, name: str) -> list[float]:
        return self.values(name, 0, min(FIRST, self.window))

    def newest(self, name: str) -> list[float]:
        return self.values(name, self.count - self.window, self.count)

    def now(self, name: str) -> float | None:
        """Mean over the newest points; None where fewer than FEWEST have a value."""
        found = self.newest(name)
        return mean_of(found) if len(found) >= FEWEST else None

    def change(self, name: str) -> Change | None:
        """From the first points to the newest; None while the two would touch."""
        if self.count < 2 * FEWEST:
            return None
        before, after = self.first(name), self.newest(name)
        if len(before) < FEWEST or len(after) < FEWEST:
            return None
        error = self.noise(name) * math.sqrt(1 / len(before) + 1 / len(after))
        return Change(mean_of(before), mean_of(after), error)

    def noise(self, name: str) -> float:
        """Standard deviation of a point, from the differences of neighbours: a trend adds little
        to it (von Neumann's estimate). From few points it is poor, so it is taken larger there.
        """
        if name not in self._noise:
            spans = [self.values(name, 0, min(self.count, NEWEST))]
            if self.count > NEWEST:
                spans.append(self.values(name, max(NEWEST, self.count - 3 * NEWEST), self.count))
            gaps = [b - a for span in spans for a, b in zip(span, span[1:], strict=False)]
            self._noise[name] = (
                math.sqrt(sum(gap * gap for gap in gaps) / len(gaps) / 2) * (1 + 4 / len(gaps))
                if gaps else math.inf)
        return self._noise[name]

    def slope(self, name: str) -> tuple[float, float] | None:
        """(rise a step, its standard error) of a straight line through the newest points, up to
        SLOPED; None while there are too few."""
        first = max(0, self.count - SLOPED)
        points = [(x, y) for x, y in zip(
            self.steps[first:self.count], self.metrics.get(name, ())[first:self.count],
            strict=False) if y == y]
        if len(points) < 2 * FEWEST:
            return None
        middle, mean = (sum(side) / len(points) for side in zip(*points, strict=True))
        width = sum((x - middle) ** 2 for x, _ in points)
        rise = sum((x - middle) * (y - mean) for x, y in points) / width
        return rise, self.noise(name) / math.sqrt(width)

    def surely(self, name: str) -> float | None:
        """What a curve is at the least, now: two errors below its newest mean."""
        mean = self.now(name)
        return None if mean is None else mean - 2 * self.noise(name) / math.sqrt(
            len(self.newest(name)))

    def goal_stands(self) -> Change | None:
        """The change of the goal where it has surely not risen by what counts (`ROSE`), or has
        fallen; None where it may have, where all is reached, or where there is no goal."""
        goal = self.change(GOAL_CURVE)
        return goal if goal and goal.most < ROSE and goal.after < REACHED else None


ROSE = 0.05  # of the goal's highest: what a rise is worth being spoken of
REACHED = 0.9  # of the goal's highest: little is left to rise
