"""JSON text as rows, piece by piece, in each of the shapes in which tables are written as JSON."""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from lab.core.problems import BadData

JSON_LINES = (".jsonl", ".ndjson")
FIELD, SPLIT = "data.path", "data.split"
SPLITS = ("train", "test", "validation", "valid", "dev", "eval")
PIECE = 1024**2  # characters that are read at once
LARGEST_VALUE = 256 * 1024**2  # characters of a row, or of a table that is one object
WHITE = re.compile(r"[ \t\r\n]*")
WANTED = 'Write it as [{"question": ..., "answer": ...}, ...].'


def json_rows(text: TextIO, name: str, lines: bool, split: str = "",
              notes: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a JSON or JSONL text. Raises BadData, of a damaged row with its line.

    `lines`: even one object alone is a row. Where there are several tables, `split` chooses, and
    `notes` is told.
    """
    pieces = _Pieces(text, name)
    if not lines and pieces.next() == "[":
        return _objects(pieces.entries(), name, "Entry {} of its list".format, lists=True)
    values = pieces.values()
    first = [(value, pieces.line) for value in itertools.islice(values, 2)]
    if len(first) == 1 and not lines and isinstance(first[0][0], dict):
        return iter(_rows_of_object(first[0][0], name, split, [] if notes is None else notes))
    return _objects(itertools.chain((value for value, _ in first), values), name, lambda number:
                    f"Line {first[number - 1][1] if number <= len(first) else pieces.line}")


class _Pieces:
    """JSON text that is read as far as it is needed. Raises BadData.

    Nothing but white space counts between values: no line is cut at U+2028 and the like, which may
    stand inside a text.
    """

    def __init__(self, text: TextIO, name: str) -> None:
        self._text, self._name, self._scan = text, name, json.JSONDecoder().raw_decode
        self._piece, self._at = "", 0
        self._tried = self._in_lines = False  # in lines, damage is told where a value begins
        self._counted, self.line = 0, 1  # the line of the newest value, counted up to this place

    def next(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            self._at = WHITE.match(self._piece, self._at).end()
            if self._at < len(self._piece) or not self._more():
                return self._piece[self._at:self._at + 1]

    def values(self) -> Iterator[Any]:
        """One value after the other, as in JSONL."""
        self._in_lines = True
        while self.next():
            yield from self._whole_lines()
            if self.next():
                yield self._value()

    def entries(self) -> Iterator[Any]:
        """The entries of the list that begins here, after which nothing may follow."""
        self._at += 1
        more = self.next() != "]"
        while more:
            yield self._value()
            more = self.next() == ","
            self._at += more
        if self.next() != "]":
            raise self._damaged("A comma or the closing bracket is missing")
        self._at += 1
        if self.next():
            raise self._damaged("Something follows its end")

    def _whole_lines(self) -> list[dict]:
        """The objects on the lines that end in this piece, or nothing where they are not all just
        that: several times as quick as one by one. Tried once for a piece."""
        end = self._piece.rfind("\n", self._at)
        if end < 0 or self._tried:
            return []
        self._tried = True
        lines = self._piece[self._at:end]
        try:  # a line feed inside a text stays one, and is refused
            rows = json.loads("[" + lines.replace("\n", ",\n") + "]")
        except (ValueError, RecursionError):
            return []
        if len(rows) != lines.count("\n") + 1 or not all(isinstance(row, dict) for row in rows):
            return []
        self._at = end + 1
        return rows

    def _value(self) -> Any:
        while self.next():
            self.line, self._counted = self._line_at(self._at), self._at
            try:
                value, self._at = self._scan(self._piece, self._at)
                return value  # perhaps half a number: that is no row either
            except json.JSONDecodeError as error:
                # Only what reaches to the end of the piece may be whole with more of the text.
                open_ended = error.msg.startswith("Unterminated")
                if not (open_ended or error.pos + 16 > len(self._piece)) or not self._more():
                    raise self._damaged(error.msg, error.pos) from error
            except (ValueError, RecursionError) as error:
                raise self._damaged("Its lists or objects are nested too deeply" if isinstance(
                    error, RecursionError) else str(error)) from error
        raise self._damaged("It ends in the middle")

    def _line_at(self, place: int) -> int:
        return self.line + self._piece.count("\n", self._counted, place)

    def _damaged(self, why: str, place: int | None = None) -> BadData:
        line = self._line_at(self._at if place is None or self._in_lines else place)
        return BadData(f"{self._name} is damaged in line {line}.", f"It is not JSON: {why}.",
                       "Correct that line, or save the file again.", FIELD)

    def _more(self) -> bool:
        """Whether there was more to read; what is before here is let go."""
        if len(self._piece) - self._at > LARGEST_VALUE:
            raise BadData(f"{self._name} is too large.", "One value in it has more than "
                          f"{LARGEST_VALUE // 1024**2} million characters.",
                          "Write it as JSONL, a row a line, or as Parquet.", FIELD)
        read = self._text.read(max(PIECE, len(self._piece) - self._at))
        self.line, self._counted = self._line_at(self._at), 0
        self._piece, self._at, self._tried = self._piece[self._at:] + read, 0, False
        return bool(read)


def _objects(entries: Iterable[Any], name: str, place: Callable[[int], str],
             lists: bool = False) -> Iterator[dict[str, Any]]:
    """Entries as rows: objects, or with `lists` perhaps all of them lists of values."""
    for number, entry in enumerate(entries, 1):
        lists = lists and (number > 1 or isinstance(entry, list))
        if lists and isinstance(entry, list):
            entry = {f"column {column}": value for column, value in enumerate(entry, 1)}
        elif lists or not isinstance(entry, dict):
            raise BadData(f"{name} is not a table.", f"{place(number)} is {_kind(entry)}, not "
                          f"{'a list' if lists else 'an object'}.", WANTED, FIELD)
        yield entry


def _rows_of_object(whole: dict, name: str, split: str, notes: list[str]) -> Iterable[dict]:
    """The rows of one object, by what its values are: tables by name, which may be that of a split;
    {column: [value, ...]}; {column: {id: value}} or {id: row}; or else it is itself one row.

    What pandas' to_json() writes in any `orient`, and what the Hub's viewer answers, is among them.
    """
    values = list(whole.values())
    if tables := _tables(whole):
        rows = tables[chosen(list(tables), name, split, notes)]
        viewed = all("row_idx" in row and isinstance(row.get("row"), dict) for row in rows)
        return [row["row"] for row in rows] if viewed else rows
    if isinstance(whole.get("columns"), list) and isinstance(whole.get("data"), list):
        return _table(map(str, whole["columns"]), whole["data"], name)  # pandas' "split"
    if values and all(isinstance(value, dict) for value in values):
        if _is_by_id(whole):
            return values
        return _table(whole, zip(*(value.values() for value in values), strict=True), name)
    if not all(isinstance(value, list) and not _is_turns(value) for value in values):
        return [whole]
    lengths = {column: len(cells) for column, cells in whole.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{column!r} has {length}" for column, length in lengths.items())
        raise BadData(f"{name} is not a table.", f"Its columns differ in length: {found}.",
                      "Give every column the same number of values.", FIELD)
    return _table(whole, zip(*values, strict=True), name)


def _tables(whole: dict) -> dict[str, list[dict]]:
    """Those values that are lists of rows, where they and not `whole` are the table."""
    found = {key: value for key, value in whole.items() if isinstance(value, list) and value
             and all(isinstance(entry, dict) for entry in value) and not _is_turns(value)}
    if main := [key for key in ("data", "rows") if key in found]:  # the others describe it
        return {main[0]: found[main[0]]}
    if all(key in found or value == [] for key, value in whole.items()):
        return found
    return {key: found[key] for key in found if key in SPLITS}


def _is_turns(value: list) -> bool:
    """Whether this is a conversation: a value of one row, and no table."""
    return bool(value) and all(isinstance(turn, dict) and ("role" in turn or "from" in turn)
                               for turn in value)


def _is_by_id(whole: dict[str, dict]) -> bool:
    """Whether this is {id: {column: value}} and not {column: {id: value}}."""
    first = next(iter(whole.values()))
    if any(value.keys() != first.keys() for value in whole.values()):
        return True
    counted = [all(key.isdecimal() for key in keys) for keys in (whole, first)]
    return counted[0] if counted[0] != counted[1] else len(whole) > len(first)


def _table(columns: Iterable[str], rows: Iterable[Any], name: str) -> Iterator[dict[str, Any]]:
    columns = list(columns)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, list | tuple) or len(row) != len(columns):
            raise BadData(f"{name} is not a table.", f"Row {number} is not a list of "
                          f"{len(columns)} values, one for each column.", WANTED, FIELD)
        yield dict(zip(columns, row, strict=True))


def chosen(names: list[str], name: str, split: str, notes: list[str]) -> str:
    """Which of the tables in a file is read: the only one, or the one that `split` names."""
    if len(names) == 1:
        return names[0]
    there = ", ".join(names)
    if split not in names:
        raise BadData(f"{name} holds several tables.", f"There are {there}.",
                      "Write one of them under 'Split'.", SPLIT)
    notes.append(f"{name} holds {there}; {split} was read, as 'Split' asks.")
    return split


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false",
             int: "a number", float: "a number", type(None): "null"}
    return names[type(value)]
