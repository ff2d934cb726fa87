"""CSV and TSV text as rows: any separator, quotes or none. Every value stays the text it is."""

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

from lab.core.problems import BadData
from lab.services.data.json_rows import FIELD
from lab.services.data.table import Table, check_columns

DELIMITERS = (",", "\t", ";", "|", "^", "~", ":")
SAMPLE = 65_536  # characters that are looked at to find the delimiter
csv.field_size_limit(2**31 - 1)  # its own limit, 131,072 characters, is less than a document has


def csv_table(text: io.TextIOWrapper, name: str, limit: int | None, notes: list[str],
              share: Callable[[], float]) -> Table:
    """A table from CSV, or its first `limit` rows. Raises BadData with the damaged line."""
    text.seek(0)
    text.reconfigure(newline="")  # as csv wants it
    sample = text.read(SAMPLE)
    told = re.match(r"\"?sep=([^\w\s\"]|\t)\"?\r?\n", sample, re.IGNORECASE)  # Excel's own
    skipped = len(told[0]) if told else 0
    look = _look(sample[skipped:], told[1] if told else "", len(sample) == SAMPLE)

    # Before a line that may be endless is cut as a whole.
    first = csv.reader(io.StringIO(sample[skipped:], newline=""), **look)
    check_columns(len(next(first, [])), name)

    def read(**more) -> Table:
        text.seek(0)
        text.read(skipped)
        rows = _csv_rows(csv.reader(text, strict=True, **look, **more), name, bool(told))
        return Table(name, next(rows, []), notes).fill(rows, share, limit)

    try:
        return read()
    except BadData:
        if look["delimiter"] == ",":
            raise
        try:  # where no commas have to be quoted, a quote may be no more than a character
            table = read(quoting=csv.QUOTE_NONE)
        except BadData:
            table = None
        if table is None or _seems_quoted(table):
            raise
        return table


def _csv_rows(reader: Any, name: str, after_sep: bool) -> Iterator[Any]:
    """The names of the columns, then the rows. Every value stays the text it is."""
    columns: list[str] = []
    try:
        for values in reader:
            if not values:  # a blank line
                continue
            if not columns:
                columns = [value.strip() or f"column {number}"
                           for number, value in enumerate(values, 1)]
                yield columns
                continue
            if len(values) != len(columns):
                raise BadData(f"{name} is uneven in line {reader.line_num + after_sep}.",
                              f"There are {len(values)} values, and {len(columns)} columns in the "
                              "header.", "A text with the delimiter or a line break in it needs "
                              '"quotes" around it.', FIELD)
            yield dict(zip(columns, values, strict=True))
    except csv.Error as error:
        raise BadData(f"{name} is damaged near line {reader.line_num + after_sep}.", f"{error}.",
                      'Check the quotes there: inside "quotes", a quote is written twice.',
                      FIELD) from error


def _look(sample: str, told: str, more: bool) -> dict[str, Any]:
    """The delimiter, and whether a space after it belongs to it.

    The delimiter is the one that cuts the first records into the most values of an even number.
    """
    def cut(delimiter: str) -> list[list[str]]:
        reader = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter,
                            skipinitialspace=True)
        try:
            rows = [values for values in itertools.islice(reader, 20) if values]
        except csv.Error:
            return []
        return rows[:-1] if more and len(rows) > 1 else rows  # the sample may end inside it

    def fit(delimiter: str) -> tuple[bool, int]:
        lengths = [len(values) for values in cut(delimiter)]
        return len(set(lengths)) == 1 and lengths[0] > 1, lengths[0] if lengths else 0

    delimiter = told or max(DELIMITERS, key=fit)  # the first of equals: a comma, if none speaks
    header = next((line for line in sample.splitlines() if line.strip()), "")
    spaced = delimiter in header and header.count(delimiter) == header.count(f"{delimiter} ")
    return {"delimiter": delimiter, "skipinitialspace": spaced}


def _seems_quoted(table: Table) -> bool:
    """Whether most cells that begin with a quote are quoted as a whole."""
    begins = [cell for column in table.columns for cell in table.column(column) if cell[:1] == '"']
    whole = re.compile(r'"([^"]|"")*"')
    return 2 * sum(whole.fullmatch(cell) is not None for cell in begins) > len(begins)
