"""Each row of a table as a question with its reference, or the reason why it cannot be used."""

import hashlib
from collections.abc import Callable
from typing import Any

from lab.core.problems import BadData
from lab.core.prompts import in_one_line
from lab.core.settings import AFTER_HASHES, BOXED, COLUMN, LAST_NUMBER, LETTER, Data
from lab.services.data.conversations import conversation_in, parted
from lab.services.data.fields import SAMPLE, place_of, value_at
from lab.services.data.guesses import SYSTEMS, first_place, options_column
from lab.services.data.mapping import Mapped, not_shown
from lab.services.data.references import reference_of, text_of
from lab.services.data.table import Table
from lab.services.data.template import fill, letter_of, options_in, plain_name, shown

# Why a row of the source is neither trained on nor held out, in this order.
EMPTY, CONVERSATION, NO_REFERENCE, REPEATED, CONTRADICTING, ASKED, BEYOND = (
    "empty", "conversation", "no_reference", "repeated", "contradicting", "left_out_questions",
    "beyond_rows")
SPARE = (ASKED, BEYOND)  # they could be used
REASONS = (EMPTY, CONVERSATION, NO_REFERENCE, REPEATED, CONTRADICTING, *SPARE)


def usable_rows(table: Table, mapping: Mapped, data: Data
                ) -> tuple[dict[int, dict], dict[bytes, int], dict[str, list[int]], list[str]]:
    """({row number: {"question", "answer", "history"}} of what can be used, {what tells the
    question from others: row number}, {reason: numbers from 1} of the other rows, notes)."""
    read = _Reader(table, mapping, data)
    usable: dict[int, dict] = {}
    first_with: dict[bytes, int] = {}  # by a hash: the questions once more would take their size
    left_out: dict[str, list[int]] = {reason: [] for reason in (
        EMPTY, CONVERSATION, NO_REFERENCE, REPEATED, CONTRADICTING)}
    for number in range(len(table)):
        row = read(number)
        if isinstance(row, str):
            left_out[row].append(number + 1)
        elif (said := hashlib.sha256(in_one_line(row).encode()).digest()) in first_with:
            same = usable[first_with[said]].get("answer") == row.get("answer")
            left_out[REPEATED if same else CONTRADICTING].append(number + 1)
        else:
            first_with[said] = number
            usable[number] = row
    if any("history" in row for row in usable.values()):
        for row in usable.values():  # one kind of row for the trainer's table
            row.setdefault("history", [])
    notes = _notes({reason: len(there) for reason, there in left_out.items()}, len(table), mapping)
    if not usable:
        unread = len(left_out[NO_REFERENCE]) > len(left_out[EMPTY])
        raise BadData("There is no row that can be used.", " ".join(notes),
                      "Choose other columns" + (", or 'Reference answer': column." if unread and
                                                mapping.extraction != COLUMN else "."),
                      "data.answer_column" if unread else "data.question_column")
    return usable, first_with, left_out, notes + _remarks(read, table, mapping, data, usable)


