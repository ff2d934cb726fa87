"""The rows of a run: from their source, mapped to question and answer, split, written, read."""

import json
import math
import os
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lab.core.problems import BadData
from lab.core.prompts import in_one_line
from lab.core.settings import COLUMN, REASONING_GYM, WORD_PROBLEMS, Data
from lab.core.task import RESERVED_COUNT, RESERVED_SEEDS, problems
from lab.services.data import gym
from lab.services.data.fields import SAMPLE, fields_in
from lab.services.data.hub import hub_columns, read_hub
from lab.services.data.mapping import Mapped, mapped
from lab.services.data.places import check_place
from lab.services.data.questions import ASKED, BEYOND, usable_rows
from lab.services.data.references import text_of
from lab.services.data.table import Table
from lab.services.data.tables import read_lines, read_table
from lab.services.workspace import PROJECT

GSM8K = "openai/gsm8k"
DEFAULT_PROBLEMS = 2000  # how many word problems "all there are" means; they never run out

# One list for all runs, so that runs with other seeds can be compared; new to the starter model.
HELD_OUT_SEED = RESERVED_SEEDS[-1]

# Names that the trainer gives a meaning of its own, or passes to rewards itself.
RESERVED_COLUMNS = {"prompt", "prompts", "completion", "completions", "completion_ids",
                    "completion_tokens", "chosen", "rejected", "messages", "image", "images",
                    "environment", "environments", "trainer_state", "log_extra", "log_metric",
                    "self"}
OWN_COLUMNS = {"question", "answer", "history"}  # what a row of the lab is made of
WORD_PROBLEM = Mapped("question", "answer", "", COLUMN)
GYM_COLUMNS = ["question", "answer", "task", "entry"]

@dataclass(frozen=True)
class Split:
    """Rows to train on and rows kept aside, none of whose questions is trained on.

    A row is {"question": text, "answer": text, ...}: without "answer" where there is no reference,
    with "history" ([{"role", "content"}], the turns before the question) where any row has some,
    and with every other column of the source as text, number, true/false or None.
    """

    train: list[dict]
    held_out: list[dict]
    notes: list[str]  # what was left out, counted, in sentences
    columns: list[str]  # of the source, before mapping
    mapping: Mapped = WORD_PROBLEM
    total: int = 0  # rows of the source
    numbers: list[int] = field(default_factory=list)  # of the train rows in the source, from 1
    left_out: dict[str, list[int]] = field(default_factory=dict)  # {reason: row numbers}
    fields: list[str] = field(default_factory=list)  # the columns, and what is inside them
    held_out_wanted: int = 0  # more than there are, where a small table cannot give as many


def load(data: Data, seed: int, folder: Path | None = None) -> Split:
    """Read, map and split the rows. The same arguments and source give the same rows.

    The held-out rows do not depend on `seed`, so that runs can be compared; which training rows are
    drawn where there are more than `data.rows` does. A relative path is looked for in `folder`
    first, and at last in the lab's own folder. Raises BadData, naming the setting to look at.
    """
    if data.source == WORD_PROBLEMS:
        split = _word_problems(data, seed)
    elif data.source == REASONING_GYM:
        split = _gym(data, seed)
    else:
        split = _split(_table(data, folder), data, seed)
    return _without(split, data.leave_out)


def _without(split: Split, listed: str) -> Split:
    """The split without these questions (one a line) among the rows to train on."""
    unwanted = {" ".join(line.split()) for line in listed.splitlines()} - {""}
    stays = [in_one_line(row) not in unwanted for row in split.train]
    gone = stays.count(False)
    if not gone:
        return split
    numbered = list(zip(split.train, split.numbers, stays, strict=True))
    return replace(
        split, train=[row for row, _, kept in numbered if kept],
        numbers=[number for _, number, kept in numbered if kept],
        left_out={**split.left_out, ASKED: [number for _, number, kept in numbered if not kept]},
        notes=[*split.notes, f"{gone:,} of {len(split.train):,} rows "
               f"{'was' if gone == 1 else 'were'} left out, as 'Left-out questions' asks."])


