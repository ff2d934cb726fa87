"""Guesses what columns mean, by their names and by what stands in the first rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lab.core.settings import AFTER_HASHES, BOXED, COLUMN, LETTER
from lab.services.data.conversations import conversation_in, parted
from lab.services.data.fields import field_of
from lab.services.data.references import reference_of
from lab.services.data.template import columns_in, letter_of, options_in, plain_name

QUESTIONS = ("question", "prompt", "problem", "instruction", "query", "messages", "conversations",
             "conversation", "dialog", "dialogue", "chat", "ctx", "task", "input", "text")
ANSWERS = ("answer", "final_answer", "ground_truth", "answer_key", "gold", "gold_answer",
           "correct_answer", "expected_answer", "reference", "answers", "solution", "response",
           "output", "target", "label", "result", "completion", "expected", "correct")
SURE = ANSWERS[:ANSWERS.index("label")]  # an assistant's last turn is likelier than the others
INSIDE = ("text", "ground_truth", "answer", "value", "aliases")  # of an answer that has fields
CONTEXTS = ("context", "passage", "article", "document", "paragraph", "background", "story")
INPUTS = ("input", "inputs")
SYSTEMS = ("system", "system_prompt")
BESIDE = (*CONTEXTS, *INPUTS, *SYSTEMS, "choices", "options", "endings", "hint", "image_caption")


def guessed_question(columns: Sequence[str], rows: Sequence[Mapping[str, Any]],
                     answer: str = "") -> str:
    """The likeliest question: by its name, by being a conversation, or the first column that is
    not the answer; "" where there is none."""
    answer = answer or likeliest(columns, ANSWERS)
    others = [name for name in columns if name != answer or _talks(rows, name)]
    exact = likeliest(others, QUESTIONS, exact=True)
    talk = next((name for name in others if _asks(rows, name)), "")
    return (exact or talk or likeliest(others, QUESTIONS)
            or next((name for name in others if plain_name(name) not in BESIDE), "")
            or next(iter(others), ""))


def guessed_answer(fields: Sequence[str], rows: Sequence[Mapping[str, Any]], question: str,
                   shown: Sequence[str] = ()) -> str:
    """The likeliest reference: a column or a field by its name, or the question's own column where
    that is a conversation in which the assistant has the last word; "" for none."""
    others = [name for name in fields
              if not overlap(name, question) and name not in shown]
    own = question if any(
        (turns := conversation_in(field_of(row, question))) and (asked := parted(turns))
        and asked.question and asked.answer for row in rows) else ""
    if "reward_model.ground_truth" in others:
        return "reward_model.ground_truth"
    top = [name for name in others if not any(
        other != name and name.startswith(f"{other}.") for other in fields)]
    found = likeliest(top, SURE if own else ANSWERS, exact=True)
    nested = [name for name in others if name not in top]
    found = found or likeliest(nested, SURE, exact=True, last=True)
    found = found or own or likeliest(top, ANSWERS)
    inside = [name for name in nested if name.startswith(f"{found}.")]
    return (found and next((f"{found}.{name}" for name in INSIDE
                            if f"{found}.{name}" in inside), "")) or found


def guessed_template(fields: Sequence[str], rows: Sequence[Mapping[str, Any]], question: str,
                     answer: str) -> str:
    """A template where other columns belong to the question: what it is about, the input of an
    instruction, the options to choose from. "" where the question stands alone."""
    if not question or _talks(rows, question):
        return ""
    others = [name for name in fields if "." not in name and not overlap(name, question)
              and not overlap(name, answer)]
    texts = [name for name in others if any(
        isinstance(row.get(name), str) and row[name].strip() for row in rows)]
    above = [name for name in texts if plain_name(name) in CONTEXTS][:1]
    below = [name for name in texts if plain_name(name) in INPUTS][:1]
    options = [name for name in others
               if any(options_in(row.get(name), name) for row in rows)][:1]
    parts = [f"{{{name}}}" for name in (*above, question, *below, *options)]
    if not options and (lettered := _lettered(others)):
        parts.append("\n".join(f"{letter}. {{{name}}}" for letter, name in lettered))
    return "\n\n".join(parts) if len(parts) > 1 else ""


def _lettered(columns: Sequence[str]) -> list[tuple[str, str]]:
    """[(letter, column)] of options that have a column each: A, B, C; option_a; opa; choice 1."""
    for shape in ("{}", "option_{}", "option{}", "choice_{}", "choice{}", "op{}", "answer_{}"):
        for marks in ("abcdefgh", "12345678"):
            names = {plain_name(name): name for name in columns}
            found = []
            for letter, mark in zip("ABCDEFGH", marks, strict=True):
                if shape.format(mark) not in names or shape == "{}" and mark.isdecimal():
                    break
                found.append((letter, names[shape.format(mark)]))
            if len(found) > 1:
                return found
    return []


def guessed_extraction(rows: Sequence[Mapping[str, Any]], answer: str, template: str) -> str:
    """How the reference stands in its column, as nine in ten of the rows show."""
    values = [value for row in rows if (value := field_of(row, answer)) is not None]
    texts = [text for value in values if (text := reference_of(value))]
    if not texts:
        return COLUMN

    def most(fits: Callable[[str], Any]) -> bool:
        return sum(bool(fits(text)) for text in texts) >= 0.9 * len(texts)

    if options := options_column(template, rows):
        pairs = [(reference_of(field_of(row, answer)), options_in(field_of(row, options), options))
                 for row in rows]
        pairs = [(said, there) for said, there in pairs if said and there]
        first = first_place(pairs)
        if pairs and all(letter_of(said, there, first) for said, there in pairs):
            return LETTER
    if most(lambda text: reference_of(text, AFTER_HASHES)):
        return AFTER_HASHES
    if most(lambda text: not text.startswith("\\boxed") and reference_of(text, BOXED)):
        return BOXED
    return COLUMN


def options_column(template: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The column of a template that holds the options; "" where none does."""
    return next((name for name in columns_in(template)
                 if any(options_in(field_of(row, name), name) for row in rows)), "")


def first_place(pairs: Sequence[tuple[str, list]]) -> int:
    """Whether options are counted from 0 or from 1, by the references that are numbers."""
    counted = [(int(said), len(options)) for said, options in pairs if said.isdecimal()
               and len(said) < 3 and said not in [label for label, _ in options]]
    return int(bool(counted) and all(place > 0 for place, _ in counted)
               and any(place == count for place, count in counted))


def likeliest(names: Iterable[str], wanted: Sequence[str], exact: bool = False,
              last: bool = False) -> str:
    """The first of the `wanted` names that is there, whole or else (unless `exact`) as one of the
    words; `last`: of a field, only what stands behind its last point counts."""
    names = list(names)
    words = {name: plain_name(name).rsplit(".", 1)[-1] if last else
             plain_name(name).replace(".", "_") for name in names}
    tests = [lambda word, one: word == one]
    if not exact:
        tests.append(lambda word, one: f"_{one}_" in f"_{word}_")
    return next((name for fits in tests for one in wanted for name in names
                 if fits(words[name], one)), "")


def _talks(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(conversation_in(field_of(row, name)) for row in rows)


def _asks(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any((turns := conversation_in(row.get(name))) and
               any(turn["role"] == "user" for turn in turns) for row in rows)


def overlap(one: str, other: str) -> bool:
    """Whether one is the other, or a field inside it."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")
