"""Keeps the newest preflight of a root, and tells which of its advice a run has taken."""

import json
import time
from statistics import fmean
from typing import Any

from lab.core.files import write_whole
from lab.core.insight.preflight_advice import taken
from lab.core.problems import BadSettings
from lab.core.settings import Settings
from lab.services.workspace import Workspace

SAME_TASK = ("model.name", "data.source", "data.path")
# What a preflight's figures depend on.
MATTERS = (*SAME_TASK, "model.load_in_4bit", "data.level", "data.subset", "data.split",
           "data.question_column", "data.answer_column", "data.answer_extraction",
           "data.template", "data.system_prompt", "data.leave_out", "rewards.chosen",
           "train.num_generations",
           "train.prompts_per_step", "train.max_prompt_length", "train.max_completion_length",
           "train.temperature", "train.top_p")
FIGURES = ("prompts", "answers", "dead", "dead_right", "dead_wrong", "cut", "distinct",
           "seconds_per_step", "run_seconds", "memory_gb")


def keep(workspace: Workspace, settings: Settings, result: dict[str, Any]) -> None:
    """Write it down as the newest preflight. Lets OSError through."""
    path = workspace.make().preflight
    write_whole(path, json.dumps({"created": time.time(), "settings": settings.to_dict(),
                                  "result": result}))


def newest(workspace: Workspace) -> tuple[float, Settings, dict[str, Any]] | None:
    """(Unix time, settings, result) of the newest preflight; None where there is none to read."""
    try:
        told = json.loads(workspace.preflight.read_text(encoding="utf-8"))
        return float(told["created"]), Settings.from_dict(told["settings"]), dict(told["result"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, BadSettings):
        return None


def for_run(workspace: Workspace, settings: Settings) -> dict[str, Any] | None:
    """What a run's record keeps of the newest preflight: its figures, each piece of advice with
    whether these settings follow it, and what else was changed since. None where the preflight was
    of another model or of other data."""
    found = newest(workspace)
    if found is None:
        return None
    created, before, result = found
    differences = settings.differences(before)
    if any(key in differences for key in SAME_TASK):
        return None
    advised = result.get("advice", [])
    followed = taken(advised, settings)
    by_advice = {key for one, yes in zip(advised, followed, strict=True) if yes
                 for key in one["set"]}
    rates = [rate for rate in result.get("pass_rates", ()) if rate is not None]
    return {"created": created, **{name: result.get(name) for name in FIGURES},
            "pass_rate": fmean(rates) if rates else None,
            "advice": [one | {"taken": yes} for one, yes in zip(advised, followed, strict=True)],
            "changed": [key for key in MATTERS if key in differences and key not in by_advice]}
