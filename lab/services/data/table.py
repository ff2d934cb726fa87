"""Rows in memory, packed: columns by name, and only what is asked for as objects of Python."""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from lab.core.problems import BadData
from lab.services.data.json_rows import FIELD

MOST_COLUMNS = 1000
BATCH = 1000  # rows

_told: ContextVar[Callable[[float], None]] = ContextVar("told", default=lambda share: None)


@contextmanager
def watched(told: Callable[[float], None]) -> Iterator[None]:
    """Inside, `told` hears again and again what share of a file is read; it may raise to stop."""
    token = _told.set(told)
    try:
        yield
    finally:
        _told.reset(token)


def tell(share: float) -> None:
    """Tell whoever watches what share is read."""
    _told.get()(share)


class Table:
    """Columns by name, rows by number from 0. A value that a row lacks is None.

    It is made of batches, each with the number of its rows and a function (column, numbers of rows
    or None for all) -> values: only what is asked for becomes objects of Python.
    """

    def __init__(self, name: str, columns: Iterable[str] = (), notes: Sequence[str] = ()) -> None:
        self.columns = _unique(list(columns), name)
        self.notes = notes  # what a person should know about the way it was read
        self._name = name
        self._batches: list[tuple[int, Callable[[str, list[int] | None], list]]] = []

    def __len__(self) -> int:
        return sum(size for size, _ in self._batches)

    def column(self, name: str) -> list[Any]:
        """All values of one column."""
        return [value for _, values in self._batches for value in values(name, None)]

    def take(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """The rows with these numbers, which must rise."""
        rows, first, start = [], 0, 0
        for size, values in self._batches:
            last = first
            while last < len(numbers) and numbers[last] < start + size:
                last += 1
            if last > first:
                inside = [number - start for number in numbers[first:last]]
                cells = zip(*(values(name, inside) for name in self.columns), strict=True)
                rows += [dict(zip(self.columns, row, strict=True)) for row in cells]
            first, start = last, start + size
        return rows

    def fill(self, rows: Iterable[dict[str, Any]], share: Callable[[], float],
             limit: int | None = None) -> "Table":
        """This table with these rows, or the first `limit` of them; `share` of the source is
        read."""
        rows = itertools.islice(rows, limit)
        while batch := list(itertools.islice(rows, BATCH)):
            self.add_rows(batch)
            tell(share())
        return self

    def add_rows(self, batch: list[dict[str, Any]]) -> None:
        """Rows, which are kept as JSON: as objects they would take several times that."""
        names = dict.fromkeys(itertools.chain.from_iterable(batch))
        if not names.keys() <= set(self.columns):
            self.columns = _unique(list(dict.fromkeys([*self.columns, *names])), self._name)
        packed = {name: json.dumps([row.get(name) for row in batch], ensure_ascii=False,
                                   default=str).encode("utf-8", "surrogatepass")
                  for name in self.columns}

        def values(name: str, inside: list[int] | None) -> list:
            cells = json.loads(packed[name]) if name in packed else [None] * size
            return cells if inside is None else [cells[number] for number in inside]

        size = len(batch)  # the batch itself is let go
        self._batches.append((size, values))

    def add_arrow(self, batch: Any) -> None:
        """A `pyarrow.RecordBatch`."""
        def values(name: str, inside: list[int] | None) -> list:
            cells = batch.column(name)
            try:
                return (cells if inside is None else cells.take(inside)).to_pylist()
            except (ValueError, OverflowError) as error:  # such as a date that Python cannot hold
                raise BadData("A value of the table cannot be read.", f"{error}.",
                              "Store that column as text.", FIELD) from error

        self._batches.append((batch.num_rows, values))


def joined(name: str, tables: Sequence[Table]) -> Table:
    """The rows of all of them, one below the other."""
    whole = Table(name, dict.fromkeys(column for one in tables for column in one.columns),
                  [note for one in tables for note in one.notes])
    whole._batches = [batch for one in tables for batch in one._batches]
    return whole


def check_columns(count: int, name: str) -> None:
    """Raises BadData for more columns than are read."""
    if count > MOST_COLUMNS:
        raise BadData(f"{name} has more than {MOST_COLUMNS:,} columns.", "So many are not read.",
                      "Keep those with questions, answers and what rewards need.", FIELD)


def _unique(columns: list[str], name: str) -> list[str]:
    """Raises BadData for too many columns, and for one that stands twice."""
    check_columns(len(columns), name)
    twice = [column for column, count in Counter(columns).items() if count > 1]
    if twice:
        raise BadData(f"{name} has the column {twice[0]!r} twice.", "", "Rename one of them.",
                      FIELD)
    return columns
