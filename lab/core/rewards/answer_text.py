"""Where the answer stands in a completion: in the tag, in a box, in a fence of code, at the end."""

import re

from lab.core.prompts import final_answer

_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:\n?```|\Z)", re.DOTALL)
_TAG = re.compile(r"</?[A-Za-z][\w-]{0,30}>")


def answer_of(completion: str) -> str:
    r"""The text after the last <answer>, or the whole text; of either, what stands in the last
    \boxed{} where there is one. Stripped."""
    text = final_answer(completion)
    inside = boxed(text)
    return text if inside is None else inside.strip()


def is_tagged(completion: str) -> bool:
    return "<answer>" in completion


def boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...} of the text, or \fbox{...}; None where there is none.
    One that does not end goes to the end of the text."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    start = text.index("{", start) + 1
    depth = 1
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start:start + brace.start()]
    return text[start:]


def in_fence(text: str) -> str:
    """What stands in the last ``` fence, without its language; the text itself where none is."""
    fences = _FENCE.findall(text)
    return (fences[-1] if fences else text).strip()


def without_tags(text: str) -> str:
    """The text with a space for each tag such as <answer>."""
    return _TAG.sub(" ", text)
