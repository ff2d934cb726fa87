"""Where a run's adapter comes from and what went on from it, and how to go on from any of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lab.core.problems import RunError
from lab.core.settings import Settings
from lab.services import begin
from lab.services.runs import Run
from lab.services.workspace import Workspace


@dataclass(frozen=True)
class Origin:
    """The adapter that a run began with. `run` is empty where it is a folder, `there` says whether
    that run still is."""

    run: str
    step: int | None
    name: str
    there: bool

    def __str__(self) -> str:
        at = "" if self.step is None else f", step {self.step}"
        gone = "" if self.there or not self.run else " (no longer here)"
        return f"{self.name}{gone}{at}"


def origin_of(run: Run, runs: Mapping[str, Run]) -> Origin | None:
    """Where a run's first adapter comes from; None where it was a new one. `runs` by id."""
    told = run.begin
    if not told:
        return None
    name, step = str(told.get("run") or ""), told.get("step")
    step = step if type(step) is int else None
    if not name:
        return Origin("", step, f"the adapter in {told.get('from')}", False)
    before = runs.get(name)
    return Origin(name, step, before.name if before else name, before is not None)


def ancestors(run: Run, runs: Mapping[str, Run]) -> list[Origin]:
    """Its origin, the origin of that run, and so on."""
    found: list[Origin] = []
    seen = {run.id}
    origin = origin_of(run, runs)
    while origin is not None:
        found.append(origin)
        if not origin.there or origin.run in seen:
            break
        seen.add(origin.run)
        origin = origin_of(runs[origin.run], runs)
    return found


def children(run: Run, runs: Iterable[Run]) -> list[Run]:
    """The runs that began with an adapter of this one."""
    return [one for one in runs if one.begin.get("run") == run.id and one.id != run.id]


def forked(run: Run, checkpoint: str | None, workspace: Workspace) -> tuple[Settings, begin.Begin]:
    """The settings of a new run that begins with the adapter of this checkpoint (a step, "best",
    or the newest), and that adapter. Raises a LabError."""
    if run.settings is None:
        raise RunError(run.problem.what, run.problem.why, run.problem.next)
    step = run.folder.saved_at(run.step_at(checkpoint)).step
    found = begin.find(run.id if step is None else f"{run.id}:{step}", workspace)
    return run.settings.with_values({begin.FIELD: found.setting}), found
