"""What is to be told of a run's data before it starts: for `lab data` and for the Data tab."""

import csv
import io
from collections import Counter
from dataclasses import dataclass
from typing import Any

from lab.core.knobs import plain
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.reach import Reach, reach
from lab.core.rewards.registry import GOAL
from lab.core.settings import Settings
from lab.services.chat import Chat
from lab.services.data.lengths import Lengths, at_hand, lengths_of
from lab.services.data.load import Split, load
from lab.services.data.questions import REASONS, SPARE
from lab.services.data.references import KINDS, kind_of

TOO_LONG, UNREACHABLE = "too_long", "unreachable"
IN_JSON = 100  # row numbers of each reason in JSON; the table has all of them
LONGEST = 60  # characters of a reference in a sentence


@dataclass(frozen=True)
class Report:
    """The data of a run as it is going to be used."""

    split: Split
    references: dict[str, int]  # {kind: count}, of the usable rows
    reach: Reach  # of the rows in `looked_at`
    rows: list[dict]  # train rows, then those held out
    chosen: tuple[Chosen, ...]
    lengths: Lengths | None  # None where the tokenizer is not at hand

    @property
    def left_out(self) -> dict[str, list[int]]:
        """{reason: row numbers of the source, from 1} of rows that are not used, or cannot be
        learnt from."""
        numbers = self.split.numbers
        return {
            **{reason: self.split.left_out[reason] for reason in REASONS
               if self.split.left_out.get(reason)},
            **({TOO_LONG: long} if (long := [numbers[place] for place in self.lengths.too_long]
                                    if self.lengths else []) else {}),
            **({UNREACHABLE: never} if (never := [numbers[place] for place in self.reach.never
                                                  if place < len(numbers)]) else {})}

    def notes(self) -> list[str]:
        """Everything in sentences: what was left out, and what cannot be earned."""
        return [*self.split.notes, *self._references(), *self._unreachable()]

    def _references(self) -> list[str]:
        lists, long = self.references["list"], self.references["long"]
        found = [f"'{one.reward.label}' ({one.name}) needs a reference answer, and there is none: "
                 "choose an answer column, or another reward." for one in self.chosen
                 if "answer" in one.reward.columns and not sum(self.references.values())]
        if lists and not any(one.name == "any_of" for one in self.chosen):
            found.append(f"{lists:,} references are lists, and each of their entries is right: the "
                         "reward 'One of several references' (any_of) takes them.")
        if long and any(one.takes_as == GOAL for one in self.chosen):
            found.append(f"{long:,} references are whole texts, of several lines or more than 200 "
                         "characters: few answers will be the same. Take a part of them with "
                         "'Reference answer'.")
        return found

    def _unreachable(self) -> list[str]:
        labels = {one.name: one for one in self.chosen}
        found = []
        for name, places in self.reach.missed.items():
            if not places:
                continue
            reference = str(self.rows[places[0]]["answer"])
            shown = reference if len(reference) <= LONGEST else f"{reference[:LONGEST]}…"
            one = labels[name]
            found.append(
                f"'{one.reward.label}' ({name}) cannot give its {plain(one.best)} to the right "
                f"answer of {len(places):,} of {self.reach.looked_at:,} rows, such as {shown!r}.")
        if self.reach.missed and self.reach.looked_at < len(self.rows):
            found.append(f"Of {len(self.rows):,} rows, {self.reach.looked_at:,} were looked at so.")
        if self.reach.left_out:
            found.append(f"Not tried on the references: {', '.join(self.reach.left_out)}.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The object that `data --json` prints."""
        split, left_out = self.split, self.left_out
        first = split.train[0] if split.train else {}
        return {
            "columns": split.fields or split.columns, "mapping": split.mapping.to_dict(),
            "rows": split.total, "usable": len(split.train) + len(split.held_out) + sum(
                len(split.left_out.get(reason, ())) for reason in SPARE),
            "train": len(split.train), "held_out": len(split.held_out),
            "left_out": {reason: len(numbers) for reason, numbers in left_out.items()
                         if reason in REASONS},
            "left_out_rows": {reason: numbers[:IN_JSON] for reason, numbers in left_out.items()},
            "references": self.references,
            "unreachable": {name: len(places) for name, places in self.reach.missed.items()},
            "unreachable_rows": len(self.reach.never),
            "prompt_tokens": self.lengths.to_dict() if self.lengths else None,
            "notes": self.notes(),
            "first": {"question": first.get("question"), "answer": first.get("answer"),
                      "prompt": self.lengths.first if self.lengths else None}}

    def table(self) -> str:
        """row,reason as CSV: every row that is not used or cannot be learnt from."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(("row", "reason"))
        writer.writerows(sorted((number, reason) for reason, numbers in self.left_out.items()
                                for number in numbers))
        return out.getvalue()


def report(settings: Settings, chat: Chat | None, row: int = 0) -> Report:
    """Read the data and look at all of it. Lengths and the prompt of training row `row` (from 0)
    come from `chat`'s worker, where the tokenizer is at hand. Raises a LabError."""
    split = load(settings.data, settings.train.seed)
    lengths = None
    if chat is not None and split.train and at_hand(settings):
        lengths = lengths_of(chat, settings, split, max(0, min(row, len(split.train) - 1)))
    return describe(settings, split, lengths)


def describe(settings: Settings, split: Split, lengths: Lengths | None = None) -> Report:
    """The report of rows that are read already."""
    rows = [*split.train, *split.held_out]
    counts = Counter(kind_of(row["answer"]) for row in rows if row.get("answer") is not None)
    chosen = settings.rewards.chosen
    return Report(split, {kind: counts[kind] for kind in KINDS}, reach(rows, chosen), rows, chosen,
                  lengths)

