"""What the curves of a run say about its health: rules with the figure behind each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

RECENT = 10  # points that a rule looks at; fewer are "not enough data"


@dataclass(frozen=True)
class Finding:
    """One thing a person should know, with the figure behind it and what to do."""

    level: str  # "warning" or "info"
    what: str
    figure: str
    next: str


Curves = Mapping[str, Sequence[float]]  # metric -> its values, NaN left out


def findings(curves: Curves, settings) -> list[Finding]:
    """Every rule that fires; each looks at the newest points. Empty while there are too few."""
    return [found for rule in RULES if (found := rule(curves, settings))]


def _recent(curves: Curves, name: str) -> float | None:
    values = curves.get(name, ())
    return sum(values[-RECENT:]) / RECENT if len(values) >= RECENT else None


def answers_are_cut(curves: Curves, settings) -> Finding | None:
    share = _recent(curves, "completions/clipped_ratio")
    if share is None or share < 0.2:
        return None
    return Finding("warning", "Many answers are cut off before they end.",
                   f"{share:.0%} hit the limit of {settings.train.max_completion_length} tokens "
                   f"in the last {RECENT} points.",
                   "Raise 'Longest answer', or reward shorter answers.")


def groups_are_all_wrong(curves: Curves, settings) -> Finding | None:
    share = _recent(curves, "groups/dead_wrong")
    if share is None or share < 0.5:
        return None
    return Finding("warning", "Most groups teach nothing: all their answers score alike, and low.",
                   f"{share:.0%} of the groups in the last {RECENT} points.",
                   "Take easier questions, more answers per question, or a reward that gives "
                   "partial credit.")


def groups_are_all_right(curves: Curves, settings) -> Finding | None:
    share = _recent(curves, "groups/dead_right")
    if share is None or share < 0.5:
        return None
    return Finding("info", "Most questions are solved: little is left to learn from them.",
                   f"{share:.0%} of the groups in the last {RECENT} points are all right.",
                   "Take harder questions, or stop here.")


def rewards_fail(curves: Curves, settings) -> Finding | None:
    for chosen in settings.rewards.chosen:
        values = curves.get(f"reward_errors/{chosen.name}", ())
        if failed := sum(values[-RECENT:]):
            return Finding("warning", f"The reward '{chosen.name}' fails on some answers.",
                           f"{failed:.0f} errors in the last points.",
                           "Look at the newest answers for its message; failed answers count as "
                           "not judged, never as 0.")
    return None


def reward_is_flat(curves: Curves, settings) -> Finding | None:
    values = curves.get("reward/weighted", ())
    if len(values) < 50:
        return None
    early, late = (sum(part) / len(part) for part in (values[:RECENT], values[-RECENT:]))
    spread = _recent(curves, "reward/within_group_std") or 0.0
    if late - early > 0.1 * max(spread, 0.1):
        return None
    return Finding("warning", "The reward does not rise.",
                   f"{early:.2f} at the start, {late:.2f} in the last {RECENT} points.",
                   "Raise the learning rate, or check under Rewards what is rewarded.")


RULES: tuple[Callable[[Curves, object], Finding | None], ...] = (
    answers_are_cut, groups_are_all_wrong, groups_are_all_right, rewards_fail, reward_is_flat)
