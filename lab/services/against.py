"""What an adapter is judged against: the base model, or an adapter of this run or of another."""

from collections.abc import Sequence
from dataclasses import dataclass

from lab.core.adapters import Adapter
from lab.core.insight import held_out
from lab.core.insight.headline import SURE
from lab.core.problems import LabError, RunError
from lab.core.prompts import in_one_line
from lab.services import verdicts
from lab.services.data import load as datasets
from lab.services.runs import Run, Runs
from lab.services.workspace import Workspace

BASE = "base"  # the base model, where a person names what is compared with


@dataclass(frozen=True)
class Against:
    """An adapter to compare with, and the run that it is of."""

    run: Run
    adapter: Adapter


def find(asked: str | None, runs: Runs) -> Against | None:
    """What is meant by RUN, RUN:STEP, RUN:best or RUN:newest; None for the base model. Raises a
    LabError."""
    if not asked or asked == BASE:
        return None
    run_id, _, at = asked.partition(":")
    run = runs.get(run_id)
    if run.settings is None:
        raise RunError(run.problem.what, run.problem.why, run.problem.next)
    return Against(run, run.folder.saved_at(run.step_at(at)))


def base_of(run: Run) -> tuple[str, bool]:
    """What two runs must have in common to be compared: the base model, and whether in 4 bit."""
    return run.settings.model.name.strip(), run.settings.model.load_in_4bit


def check(run: Run, adapter: Adapter, other: Against) -> None:
    """Raise RunError where these two cannot be compared, or are one."""
    if base_of(run) != base_of(other.run):
        names = " and ".join(sorted(f"{name}{' in 4 bit' * in_4bit}" for name, in_4bit in
                                    (base_of(run), base_of(other.run))))
        raise RunError("The two sides have different base models.", f"They are {names}.",
                       "Compare runs of the same model, or each with its base model.")
    if verdicts.fingerprint(adapter.path) == verdicts.fingerprint(other.adapter.path):
        raise RunError("Both sides are the same adapter.", "Their weights are the same, so there "
                       "is nothing to compare.", "Choose another checkpoint, or another run.")


def names_of(run: Run, adapter: Adapter, other: Against) -> tuple[str, str]:
    """(what is compared with, what is judged), as people tell them apart."""
    if run.id == other.run.id:
        return f"Step {_step(other.adapter)}", f"Step {_step(adapter)}"
    same = run.name == other.run.name
    return tuple(f"{one.id if same else one.name} (step {_step(saved)})"
                 for one, saved in ((other.run, other.adapter), (run, adapter)))


def _step(adapter: Adapter) -> str:
    return "unknown" if adapter.step is None else str(adapter.step)


def unseen(rows: Sequence[dict], run: Run, other: Against | None) -> tuple[list[dict], list[str]]:
    """(the held-out questions of a run that neither side was trained on, what is not known).

    A run's own are none that it was trained on itself; another run, or a run that either began
    from, may have been trained on some.
    """
    known, told = set(), []
    many = _ancestors(run, told)
    if other and other.run.id != run.id:
        many += [other.run, *_ancestors(other.run, told)]
    for one in {one.id: one for one in many}.values():
        try:
            known |= {in_one_line(row) for row in datasets.read_rows(one.folder.data)}
        except LabError as error:
            told.append(f"What {one.name} was trained on cannot be read, so it may have seen some "
                        f"of these questions: {error.problem.why}")
    return [row for row in rows if in_one_line(row) not in known], list(dict.fromkeys(told))


def _ancestors(run: Run, told: list[str]) -> list[Run]:
    """The runs from whose adapters a run began, the nearest first; `told` says where that ends in
    what is not known."""
    runs, found = Runs(Workspace(run.folder.path.parent)), []
    while run.begin and len(found) < 100:
        name = str(run.begin.get("run") or "")
        try:
            if not name:
                raise RunError("It is no run.")
            before = runs.get(name)
        except LabError:
            told.append(f"{run.name} began with an adapter of which the data are not here: it may "
                        "have seen some of these questions.")
            break
        if before.id in {one.id for one in found}:
            break
        found.append(before)
        run = before
    return found


def picked(rows: Sequence[dict], kept: Sequence[dict], run: Run, adapter: Adapter,
           other: Against | None) -> tuple[tuple[int, int], list[str]]:
    """((of how many steps the other side and the judged one are the best by some of these `rows`; 1
    where they are not), what to know of it). `kept` are all held-out questions of the run, of
    which its evaluations while it trained asked the last ones."""
    many, told = [], []
    sides = [(other.run, other.adapter, "What it is compared with")] if other else []
    for one, saved, who in (*sides, (run, adapter, "This checkpoint")):
        of, known = held_out.picked_from(one.held_out, saved.step), set()
        asked = int(one.held_out[saved.step].get("n") or 0) if of > 1 else 0
        try:
            if asked:
                theirs = kept if one.id == run.id else read_held_out(one)
                known = {in_one_line(row) for row in theirs[-asked:]}
        except LabError as error:
            told.append(f"The held-out questions of {one.name} cannot be read, so these may have "
                        f"picked its checkpoint: {error.problem.why}")
        by = sum(in_one_line(row) in known for row in rows)
        many.append(of if by else 1)
        if by:
            left = len(rows) - by
            which = f"{by:,} of these {len(rows):,}" if left else f"these {len(rows):,}"
            told.append(f"{who} was picked as the best of {of} by its answers to {which} "
                        "questions, which flatters it: a difference in its favour is sure below "
                        f"p = {SURE / of:.2g} only.")
            if left >= held_out.FEWEST:
                told[-1] += f" The first {left:,} did not pick it: ask those alone."
    return (many[0] if other else 1, many[-1]), told


def read_held_out(run: Run) -> list[dict]:
    """The questions that a run kept aside. Raises a LabError where they cannot be read."""
    return datasets.read_rows(run.folder.held_out) if run.folder.held_out.exists() else []


def differing(run: Run, other: Against | None) -> list[str]:
    """What else is not the same on both sides, in sentences."""
    if other is None or other.run.id == run.id:
        return []
    mine, theirs = run.settings, other.run.settings
    told = []
    if mine.data.system_prompt != theirs.data.system_prompt:
        told.append("Each side was asked with the system prompt of its own run: they differ.")
    if [one.to_dict() for one in mine.rewards.chosen] != [
            one.to_dict() for one in theirs.rewards.chosen]:
        told.append(f"Both are scored with the rewards of {run.name}; {other.run.name} was "
                    "trained with others.")
    return told
