"""The words around an answer: what the model is told, and where its answer stands in the text."""

import re
from collections.abc import Mapping
from typing import Any

# The classic GRPO notebook's text to the letter, down to the newline it opens with: chat templates
# that trim do not see that newline, the others render it.
SYSTEM_PROMPT = """
Respond in the following format:
<reasoning>
...
</reasoning>
<answer>
...
</answer>
"""

THOUGHT = ("reasoning", "think")  # tags that reasoning stands in

_OPENING = re.compile(r"<(reasoning|think)>")
_TAG = re.compile(r"<([A-Za-z][\w-]*)>")
_CLOSING = re.compile(r"</(?:reasoning|think)>")


def messages(question: str, system_prompt: str) -> list[dict[str, str]]:
    """The conversation a model is asked to continue, as chat templates take it.

    A blank system prompt gives no system message at all, so that templates with one of their own
    fall back on it.
    """
    asked = [{"role": "user", "content": question}]
    if not system_prompt.strip():
        return asked
    return [{"role": "system", "content": system_prompt}, *asked]


def prompt_of(row: Mapping[str, Any], system_prompt: str) -> list[dict[str, str]]:
    """The conversation that a row of the data asks a model to continue.

    `row["history"]`, where it is there, are the turns before the question: [{"role", "content"}].
    They may begin with a system message, which is used where the system prompt is blank.
    """
    asked = messages(row["question"], system_prompt)
    turns = turns_of(row)
    if asked[0]["role"] == "system":
        turns = [turn for turn in turns if turn["role"] != "system"]
    return [*asked[:-1], *(dict(turn) for turn in turns), asked[-1]]


def turns_of(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The turns before the question; what is not written as such is none."""
    turns = row.get("history")
    return [turn for turn in turns if isinstance(turn, Mapping)
            and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
            ] if isinstance(turns, list) else []


def in_one_line(row: Mapping[str, Any]) -> str:
    """What a row asks, however it is spaced, with the turns before it: two rows of which this is
    the same are one question."""
    return " ".join(with_its_turns(row).split())


def with_its_turns(row: Mapping[str, Any]) -> str:
    """The question to read, below the turns before it."""
    said = [f"{turn['role']}: {turn['content']}" for turn in turns_of(row)]
    return "\n".join([*said, str(row.get("question", ""))])


def in_format(reasoning: str, answer: str) -> str:
    """A completion just as `SYSTEM_PROMPT` asks for it, with the newline at its end."""
    return f"<reasoning>\n{reasoning}\n</reasoning>\n<answer>\n{answer}\n</answer>\n"


def asked_tags(system_prompt: str) -> tuple[str, ...]:
    """The names of the blocks that a system prompt asks for: each opened and closed in it, in
    order, without those inside another. Empty where it asks for none."""
    found: dict[str, None] = {}
    place = 0
    while opening := _TAG.search(system_prompt, place):
        end = system_prompt.find(f"</{opening[1]}>", opening.end())
        place = opening.end() if end < 0 else end
        if end >= 0:
            found[opening[1]] = None
    return tuple(found)


def final_answer(text: str) -> str:
    """What is judged as the answer: between the last `<answer>` and the next `</answer>`, stripped.

    As in the classic notebook, a missing tag stands for the end of the text on its side: a bare
    "42" is the answer 42, and an answer cut off before `</answer>` counts as far as it goes.
    """
    start, end = answer_span(text)
    return text[start:end]


def answer_span(text: str) -> tuple[int, int]:
    """(begin, end) of the final answer in the text."""
    opening = text.rfind("<answer>")
    begin = 0 if opening < 0 else opening + len("<answer>")
    closing = text.find("</answer>", begin)
    inside = text[begin:len(text) if closing < 0 else closing]
    begin += len(inside) - len(inside.lstrip())
    return begin, begin + len(inside.strip())


def hash_answer(text: str) -> str | None:
    """The reference answer of a GSM8K solution: the first line after the last `####`, stripped.

    None where there is no `####`, or nothing after it: an empty reference would reward silence.
    Others add a line such as "The answer is: 4", or use #### for headings too.
    """
    _, mark, after = text.rpartition("####")
    return (after.strip().partition("\n")[0].strip() or None) if mark else None


def split_reasoning(text: str) -> tuple[str | None, str]:
    """`(reasoning, rest)` for display, from a whole answer or from one still being written.

    Knows `<reasoning>` and `<think>`, and folds the first block. Without its closing tag all that
    follows is reasoning; without its opening tag (some chat templates put that into the prompt)
    all that comes before the closing one is. The reasoning is None where neither tag occurs.
    """
    found = _reasoning(text)
    if found is None:
        return None, text
    before, begin, end, after = found
    return text[begin:end].strip(), (text[:before] + text[after:]).strip()


def reasoning_span(text: str) -> tuple[int, int] | None:
    """(begin, end) of the reasoning in the text, without its tags; None where there is none."""
    found = _reasoning(text)
    return found and found[1:3]


def _reasoning(text: str) -> tuple[int, int, int, int] | None:
    """Where the first reasoning block begins, its inside begins and ends, and what follows it."""
    opening = _OPENING.search(text)
    if opening:
        tag = f"</{opening[1]}>"
        closing = text.find(tag, opening.end())
        end = len(text) if closing < 0 else closing
        return opening.start(), opening.end(), end, end + (0 if closing < 0 else len(tag))
    closing = _CLOSING.search(text)
    return closing and (0, 0, closing.start(), closing.end())