class _Reader:
    """Reads the question of a row, the turns before it and its reference."""

    def __init__(self, table: Table, mapping: Mapped, data: Data) -> None:
        self.mapping, self.own_system = mapping, not data.system_prompt.strip()
        self.table, self.columns = table, {}
        self.dropped: list[int] = []  # rows whose own system message is not used
        self.asked = {name: self._values(name) for name in mapping.asked}
        answer = mapping.answer
        # A conversation of which the last turn is the reference is read once.
        self.says = answer in self.asked
        self.answers = self._values(answer) if answer and not self.says else None
        system = next((name for name in table.columns if plain_name(name) in SYSTEMS
                       and name not in (*mapping.asked, answer)), "")
        self.systems = self._values(system) if system and self.own_system else None
        self.options, self.first = "", 0
        if mapping.extraction == LETTER:
            sample = table.take(range(min(SAMPLE, len(table))))
            self.options = options_column(mapping.template, sample)
            if self.options and self.answers is not None:
                self.first = first_place([
                    (reference_of(said), there) for said, cell in zip(
                        self.answers, self.asked[self.options], strict=True)
                    if reference_of(said) and (there := options_in(cell, self.options))])

    def _values(self, name: str) -> list[Any]:
        """A column, or a field of one."""
        column, keys = place_of(name, self.table.columns)
        if column not in self.columns:
            self.columns[column] = self.table.column(column)
        cells = self.columns[column]
        return [value_at(cell, keys) for cell in cells] if keys else cells

    def __call__(self, number: int) -> dict | str:
        """{"question", "history", "answer"}, the latter two where there are some; or the reason
        why it cannot be used."""
        cells = {name: values[number] for name, values in self.asked.items()}
        history, said = [], None
        for cell in cells.values():
            if turns := conversation_in(cell):
                one = parted(turns)
                if one is None:
                    return CONVERSATION
                history, said = history or one.history, said or one.answer
        lettered = bool(self.options)
        if self.mapping.template:
            question = fill(self.mapping.template,
                            lambda name: shown(cells[name], name, lettered))
        else:
            (cell,) = cells.values()
            question = (shown(cell, self.mapping.question, lettered) if conversation_in(cell)
                        else text_of(cell) or "").strip()
        if not question:
            return EMPTY
        row: dict[str, Any] = {"question": question}
        if history := self._opened(history, number):
            row["history"] = history
        if self.mapping.answer:
            reference = self._reference(said if self.says else self.answers[number], cells)
            if reference is None:
                return NO_REFERENCE
            row["answer"] = reference
        return row

    def _opened(self, history: list[dict], number: int) -> list[dict]:
        """The turns before the question, with the row's own system message where none is set."""
        system = history[0]["content"] if history and history[0]["role"] == "system" else None
        turns = history if system is None else history[1:]
        if not self.own_system:
            if system is not None:
                self.dropped.append(number + 1)
            return turns
        if system is None and self.systems:
            system = text_of(self.systems[number])
        return [{"role": "system", "content": system}, *turns] if (system or "").strip() else turns

    def _reference(self, value: Any, cells: dict[str, Any]) -> str | None:
        if self.mapping.extraction != LETTER:
            return reference_of(value, self.mapping.extraction)
        there = options_in(cells.get(self.options), self.options)
        said = reference_of(value)
        return letter_of(said, there, self.first) if said and there else None


def _notes(left_out: dict[str, int], total: int, mapping: Mapped) -> list[str]:
    lacks = {AFTER_HASHES: "#### with an answer after it", BOXED: "\\boxed{} with an answer in it",
             LAST_NUMBER: "number", LETTER: "name of one of the options"}
    where = f"no {lacks.get(mapping.extraction, 'reference answer')} in {mapping.answer!r}"
    left_out = left_out | {REPEATED: left_out[REPEATED] + left_out[CONTRADICTING]}
    sentences: dict[str, Callable[[bool], str]] = {
        EMPTY: lambda one: f"{'has' if one else 'have'} an empty question and",
        CONVERSATION: lambda one: f"{'holds' if one else 'hold'} a conversation with tools, "
                                  "pictures or a system message between its turns, and",
        NO_REFERENCE: lambda one: f"{'has' if one else 'have'} {where} and",
        REPEATED: lambda one: f"{'repeats' if one else 'repeat'} an earlier question and",
    }
    notes = [f"{count:,} of {total:,} rows {sentences[reason](count == 1)} "
             f"{'was' if count == 1 else 'were'} left out."
             for reason in sentences if (count := left_out[reason])]
    if count := left_out[CONTRADICTING]:
        notes.append(f"{count:,} of the repeated questions came with another answer; the first "
                     "one was kept.")
    return notes


def _remarks(read: _Reader, table: Table, mapping: Mapped, data: Data,
             usable: dict[int, dict]) -> list[str]:
    """What else one should know of the mapping."""
    notes = []
    if read.dropped:
        notes.append(f"{len(read.dropped):,} of {len(table):,} rows "
                     f"{'has' if len(read.dropped) == 1 else 'have'} a system message of their own,"
                     " which is not used: the system prompt under Data is. Empty that to use "
                     "theirs.")
    for name in not_shown(mapping, table.columns):
        if read.systems is not None and plain_name(name) in SYSTEMS:
            continue
        if not any((text_of(cell) or "").strip() for cell in table.column(name)):
            continue
        how = ("Empty the system prompt under Data to use it, or" if plain_name(name) in SYSTEMS
               else "To show it,")
        notes.append(f"The column {name!r} looks as if it belonged to the question, and the model "
                     f"does not see it. {how} write {{{name}}} in 'Prompt template'.")
    if mapping.extraction == LETTER and read.first == 0 and any(
            reference_of(said) == "0" for said in read.answers or ()):
        notes.append(f"{mapping.answer!r} counts the options from 0: 0 is A.")
    return notes


