"""Reads runs: settings, status, curves and samples, from the files that a worker writes."""

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lab.core import events
from lab.core.adapters import is_whole, steps_in
from lab.core.insight import held_out
from lab.core.insight.goal import Progress, progress
from lab.core.insight.held_out import HeldOut
from lab.core.problems import LabError, Problem, RunError
from lab.core.rewards.registry import GOAL
from lab.core.settings import Settings
from lab.core.words import data_named
from lab.services import labels, summary, verdicts
from lab.services.labels import Label
from lab.services.run_log import RunLog
from lab.services.summary import Spark, Summary, stamp_of
from lab.services.summary import edge_of as edge_of
from lab.services.summary import goal_curves as goal_curves
from lab.services.workers import is_worked_on, resumes, was_killed, wordless_end
from lab.services.workspace import RunFolder, Workspace

NEWEST, BEST = "newest", "best"  # checkpoints by what they are, instead of their step
PAUSING, PAUSED = "pausing", "paused"
ACTIVE = ("starting", "running", PAUSING, PAUSED, "stopping")
DAMAGED = "damaged"
MOST_LOGS = 64  # runs whose curves are kept in memory; the one not asked for longest goes first


@dataclass
class Run:
    """One run as a person sees it. `reward_*` are means of the weighted reward."""

    folder: RunFolder
    name: str
    status: str  # one of ACTIVE, stopped, failed, finished, or DAMAGED
    settings: Settings | None
    step: int = 0
    steps: int = 0
    created: float = 0.0
    seconds: float = 0.0  # of training, from the trainer's start to now or the end; no pauses
    pace: float | None = None  # seconds per step lately
    reward_first: float | None = None
    reward_last: float | None = None
    goal: Progress | None = None  # how the goal moved; None while nothing tells
    problem: Problem | None = None
    phase: str = ""
    reason: str = ""  # why it ended itself before its last step
    best: held_out.Best | None = None  # of its checkpoints, on held-out questions
    held_out: HeldOut = field(default_factory=dict)  # what these told while it trained
    record: dict = field(default_factory=dict)  # settings.json as it is
    label: Label = labels.NONE  # what a person says of it
    spark: Spark | None = None  # its main curve in small
    verdict: Mapping[str, Any] | None = None  # the newest one on held-out questions

    @property
    def id(self) -> str:
        return self.folder.id

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE

    @property
    def is_paused(self) -> bool:
        """Whether it waits between two steps, or will after this one."""
        return self.status in (PAUSING, PAUSED)

    @property
    def begin(self) -> dict:
        """What it began with, as its record says; empty where that was a new adapter."""
        told = self.record.get("begin")
        return told if isinstance(told, dict) else {}

    def step_at(self, asked: str | None) -> int | None:
        """The step of a checkpoint as a person names it: a number, "best", or "newest" (None, as
        for nothing at all). Raises RunError."""
        if not asked or asked == NEWEST:
            return None
        if asked == BEST and self.best is None:
            raise RunError(f"Run {self.id} has no best checkpoint.", "None did better on held-out "
                           "questions than the base model, or none was asked.",
                           "Name a step, or take the newest.")
        if asked == BEST:
            return self.best.step
        if not asked.isdecimal():
            raise RunError(f"There is no checkpoint {asked!r}.", "It is named by its step, or "
                           f"'{BEST}', or '{NEWEST}'.")
        return int(asked)

    @property
    def begins_again(self) -> bool:
        """Whether a resume begins it anew, with the same data: it ended before anything of what
        it learnt was saved."""
        return (self.settings is not None and not self.is_active and self.folder.newest() is None
                and not steps_in(self.folder.path / "checkpoints") and self.folder.data.exists())

    @property
    def can_go_on(self) -> bool:
        """Whether a resume has something to do without being asked for more steps. The last step
        may be saved and yet not all be said: its worker died in between."""
        if self.settings is None or self.is_active:
            return False
        done = max(steps_in(self.folder.path / "checkpoints"), default=0)
        if not done:
            return self.begins_again
        planned = self.settings.train.max_steps
        return done < planned or done == planned and self.status == "failed"

    @property
    def has_goal(self) -> bool:
        """Whether one of its rewards says what is right."""
        return self.settings is not None and any(
            one.takes_as == GOAL for one in self.settings.rewards.chosen)

    @property
    def goal_told(self) -> str:
        """How the goal moved, in a few words."""
        if self.settings is not None and not self.has_goal:
            return "no goal"
        return str(self.goal or "–")

    def seconds_left(self) -> float | None:
        if self.pace is None or not self.is_active:
            return None
        return self.pace * max(0, self.steps - self.step)

    def to_dict(self) -> dict:
        newest = self.folder.newest()
        return {"run": self.id, "name": self.name, "folder": str(self.folder.path),
                "status": self.status, "step": self.step, "steps": self.steps,
                "adapter_step": newest.step if newest else None,
                "best_step": self.best.step if self.best else None, "reason": self.reason,
                "created": self.created, "seconds": round(self.seconds, 1),
                "goal": asdict(self.goal) if self.goal else None,
                "reward_first": self.reward_first, "reward_last": self.reward_last,
                "model": self.settings.model.name if self.settings else None,
                "data": data_named(self.settings.data) if self.settings else None,
                "verdict": self.verdict["headline"] if self.verdict else None,
                "begins_from": {key: self.begin.get(key) for key in ("run", "step")}
                if self.begin.get("run") else None,
                "tags": list(self.label.tags), "notes": self.label.notes,
                "archived": self.label.archived,
                "problem": str(self.problem) if self.problem else None}


