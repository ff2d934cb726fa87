"""What if a run had paid for something else: its recorded groups under other rewards."""

from collections.abc import Sequence
from typing import Any

from lab.core.insight import whatif as arithmetic
from lab.core.problems import BadSettings, RunError
from lab.core.rewards.chosen import Chosen, check_chosen
from lab.services.lab import Lab


def whatif(lab: Lab, run_id: str, then: Sequence[Chosen]) -> dict[str, Any]:
    """The figures of `core/insight/whatif.py` over all groups that a run recorded, running or not.

    Raises RunError where it recorded none, BadSettings where the rewards cannot be used.
    """
    run = lab.runs.get(run_id)
    if run.settings is None:
        raise RunError(run.problem.what, run.problem.why, run.problem.next)
    if problems := check_chosen(then):
        raise BadSettings(problems[0])
    log = lab.runs.log(run_id)
    groups = [group for step in sorted(log.samples) for group in log.groups_at(step)[1]
              if _is_whole(group)]
    if not groups:
        raise RunError(f"Run {run_id} recorded no answers yet.",
                       next="Wait for its first step.")
    return arithmetic.whatif(groups, run.settings.rewards.chosen, then,
                             run.settings.train.multi_objective_aggregation)


def _is_whole(group: Any) -> bool:
    """A damaged line of a run's events must not end this."""
    return isinstance(group, dict) and isinstance(group.get("columns", {}), dict) and bool(
        group.get("answers")) and all(
        isinstance(one, dict) and isinstance(one.get("text"), str)
        and isinstance(one.get("rewards"), dict) and isinstance(one.get("errors", {}), dict)
        for one in group["answers"])
