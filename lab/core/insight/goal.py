"""How the goal of a run moved: on held-out questions where they were asked, else in training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.core.insight.held_out import HeldOut, best_step

HELD_OUT, TRAINING = "held out", "in training"


@dataclass(frozen=True)
class Progress:
    """The goal at a run's begin and end, as shares.

    `source` is HELD_OUT or TRAINING. `whole`: shares of answers that reach every goal; else shares
    of the goals' points. `step` is that of the last, `best` the (step, share) that did best on
    held-out questions, if it did better than the base; both None in training.
    """

    source: str
    first: float
    last: float
    whole: bool
    step: int | None = None
    best: tuple[int, float] | None = None

    def __str__(self) -> str:
        found = f"{_percent(self.first)} → {_percent(self.last)} {self.source}"
        if self.best and self.best[1] > self.last:
            found += f", best {_percent(self.best[1])} at step {self.best[0]}"
        return found


def shares(asked: HeldOut) -> list[tuple[int, float]]:
    """(step, share) of the answers to held-out questions, the base's at step 0 first. A step whose
    goals could not be judged is left out."""
    return sorted((step, share) for step, metrics in asked.items()
                  if (share := _share(metrics)) is not None)


def progress(asked: HeldOut, verdicts: Sequence[Mapping[str, Any]],
             curves: Mapping[str, tuple[float | None, float | None]]) -> Progress | None:
    """How the goal moved; None while nothing tells.

    A held-out verdict asks more questions than the run does while it trains, so it counts first,
    unless the run has asked since; the two are not mixed, for their questions differ. `curves`
    holds (first, last) of goal/reached and goal/mean in training.
    """
    points = shares(asked)
    one = next((one for one in reversed(verdicts) if one["step"] is not None
                and one["tuned"]["accuracy"] is not None and not one.get("drawn")), None)
    if one and (not points or one["step"] >= points[-1][0]):
        return Progress(HELD_OUT, one["base"]["accuracy"], one["tuned"]["accuracy"], True,
                        one["step"])
    if len(points) > 1 and points[0][0] == 0:
        (_, first), *rest = points
        whole = any(metrics.get("reached") is not None for metrics in asked.values())
        best = best_step(asked)
        return Progress(HELD_OUT, first, rest[-1][1], whole, rest[-1][0],
                        next((point for point in rest if point[0] == best), None))
    for name in ("goal/reached", "goal/mean"):
        first, last = curves.get(name, (None, None))
        if first is not None and last is not None:
            return Progress(TRAINING, first, last, name == "goal/reached")
    return None


def _share(metrics: Mapping[str, float | None]) -> float | None:
    reached = metrics.get("reached")
    return metrics.get("goal") if reached is None else reached


def _percent(share: float) -> str:
    """Whole percents, and a digit more where that would hide a little."""
    return f"{share * 100:.1f} %" if 0 < share < 0.095 else f"{share * 100:.0f} %"
