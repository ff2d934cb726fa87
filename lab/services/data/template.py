"""A question made of several columns: a template that is filled, and options as lettered lines."""

import re
from collections.abc import Callable
from string import ascii_uppercase
from typing import Any

from lab.services.data.conversations import conversation_in, parted, structure_in
from lab.services.data.references import text_of

OPTION_NAMES = ("choices", "options", "endings", "alternatives", "candidates", "answer_choices",
                "answer_options")
# {{ and }} stand for braces; empty ones, as of \boxed{}, are what they are.
_PLACE = re.compile(r"\{\{|\}\}|\{([^{}\n]+)\}")


def columns_in(template: str) -> list[str]:
    """The columns that a template names, each once, in order."""
    return list(dict.fromkeys(found[1].strip() for found in _PLACE.finditer(template)
                              if found[1] and found[1].strip()))


def fill(template: str, value_of: Callable[[str], str]) -> str:
    """The template with each {column} replaced by `value_of(column)`; stripped.

    A line whose columns are all blank is left out with the words on it ("Context: {context}"), and
    of the blank lines around it one is left. What columns hold is never changed.
    """
    lines: list[str] = []
    for line in template.splitlines():
        values = {name: value_of(name) for name in columns_in(line)}
        if values and not any(value.strip() for value in values.values()):
            continue
        if not line.strip() and not (lines and lines[-1].strip()):
            continue
        lines.append(_PLACE.sub(lambda found, values=values: _put(found, values), line))
    return "\n".join(lines).strip()


def _put(found: re.Match, values: dict[str, str]) -> str:
    if not found[1]:
        return found[0][0]  # {{ is {
    return values[found[1].strip()] if found[1].strip() else found[0]


def shown(value: Any, name: str, lettered: bool) -> str:
    """A cell as the prompt shows it: options as lines, other lists an entry a line, of a
    conversation the user's last turn."""
    if turns := conversation_in(value):
        asked = parted(turns)
        return asked.question if asked else ""
    if options := options_in(value, name):
        return "\n".join(f"{letter if lettered else label}. {text}" for letter, (label, text)
                         in zip(ascii_uppercase, options, strict=False))
    if isinstance(value, list):
        return "\n".join(text for part in value if (text := text_of(part)))
    return text_of(value) or ""


def options_in(value: Any, name: str) -> list[tuple[str, str]] | None:
    """[(label, text)] of the options of a multiple choice; None where a cell holds none.

    {"text": [...], "label": [...]} as ARC has it, {"A": ..., "B": ...}, [{"label", "text"}], or a
    list of texts in a column that is called as such.
    """
    if isinstance(value, str):
        value = structure_in(value)
    if isinstance(value, dict):
        texts, labels = value.get("text"), value.get("label")
        if isinstance(texts, list) and isinstance(labels, list):
            return _options(labels, texts)
        if len(value) > 1 and all(str(key) in ascii_uppercase[place]
                                  for place, key in enumerate(list(value)[:26])):
            return _options(list(value), list(value.values()))
        return None
    if not isinstance(value, list) or not called(name, OPTION_NAMES):
        return None
    if all(isinstance(one, dict) for one in value):
        pairs = [(one.get("label", one.get("key")), one.get("text", one.get("value")))
                 for one in value]
        return _options(*zip(*pairs, strict=True)) if pairs else None
    return _options(ascii_uppercase, value)


def _options(labels: Any, texts: Any) -> list[tuple[str, str]] | None:
    found = [(text_of(label), text_of(text)) for label, text in zip(labels, texts, strict=False)]
    fine = 1 < len(found) <= len(ascii_uppercase) and all(
        label and text and not isinstance(raw, list | dict)
        for (label, text), raw in zip(found, texts, strict=False))
    return found if fine else None


def letter_of(reference: str, options: list[tuple[str, str]], first: int) -> str | None:
    """The letter of the option that a reference names by its label, its letter, its place (counted
    from `first`) or its text; None where it names none."""
    labels = [label for label, _ in options]
    said = reference.strip().strip("().")
    if said in labels:
        return ascii_uppercase[labels.index(said)]
    if len(said) == 1 and said.upper() in ascii_uppercase[:len(options)]:
        return said.upper()
    if said.isdecimal() and len(said) < 3 and first <= int(said) < first + len(options):
        return ascii_uppercase[int(said) - first]
    texts = [" ".join(text.split()).casefold() for _, text in options]
    plain = " ".join(reference.split()).casefold()
    return ascii_uppercase[texts.index(plain)] if plain in texts else None


def called(name: str, names: tuple[str, ...]) -> bool:
    """Whether a column, or the last part of a field, has one of these names."""
    return plain_name(name).rsplit(".", 1)[-1] in names


def plain_name(name: str) -> str:
    """A name in small letters with _ between its words: answerKey is answer_key."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\s-]+", "_", name).lower()
