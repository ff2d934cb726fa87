"""Who can answer in Compare, and which held-out questions there are to ask."""

import itertools
import json
from collections.abc import Sequence

from lab.core.problems import LabError, RunError
from lab.core.prompts import turns_of
from lab.services.lab import Lab
from lab.services.runs import BEST, NEWEST, Run

BASE = "base"  # who answers, where it is no run
EXAMPLES = 100  # held-out questions that are offered


def examples_of(lab: Lab, run: Run | None) -> list[dict]:
    """Held-out questions of a run; none where the file is missing or damaged."""
    if run is None:
        return []
    rows = []
    try:
        with run.folder.held_out.open(encoding="utf-8") as file:
            for line in itertools.islice(file, EXAMPLES):
                row = json.loads(line)
                if isinstance(row, dict) and isinstance(row.get("question"), str):
                    rows.append(row)
    except (OSError, ValueError, RecursionError):
        pass
    return rows


def row_of(rows: list[dict], question: str, example: str | None) -> dict:
    """The row of this question: the one that was picked, or else the first; {} for a new one."""
    asked = [place for place, row in enumerate(rows) if row["question"].strip() == question]
    if not asked:
        return {}
    picked = int(example) if (example or "").isdecimal() else asked[0]
    return rows[picked if picked in asked else asked[0]]


def opening_of(rows: list[dict], turns: list[dict], example: str | None) -> dict:
    """How a conversation begins: its first question, and the turns that its row has before it."""
    first = turns[0]["question"]
    return {"question": first, "history": turns_of(row_of(rows, first, example))}


def run_of(lab: Lab, who: str | None) -> Run | None:
    """The run of a side, None for the base model. Raises RunError."""
    if not who or who == BASE:
        return None
    run = lab.runs.get(who)
    if run.settings is None:
        raise RunError(run.problem.what, run.problem.why, run.problem.next)
    return run


def judge_of(lab: Lab, who: Sequence[str | None]) -> Run | None:
    """The run whose rewards and questions are used: the right side's, else the left side's, else
    that of the next; else the newest. None where there is none that can be read."""
    for value in (*who[1:2], *who[:1], *who[2:]):
        try:
            if run := run_of(lab, value):
                return run
        except LabError:
            continue
    return newest_with_adapter(lab)


def newest_with_adapter(lab: Lab) -> Run | None:
    return next((run for run in lab.runs.all() if run.settings and has_adapter(run)), None)


def has_adapter(run: Run) -> bool:
    return run.folder.newest() is not None


def checkpoints_of(run: Run | None) -> list[tuple[str, str]]:
    """What a picker of checkpoints offers: (label, value); the best first where there is one, then
    the newest."""
    if run is None:
        return [("None", "")]
    saved = run.folder.saved()
    best = [(f"Best · {run.best.title}", BEST)] if run.best else []
    newest = f"Newest · {saved[-1].title}" if saved else "Newest"
    return [*best, (newest, NEWEST), *((f"Step {one.step}", str(one.step))
                                       for one in reversed(saved) if one.step is not None)]
