"""What is taken home: one adapter of a run, sound and whole, with all that is told of it."""

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lab.core.adapters import ADAPTER, WEIGHTS, Adapter
from lab.core.insight.goal import progress, shares
from lab.core.problems import RunError
from lab.core.settings import STARTER, Settings
from lab.core.weights import check_sound
from lab.services import verdicts
from lab.services.run_log import RunLog
from lab.services.runs import Run, Runs, edge_of, goal_curves
from lab.services.verdicts import Verdict
from lab.services.workspace import RunFolder, Workspace

STARTER_NAME = "grpo-lab-starter"  # what the card and adapter_config.json call the shipped model


@dataclass(frozen=True)
class Judged:
    """What is known of an adapter on held-out questions."""

    verdict: Verdict | None = None  # on just these weights
    other: Verdict | None = None  # the newest one on any of the run's
    curve: Sequence[tuple[int, float]] = ()  # (step, share right) while it trained


@dataclass(frozen=True)
class Source:
    """An adapter, the run as it stood when it was saved, and what the base model is called."""

    folder: RunFolder
    adapter: Adapter
    config: dict
    run: Run
    base: str
    judged: Judged

    @property
    def step(self) -> int | None:
        return self.adapter.step


def source_of(folder: RunFolder, checkpoint: int | None) -> Source:
    """The adapter of `checkpoint` (None: the newest). Raises a LabError where it is not there, is
    damaged, or lies elsewhere."""
    adapter = folder.saved_at(checkpoint)
    config = _config(folder, adapter.path)
    _refuse_links(adapter.path)
    check_sound(adapter.path)
    runs = Runs(Workspace(folder.path.parent))
    run = _until(adapter.step, runs.get(folder.id), runs.log(folder.id))
    judged = Judged(verdicts.of_adapter(folder, adapter.path), verdicts.newest(folder),
                    shares(runs.log(folder.id).held_out))
    return Source(folder, adapter, config, run, base_name(run.settings, config), judged)


def base_name(settings: Settings | None, config: dict) -> str:
    """What the adapter's base model is called away from this machine: no path of it."""
    name = settings.model.name.strip() if settings else str(
        config.get("base_model_name_or_path") or "")
    if name == STARTER:
        return STARTER_NAME
    looks_local = name.startswith((".", "/", "~", "\\")) or len(name.split("/")) != 2
    if looks_local or Path(name).expanduser().exists():
        return Path(name.replace("\\", "/")).name or "base-model"
    return name


def _refuse_links(source: Path) -> None:
    """Raise RunError where a file of the adapter lies elsewhere: what it leads to is not known."""
    for path in (source, source / ADAPTER, source / WEIGHTS):
        if path.is_symlink() or not path.stat().st_size:
            raise RunError("This adapter is not exported.", f"{path.name} in it is "
                           f"{'a link' if path.is_symlink() else 'empty'}.",
                           "Export another checkpoint.")


def _config(folder: RunFolder, source: Path) -> dict:
    try:
        config = json.loads((source / ADAPTER).read_text(encoding="utf-8"))
        if isinstance(config, dict):
            return config
        reason = "it is not a JSON object"
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    raise RunError(f"The adapter of run {folder.id} is damaged.",
                   f"{ADAPTER} cannot be read: {reason}.", "Export another checkpoint.")


def _until(step: int | None, run: Run, log: RunLog) -> Run:
    """The run as it stood when these weights were saved: what came later is not theirs."""
    points = len(log.steps) if step is None else bisect_right(log.steps, step)
    edge = edge_of(points)
    return replace(run, reward_first=log.mean("reward/weighted", 0, min(edge, points)),
                   reward_last=log.mean("reward/weighted", max(0, points - edge), points),
                   goal=progress({}, (), goal_curves(log, points)))
