"""What the playground takes answers from: rows of the data, and groups that runs recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.core.problems import BadData, LabError, RunError
from lab.core.settings import Settings
from lab.services import labels
from lab.services.data import load as datasets
from lab.services.lab import Lab
from lab.services.runs import read_record

MOST_RUNS = 200
LONGEST = 50  # characters of a question or an answer in a list


@dataclass(frozen=True)
class Row:
    """One question with its reference answer and the other columns of its row."""

    question: str
    reference: str
    columns: dict[str, Any]


@dataclass(frozen=True)
class Recorded:
    """A group of answers as a run recorded it."""

    row: Row
    answers: list[dict]  # see `metrics.group_record`


def row_of(settings: Settings, number: int) -> tuple[Row, int, int]:
    """(a training row, its number, how many there are), counted from 1. Raises BadData."""
    rows = datasets.load(settings.data, settings.train.seed).train
    if not rows:
        raise BadData("There is no row to train on.", next="Look at the Data tab.")
    number = max(1, min(number, len(rows)))
    return _row(rows[number - 1]), number, len(rows)


def runs_of(lab: Lab) -> list[tuple[str, str]]:
    """(title, id) of the newest runs, without reading their events."""
    found = []
    for folder in lab.workspace.folders()[:MOST_RUNS]:
        try:
            name = labels.of_run(folder).name or read_record(folder).get("name")
        except LabError:
            continue
        found.append((f"{name} ({folder.id})" if name and name != folder.id else folder.id,
                      folder.id))
    return found


def steps_of(lab: Lab, run: str) -> list[int]:
    """The steps of which a run recorded answers, newest first. Raises RunError."""
    return sorted(lab.runs.log(run).samples, reverse=True)


def groups_of(lab: Lab, run: str, step: int) -> list[Recorded]:
    """The groups that were recorded at a step. Raises RunError."""
    found = lab.runs.log(run).groups_at(step)
    if found is None:
        raise RunError(f"Run {run} recorded no answers at step {step}.",
                       next="Pick another step.")
    return [Recorded(_row(group.get("columns") or {}),
                     [one for one in group["answers"] if isinstance(one, dict)
                      and isinstance(one.get("text"), str)])
            for group in found[1] if isinstance(group, dict)
            and isinstance(group.get("answers"), list)]


def _row(columns: Mapping[str, Any]) -> Row:
    rest = {name: value for name, value in columns.items() if name not in ("question", "answer")}
    return Row(_text(columns.get("question")), _text(columns.get("answer")), rest)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def titles(texts: Sequence[str]) -> list[str]:
    """Texts in a list: numbered, on one line each, and short."""
    lines = [" ".join(text.split()) or "(empty)" for text in texts]
    return [f"{place}. {line if len(line) <= LONGEST else line[:LONGEST - 1] + '…'}"
            for place, line in enumerate(lines, 1)]
