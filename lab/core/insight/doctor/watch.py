"""Looks at a run with all rules: the verdict, and since when each finding has been there."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lab.core.insight.doctor.evidence import FEWEST, GOAL_CURVE, REACHED, Evidence, with_goal
from lab.core.insight.doctor.rules import INFO, LEVELS, ORDER, RULES, Finding
from lab.core.settings import Settings

HEALTHY, WARNED, EARLY = "healthy", "warning", "too early"  # the verdicts
QUIET = 10  # points without a finding, after which it would be a new one
MOST_LOOKS = 300  # points that are looked at where many came at once


@dataclass(frozen=True)
class Report:
    """What the doctor sees. `why` is the verdict's reason in a sentence."""

    verdict: str
    why: str
    findings: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "why": self.why,
                "findings": [found.to_dict() for found in self.findings]}


def examine(evidence: Evidence) -> list[Finding]:
    """Every rule that fires at this point, the worst first; `since` is this point's step. What
    another finding explains is not told beside it."""
    found = [replace(one, since=one.since or evidence.step) for name in ORDER
             if (one := RULES[name](evidence))]
    explained = {name for one in found for name in RULES[one.rule].explains}
    found = [one for one in found if one.rule not in explained]
    return sorted(found, key=lambda one: (LEVELS.index(one.level), one.rank))


def verdict(evidence: Evidence, findings: Sequence[Finding]) -> tuple[str, str]:
    """(verdict, why). A run is called healthy when its goal has surely risen, and nothing warns;
    where no goal is chosen the weighted reward stands for it."""
    warned = [one for one in findings if one.level != INFO]
    if warned:
        return WARNED, warned[0].what
    if evidence.count < 2 * FEWEST:
        return EARLY, (f"{evidence.count} points are there; {2 * FEWEST} are needed to compare "
                       "how it began with how it goes.")
    goal, name = evidence.change(GOAL_CURVE), "goal"
    if goal is None:
        goal, name = evidence.change("reward/weighted"), "reward (no goal is chosen)"
    if goal is None:
        return EARLY, "There are no scores to judge by."
    told = f"{goal.before:.1%} to {goal.after:.1%}" if name == "goal" else \
        f"{goal.before:.2f} to {goal.after:.2f}"
    if name == "goal" and goal.after >= REACHED:
        return HEALTHY, f"The goal is reached: {told} of what it can give."
    if goal.least > 0:
        return HEALTHY, f"The {name} rises: {told}."
    return EARLY, f"Whether the {name} rises cannot be told yet: {told}."


class Watch:
    """Follows one run point by point and remembers since when each rule has fired."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.seen = 0  # points that were looked at
        self._since: dict[str, int] = {}
        self._last: dict[str, int] = {}  # rule -> the point at which it fired last

    def look(self, steps: Sequence[int], metrics: Mapping[str, Sequence[float]],
             held_out: Mapping[int, Mapping[str, Any]] | None = None, groups: Sequence[dict] = (),
             failure: tuple[int, str] | None = None) -> Report:
        """The report at the end of these curves, which must go on from those of the last call.
        Where many points came at once, not each of them is looked at."""
        stride = max(1, math.ceil((len(steps) - self.seen) / MOST_LOOKS))
        found: list[Finding] = []
        metrics = with_goal(self.settings, metrics)
        evidence = Evidence(self.settings, steps, metrics, 0)
        for count in [*range(self.seen + 1, len(steps), stride), len(steps)]:
            evidence = Evidence(self.settings, steps, metrics, count, held_out, groups, failure)
            found = [self._dated(one, count) for one in examine(evidence)]
        self.seen = len(steps)
        return Report(*verdict(evidence, found), tuple(found))

    def _dated(self, found: Finding, count: int) -> Finding:
        if count - self._last.get(found.rule, -QUIET) > QUIET or found.rule not in self._since:
            self._since[found.rule] = found.since
        self._last[found.rule] = count
        return replace(found, since=self._since[found.rule])
