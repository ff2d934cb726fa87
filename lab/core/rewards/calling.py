"""How a reward is called: for one answer, or for many in TRL's form; and what it returned.

A number is a judgement, None says that it cannot be judged, and all else is an error in words.
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from lab.core.prompts import prompt_of
from lab.core.rewards.registry import FROM_TRL, Reward

Judged = tuple[float | None, str | None]  # score, error


class CannotScore(Exception):
    """A reward failed on an answer for a reason that it knows: its text is all that is told.

    `lines` are those of a person's own code that led to it, where it has some.
    """

    def __init__(self, text: str, lines: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.lines = tuple(lines)


def results_of(known: Reward, completions: Sequence[Any], rows: Sequence[Mapping[str, Any]],
               params: Mapping[str, Any], given: Mapping[str, Any]) -> list[Any]:
    """What the reward returned for each completion, or the exception it raised; and a verdict on
    those rows that lack what it needs."""
    results = [_lacks(known, row) for row in rows]
    there = [place for place, found in enumerate(results) if found is _NOTHING]
    if known.batch:
        found = _call_batch(known, [completions[i] for i in there], [rows[i] for i in there],
                            {name: [values[i] for i in there] if isinstance(values, list)
                             else values for name, values in given.items()}, params)
    else:
        found = [_call_one(known, text_of(completions[i]), rows[i], params) for i in there]
    for place, one in zip(there, found, strict=True):
        results[place] = one
    return results


_NOTHING = object()


def _lacks(known: Reward, row: Mapping[str, Any]) -> Any:
    """The verdict on a row that lacks what the reward needs; _NOTHING if it has all."""
    for column in known.needs:
        if column in ("completion", *FROM_TRL) or column in known.fallbacks:
            continue
        if column not in row:
            there = ", ".join(row) or "none"
            return CannotScore(
                f"{known.name} needs the column {column!r}; this row has: {there}.")
        if row[column] is None:
            return None
    return _NOTHING


def _call_one(known: Reward, completion: str, row: Mapping[str, Any],
              params: Mapping[str, Any]) -> Any:
    filled = {name: value for name, value in row.items() if value is not None}
    available = {**known.fallbacks, **filled, "completion": completion}
    try:
        return known.function(*(available[name] for name in known.needs), **params)
    except Exception as error:  # whatever a reward raises is data about this row, not our crash
        return error


def _call_batch(known: Reward, completions: list, rows: list[Mapping[str, Any]],
                given: Mapping[str, Any], params: Mapping[str, Any]) -> list[Any]:
    """As TRL calls its functions: completions and prompts are lists of messages, and each column
    that all rows have comes as a list; a knob of the same name goes first."""
    if not completions:
        return []
    columns = {name: [row[name] for row in rows] for name in rows[0]
               if all(name in row for row in rows) and name not in known.knobs}
    asked = [[{"role": "assistant", "content": c}] if isinstance(c, str) else c
             for c in completions]
    prompts = [prompt_of(row, "") if "question" in row else [] for row in rows]
    try:
        results = known.function(**{**columns, "prompts": prompts, **given, "completions": asked,
                                    **params})
        if isinstance(results, list | tuple) and len(results) == len(rows):
            return list(results)
        told = f"{len(results)} scores" if isinstance(results, list | tuple) \
            else type(results).__name__
        return [CannotScore(f"{known.name} returned {told}, not a list of {len(rows)}.")
                ] * len(rows)
    except Exception as error:
        return [error] * len(rows)


def read_result(known: Reward, result: Any) -> Judged:
    """(score, error) of what a reward returned, or raised."""
    if result is None:
        return None, None
    if isinstance(result, CannotScore):
        return None, str(result)
    if isinstance(result, Exception):
        return None, f"{known.name} failed: {type(result).__name__}: {result}"
    if not isinstance(result, Real):
        return None, f"{known.name} returned {type(result).__name__}, not a number."
    try:
        number = float(result)
    except Exception as error:
        return None, f"{known.name} failed: {type(error).__name__}: {error}"
    if not math.isfinite(number):
        return None, f"{known.name} returned {number}, not a finite number."
    return number, None


def text_of(completion: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(completion, str):
        return completion
    return completion[-1]["content"] or ""  # a message that only calls a tool has no content
