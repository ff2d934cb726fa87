"""What the Data tab shows of a report, as HTML: the mapping, counts, references and lengths."""

from collections.abc import Sequence
from html import escape
from statistics import median

from lab.core.settings import AUTO
from lab.services.data.mapping import Mapped
from lab.services.data.report import Report
from lab.ui.widgets import table_html

TABLE_ROWS = 8
BINS = 24
SHOWN_NUMBERS = 12  # row numbers of a reason; the table to download has all
REASONS = {"empty": "Empty question", "conversation": "Conversation that cannot be asked",
           "no_reference": "No reference answer", "repeated": "Repeated",
           "contradicting": "Repeated, with another answer", "beyond_rows": "Beyond 'Rows'",
           "left_out_questions": "In 'Left-out questions'", "too_long": "Prompt too long",
           "unreachable": "Answer that no goal pays in full"}
KINDS = {"integer": "whole numbers", "number": "numbers", "text": "short texts", "list": "lists",
         "long": "whole solutions"}


def columns_html(columns: Sequence[str], found: Mapped) -> str:
    """Which columns there are, and what the lab takes them for."""
    question = found.template.replace("\n", " ↵ ") if found.template else found.question
    if found.question == AUTO:
        return (f"<p class='facts' role='status'>Columns: {escape(', '.join(columns))}. Which of "
                "them is the question is seen from the rows: press Preview.</p>")
    answer = found.answer or "none"
    if found.answer and found.answer == found.question:
        answer = "the last turn of the assistant"
    return (f"<p class='facts' role='status'>Columns: {escape(', '.join(columns))}. Question: "
            f"<b>{escape(question)}</b>; reference answer: <b>{escape(answer)}</b>"
            f" ({escape(found.extraction)}).</p>")


def report_html(found: Report) -> str:
    """How many rows there are, what was left out and why, what can be earned, and first rows."""
    split = found.split
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes())
    reasons = [(REASONS[reason], f"{len(numbers):,}", _numbers(numbers))
               for reason, numbers in found.left_out.items()]
    kinds = ", ".join(f"{count:,} {KINDS[kind]}" for kind, count in found.references.items()
                      if count)
    head = list(split.train[0]) if split.train else []
    rows = [[i, *(_cell(row.get(column)) for column in head)]
            for i, row in enumerate(split.train[:TABLE_ROWS], 1)]
    return (f"<p class='counts'><b>{len(split.train):,}</b> rows to train on, "
            f"<b>{len(split.held_out):,}</b> held out."
            + (f" References: {kinds}." if kinds else "") + "</p>"
            + (f"<ul class='notes'>{notes}</ul>" if notes else "")
            + (table_html(("Not used", "Rows", "Which"), reasons, numbers=[1]) if reasons else "")
            + (table_html(["Row", *head], rows, numbers=[0]) if rows else ""))


def _numbers(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:SHOWN_NUMBERS])
    return f"{shown}, …" if len(numbers) > SHOWN_NUMBERS else shown


def _cell(value: object) -> str:
    if isinstance(value, list):  # the turns before a question
        value = "; ".join(f"{turn['role']}: {turn['content']}" for turn in value)
    text = "" if value is None else " ".join(str(value).split())
    return text if len(text) <= 160 else f"{text[:159]}…"


def lengths_html(tokens: Sequence[int], longest: int) -> str:
    """A histogram of prompt lengths; bars of what is left out as too long are marked."""
    low, high = min(tokens), max(tokens)
    width = max(1, -(-(high - low + 1) // BINS))
    counts: dict[int, int] = {}
    for count in tokens:
        counts[(count - low) // width] = counts.get((count - low) // width, 0) + 1
    tallest = max(counts.values())
    bars = []
    for i in range((high - low) // width + 1):
        start, end = low + i * width, low + (i + 1) * width - 1
        share = 100 * counts.get(i, 0) / tallest
        name = f"{start}" if start == end else f"{start} to {end}"
        bars.append(f"<i style='height:{share:.1f}%' class='{'long' if start > longest else ''}' "
                    f"title='{name} tokens: {counts.get(i, 0)}'></i>")
    long = sum(count > longest for count in tokens)
    verdict = (f"<b class='wrong'>{long:,} of {len(tokens):,} are longer than the longest prompt, "
               f"{longest}, and are left out of training.</b>" if long else
               f"All fit in the longest prompt, {longest}.")
    text = (f"Prompts have {low} to {high} tokens, half of them at most "
            f"{median(tokens):.0f} ({len(tokens):,} measured).")
    return (f"<h4>Prompt lengths</h4><div class='bars' role='img' aria-label='{text}'>"
            f"{''.join(bars)}</div><div class='axis'><span>{low}</span><span>{high} tokens</span>"
            f"</div><p class='facts'>{text} {verdict}</p>")
