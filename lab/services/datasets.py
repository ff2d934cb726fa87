"""The rows of a run: from their source, mapped to question and answer, split, written, read."""

import hashlib
import json
import math
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.core.problems import BadData
from lab.core.prompts import hash_answer
from lab.core.settings import Data
from lab.core.task import RESERVED_COUNT, RESERVED_SEEDS, problems
from lab.services.hub import hub_columns, read_hub
from lab.services.json_rows import parse_lines
from lab.services.tables import Table, columns_in, decode, read_table

GSM8K = "openai/gsm8k"
DEFAULT_PROBLEMS = 2000  # how many word problems "all there are" means; they never run out

# One list for all runs, so that runs with other seeds can be compared; new to the starter model.
HELD_OUT_SEED = RESERVED_SEEDS[-1]

# Names that the trainer gives a meaning of its own, or passes to rewards itself.
RESERVED_COLUMNS = {"prompt", "prompts", "completion", "completions", "completion_ids", "chosen",
                    "rejected", "messages", "image", "images", "environment", "environments",
                    "trainer_state", "log_extra", "log_metric", "self"}

QUESTION_NAMES = ("question", "prompt", "problem", "instruction", "query", "task", "input", "text")
ANSWER_NAMES = ("answer", "final_answer", "ground_truth", "reference", "solution", "response",
                "output", "target", "label", "result", "completion")


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows kept aside, none of whose questions is trained on.

    A row is {"question": text, "answer": text, ...}: without "answer" where no answer column is
    mapped, and with every other column of the source as text, number, true/false or None.
    """

    train: list[dict]
    held_out: list[dict]
    notes: list[str]  # what was left out, counted, in sentences
    columns: list[str]  # of the source, before mapping


@dataclass(frozen=True)
class _Mapping:
    question: str
    answer: str  # "" for none
    hashed: bool  # the reference is what follows #### in the answer column


def load(data: Data, seed: int, folder: Path | None = None) -> Split:
    """Read, map and split the rows. The same arguments and source give the same rows.

    The held-out rows do not depend on `seed`, so that runs can be compared; which training rows are
    drawn where there are more than `data.rows` does. A relative path is looked for in `folder`
    first. Raises BadData, naming the setting to look at.
    """
    if data.source == "word-problems":
        return _word_problems(data, seed)
    return _split(_table(data, folder), data, seed)


def columns_of(data: Data, folder: Path | None = None) -> list[str]:
    """The source's columns, as far as possible without reading it all. Raises BadData."""
    if data.source == "word-problems":
        return ["question", "answer", "level"]
    if data.source == "gsm8k" and not data.path.strip():
        return ["question", "answer"]
    if data.source == "hub":
        return hub_columns(data.path.strip(), data.subset.strip(), data.split.strip())
    return columns_in(_file(data, folder))


def guess_mapping(columns: Sequence[str]) -> tuple[str, str]:
    """The likeliest columns of question and answer; "" for an answer that is not there.

    Where no name speaks for a question, it is the first column that is not the answer.
    """
    answer = _likeliest(columns, ANSWER_NAMES)
    others = [column for column in columns if column != answer]
    question = _likeliest(others, QUESTION_NAMES)
    if not question and others:
        question = others[0]
    elif not others:
        question, answer = answer, ""
    return question, answer


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
        raw = path.read_bytes()
    except OSError as error:
        raise BadData(f"The rows in {path} cannot be read.", f"{error.strerror or error}.",
                      "Start a new run: it writes them anew.", "data.path") from error
    return parse_lines(decode(raw, path.name), path.name)


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
                 ["question", "answer", "level"])


def _table(data: Data, folder: Path | None) -> Table:
    path, subset, split = data.path.strip(), data.subset.strip(), data.split.strip()
    if data.source == "hub":
        return read_hub(path, subset, split)
    if data.source == "gsm8k" and not path:
        return read_hub(GSM8K, subset or "main", split)
    return read_table(_file(data, folder))


