"""The learning map: the questions of a run by how often they were asked and how they came out.

It is made of what the log keeps of each recorded group, without a model and without a GPU. The
browser (assets/learning_map.js) asks while the map is open, and gets only what has changed.
"""

import json
from typing import Any
from zlib import crc32

import gradio as gr

from lab.core.insight.groups import STATES, UNKNOWN, questions_of
from lab.core.problems import LabError
from lab.services.lab import Lab
from lab.services.run_log import RunLog
from lab.services.runs import Run
from lab.ui.microscope import part_of, text_of
from lab.ui.panel import panel

MOST = 2000  # questions that are drawn: those that were asked most often
SHORT = 60  # characters of a question in the map
VISITS = 400  # groups of a question that are listed, the newest
NOTHING = {"run": "", "key": ""}


def learning_map(lab: Lab) -> gr.HTML:
    """The panel. It follows the run that the live view shows."""

    return panel("learning_map", "learning-map", NOTHING,
                 questions=lambda asked: drawn(lab, asked),
                 question=lambda asked: one_of(lab, asked))


def drawn(lab: Lab, asked: Any) -> dict:
    """The map. `asked` is [run, key of what is shown]: where nothing has changed since, only the
    key comes back. A tile is [question's key, times asked, pass rate, state, its beginning]."""
    run, log, key = _find(lab, asked)
    if run is None:
        return NOTHING
    found = questions_of(log.seen())
    states = {state: sum(one.state == state for one in found) for state in STATES}
    body = {"run": run.id, "part": _part(run, log, len(found)),
            "states": {name: count for name, count in states.items() if count or name != UNKNOWN},
            "goal": run.has_goal, "left": max(0, len(found) - MOST),
            "tiles": [[one.key, len(one.visits), _short(one.rate), one.state, one.text[:SHORT]]
                      for one in found[:MOST]]}
    now = f"{crc32(json.dumps(body).encode()):08x}"
    return {"run": run.id, "key": now} if now == key else body | {"key": now}


def one_of(lab: Lab, asked: Any) -> dict:
    """A question with its groups, the oldest first. `asked` is [run, question's key]; a visit is
    [step, group, right answers, judged answers, whether it taught something]."""
    run, log, key = _find(lab, asked)
    found = next((one for one in questions_of(log.seen()) if one.key == key), None) if run else None
    if found is None:
        return NOTHING
    (step, place), _ = found.visits[-1]
    recorded = log.groups_at(step)
    group = recorded[1][place] if recorded and place < len(recorded[1]) else {}
    columns = group.get("columns") if isinstance(group.get("columns"), dict) else {}
    reference = columns.get("answer")
    return {"run": run.id, "key": key, "state": found.state,
            "text": text_of(columns.get("question") or group.get("prompt")) or found.text,
            "reference": None if reference is None else str(reference)[:500],
            "visits": [[*at, one.right, one.judged, one.taught]
                       for at, one in found.visits[-VISITS:]]}


def _find(lab: Lab, asked: Any) -> tuple[Run | None, RunLog | None, str]:
    run_id, key = asked if isinstance(asked, list) and len(asked) == 2 else ("", "")
    if not isinstance(run_id, str) or not run_id:
        return None, None, ""
    try:
        return lab.runs.get(run_id), lab.runs.log(run_id), key if isinstance(key, str) else ""
    except (LabError, OSError):
        return None, None, ""


def _part(run: Run, log: RunLog, questions: int) -> str:
    """How much of a run the map can know."""
    rows = log.started.facts.get("rows") if log.started else None
    of_data = (f"{questions:,} of the {rows:,} questions of the data stand here. "
               if isinstance(rows, int) and rows > questions else "")
    part = part_of(run, log)
    return of_data + (f"{part} A question that is missing here may have been asked all the same."
                      if part else "")


def _short(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 3)
