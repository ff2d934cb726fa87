"""The history of runs as it is looked through: found by words, ordered, set beside each other."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lab.core.insight.goal import HELD_OUT
from lab.core.settings import ALL, Settings
from lab.core.words import data_named
from lab.services.runs import Run

NEWEST_FIRST = "newest"
ORDERS: Mapping[str, str] = {  # key: what it says
    NEWEST_FIRST: "Newest first", "oldest": "Oldest first", "name": "Name",
    "goal": "Goal, best first", "reward": "Reward, highest first", "status": "Status",
    "steps": "Steps, most first", "took": "Took, longest first", "model": "Model"}
FIELDS = ("name", "model", "data", "tag", "note", "status", "verdict", "id")


def texts_of(run: Run) -> dict[str, str]:
    """What can be searched of a run, by field."""
    settings = run.settings
    return {
        "name": run.name, "id": run.id, "status": run.status, "note": run.label.notes,
        "tag": "\n".join(run.label.tags), "model": settings.model.name if settings else "",
        "data": f"{settings.data.source}\n{data_named(settings.data)}" if settings else "",
        "verdict": run.verdict["judgement"] if run.verdict else ""}


def matches(run: Run, words: str) -> bool:
    """Whether each word is somewhere in what is told of the run; `tag:WORD`, `model:WORD` and so on
    look in one field alone."""
    texts = {field: text.casefold() for field, text in texts_of(run).items()}
    for word in words.casefold().split():
        field, colon, rest = word.partition(":")
        if colon and field in FIELDS:
            if rest not in texts[field]:
                return False
        elif not any(word in text for text in texts.values()):
            return False
    return True


def listed(runs: Iterable[Run], words: str = "", order: str = NEWEST_FIRST,
           archived: bool = False) -> list[Run]:
    """The runs to show, out of all of them, newest first."""
    found = [run for run in runs if run.label.archived == archived and matches(run, words)]
    if order == NEWEST_FIRST:
        return found
    if order == "oldest":
        return found[::-1]
    key = _KEYS.get(order)
    return sorted(found, key=key) if key else found


def _last(value: float | None) -> tuple[bool, float]:
    """Sorts the largest first, and what is not known last."""
    return value is None, -(value or 0.0)


_KEYS: Mapping[str, Callable[[Run], Any]] = {
    "name": lambda run: run.name.casefold(),
    "goal": lambda run: (run.goal is None, run.goal is not None and run.goal.source != HELD_OUT,
                         _last(run.goal.last if run.goal else None)),
    "reward": lambda run: _last(run.reward_last), "status": lambda run: run.status,
    "steps": lambda run: _last(run.step), "took": lambda run: _last(run.seconds),
    "model": lambda run: run.settings.model.name.casefold() if run.settings else "\uffff"}


def differing(many: Sequence[Settings]) -> dict[str, list[Any]]:
    """{key: the value in each} of every setting that is not the same in all of them."""
    if len(many) < 2:
        return {}
    first, *others = many
    keys = {key for other in others for key in first.differences(other)}
    return {setting.key: [one.get(setting.key) for one in many]
            for setting in ALL if setting.key in keys}


def incomparable(many: Sequence[Settings]) -> list[str]:
    """What to mind when curves of runs with these settings are laid over each other."""
    keys = set(differing(many))
    found = []
    if any(key.startswith("rewards.") for key in keys):
        found.append("Their rewards differ, so their reward curves have different scales: the goal "
                     "on held-out questions is what compares.")
    if any(key.startswith("data.") for key in keys) or "train.seed" in keys:
        found.append("Their data or seed differ, so they were not asked the same held-out "
                     "questions.")
    return found
