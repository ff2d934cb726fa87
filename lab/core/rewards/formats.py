"""Is it in the asked form: validators for tags, whatever stands in them."""

import re
from typing import Annotated

from lab.core.knobs import Knob
from lab.core.prompts import in_format
from lab.core.rewards.answer_text import boxed
from lab.core.rewards.registry import SHAPE
from lab.core.rewards.validators import validator

BOX = r"\boxed{"
_GOOD = in_format("6 * 7 = 42", "42")
_ONE_LINE = "<reasoning>6 * 7 = 42</reasoning> <answer>42</answer>"

OwnLines = Annotated[bool, Knob(
    "Tags on lines of their own", "On: as the system prompt shows them. Off: a block may share "
    "its line with others.")]


@validator("Asked format", kind=SHAPE, examples=[
    (_GOOD, {}, True),
    (_GOOD.rstrip(), {}, True),  # chat models write no newline at the end
    ("\n" + _GOOD + "\n\n", {}, True),
    (in_format("6 * 7\n= 42", "42\napples"), {}, True),
    (in_format("", ""), {}, False),  # tags alone are not what was asked for
    (in_format("6 * 7 = 42", " "), {}, False),
    (_ONE_LINE, {}, False),
    (_GOOD + "Done!", {}, False),
    ("Sure! " + _GOOD, {}, False),
    (_GOOD + _GOOD, {}, False),  # each tag once
    (_GOOD + "</reasoning>", {}, False),
    ("<reasoning>\n6 * 7 = 42\n</reasoning>\n<answer>\n42", {}, False),  # cut off
    ("42", {}, False),
])
def asked_format(completion: str, *, own_lines: OwnLines = True) -> bool:
    """The whole text is in the format that the system prompt asks for: a reasoning block, then an
    answer block, each tag once, something in both, nothing around them. Unlike the strict format it
    takes a text without the newline at the end, which no chat model writes."""
    return blocks_only(completion, ("reasoning", "answer"), own_lines)


@validator("Boxed answer", kind=SHAPE, examples=[
    (r"6 * 7 = 42, so she has \boxed{42} apples.", {}, True),
    (r"It is \(\boxed{\frac{3}{4}}\).", {}, True),
    (r"Either \boxed{41} or \boxed{42}.", {}, False),  # one answer
    (r"\boxed{}", {}, False),
    (r"6 * 7 = 42, so \boxed{4", {}, False),  # cut off
    (r"\boxed{42}" + " and then some more words" * 10, {}, False),  # it is to stand at the end
    ("The answer is 42.", {}, False),
    ("", {}, False),
])
def boxed_answer(completion: str, *, after: Annotated[int, Knob(
        "Characters after it", "So many may follow, for a unit and a full stop.", low=0,
        high=100_000, step=10)] = 60) -> bool:
    r"""The text ends with one \boxed{...} that is not empty: the form in which Qwen's and other
    models give the answer to a mathematical question of their own accord."""
    start = completion.find(BOX)
    if start < 0 or completion.count(BOX) != 1:
        return False
    inside = boxed(completion)
    end = start + len(BOX) + len(inside) + 1
    closed = completion[end - 1:end] == "}"
    return closed and bool(inside.strip()) and len(completion) - end <= after


def _bad_names(names: str, **_) -> str | None:
    listed = _listed(names)
    if not listed:
        return "names no tag"
    bad = [name for name in listed if not re.fullmatch(r"[A-Za-z][\w-]*", name)]
    if bad:
        return f"has a tag that is no name: {bad[0]!r}; write them without < and >"
    return "names a tag twice" if len(set(listed)) < len(listed) else None


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


@validator("Tags of your own", kind=SHAPE, refuses=_bad_names, examples=[
    ("<think>6 * 7</think>\n<answer>42</answer>", {}, True),
    ("<think>6 * 7</think><answer>42</answer>\n", {}, True),
    ("<think>6 * 7</think>\nIt is <answer>42</answer>", {}, False),
    ("<think>6 * 7<answer>42</answer></think>", {}, False),
    ("<answer>42</answer>\n<think>6 * 7</think>", {}, False),
    ("6 * 7</think>\n<answer>42</answer>", {}, False),  # unless the prompt opens the first one
    ("<think></think>\n<answer></answer>", {}, False),
    (_GOOD, {}, False),
    ("42", {}, False),
])
def tags(completion: str, *, names: Annotated[str, Knob(
        "Tags", "Their names in order, with commas between.")] = "think,answer",
        own_lines: OwnLines = False, opened: Annotated[bool, Knob(
            "The prompt opens the first", "On: the chat template has written the first tag "
            "already, as some of reasoning models do.")] = False) -> bool:
    """The whole text is these blocks in this order, each once, something in each, nothing around
    them."""
    listed = tuple(_listed(names))
    begun = completion.lstrip().startswith(f"<{listed[0]}>")  # the lab puts it back itself
    text = f"<{listed[0]}>\n{completion.lstrip()}" if opened and not begun else completion
    return blocks_only(text, listed, own_lines)


def blocks_only(text: str, names: tuple[str, ...], own_lines: bool) -> bool:
    """Whether a text is these blocks, in this order, and nothing but whitespace beside them; each
    tag stands in it once, and no block is blank. With `own_lines`, each tag is alone on its line.
    """
    rest = text.strip()
    for name in names:
        opening, closing = f"<{name}>", f"</{name}>"
        if rest.count(opening) != 1 or rest.count(closing) != 1 or not rest.startswith(opening):
            return False
        inside, _, rest = rest[len(opening):].partition(closing)
        if not inside.strip():
            return False
        if own_lines and not (_begins_a_line(inside) and _begins_a_line(inside[::-1])
                              and (not rest or _begins_a_line(rest))):
            return False
        rest = rest.lstrip()
    # A tag of a block that stands inside an earlier or a later one was counted twice or is left.
    return not rest and all(text.count(f"<{name}>") == text.count(f"</{name}>") == 1
                            for name in names)


def _begins_a_line(after_a_tag: str) -> bool:
    blank = after_a_tag[:len(after_a_tag) - len(after_a_tag.lstrip())]
    return "\n" in blank