def _file(data: Data, folder: Path | None) -> Path:
    if not data.path.strip():
        raise BadData("No file was chosen.", "", "Choose a CSV, JSON, JSONL or Parquet file.",
                      "data.path")
    try:
        path = Path(data.path.strip()).expanduser()
        inside = folder / path if folder else path
        return inside if inside.exists() else path
    except (OSError, ValueError, RuntimeError) as error:  # too long, NUL inside, no such ~user
        raise BadData("This is not the path of a file.", f"{error}.", "Check the path.",
                      "data.path") from error


# --- mapping ------------------------------------------------------------------------------------


def _likeliest(columns: Iterable[str], names: Sequence[str]) -> str:
    """The column with the first of these names, else one that has it as a word, else ""."""
    words = {column: column.strip().lower().replace("-", "_").replace(" ", "_").replace(".", "_")
             for column in columns}
    for fits in (lambda word, name: word == name,
                 lambda word, name: name in word.split("_")):
        for name in names:
            for column, word in words.items():
                if fits(word, name):
                    return column
    return ""


def _mapping(data: Data, columns: list[str]) -> _Mapping:
    if data.source == "gsm8k":
        mapping = _Mapping("question", "answer", hashed=True)
    else:
        mapping = _Mapping(data.question_column, data.answer_column,
                           hashed=data.answer_extraction == "after ####")
    there = ", ".join(repr(_short(column)) for column in columns) or "none"
    for column, setting in ((mapping.question, "question_column"),
                            (mapping.answer, "answer_column")):
        if column not in columns and (column or setting == "question_column"):
            raise BadData(f"There is no column {column!r}." if column else
                          "No question column was chosen.", f"The columns are {there}.",
                          "Choose the columns under Data.", f"data.{setting}")
    if mapping.question == mapping.answer:
        raise BadData(f"Question and answer are the same column, {mapping.question!r}.",
                      f"The columns are {there}.",
                      "Choose another answer column, or none.", "data.answer_column")
    return mapping


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _text(value: Any) -> str | None:
    """Any value as text; None for null and not-a-number. 5.0 becomes "5": columns of whole numbers
    with a gap in them are stored as floats."""
    if value is None or isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, bytes):  # text that Parquet was not told is text, or else a picture
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return f"({len(value):,} bytes)"
    if isinstance(value, list | dict):
        value = json.dumps(value, ensure_ascii=False, default=_text)
    # JSON can hold halves of a character (\ud800), which neither files nor tokenizers can.
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _asked(value: Any) -> tuple[str, bool]:
    """The question in a cell, "" for none, and whether a system message beside it was dropped.

    A cell may hold a conversation, [{"role", "content"}, ...], with one message of the user in it.
    """
    if isinstance(value, list) and value and all(
            isinstance(part, dict) and "role" in part for part in value):
        spoken = [part for part in value if part["role"] != "system"]
        if len(spoken) != 1 or spoken[0]["role"] != "user":
            return "", False
        content = spoken[0].get("content")
        return _text(content).strip() if isinstance(content, str) else "", len(value) > 1
    return (_text(value) or "").strip(), False


# --- splitting ----------------------------------------------------------------------------------


def _split(table: Table, data: Data, seed: int) -> Split:
    mapping = _mapping(data, table.columns)
    usable, notes = _usable(table, mapping)
    if data.held_out * 2 > len(usable):
        raise BadData(f"{data.held_out:,} held-out rows are too many.",
                      " ".join([f"There are {len(usable):,} usable rows, and at least half of them "
                                "must be left to train on.", *notes]),
                      f"Lower 'Held-out rows' to {len(usable) // 2:,} or less, or add rows.",
                      "data.held_out")
    # By the hash of the question: neither a seed nor the order of the rows changes the choice.
    ranked = sorted(usable, key=lambda number: _fingerprint(usable[number]["question"]))
    held_out, train = ranked[:data.held_out], sorted(ranked[data.held_out:])
    if 0 < data.rows < len(train):
        notes.append(f"{len(train) - data.rows:,} more rows were not used, because 'Rows' is "
                     f"{data.rows:,}.")
        train = sorted(random.Random(f"rows, seed {seed}").sample(train, data.rows))
    numbers = sorted(held_out + train)
    rows = dict(zip(numbers, _with_other_columns(table, mapping, numbers, usable, notes),
                    strict=True))
    return Split([rows[number] for number in train], [rows[number] for number in held_out], notes,
                 table.columns)