class Runs:
    """All runs of a workspace. Keeps a `RunLog` of those whose curves were looked at; a list is
    made of summaries."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._logs: dict[str, RunLog] = {}  # the one that was asked for last is the last
        self._summaries: dict[str, tuple[tuple, Summary]] = {}
        self._records: dict[str, tuple[tuple, dict, Settings]] = {}
        self._lock, self._reading = threading.Lock(), threading.Lock()

    def log(self, run_id: str) -> RunLog:
        """The run's events, up to date. Raises RunError for an unknown run."""
        folder = self.workspace.run(run_id)
        with self._lock:
            log = self._logs.pop(run_id, None) or RunLog(folder.events, goals_of(folder))
            self._logs[run_id] = log
            while len(self._logs) > MOST_LOGS:
                del self._logs[next(iter(self._logs))]
        return log.refresh()

    def all(self) -> list[Run]:
        """Every run, newest first; a damaged folder is listed as such."""
        folders = self.workspace.folders()
        there = {folder.id for folder in folders}
        for kept in (self._summaries, self._records):  # of deleted ones nothing is kept
            for run_id in [one for one in list(kept) if one not in there]:
                kept.pop(run_id, None)
        return [self._read(folder) for folder in folders]

    def warm(self) -> None:
        """Read what a list needs, in a thread that ends with this process: whoever looks first
        finds it read."""
        threading.Thread(target=self.all, daemon=True, name="history").start()

    def get(self, run_id: str) -> Run:
        return self._read(self.workspace.run(run_id))

    def active(self) -> Run | None:
        """The run that a worker is busy with, if there is one; also one whose files are damaged."""
        return next((run for folder in self.workspace.folders() if is_worked_on(folder)
                     and ((run := self._read(folder)).is_active or run.status == DAMAGED)), None)

    def _read(self, folder: RunFolder) -> Run:
        """One run alone: whatever its files hold, the others are read."""
        try:
            return self._read_whole(folder)
        except LabError as error:
            problem = error.problem
        except Exception as error:  # there is no end of what a file can hold
            problem = damage(folder, getattr(error, "strerror", None) or str(error)).problem
        return Run(folder, folder.id, DAMAGED, None, problem=problem)

    def _read_whole(self, folder: RunFolder) -> Run:
        record, settings = self._record(folder)
        worked_on = is_worked_on(folder)
        told = self._summary(folder, goals_in(settings), worked_on)
        if told.unreadable:
            raise damage(folder, f"events.jsonl cannot be read: {told.unreadable}")
        status, problem = status_of(folder, told, worked_on)
        ended = told.paused_at or (time.time() if status in ACTIVE else told.ended_at)
        label, judged = labels.of_run(folder), verdicts.of_run(folder)
        return Run(
            folder, label.name or record.get("name") or folder.id, status, settings,
            step=told.step,
            steps=settings.train.max_steps if told.steps is None else told.steps,
            created=record.get("created", 0.0),
            seconds=(told.seconds + max(0.0, ended - told.started_at - told.held)
                     if told.steps is not None else 0.0),
            pace=told.pace, reward_first=told.reward_first, reward_last=told.reward_last,
            goal=progress(told.held_out, judged, told.goals),
            problem=problem, phase=told.phase,
            reason=told.last.reason if isinstance(told.last, events.Stopped) else "",
            best=best_of(folder, told.held_out or {}), held_out=told.held_out or {},
            record=record, label=label, spark=told.spark, verdict=judged[-1] if judged else None)

    def _record(self, folder: RunFolder) -> tuple[dict, Settings]:
        """settings.json, and the settings in it: read anew when it, or the rewards of the run's
        own that they name, have changed."""
        stamp = (stamp_of(folder.settings), stamp_of(folder.rewards))
        kept = self._records.get(folder.id)
        if kept is None or kept[0] != stamp:
            record = read_record(folder)
            kept = self._records[folder.id] = (stamp, record, settings_of(record, folder))
        return kept[1], kept[2]

    def _summary(self, folder: RunFolder, goals: dict[str, float], worked_on: bool) -> Summary:
        """The run's events in short: of the curves in memory where they are there or grow, else
        as they were kept, else of the file, which is read once for it."""
        stamp = stamp_of(folder.events)
        key = (stamp, goals)
        kept = self._summaries.get(folder.id)
        if kept is not None and kept[0] == key and not kept[1].unreadable:
            return kept[1]
        if worked_on:
            made = summary.of_log(self.log(folder.id))
        else:
            made = summary.read(folder, stamp, goals) or self._read_log(folder, stamp, goals)
        self._summaries[folder.id] = (key, made)
        return made

    def _read_log(self, folder: RunFolder, stamp: summary.Stamp,
                  goals: dict[str, float]) -> Summary:
        """Who comes meanwhile waits, and finds it made."""
        with self._reading:
            if (made := summary.read(folder, stamp, goals)) is None:
                known = folder.id in self._logs
                made = summary.of_log(self.log(folder.id) if known
                                      else RunLog(folder.events, goals).refresh())
                summary.keep(folder, stamp, goals, made)
            return made


