"""Curves of several runs on one axis: the page asks for them run by run, and draws them.

The component's value says which runs; assets/overlay.js asks `curves` for what it shows, so that
it takes as long as one run does until the first is there, however many they are. Everything here
only reads, for anyone can call it.
"""

import json
import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import gradio as gr

from lab.core.insight.goal import shares
from lab.core.problems import LabError
from lab.services.history import incomparable
from lab.services.lab import Lab
from lab.services.run_log import RunLog
from lab.services.runs import Run
from lab.ui.panel import panel

HELD_OUT = "held out"
METRICS = {  # what is offered first, and what it is called
    HELD_OUT: "Goal on held-out questions", "goal/reached": "Goal in training: answers right",
    "goal/mean": "Goal in training: share of its points", "reward/weighted": "Reward",
    "shape/mean": "Shape rewards: share of their points",
    "completions/mean_length": "Answer length, tokens", "completions/clipped_ratio": "Cut answers",
    "groups/dead": "Dead groups", "reward/within_group_std": "Spread inside a group",
    "answers/distinct": "Different answers of a group", "entropy": "Entropy", "kl": "KL",
    "learning_rate": "Learning rate", "loss": "Loss", "grad_norm": "Gradient norm",
    "tokens_per_second": "Tokens a second", "seconds/step": "Seconds a step",
    "gpu/memory_gb": "GPU memory, GB"}
SHARES = {HELD_OUT, "goal/reached", "goal/mean", "shape/mean", "completions/clipped_ratio",
          "groups/dead", "answers/distinct"}
STEPS, MINUTES = "steps", "minutes"
MOST_POINTS = 1000  # of one curve
MOST_RUNS = 8  # in one question


def overlay(lab: Lab) -> gr.HTML:
    """The component; its value is what `chosen` gives. It triggers `untick` {"run"}."""

    return panel("overlay", "runs-overlay", {"runs": []},
                 curves=lambda asked: curves_of(lab, asked))


def chosen(runs: Sequence[Run], opened: str) -> str:
    """Which runs are drawn, as JSON: their names, the metrics on offer and the one to begin with,
    and what to mind of them."""
    known = [run for run in runs if run.settings is not None]
    metrics = dict(METRICS)
    for run in known:
        for one in run.settings.rewards.chosen:
            metrics.setdefault(f"rewards/{one.name}/mean", f"Reward {one.name}, raw")
    kinds = {run.spark.kind for run in known if run.spark}
    # What all of them have: where held-out questions were asked there is a goal in training too.
    first = (HELD_OUT if kinds == {HELD_OUT} else "reward/weighted" if "reward" in kinds
             else "goal/reached")
    return json.dumps({
        "runs": [{"run": run.id, "name": run.name, "active": run.is_active,
                  "fixed": run.id == opened} for run in known],
        "metrics": [[key, label, key in SHARES] for key, label in metrics.items()],
        "first": first, "notes": incomparable([run.settings for run in known])})


def curves_of(lab: Lab, asked: Any) -> dict:
    """Curves of runs. `asked` is [[run, ...], metric, axis]; a run that is gone, or lacks the
    metric, has none. Each has "x", "y", and "names" of whatever else it could show."""
    given = asked if isinstance(asked, list) and len(asked) == 3 else [[], "", ""]
    wanted, metric, axis = given
    wanted = wanted[:MOST_RUNS] if isinstance(wanted, list) else []
    found = []
    for run_id in wanted:
        if not isinstance(run_id, str) or not isinstance(metric, str):
            continue
        try:
            log = lab.runs.log(run_id)
        except (LabError, OSError):  # deleted, or a name longer than any file's can be
            continue
        x, y = _curve(log, metric, axis)
        found.append({"run": run_id, "x": x, "y": y, "names": sorted(log.metrics)})
    return {"runs": found}


def _curve(log: RunLog, metric: str, axis: Any) -> tuple[list[float], list[float]]:
    _, steps, columns = log.columns()
    took = [0.0, *accumulate(0.0 if math.isnan(s) else s / 60
                             for s in columns.get("seconds/step", [0.0] * len(steps)))]
    if metric == HELD_OUT:
        points = shares(dict(log.held_out))
    else:
        points = [(step, value) for step, value in zip(steps, columns.get(metric, ()), strict=False)
                  if not math.isnan(value)]
    if axis == MINUTES:
        place = {step: i + 1 for i, step in enumerate(steps)}
        points = [(took[place.get(step, 0)], value) for step, value in points]
    stride = max(1, math.ceil(len(points) / MOST_POINTS))
    points = points[::-1][::stride][::-1]  # the last one is always there
    return ([float(f"{x:.5g}") for x, _ in points], [float(f"{y:.4g}") for _, y in points])
