"""A CSV, JSON, JSONL or Parquet file as a table. Its content decides what it is, not its name."""

import csv
import io
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from lab.core.problems import BadData
from lab.services.json_rows import FIELD, JSON_LINES, parse_json

LARGEST_FILE = 2 * 1024**3  # bytes; text is read as a whole and takes several times that in memory
DELIMITERS = (",", "\t", ";", "|")
SAMPLE = 65_536  # characters of a CSV that are looked at to find its delimiter

SAVE_AS = "Save it as CSV, JSON, JSONL or Parquet, text in UTF-8."


class Table(Protocol):
    """Columns by name, rows by number from 0. A value that a row lacks is None."""

    columns: list[str]

    def __len__(self) -> int: ...

    def column(self, name: str) -> list[Any]:
        """All values of one column."""

    def take(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """The rows with these numbers, which must rise."""


class RowTable:
    """A table in memory, from text."""

    def __init__(self, columns: Iterable[str], rows: list[dict[str, Any]]) -> None:
        self.columns = list(columns)
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def column(self, name: str) -> list[Any]:
        return [row.get(name) for row in self._rows]

    def take(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        return [{name: self._rows[n].get(name) for name in self.columns} for n in numbers]


class ArrowTable:
    """A `pyarrow.Table`: only what is asked for becomes Python objects."""

    def __init__(self, arrow: Any) -> None:
        self._arrow = arrow
        self.columns = list(arrow.column_names)

    def __len__(self) -> int:
        return self._arrow.num_rows

    def column(self, name: str) -> list[Any]:
        return _unpacked(self._arrow.column(name))

    def take(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        # Batch by batch: taking from the whole would first join columns that may exceed 2 GB.
        rows, first, start = [], 0, 0
        for batch in self._arrow.to_batches():
            last = first
            while last < len(numbers) and numbers[last] < start + batch.num_rows:
                last += 1
            if last > first:
                inside = [number - start for number in numbers[first:last]]
                rows += _unpacked(batch.take(inside))
            first, start = last, start + batch.num_rows
        return rows


def _unpacked(arrow: Any) -> list[Any]:
    try:
        return arrow.to_pylist()
    except (ValueError, OverflowError) as error:  # such as a date that Python cannot hold
        raise BadData("A value of the table cannot be read.", f"{error}.",
                      "Store that column as text.", FIELD) from error


def read_table(path: Path, limit: int | None = None) -> Table:
    """The file's rows, or of a CSV or JSONL the first `limit`. Raises BadData, also for no rows."""
    head = _head(path)
    if head == b"PAR1":
        table = _from_parquet(path)
    else:
        table = _from_text(_text_in(path, head), path, limit)
    if not len(table):
        raise BadData(f"{path.name} has no rows.",
                      "There is a header and nothing below it." if table.columns else "",
                      "Choose a file with at least one row.", FIELD)
    return table


def columns_in(path: Path) -> list[str]:
    """The file's columns; of a CSV or JSONL only the first rows are looked at. Raises BadData."""
    if _head(path) == b"PAR1":
        return _from_parquet(path, rows=False).columns
    return read_table(path, limit=100).columns


def decode(raw: bytes, name: str) -> str:
    """Text from UTF-8; a byte order mark is dropped. Raises BadData with the bad byte's place."""
    mark = 3 if raw.startswith(b"\xef\xbb\xbf") else 0
    try:
        return raw[mark:].decode("utf-8")
    except UnicodeDecodeError as error:
        position = error.start + mark
        line = raw.count(b"\n", 0, position) + 1
        raise BadData(f"{name} is not UTF-8 text.",
                      f"Byte {position} (0x{raw[position]:02x}, in line {line}) cannot be read.",
                      SAVE_AS, FIELD) from error


# --- bytes --------------------------------------------------------------------------------------


def _head(path: Path) -> bytes:
    """The first four bytes, once it is clear that this is a file that can be read."""
    try:
        if path.is_dir():
            raise BadData(f"{path} is a folder, not a file.", "",
                          "Choose one CSV, JSON, JSONL or Parquet file in it.", FIELD)
        if not path.exists():
            raise BadData(f"There is no file {path}.", "", "Check the path.", FIELD)
        if not path.is_file():
            raise BadData(f"{path} is not a regular file.", "", "Choose another one.", FIELD)
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(4)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise _unreadable(path, error) from error
    if size == 0:
        raise BadData(f"{path.name} is empty.", "It has no bytes at all.",
                      "Choose a file with rows.", FIELD)
    if size > LARGEST_FILE and head != b"PAR1":
        raise BadData(f"{path.name} is too large.", f"It has {size / 1024**3:.1f} GB; text is read "
                      f"up to {LARGEST_FILE / 1024**3:.0f} GB.",
                      "Convert it to Parquet, or keep fewer rows.", FIELD)
    return head


def _text_in(path: Path, head: bytes) -> str:
    """The file's text. Raises BadData for files that are not text, and for no text."""
    known = {b"PK\x03\x04": "an Excel workbook or a ZIP archive", b"\x1f\x8b": "compressed (gzip)",
             b"%PDF": "a PDF", b"\xff\xfe": "text in UTF-16", b"\xfe\xff": "text in UTF-16"}
    for start, what in known.items():
        if head.startswith(start):
            raise BadData(f"{path.name} is {what}.", "That is not read here.", SAVE_AS, FIELD)
    try:
        text = decode(path.read_bytes(), path.name)
    except OSError as error:
        raise _unreadable(path, error) from error
    if "\0" in text[:SAMPLE]:
        raise BadData(f"{path.name} is not a text file.", "It contains NUL characters.", SAVE_AS,
                      FIELD)
    if not text.strip():
        raise BadData(f"{path.name} is empty.", "It has only white space.",
                      "Choose a file with rows.", FIELD)
    return text


def _unreadable(path: Path, error: Exception) -> BadData:
    return BadData(f"{path} cannot be read.", f"{getattr(error, 'strerror', None) or error}.",
                   "Check the path and its permissions.", FIELD)


# --- formats ------------------------------------------------------------------------------------


def _from_text(text: str, path: Path, limit: int | None) -> RowTable:
    """A table from JSON, JSONL or CSV."""
    suffix = path.suffix.lower()
    if text.lstrip()[0] in "[{":
        try:
            rows = parse_json(text, path.name, suffix, limit)
            return RowTable(dict.fromkeys(name for row in rows for name in row), rows)
        except BadData:
            if suffix not in (".csv", ".tsv"):  # a CSV may well begin with a bracket
                raise
    elif suffix in (".json", *JSON_LINES):
        raise BadData(f"{path.name} is not JSON.", f"It begins with {text.strip()[:20]!r}.",
                      "Choose another file, or name it .csv if it is one.", FIELD)
    elif suffix == ".parquet":
        raise BadData(f"{path.name} is not a Parquet file.", "It does not begin with 'PAR1'.",
                      "Save it again, or download it again.", FIELD)
    return _from_csv(text, path.name, limit)


def _from_csv(text: str, name: str, limit: int | None) -> RowTable:
    """Every value stays the text it is, so 007 is not 7 and NA is not missing."""
    # strict: without it, a quote that is never closed would swallow the rest of the file.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True,
                        skipinitialspace=True)
    columns: list[str] = []
    rows: list[dict[str, Any]] = []
    try:
        for values in reader:
            if not values:  # a blank line
                continue
            if not columns:
                columns = _header(values, name)
                continue
            if len(values) != len(columns):
                raise BadData(f"{name} is uneven in line {reader.line_num}.",
                              f"There are {len(values)} values, and {len(columns)} columns in the "
                              "header.", "A text with the delimiter or a line break in it needs "
                              '"quotes" around it.', FIELD)
            rows.append(dict(zip(columns, values, strict=True)))
            if limit and len(rows) == limit:
                break
    except csv.Error as error:
        raise BadData(f"{name} is damaged near line {reader.line_num}.", f"{error}.",
                      'Check the quotes there: inside "quotes", a quote is written twice.',
                      FIELD) from error
    return RowTable(columns, rows)


def _header(values: list[str], name: str) -> list[str]:
    columns = [value.strip() or f"column {number}" for number, value in enumerate(values, 1)]
    twice = [column for number, column in enumerate(columns) if column in columns[:number]]
    if twice:
        raise BadData(f"{name} has the column {twice[0]!r} twice.", "",
                      "Rename one of them in the first line.", FIELD)
    return columns


def _delimiter(text: str) -> str:
    """The delimiter that cuts the first records into the most values of an even number."""
    def fit(delimiter: str) -> tuple[bool, int]:
        reader = csv.reader(io.StringIO(text[:SAMPLE], newline=""), delimiter=delimiter,
                            skipinitialspace=True)
        try:
            lengths = [len(values) for values in itertools.islice(reader, 20) if values]
        except csv.Error:
            lengths = []
        if len(text) > SAMPLE and len(lengths) > 1:
            lengths.pop()  # the sample may end inside it
        return len(set(lengths)) == 1 and lengths[0] > 1, lengths[0] if lengths else 0

    return max(DELIMITERS, key=fit)  # the first of equals: a comma if nothing speaks against it


def _from_parquet(path: Path, rows: bool = True) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, memory_map=True) as file:
            names = file.schema_arrow.names
            twice = [column for number, column in enumerate(names) if column in names[:number]]
            if twice:
                raise BadData(f"{path.name} has the column {twice[0]!r} twice.", "",
                              "Rename one of them.", FIELD)
            arrow = file.read() if rows else file.schema_arrow.empty_table()
            arrow.validate(full=True)
            return ArrowTable(arrow)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")
        raise BadData(f"{path.name} is a damaged Parquet file.", f"{reason}.",
                      "Save it again, or download it again.", FIELD) from error
