"""JSON and JSONL text as rows, in each of the shapes in which tables are written as JSON."""

import io
import itertools
import json
from typing import Any

from lab.core.problems import BadData

JSON_LINES = (".jsonl", ".ndjson")
FIELD = "data.path"


def parse_json(text: str, name: str, suffix: str, limit: int | None) -> list[dict[str, Any]]:
    """The rows of a JSON or JSONL text; of JSONL the first `limit`. Raises BadData."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        if suffix in JSON_LINES or _begins_with_an_object(text):
            return parse_lines(text, name, limit)
        raise BadData(f"{name} is damaged.", _json_reason(error), "Save it again.",
                      FIELD) from error
    if isinstance(whole, dict):
        return [whole] if suffix in JSON_LINES else _rows_of_object(whole, name)
    return _objects(whole, name)


def _begins_with_an_object(text: str) -> bool:
    """Whether one of the first lines is a whole JSON object: then this is JSONL."""
    for line in itertools.islice(io.StringIO(text.lstrip()), 5):
        try:
            if isinstance(json.loads(line), dict):
                return True
        except (ValueError, RecursionError):
            continue
    return False


def _rows_of_object(whole: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Rows of {"data": [row, ...]}, {column: [value, ...]}, {column: {key: value}} or one row."""
    data = whole.get("data")
    if isinstance(data, list) and any(isinstance(entry, dict) for entry in data):
        return _objects(data, name)
    columns = whole
    if whole and all(isinstance(value, dict) for value in whole.values()):
        # What pandas' to_json() writes: {"question": {"0": ..., "1": ...}, ...}
        columns = {column: list(values.values()) for column, values in whole.items()}
    if not columns or not all(isinstance(values, list) for values in columns.values()):
        return [whole] if whole else []
    lengths = {column: len(values) for column, values in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{column!r} has {length}" for column, length in lengths.items())
        raise BadData(f"{name} is not a table.", f"Its columns differ in length: {found}.",
                      "Give every column the same number of values.", FIELD)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _objects(entries: Any, name: str) -> list[dict[str, Any]]:
    """`entries` if it is a list of objects."""
    wanted = 'Write it as [{"question": ..., "answer": ...}, ...].'
    if not isinstance(entries, list):
        raise BadData(f"{name} is not a table.", f"It is {_kind(entries)}.", wanted, FIELD)
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise BadData(f"{name} is not a table.",
                          f"Entry {number} of its list is {_kind(entry)}, not an object.", wanted,
                          FIELD)
    return entries


def _json_reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        line = f"line {error.lineno}, " if "\n" in error.doc else ""
        return f"It is not JSON: {error.msg} ({line}column {error.colno})."
    if isinstance(error, RecursionError):
        return "Its lists or objects are nested too deeply."
    return f"{error}."


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false",
             int: "a number", float: "a number", type(None): "null"}
    return names[type(value)]


def parse_lines(text: str, name: str, limit: int | None = None) -> list[dict[str, Any]]:
    """JSONL: one object a line, blank lines aside. Raises BadData naming the line's number."""
    rows: list[dict[str, Any]] = []
    # Not splitlines(): it also cuts at characters that may stand inside a JSON text, like U+2028.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadData(f"{name} is damaged in line {number}.", _json_reason(error),
                          "Correct that line, or remove it.", FIELD) from error
        if not isinstance(row, dict):
            raise BadData(f"{name} is not a table.", f"Line {number} is {_kind(row)}, not an "
                          "object.", 'Write each line as {"question": ..., "answer": ...}.', FIELD)
        rows.append(row)
        if limit and len(rows) == limit:
            break
    return rows
