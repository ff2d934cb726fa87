"""The live view of a run: one gr.HTML that pulls rows from the server; the browser draws them.

The browser (assets/live.js) asks `tick` once a second and gets only what is new: under 1 KiB,
however long the run. What is big travels only when it is needed: `history` when a run is opened.
Groups of answers are shown by microscope.py. Everything here only reads, for anyone can call it.
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import gradio as gr

from lab.core import doing
from lab.core.hardware.engines import TITLES
from lab.core.insight.goal import shares
from lab.core.insight.metrics import CHARTS, DIFFERENCE, Chart, names_in
from lab.core.problems import LabError, Problem, explain
from lab.core.rewards.known import known_with
from lab.core.rewards.registry import Reward
from lab.services import labels, verdicts
from lab.services.lab import Lab
from lab.services.run_log import RunLog
from lab.services.runs import PAUSED, Run, read_record
from lab.ui.door import PLOTLY_PATH
from lab.ui.panel import ASSETS

BUDGET = 560  # bytes of rows in one tick; the rest of it takes about 400, question included
MOST_BEHIND = 200  # points; a reader further behind than this loads the run anew
RUNS_LISTED = 200
HELD_OUT_SHOWN = 400  # points; what was asked of held-out questions between them is left out
TICK = 0.01  # seconds by which two times of one clock differ when they are rounded
WHOLE_AND_PART = ("goal/reached", "goal/mean")

Row = list[float | None]


class Feed:
    """What the browser may ask. Every method takes one JSON value from anyone, and never raises."""

    def __init__(self, lab: Lab) -> None:
        self.runs = lab.runs
        self.workspace = lab.workspace

    def tick(self, asked: Any) -> dict:
        """The state of a run, and its rows since a cursor.

        `asked` is [wanted run or "", run that is shown, epoch, cursor, number of names]. With
        "reload" in the reply, what is shown no longer fits: ask `history`. With "more", ask again.
        """
        wanted, shown, epoch, cursor, count = _list(asked, 5)
        run, active = self._find(wanted)
        if run is None:
            return {"run": "", "status": "none", "reload": shown != ""}
        log = self.runs.log(run.id)
        reply = _state(run, log)
        if active and active != run.id:
            reply["active"] = active
        epoch_now, names = log.epoch, charted(run, log)
        end = len(log.steps)
        fits = (shown == run.id and epoch == epoch_now and count == len(names)
                and _is_count(cursor) and end - MOST_BEHIND <= cursor <= end)
        if not fits:
            return reply | {"reload": True}
        since = log.rows_since(cursor)
        if log.epoch != epoch_now:
            return reply | {"reload": True}
        rows = [[x, *(since["y"][name][i] for name in names)] for i, x in enumerate(since["x"])]
        taken = _within(rows, BUDGET)
        reply |= {"rows": rows[:taken], "cursor": since["from"] + taken}
        if taken < len(rows):
            reply["more"] = True
        return reply

    def history(self, asked: Any) -> dict:
        """All of one run: what is known about it, and its curves, thinned to 2000 points."""
        run, _ = self._find(_list(asked, 1)[0])
        if run is None:
            return {"run": "", "status": "none"}
        log = self.runs.log(run.id)
        for _ in range(3):  # the worker may resume, and so cut the curves, just while we read
            epoch, names = log.epoch, charted(run, log)
            since = log.rows_since(0)
            if log.epoch == epoch and all(name in since["y"] for name in names):
                break
        return _state(run, log) | {
            "epoch": epoch, "cursor": since["to"], "x": since["x"],
            "y": [since["y"][name] for name in names], "charts": charts(run, log, names),
            "detail": self._detail(run, log)}

    def detail(self, asked: Any) -> dict:
        """What changes seldom: notices, the problem, counted errors of rewards."""
        run, _ = self._find(_list(asked, 1)[0])
        return self._detail(run, self.runs.log(run.id)) if run else {"run": ""}

    def listing(self, asked: Any) -> list[dict]:
        """The runs there are, newest first; without their curves, which may be long to read."""
        found = []
        for folder in self.workspace.folders()[:RUNS_LISTED]:
            try:
                record = read_record(folder)
                created = record.get("created")
                name = labels.of_run(folder).name or str(record.get("name") or "")
                found.append({"run": folder.id, "name": name,
                              "created": created if isinstance(created, int | float) else None})
            except LabError:
                found.append({"run": folder.id, "name": "damaged", "created": None})
        return found

    def _find(self, wanted: Any) -> tuple[Run | None, str]:
        """(run to show, id of the active one). To show: the wanted, else active, else newest."""
        active = self.runs.active()
        if isinstance(wanted, str) and wanted:
            try:
                return self.runs.get(wanted), active.id if active else ""
            except (LabError, OSError):  # OSError: a name longer than any file's can be
                pass  # it was deleted: show what there is
        if active:
            return active, active.id
        folders = self.workspace.folders()
        try:
            return (self.runs.get(folders[0].id) if folders else None), ""
        except LabError:
            return None, ""

    def _detail(self, run: Run, log: RunLog) -> dict:
        stack = run.record.get("stack") if isinstance(run.record.get("stack"), dict) else {}
        settings = run.settings
        return {
            "run": run.id, "name": run.name, "status": run.status,
            "problem": run.problem.to_dict() if run.problem else None,
            "notices": [{"level": n.level, "text": n.text} for n in log.notices[-20:]]
            + ([{"level": "info", "text": run.reason}] if run.reason else []),
            "errors": {name: count for name, count in reward_errors(log).items() if count},
            "stack": str(stack.get("value", "")), "why": str(stack.get("why", "")),
            "engine": engine_of(log),
            "model": settings.model.name if settings else "",
            "answers": settings.train.answers_per_step() if settings else 0,
            "reward_first": _finite(run.reward_first),
            "goal": goal_of(run, log), "resumed": log.resumed,
            "damaged": log.damaged,
        }


def goal_of(run: Run, log: RunLog) -> dict:
    """Whether there is a goal, how it moved, and what was asked of questions that are held out."""
    asked = shares(log.held_out)
    stride = max(1, math.ceil(len(asked) / HELD_OUT_SHOWN))
    shown = sorted({*asked[:1], *asked[::-stride]})  # the base and the newest are always there
    said = verdicts.newest(run.folder)
    return {"has": run.has_goal or run.settings is None,
            "moved": asdict(run.goal) if run.goal else None,
            "held_out": [[step, _finite(share)] for step, share in shown],
            "verdict": said and {key: said[key] for key in ("step", "headline", "level")}}


def engine_of(log: RunLog) -> str:
    """What trains this run and how it took effect, in words; empty before the trainer stands."""
    if not log.started or log.engine not in TITLES:
        return ""
    facts = log.started.facts
    told = [TITLES[log.engine], *(facts.get(name) for name in ("gpu", "dtype"))]
    if isinstance(processes := facts.get("processes"), int) and processes > 1:
        told.append(f"{processes} processes")
    if isinstance(share := facts.get("vllm_share"), float):
        told.append(f"vLLM has {share:.0%} of the GPU")
    return ", ".join(part for part in told if isinstance(part, str))


def charted(run: Run, log: RunLog) -> list[str]:
    """The metrics that the charts draw, in a fixed order: those of a row, after its step."""
    found: list[str] = []
    for chart in _charts_of(run, log):
        for name in (*(chart.band or ()), *names_in(chart, list(log.metrics))):
            if name in log.metrics and name not in found:
                found.append(name)
    if all(name in found for name in WHOLE_AND_PART) and len(
            {log.metrics[name].tobytes() for name in WHOLE_AND_PART}) == 1:
        found.remove(WHOLE_AND_PART[1])  # right or wrong and nothing between: one line says it
    return found


def charts(run: Run, log: RunLog, names: list[str]) -> list[dict]:
    """The charts as the browser draws them; numbers stand for places in `names`."""
    made = []
    kinds = {one.name: one.takes_as for one in run.settings.rewards.chosen} if run.settings else {}
    for chart in _charts_of(run, log):
        lines = names_in(chart, names)
        band = ([names.index(edge) for edge in chart.band]
                if chart.band and all(edge in names for edge in chart.band) else None)
        made.append({"key": chart.key, "title": chart.title, "help": chart.help,
                     "percent": chart.percent, "band": band,
                     "lines": [{"at": names.index(name), "name": _label(name, _known(run)),
                                "kind": kinds.get(_reward_of(name), "")} for name in lines]})
    return made


def _charts_of(run: Run, log: RunLog) -> list[Chart]:
    beta = run.settings.train.beta if run.settings else 0.0
    return [chart for chart in CHARTS if (chart.key != "kl" or beta > 0)
            and (not chart.optional or names_in(chart, list(log.metrics)))]


def _reward_of(metric: str) -> str:
    """The name of the reward whose mean this is; empty for other metrics."""
    start, _, rest = metric.partition("/")
    return rest.removesuffix("/mean") if start == "rewards" else ""


def _known(run: Run) -> Mapping[str, Reward]:
    """The rewards that this run may have, its own among them."""
    return known_with(run.settings.rewards.file if run.settings else "")


def _label(metric: str, known: Mapping[str, Reward]) -> str:
    if name := _reward_of(metric):
        return known[name].label if name in known else name
    return {"goal/reached": "Right", "goal/mean": "Share of the goals' points",
            "groups/dead_right": "All right", "groups/dead_wrong": "All wrong",
            "reward/weighted": "Reward", "completions/mean_length": "Tokens",
            "completions/clipped_ratio": "Cut", "loss": "Loss", "learning_rate": "Learning rate",
            "kl": "KL", "kl/target": "Target", "kl/beta": "Beta",
            "entropy": "Entropy", "entropy/sampled": "Sampled",
            DIFFERENCE: "Difference", "gpu/memory_gb": "GB in use"}.get(metric, metric)


def reward_errors(log: RunLog) -> dict[str, int]:
    """How often each reward failed in the whole run."""
    found = {}
    for metric, column in list(log.metrics.items()):
        if metric.startswith("reward_errors/"):
            counted = sum(value for value in list(column) if not math.isnan(value))
            found[metric.removeprefix("reward_errors/")] = round(counted)
    return found


def _state(run: Run, log: RunLog) -> dict:
    """What every tick says, in few bytes."""
    state: dict[str, Any] = {"run": run.id, "status": run.status, "step": run.step,
                             "steps": run.steps, "seconds": round(run.seconds, 1),
                             "notices": len(log.notices),
                             "errors": sum(reward_errors(log).values()),
                             "asked": len(log.held_out) + len(verdicts.of_run(run.folder))}
    if (seconds := log.pace()) is not None:
        state["pace"] = float(f"{seconds:.3g}")
        if run.is_active:
            state["left"] = round(run.seconds_left() or 0)
    if run.status == PAUSED and log.paused_at:
        state["for"] = round(max(0.0, time.time() - log.paused_at), 1)
    elif run.is_active and log.phase:
        state["phase"] = log.phase[:80]
        state["for"] = round(max(0.0, time.time() - log.phase_at), 1)
    elif (run.is_active and log.started and (now := doing.read(run.folder.path))
          and now.begun >= log.started_at - TICK):  # else of a worker that was killed
        state |= {"now": [now.what, now.done, now.of],
                  "for": round(max(0.0, time.time() - now.begun), 1)}
    if log.samples:
        state["sampled"] = max(log.samples)
    return state


def _within(rows: list[Row], budget: int) -> int:
    """How many rows fit; at least one, or nothing would ever arrive."""
    size = taken = 0
    for row in rows:
        size += len(json.dumps(row, separators=(",", ":"))) + 1
        if taken and size > budget:
            break
        taken += 1
    return taken


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{value:.4g}")


def _list(asked: Any, size: int) -> list:
    """What was asked as a list of just this length; what is missing is None."""
    given = list(asked[:size]) if isinstance(asked, list) else []
    return given + [None] * (size - len(given))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class LiveView(gr.HTML):
    """The live component. Its events: `run_state`, when another run is shown or its state changes;
    the event's data has `run` and `status`."""

    def __init__(self, lab: Lab, **look: Any) -> None:
        feed = Feed(lab)

        def tick(asked):
            return _safely(feed.tick, asked)

        def history(asked):
            return _safely(feed.history, asked)

        def detail(asked):
            return _safely(feed.detail, asked)

        def listing(asked):
            return _safely(feed.listing, asked)

        super().__init__(
            value="", html_template=(ASSETS / "live.html").read_text(encoding="utf-8").replace(
                "@plotly", PLOTLY_PATH),
            css_template=(ASSETS / "live.css").read_text(encoding="utf-8"),
            js_on_load=(ASSETS / "live.js").read_text(encoding="utf-8"),
            apply_default_css=False, elem_id="live",
            server_functions=[tick, history, detail, listing], **look)

    def api_info(self) -> dict[str, Any]:
        return {"type": "string"}


def _safely(function, asked: Any) -> Any:
    """No words of an unforeseen error go to whoever asks: only that it is there."""
    try:
        return function(asked)
    except Exception as error:
        problem: Problem = explain(error)
        return {"run": "", "status": "error", "problem": {"what": problem.what}}
