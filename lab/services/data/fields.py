"""Columns, and the fields inside their cells: which there are, and what stands in one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lab.services.data.conversations import conversation_in, structure_in

SAMPLE = 100  # rows that a guess looks at
DEEPEST, MOST_FIELDS = 3, 60  # of fields inside a column


def value_at(cell: Any, keys: Sequence[str]) -> Any:
    """What stands in a cell under these keys; of a list, what each of its entries has there."""
    for place, key in enumerate(keys):
        if isinstance(cell, str):
            cell = structure_in(cell)
        if isinstance(cell, list):
            found = [value_at(one, keys[place:]) for one in cell]
            return [one for one in found if one is not None] or None
        cell = cell.get(key) if isinstance(cell, dict) else None
    return cell


def place_of(field: str, columns: Sequence[str]) -> tuple[str, list[str]] | None:
    """(column, keys inside its cells) of a field such as answers.text; None where no column is
    called so."""
    if field in columns:
        return field, []
    parts = field.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        if ".".join(parts[:cut]) in columns:
            return ".".join(parts[:cut]), parts[cut:]
    return None


def field_of(row: Mapping[str, Any], field: str) -> Any:
    """The value of a column, or of a field of it, in a row."""
    place = place_of(field, list(row))
    return value_at(row[place[0]], place[1]) if place else None


def fields_in(columns: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns, each followed by the fields inside it, as far as these rows show them."""
    found = []
    for column in columns:
        inside: dict[str, None] = {}
        for row in rows:
            _note_fields(row.get(column), column, 1, inside)
        found += [column, *list(inside)[:MOST_FIELDS]]
    return list(dict.fromkeys(found))


def _note_fields(cell: Any, above: str, depth: int, found: dict[str, None]) -> None:
    if isinstance(cell, str):
        cell = structure_in(cell)
    if depth > DEEPEST or conversation_in(cell):
        return
    for one in cell[:5] if isinstance(cell, list) else [cell]:
        if isinstance(one, dict):
            for key, value in one.items():
                if isinstance(key, str) and key and "." not in key:
                    found[f"{above}.{key}"] = None
                    _note_fields(value, f"{above}.{key}", depth + 1, found)