def columns_of(data: Data, folder: Path | None = None) -> list[str]:
    """The source's columns, as far as possible without reading it all. Raises BadData."""
    return sample_of(data, folder)[0]


def sample_of(data: Data, folder: Path | None = None) -> tuple[list[str], list[dict]]:
    """(columns, first rows) of the source, as far as possible without reading it all: of a dataset
    of the Hub only the columns, as its description has them. Raises BadData."""
    if data.source == WORD_PROBLEMS:
        return ["question", "answer", "level"], []
    if data.source == REASONING_GYM:
        return GYM_COLUMNS, []
    if data.source == "gsm8k" and not data.path.strip():
        return ["question", "answer"], []
    if data.source == "hub":
        return hub_columns(data.path.strip(), data.subset.strip(), data.split.strip()), []
    table = read_table(_file(data, folder), data.split.strip(), SAMPLE)
    return table.columns, first_rows(table)


def first_rows(table: Table) -> list[dict]:
    return table.take(range(min(SAMPLE, len(table))))


def write_split(split: Split, folder: Path) -> None:
    """Write data.jsonl and held_out.jsonl: UTF-8, a row a line. Lets OSError through."""
    for name, rows in (("data.jsonl", split.train), ("held_out.jsonl", split.held_out)):
        unfinished = folder / f"{name}.part"
        with unfinished.open("w", encoding="utf-8", newline="\n") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        os.replace(unfinished, folder / name)


def read_rows(path: Path) -> list[dict]:
    """The rows that `write_split` wrote. Raises BadData; for a damaged line, with its number."""
    try:
        return read_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(f"The rows in {path} cannot be read.",
                      f"{getattr(error, 'strerror', None) or error}.",
                      "Start a new run: it writes them anew.", "data.path") from error


# --- sources ------------------------------------------------------------------------------------


def _word_problems(data: Data, seed: int) -> Split:
    wanted = data.rows or DEFAULT_PROBLEMS
    try:
        # A longer list begins with the shorter one. All that may ever be held out is kept from
        # training, so training rows are the same whatever the number of held-out rows.
        aside = problems(data.level, max(data.held_out, RESERVED_COUNT), HELD_OUT_SEED)
        train = problems(data.level, wanted, seed, exclude={p.question for p in aside})
    except ValueError as error:
        raise BadData("So many word problems cannot be made.", str(error),
                      "Lower 'Rows' or 'Held-out rows'.", "data.rows") from error
    notes = []
    if data.held_out > RESERVED_COUNT:
        notes.append(f"The starter model may know {data.held_out - RESERVED_COUNT:,} of the "
                     f"held-out rows: only the first {RESERVED_COUNT:,} were kept from it.")
    rows = [{"question": p.question, "answer": p.answer, "level": p.level}
            for p in (*aside[:data.held_out], *train)]
    return Split(rows[data.held_out:], rows[:data.held_out], notes,
                 ["question", "answer", "level"], total=len(rows),
                 numbers=list(range(data.held_out + 1, len(rows) + 1)))


def _gym(data: Data, seed: int) -> Split:
    train, held_out, notes = gym.rows(data, seed)
    if not train:
        raise BadData("These tasks gave no question to train on.", " ".join(notes),
                      "Take another level or task.", "data.tasks")
    total = len(train) + len(held_out)
    return Split(train, held_out, notes, GYM_COLUMNS, total=total,
                 numbers=list(range(len(held_out) + 1, total + 1)), held_out_wanted=data.held_out)


def _table(data: Data, folder: Path | None) -> Table:
    path, subset, split = data.path.strip(), data.subset.strip(), data.split.strip()
    if data.source == "hub":
        return read_hub(path, subset, split)
    if data.source == "gsm8k" and not path:
        return read_hub(GSM8K, subset or "main", split)
    return read_table(_file(data, folder), split)


