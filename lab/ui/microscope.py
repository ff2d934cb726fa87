"""Groups under the microscope: any recorded group of a run, its answers by advantage.

The browser (assets/microscope.js) asks for one group at a time. The way to it goes by what the log
keeps of each (`core/insight/groups.py`), and of the file only that group's line is read. It only
reads, for anyone can call it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from lab.core.insight.differences import differences
from lab.core.insight.groups import KINDS, Glance, Place, moved, places
from lab.core.problems import LabError
from lab.core.rewards.known import known_with
from lab.services.lab import Lab
from lab.services.run_log import RunLog
from lab.services.runs import Run
from lab.ui.panel import panel

LONGEST = 20_000  # characters of an answer that are sent
MARKED = 40_000  # characters of a group's answers whose differences are looked for
NOTHING = {"run": ""}


def microscope_view(lab: Lab) -> gr.HTML:
    """The panel. It follows the run that the live view shows."""

    return panel("microscope", "microscope", NOTHING, group=lambda asked: looked_at(lab, asked))


def looked_at(lab: Lab, asked: Any) -> dict:
    """A group of a run, and where it stands among those of its kind. `asked` is [run, kind, [step,
    group] or null, move]; see `groups.moved`. Where a move leads nowhere, the group stays."""
    run_id, kind, at, move = (asked if isinstance(asked, list) and len(asked) == 4
                              else ("", "all", None, ""))
    kind = kind if isinstance(kind, str) and kind in KINDS else "all"
    if not isinstance(run_id, str) or not run_id:
        return NOTHING
    try:
        run, log = lab.runs.get(run_id), lab.runs.log(run_id)
    except (LabError, OSError):
        return NOTHING
    seen, at = log.seen(), place_in(at)
    there = places(seen, kind)
    found = moved(there, at, move if isinstance(move, str) else "") or moved(there, at, "")
    body = {"run": run.id, "kind": kind, "part": part_of(run, log),
            "counts": {name: len(places(seen, name)) for name in KINDS}}
    group = _group_at(log, found)
    if found is None or group is None:
        return body | {"at": None}
    return body | {
        "at": list(found), "place": there.index(found) + 1, "newest": found == there[-1],
        "can": {way: moved(there, found, way) is not None
                for way in ("step before", "before", "next", "step after")},
        "of_step": len(seen[found[0]]), "rewards": rewards_of(run), **group_of(run, group),
        "said": _said(seen[found[0]][found[1]], group)}


def part_of(run: Run, log: RunLog) -> str:
    """Which part of a run's groups is recorded, in a sentence; empty where all are."""
    train = run.settings.train if run.settings else None
    recorded = sum(len(groups) for groups in log.seen().values())
    made = train.prompts_per_step * run.step if train else 0
    if recorded >= made:
        return ""
    return (f"{recorded:,} of the {made:,} groups that were answered are recorded: "
            f"{train.log_groups} of the {train.prompts_per_step} of a step"
            + (f", and only every {train.logging_steps}th step" if train.logging_steps > 1 else "")
            + ". 'Groups recorded' in the settings says how many.")


def rewards_of(run: Run) -> list[dict]:
    """Name, label and weight of the rewards of a run."""
    if run.settings is None:
        return []
    known = known_with(run.settings.rewards.file)
    return [{"name": one.name, "label": known[one.name].label if one.name in known else one.name,
             "weight": one.weight} for one in run.settings.rewards.chosen]


def _group_at(log: RunLog, at: Place | None) -> dict | None:
    recorded = log.groups_at(at[0]) if at else None
    return recorded[1][at[1]] if recorded and at[1] < len(recorded[1]) else None


def _said(glance: Glance, group: Mapping[str, Any]) -> dict[str, str]:
    """What is to be said of a group as a whole: {"level", "text"}."""
    if glance.taught:
        if glance.rate == 1:
            return {"level": "", "text": "All answers are right: what differs is their form."}
        return {"level": "", "text": ""}
    totals = [one.get("total") for one in group["answers"] if isinstance(one, dict)]
    known = [total for total in totals if isinstance(total, int | float)]
    if not known:
        return {"level": "dead", "text": "This group taught nothing: no answer could be judged."}
    score = f"{round(known[0], 3):g}".replace("-", "−")
    right = ", all of them right" if glance.rate == 1 else ""
    return {"level": "dead", "text": f"This group taught nothing: all {len(known)} scored {score}"
            f"{right}."}


def group_of(run: Run, group: Mapping[str, Any]) -> dict:
    """One recorded group as the browser gets it: its answers, best advantage first, in pieces that
    differ from the best one or not."""
    columns = group.get("columns") if isinstance(group.get("columns"), dict) else {}
    weights = {one["name"]: one["weight"] for one in rewards_of(run)}
    answers = [_answer(a, weights) for a in group.get("answers") or () if isinstance(a, dict)]
    answers.sort(key=lambda answer: -(answer["advantage"] or 0.0))
    best, left = answers[0]["text"] if answers else "", MARKED
    for answer in answers:
        text = answer.pop("text")
        left -= len(text)
        answer["pieces"] = differences(best, text) if left >= 0 else [(text, False)]
    reference = columns.get("answer")
    return {"prompt": text_of(columns.get("question") or group.get("prompt")),
            "whole": text_of(group.get("prompt")), "marked": left >= 0, "answers": answers,
            "reference": None if reference is None else str(reference)[:500]}


def _answer(answer: Mapping[str, Any], weights: Mapping[str, float]) -> dict:
    rewards = answer.get("rewards") if isinstance(answer.get("rewards"), dict) else {}
    errors = answer.get("errors") if isinstance(answer.get("errors"), dict) else {}
    scores = {str(name): _finite(value) for name, value in rewards.items()}
    return {"text": text_of(answer.get("text")), "tokens": answer.get("tokens"),
            "cut": bool(answer.get("cut")), "total": _finite(answer.get("total")),
            "advantage": _finite(answer.get("advantage")), "rewards": scores,
            "parts": {name: _finite(value * weights.get(name, 1.0))
                      for name, value in scores.items() if value is not None},
            "errors": {str(name): str(text)[:500] for name, text in errors.items()}}


def text_of(value: Any) -> str:
    """A text as it is sent; of a prompt that is kept as messages, all of them."""
    if isinstance(value, list):
        value = "\n\n".join(f"{m.get('role', '')}: {m.get('content', '')}"
                            for m in value if isinstance(m, dict))
    text = value if isinstance(value, str) else ""
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"


def place_in(value: Any) -> Place | None:
    """A place as the browser names it, [step, group]; None for what is none."""
    fits = isinstance(value, Sequence) and len(value) == 2 and all(
        isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in value)
    return (value[0], value[1]) if fits else None


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{value:.4g}")
