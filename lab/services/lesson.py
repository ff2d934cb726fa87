"""Where the page "How GRPO works" takes its group from: the newest of a run, or a built-in one."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from lab.core.catalog import DEFAULT_RECIPE, RECIPES
from lab.core.insight.groups import moved, places
from lab.core.problems import LabError
from lab.core.prompts import in_format
from lab.core.rewards.scoring import score_all
from lab.core.settings import Settings
from lab.services.lab import Lab
from lab.services.runs import Run

LOOKED_AT = 20  # runs, for one that has recorded a group
QUESTION = "Mia has 4 boxes with 6 pens each. She gives 5 pens away. How many are left?"
ANSWERS = (in_format("4 * 6 = 24. 24 - 5 = 19.", "19"), in_format("4 * 6 = 24.", "24"),
           in_format("4 + 6 = 10. 10 - 5 = 5.", "5"), "She has 24 pens and 5 are gone: 19.",
           "<answer>19</answer>", "I think 20")


@dataclass(frozen=True)
class Found:
    """A group with its step. `groups` are all that were recorded of the step, `place` is which of
    them; `run` is None for the built-in one, whose tokens are its words."""

    run: Run | None
    settings: Settings
    groups: list[dict]
    step: int
    place: int
    before: bool  # whether there is another group before it, and after it
    after: bool


def find(lab: Lab, wanted: str = "", at: tuple[int, int] | None = None, move: str = "") -> Found:
    """The group of a run where `at` and `move` lead (see `groups.moved`); without `at` the newest
    that taught something, or else the newest. Where the wanted run has recorded none, of the
    newest run that has; where none has, the built-in one."""
    for run_id in dict.fromkeys([wanted, *(f.id for f in lab.workspace.folders()[:LOOKED_AT])]):
        if run_id and (found := _of_run(lab, run_id, at if run_id == wanted else None, move)):
            return found
    return built_in()


def _of_run(lab: Lab, run_id: str, at: tuple[int, int] | None, move: str) -> Found | None:
    try:
        run, log = lab.runs.get(run_id), lab.runs.log(run_id)
    except (LabError, OSError):
        return None
    seen = log.seen()
    there = [one for one in places(seen) if seen[one[0]][one[1]].answers]
    if run.settings is None or not there:
        return None
    # What taught something has answers.
    place = (moved(there, at, move) or at) if at else (places(seen, "mixed") or there)[-1]
    recorded = log.groups_at(place[0])
    if recorded is None or len(recorded[1]) <= place[1]:
        return None  # it was resumed from before, just now
    whole = [_whole(group) for group in recorded[1]]
    if whole[place[1]] is None:
        return None
    kept = [group for group in whole if group]
    return Found(run, run.settings, kept, place[0], kept.index(whole[place[1]]),
                 moved(there, place, "before") is not None,
                 moved(there, place, "next") is not None)


def _whole(group: Any) -> dict | None:
    """A group whose answers can be counted with; None for a damaged one."""
    if not isinstance(group, dict) or not isinstance(group.get("answers"), list):
        return None
    answers = [one | {"rewards": {
        name: score for name, score in one["rewards"].items() if isinstance(score, int | float)}}
        for one in group["answers"] if isinstance(one, dict)
        and isinstance(one.get("rewards"), dict) and isinstance(one.get("errors", {}), dict)]
    return group | {"answers": answers} if answers else None


@cache
def built_in() -> Found:
    """A group by hand, scored by the rewards of the first recipe."""
    settings = RECIPES[DEFAULT_RECIPE].settings()
    row = {"question": QUESTION, "answer": "19"}
    scored = score_all(ANSWERS, [row] * len(ANSWERS), settings.rewards.chosen)
    answers = [{"text": text, "tokens": len(text.split()), "cut": False, "rewards": one.rewards,
                "errors": one.errors} for text, one in zip(ANSWERS, scored, strict=True)]
    return Found(None, settings, [{"prompt": QUESTION, "columns": row, "answers": answers}], 0, 0,
                 False, False)
