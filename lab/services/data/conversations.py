"""Cells that hold a conversation: TRL's messages, ShareGPT's turns, or JSON text of either."""

import ast
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

LONGEST = 2_000_000  # characters of a cell that is looked at

# What others call the three who speak.
ROLES = {"system": "system", "developer": "system",
         "user": "user", "human": "user", "prompter": "user",
         "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bard": "assistant",
         "bing": "assistant", "model": "assistant", "bot": "assistant"}
FORMS = (("role", "content"), ("from", "value"))

Turn = dict[str, str]  # {"role", "content"}


class Parted(NamedTuple):
    """A conversation as a question: what came before it, the last turn of the user, and what the
    assistant said to it (None where it said nothing)."""

    history: list[Turn]
    question: str
    answer: str | None


def conversation_in(value: Any) -> list[dict[str, Any]] | None:
    """The turns [{"role", "content"}] of a cell; None where it is no conversation.

    A role that nobody knows stays as it is, and a content that is not text is None.
    """
    turns = structure_in(value) if isinstance(value, str) else value
    if isinstance(turns, dict):
        turns = [turns]
    if not isinstance(turns, list) or not turns:
        return None
    form = next((form for form in FORMS if all(
        isinstance(turn, dict) and isinstance(turn.get(form[0]), str) and form[1] in turn
        for turn in turns)), None)
    if form is None:
        return None
    return [{"role": ROLES.get(turn[form[0]].strip().lower(), turn[form[0]]),
             "content": _text(turn[form[1]])} for turn in turns]


def parted(turns: Sequence[dict[str, Any]]) -> Parted | None:
    """The conversation up to the user's last turn, and the assistant's last one after it: the
    answer never stands in what is asked. None where it is one that cannot be asked: with tools or
    pictures, or a system message between the turns."""
    asked = max((place for place, turn in enumerate(turns) if turn["role"] == "user"), default=-1)
    answers = [turn["content"] for turn in turns[asked + 1:] if turn["role"] == "assistant"]
    answer = answers[-1] if answers else None
    if asked < 0:
        return Parted([], "", answer)
    before = list(turns[:asked])
    opening = 0
    while opening < len(before) and before[opening]["role"] == "system":
        opening += 1
    kept = turns[:asked + 1]
    if any(turn["content"] is None or turn["role"] not in ("system", "user", "assistant")
           for turn in kept) or any(turn["role"] == "system" for turn in before[opening:]):
        return None
    if opening > 1:
        before[:opening] = [{"role": "system", "content": "\n\n".join(
            turn["content"] for turn in before[:opening])}]
    return Parted(before, turns[asked]["content"].strip(), answer)


def structure_in(text: str) -> Any:
    """What a text holds, as JSON or as Python writes it (pandas puts that into a CSV); None for
    what is no list and no object."""
    start = text.lstrip()[:2]
    if not start or start[0] not in "[{" or len(text) > LONGEST:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return found if isinstance(found, list | dict) else None
    return None


def _text(content: Any) -> str | None:
    """A content as text: itself, or its parts of text joined."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return None
    parts = [part if isinstance(part, str) else part.get("text") if isinstance(part, dict)
             and part.get("type", "text") == "text" else None for part in content]
    return None if any(not isinstance(part, str) for part in parts) else _text("".join(parts))
