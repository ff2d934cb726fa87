"""The words around an answer: what the model is told, and where its answer stands in the text."""

import re

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

_OPENING = re.compile(r"<(reasoning|think)>")
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


def in_format(reasoning: str, answer: str) -> str:
    """A completion just as `SYSTEM_PROMPT` asks for it, with the newline at its end."""
    return f"<reasoning>\n{reasoning}\n</reasoning>\n<answer>\n{answer}\n</answer>\n"


def final_answer(text: str) -> str:
    """What is judged as the answer: between the last `<answer>` and the next `</answer>`, stripped.

    As in the classic notebook, a missing tag stands for the end of the text on its side: a bare
    "42" is the answer 42, and an answer cut off before `</answer>` counts as far as it goes.
    """
    return text.split("<answer>")[-1].split("</answer>")[0].strip()


def hash_answer(text: str) -> str | None:
    """The reference answer of a GSM8K solution: what follows `####`, stripped.

    None where there is no `####`, or nothing after it: an empty reference would reward silence.
    """
    parts = text.split("####")
    return (parts[1].strip() or None) if len(parts) > 1 else None


def split_reasoning(text: str) -> tuple[str | None, str]:
    """`(reasoning, rest)` for display, from a whole answer or from one still being written.

    Knows `<reasoning>` and `<think>`, and folds the first block. Without its closing tag all that
    follows is reasoning; without its opening tag (some chat templates put that into the prompt)
    all that comes before the closing one is. The reasoning is None where neither tag occurs.
    """
    opening = _OPENING.search(text)
    if opening:
        reasoning, _, after = text[opening.end():].partition(f"</{opening[1]}>")
        return reasoning.strip(), (text[:opening.start()] + after).strip()
    closing = _CLOSING.search(text)
    if closing:
        return text[:closing.start()].strip(), text[closing.end():].strip()
    return None, text