def _usable(table: Table, mapping: _Mapping) -> tuple[dict[int, dict], list[str]]:
    """{row number: {"question", "answer"}} of what can be used, and notes on the other rows."""
    answers = table.column(mapping.answer) if mapping.answer else [None] * len(table)
    usable: dict[int, dict] = {}
    first_with: dict[str, int] = {}
    left_out: Counter[str] = Counter()
    for number, (asked, answer) in enumerate(zip(table.column(mapping.question), answers,
                                                 strict=True)):
        question, system_dropped = _asked(asked)
        reference = _reference(answer, mapping) if mapping.answer else ""
        if not question:
            left_out["conversation" if isinstance(asked, list) and asked else "question"] += 1
        elif reference is None:
            left_out["reference"] += 1
        elif (plain := " ".join(question.split())) in first_with:
            left_out["repeated"] += 1
            earlier = usable[first_with[plain]]
            left_out["contradicting"] += mapping.answer != "" and earlier["answer"] != reference
        else:
            first_with[plain] = number
            usable[number] = {"question": question}
            if mapping.answer:
                usable[number]["answer"] = reference
            left_out["system"] += system_dropped
    notes = _notes(left_out, len(table), mapping)
    if not usable:
        unread = left_out["reference"] > left_out["question"]
        raise BadData("There is no row that can be used.", " ".join(notes),
                      "Choose other columns" + (", or 'Reference answer': column." if unread and
                                                mapping.hashed else "."),
                      "data.answer_column" if unread else "data.question_column")
    return usable, notes


def _reference(answer: Any, mapping: _Mapping) -> str | None:
    text = (_text(answer) or "").strip()
    return hash_answer(text) if mapping.hashed else text or None


def _notes(left_out: Counter[str], total: int, mapping: _Mapping) -> list[str]:
    where = f"no #### with an answer after it in {mapping.answer!r}" if mapping.hashed else (
        f"no reference answer in {mapping.answer!r}")
    sentences: dict[str, Callable[[bool], str]] = {
        "question": lambda one: f"{'has' if one else 'have'} an empty question and",
        "conversation": lambda one: f"{'holds' if one else 'hold'} a list other than one message "
                                    "of the user and",
        "reference": lambda one: f"{'has' if one else 'have'} {where} and",
        "repeated": lambda one: f"{'repeats' if one else 'repeat'} an earlier question and",
    }
    notes = [f"{count:,} of {total:,} rows {sentences[reason](count == 1)} "
             f"{'was' if count == 1 else 'were'} left out."
             for reason in sentences if (count := left_out[reason])]
    if count := left_out["contradicting"]:
        notes.append(f"{count:,} of the repeated questions came with another answer; the first "
                     "one was kept.")
    if count := left_out["system"]:
        notes.append(f"{count:,} of {total:,} rows had a system message, which was dropped: the "
                     "system prompt under Data is used.")
    return notes


def _fingerprint(question: str) -> bytes:
    return hashlib.sha256(" ".join(question.split()).encode("utf-8")).digest()


def _with_other_columns(table: Table, mapping: _Mapping, numbers: list[int],
                        usable: dict[int, dict], notes: list[str]) -> list[dict]:
    """The rows with these numbers, with what else the source knows about them."""
    mapped = {mapping.question, mapping.answer}
    taken = RESERVED_COLUMNS | {"question", "answer"}
    dropped = [column for column in table.columns if column in taken and column not in mapped]
    if dropped:
        notes.append(f"Left out, because the lab or the trainer uses the name: "
                     f"{', '.join(dropped)}.")
    kept = [column for column in table.columns if column not in taken | mapped]
    taken_rows = table.take(numbers)
    columns = {_text(column): _alike([row[column] for row in taken_rows]) for column in kept}
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
    return values if fine else [_text(value) for value in values]