def best_of(folder: RunFolder, told: held_out.HeldOut) -> held_out.Best | None:
    """The best checkpoint on held-out questions that can be loaded; of the others no file is
    opened."""
    among = steps_in(folder.path / "checkpoints") if told else []
    while (best := held_out.best_of(told, among)) and not is_whole(folder.checkpoint(best.step)):
        among.remove(best.step)
    return best


def goals_of(folder: RunFolder) -> dict[str, float]:
    """The highest scores of a run's goal rewards; empty where its settings cannot be read."""
    try:
        return goals_in(settings_of(read_record(folder), folder))
    except LabError:
        return {}


def goals_in(settings: Settings) -> dict[str, float]:
    return {one.name: one.best for one in settings.rewards.chosen if one.takes_as == GOAL}


def settings_of(record: dict, folder: RunFolder) -> Settings:
    """The settings of a record; its own rewards are those of this folder, wherever it lies now.
    Raises BadSettings."""
    tree = record["settings"]
    rewards = tree.get("rewards")
    if isinstance(rewards, dict) and rewards.get("file"):
        tree = {**tree, "rewards": {**rewards, "file": str(folder.rewards)}}
    return Settings.from_dict(tree)


def read_record(folder: RunFolder) -> dict:
    """settings.json. Raises RunError if it is damaged."""
    try:
        record = json.loads(folder.settings.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise damage(folder, f"settings.json cannot be read: {reason}") from error
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
        raise damage(folder, "settings.json has no settings")
    created = record.get("created", 0.0)
    if not isinstance(created, int | float) or not 0 <= created < events.LATEST:
        raise damage(folder, "'created' in settings.json is no time")
    for name, kind, called in (("name", str, "text"), ("notes", list, "list")):
        if not isinstance(record.get(name, kind()), kind):
            raise damage(folder, f"'{name}' in settings.json is no {called}")
    return record


def damage(folder: RunFolder, reason: str) -> RunError:
    return RunError(f"The folder of run {folder.id} is damaged.", f"{reason}.",
                    "Delete the run, or restore the file.")


def status_of(folder: RunFolder, told: Summary, worked_on: bool) -> tuple[str, Problem | None]:
    """(status, problem) from the last event and from whether a worker lives."""
    if worked_on:
        if told.last:
            # the worker is on its way out, or a resumed one has not yet said its first word
            if not resumes(folder):
                return _ended(told.last)
            return "starting", None
        if folder.control.exists():
            return "stopping", None
        if folder.pause.exists():
            return (PAUSED if told.paused_at else PAUSING), None
        return ("running" if told.step and not told.phase else "starting"), None
    if told.last:
        return _ended(told.last)
    if was_killed(folder):
        return "stopped", None
    return "failed", wordless_end(folder)


def _ended(last: events.Event) -> tuple[str, Problem | None]:
    if isinstance(last, events.Failed):
        return "failed", Problem(last.what, last.why, last.next, kind=last.kind)
    return ("finished" if isinstance(last, events.Finished) else "stopped"), None
