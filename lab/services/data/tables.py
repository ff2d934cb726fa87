"""A file as a table: CSV, JSON, JSONL, Parquet or Excel, also as gzip. Its content decides which.

Text is read with the standard library's csv and json: pandas, pyarrow and datasets guess kinds, so
that 007 becomes 7, NA nothing, a text a date, or a large number a rounded one.
"""

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lab.core.problems import BadData
from lab.services.data.csv_rows import csv_table
from lab.services.data.json_rows import FIELD, JSON_LINES, chosen, json_rows
from lab.services.data.table import BATCH, Table, tell
from lab.services.data.text import LARGEST, as_text, check_size, opened


def read_table(path: Path, split: str = "", limit: int | None = None) -> Table:
    """The file's rows, or the first `limit` of them and the columns that these have. Where a file
    holds several tables, `split` chooses. Raises BadData, also for no rows."""
    table = _read(path, split, limit)
    if not len(table):
        raise BadData(f"{path.name} has no rows.",
                      "There is a header and nothing below it." if table.columns else "",
                      "Choose a file with at least one row.", FIELD)
    return table


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows, perhaps none, of a JSONL file that the lab wrote. Raises BadData for a damaged
    line; lets OSError and UnicodeDecodeError through."""
    with path.open(encoding="utf-8", newline="\n") as file:
        return list(json_rows(file, path.name, lines=True))


def _read(path: Path, split: str, limit: int | None) -> Table:
    try:
        raw, file = opened(path)
        with raw:
            size = path.stat().st_size
            head = file.read(4)
            file.seek(0)
            if head in (b"PAR1", b"PK\x03\x04") and file is not raw:
                unpacked = file.read(LARGEST + 1)
                check_size(len(unpacked), path.name)
                file = io.BytesIO(unpacked)
            if head == b"PAR1":
                return _parquet(path if file is raw else file, path.name, limit)
            if head == b"PK\x03\x04":
                table, rows = _excel(file, path.name, split)
                return table.fill(rows, lambda: 0, limit)
            notes: list[str] = []
            text = as_text(file, path.name, notes)
            return _text(text, path, split, limit, notes, lambda: raw.tell() / size)
    except (OSError, ValueError, EOFError, zlib.error) as error:  # ValueError: NUL in the path
        raise BadData(f"{path} cannot be read.",
                      f"{getattr(error, 'strerror', None) or error}.",
                      "Check the path and its permissions, or save it again.", FIELD) from error


def _text(text: io.TextIOWrapper, path: Path, split: str, limit: int | None, notes: list[str],
          share: Callable[[], float]) -> Table:
    """A table from JSON, JSONL or CSV."""
    suffix = (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()
    start = text.read(65_536).lstrip()  # not all of it is white space: `as_text` looked
    text.seek(0)
    if start[0] in "[{":
        try:
            rows = json_rows(text, path.name, suffix in JSON_LINES, split, notes)
            return Table(path.name, notes=notes).fill(rows, share, limit)
        except BadData:
            if suffix not in (".csv", ".tsv", ".txt"):  # a CSV may well begin with a bracket
                raise
    elif suffix in (".json", *JSON_LINES):
        raise BadData(f"{path.name} is not JSON.", f"It begins with {start.strip()[:20]!r}.",
                      "Choose another file, or name it .csv if it is one.", FIELD)
    elif suffix == ".parquet":
        raise BadData(f"{path.name} is not a Parquet file.", "It does not begin with 'PAR1'.",
                      "Save it again, or download it again.", FIELD)
    return csv_table(text, path.name, limit, notes, share)


# --- what is no text ----------------------------------------------------------------------------


def _parquet(file: Path | BinaryIO, name: str, limit: int | None) -> Table:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file, memory_map=True) as parquet:
            about = parquet.metadata
            check_size(sum(about.row_group(number).total_byte_size
                           for number in range(about.num_row_groups)), name)
            table, size, rows = Table(name, parquet.schema_arrow.names), 0, 0
            for batch in parquet.iter_batches(min(BATCH, limit or BATCH)):
                # A value that is repeated is stored once, so only now is it known how much it is.
                size += sum((column.dictionary_decode() if hasattr(column, "dictionary") else
                             column).nbytes for column in batch.columns)
                rows += batch.num_rows
                check_size(size, name)
                batch.validate(full=True)
                table.add_arrow(batch)
                if limit and rows >= limit:
                    break
                tell(rows / about.num_rows)
            return table
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")
        raise BadData(f"{name} is a damaged Parquet file.", f"{reason}.",
                      "Save it again, or download it again.", FIELD) from error


def _excel(file: BinaryIO, name: str, split: str) -> tuple[Table, Iterator[dict]]:
    try:
        with zipfile.ZipFile(file) as archive:
            check_size(sum(part.file_size for part in archive.infolist()), name, LARGEST // 8)
            if "xl/workbook.xml" not in archive.namelist():
                raise BadData(f"{name} is a ZIP archive.", "That is not read here.",
                              "Unpack it and choose a file of it.", FIELD)
        import openpyxl

        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        sheets = {sheet.title: rows for sheet in book.worksheets
                  if (rows := [row for row in sheet.iter_rows(values_only=True)
                               if any(cell is not None for cell in row)])}
    except ImportError as error:
        raise BadData(f"{name} is an Excel workbook.", "The package that reads it, openpyxl, is "
                      "not installed.", "Install it (pip install openpyxl), or save the sheet as "
                      "CSV UTF-8.", FIELD) from error
    except BadData:
        raise
    except Exception as error:  # a foreign reader of foreign bytes: it may be anything
        raise BadData(f"{name} is a damaged Excel workbook or ZIP archive.", f"{error}.",
                      "Save it again.", FIELD) from error
    notes: list[str] = []
    rows = sheets[chosen(list(sheets), name, split, notes)] if sheets else [()]
    filled = [place for place in range(max(map(len, rows)))
              if any(place < len(row) and row[place] is not None for row in rows)]
    columns = {place: str(rows[0][place] if place < len(rows[0]) and rows[0][place] is not None
                          else f"column {place + 1}").strip() for place in filled}
    return Table(name, columns.values(), notes), (
        {column: row[place] if place < len(row) else None for place, column in columns.items()}
        for row in rows[1:])
