"""Which columns make a question and its reference: what the settings say, or else a guess."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.core.problems import BadData
from lab.core.settings import AFTER_HASHES, AUTO, COLUMN, Data
from lab.services.data.conversations import conversation_in
from lab.services.data.fields import field_of, fields_in, place_of
from lab.services.data.guesses import (
    BESIDE,
    guessed_answer,
    guessed_extraction,
    guessed_question,
    guessed_template,
    overlap,
)
from lab.services.data.template import columns_in, plain_name


@dataclass(frozen=True)
class Mapped:
    """Where questions and references come from. `answer` is empty where there are none; where it
    is the question's own column, the assistant's last turn is the reference."""

    question: str
    answer: str
    template: str  # empty: the question column alone
    extraction: str

    @property
    def asked(self) -> list[str]:
        """The columns that the model sees."""
        return columns_in(self.template) or [self.question]

    def to_dict(self) -> dict[str, str]:
        return {"question": self.question, "answer": self.answer, "template": self.template,
                "extraction": self.extraction}


def mapped(data: Data, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Mapped:
    """What the settings say, and where they leave it to the lab, what these rows (the first of the
    source) look like. Raises BadData for a column that is not there, and for a template that
    shows the reference."""
    if data.source == "gsm8k":
        return Mapped("question", "answer", "", AFTER_HASHES)
    fields = fields_in(columns, rows)
    question, answer, template = data.question_column, data.answer_column, data.template
    if template not in (AUTO, "") and columns_in(template) and question == AUTO:
        question = next((name for name in columns_in(template) if name in fields),
                        columns_in(template)[0])
    if question == AUTO:
        question = guessed_question(columns, rows, answer if answer != AUTO else "")
    if answer == AUTO:
        answer = guessed_answer(fields, rows, question, columns_in(template))
        if not question and data.question_column == AUTO:
            question, answer = answer, ""
    if template == AUTO:
        template = guessed_template(fields, rows, question, answer)
    extraction = data.answer_extraction
    if extraction == AUTO:
        extraction = guessed_extraction(rows, answer, template) if answer else COLUMN
    found = Mapped(question, answer, template, extraction)
    _refuse(found, columns, rows)
    return found


def _refuse(found: Mapped, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    there = ", ".join(repr(_short(column)) for column in columns) or "none"
    if found.template and not columns_in(found.template):
        raise BadData("The prompt template names no column.", "Every question would be the same. "
                      f"The columns are {there}.", "Write one in braces, such as {question}.",
                      "data.template")
    named = [(name, "template") for name in columns_in(found.template)]
    if not named:
        named = [(found.question, "question_column")]
    for name, setting in (*named, *([(found.answer, "answer_column")] if found.answer else [])):
        if not place_of(name, columns):
            raise BadData(f"There is no column {name!r}." if name else
                          "No question column was chosen.", f"The columns are {there}.",
                          "Choose the columns under Data." if setting != "template" else
                          "Correct the prompt template; {{ and }} stand for braces.",
                          f"data.{setting}")
    for name, _ in named:
        if found.answer and overlap(name, found.answer) and not any(
                conversation_in(field_of(row, name)) for row in rows):
            raise BadData(
                f"The prompt template shows the reference, {found.answer!r}." if found.template
                else f"Question and answer are the same column, {found.question!r}.",
                f"The columns are {there}.", "Choose another answer column, or none.",
                "data.template" if found.template else "data.answer_column")


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def not_shown(mapping: Mapped, columns: Sequence[str]) -> list[str]:
    """Columns that look as if they belonged to the question, and are not in it."""
    used = {name.split(".")[0] for name in (*mapping.asked, mapping.answer)} | set(mapping.asked)
    return [name for name in columns if name not in used and plain_name(name) in BESIDE]