def _file(data: Data, folder: Path | None) -> Path:
    if not data.path.strip():
        raise BadData("No file was chosen.", "", "Choose a CSV, JSON, JSONL or Parquet file.",
                      "data.path")
    try:
        path = Path(data.path.strip()).expanduser()
        # A relative path: beside the run, where the lab was started, and what ships with the lab.
        places = [*([folder / path] if folder else []), path, PROJECT / path]
        found = next((place for place in places if place.exists()), path)
        check_place(found)
        return found
    except (OSError, ValueError, RuntimeError) as error:  # too long, NUL inside, no such ~user
        raise BadData("This is not the path of a file.", f"{error}.", "Check the path.",
                      "data.path") from error


# --- splitting ----------------------------------------------------------------------------------


def _split(table: Table, data: Data, seed: int) -> Split:
    first = first_rows(table)
    mapping = mapped(data, table.columns, first)
    usable, numbered, left_out, notes = usable_rows(table, mapping, data)
    notes[:0] = table.notes
    # By the hash of the question: neither a seed nor the order of the rows changes the choice.
    ranked = [numbered[told] for told in sorted(numbered)]
    aside = min(data.held_out, int(len(usable) * data.held_out_share + 1e-9))
    if aside < data.held_out:
        notes.append(f"{aside:,} of {len(usable):,} usable rows are held out, and not "
                     f"{data.held_out:,}: at most {data.held_out_share:.0%} of them are ('Held-out "
                     "share').")
    held_out, train = ranked[:aside], sorted(ranked[aside:])
    if 0 < data.rows < len(train):
        notes.append(f"{len(train) - data.rows:,} more rows were not used, because 'Rows' is "
                     f"{data.rows:,}.")
        drawn = sorted(random.Random(f"rows, seed {seed}").sample(train, data.rows))
        left_out[BEYOND] = [number + 1 for number in sorted(set(train) - set(drawn))]
        train = drawn
    numbers = sorted(held_out + train)
    rows = dict(zip(numbers, _with_other_columns(table, mapping, numbers, usable, notes),
                    strict=True))
    return Split([rows[number] for number in train], [rows[number] for number in held_out], notes,
                 table.columns, mapping, len(table), [number + 1 for number in train],
                 {reason: there for reason, there in left_out.items() if there},
                 fields_in(table.columns, first), data.held_out)


def _with_other_columns(table: Table, mapping: Mapped, numbers: list[int],
                        usable: dict[int, dict], notes: list[str]) -> list[dict]:
    """The rows with these numbers, with what else the source knows about them."""
    alone = [mapping.answer] if mapping.template else [mapping.question, mapping.answer]
    gone = {name for name in alone if name in table.columns}
    taken = RESERVED_COLUMNS | OWN_COLUMNS
    dropped = [column for column in table.columns if column in taken
               and column not in gone | set(mapping.asked)]
    if dropped:
        notes.append(f"Left out, because the lab or the trainer uses the name: "
                     f"{', '.join(dropped)}.")
    kept = [column for column in table.columns if column not in taken | gone]
    taken_rows = table.take(numbers)
    columns = {text_of(column): _alike([row[column] for row in taken_rows]) for column in kept}
    return [{**usable[number], **{column: values[place] for column, values in columns.items()}}
            for place, number in enumerate(numbers)]


def _alike(values: list[Any]) -> list[Any]:
    """One kind for a whole column, as the trainer's tables need it: numbers, true/false or text."""
    values = [None if isinstance(value, float) and math.isnan(value) else value for value in values]
    kinds = {type(value) for value in values if value is not None}
    largest = 2**63 if kinds == {int} else 2**53  # beyond it, a float would round a whole number
    fine = kinds <= {bool} or kinds <= {int, float} and all(
        math.isfinite(value) and (isinstance(value, float) or abs(value) < largest)
        for value in values if value is not None)
    return values if fine else [text_of(value) for value in values]
