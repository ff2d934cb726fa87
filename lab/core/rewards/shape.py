"""Is it well made: rewards for the tags of the asked format, whatever the answer says."""

import re
from typing import Annotated

from lab.core.knobs import Knob
from lab.core.prompts import in_format
from lab.core.rewards.registry import SHAPE, reward

# The classic notebook's patterns,
#     strict  ^<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$
#     soft    <reasoning>.*?</reasoning>\s*<answer>.*?</answer>
# with atomic groups (?>...) around the choices that need no second try. Without them the time grows
# with the square of the length: seconds for 100 kB of "</reasoning><answer>". They match the same
# texts: of all places where an answer can begin, the first leaves the most room for "</answer>".
# Only where `.` stops at a newline can another do better, the last: its whitespace may carry it to
# a new line.
_STRICT = r"^<reasoning>\n(?>.*?\n</reasoning>\n<answer>\n).*?\n</answer>\n$"
_SOFT = (r"<reasoning>(?:(?>.*?</reasoning>\s*<answer>)|(?>.*</reasoning>\s*<answer>))"
         r".*?</answer>")

Multiline = Annotated[bool, Knob(
    "May span lines", "On: reasoning and answer may have several lines each. Off: one line each, "
    "the classic notebook's scores.")]

_GOOD = in_format("6 * 7 = 42", "42")
_TWO_LINES = in_format("6 * 7\n= 42", "42")
_ONE_LINE = "<reasoning>6 * 7 = 42</reasoning> <answer>42</answer>"


@reward("Tag count", max_score=0.5, kind=SHAPE, examples=[
    (_GOOD, {}, 0.5),
    (_TWO_LINES, {}, 0.5),
    (_GOOD + "Done!", {}, 0.49),  # five characters too many, counted twice
    (_GOOD + _GOOD, {}, 0.0),  # every tag twice: none counts
    ("<reasoning>\n6 * 7 = 42\n</reasoning>\n", {}, 0.25),
    ("<reasoning>\n6 * 7 = 42\n</reasoning>\n<answer>\n42", {}, 0.328),  # cut off: 47 characters
    (_ONE_LINE, {}, 0.0),  # each tag must stand on a line of its own
    ("42", {}, 0.0),
])
def xmlcount(completion: str) -> float:
    """0.125 for each of the four tags that stands on a line of its own exactly once; at the third
    and again at the fourth, minus 0.001 for each character after the end of the answer (at the
    third: of the whole text, if the answer does not end). Gives partial credit on the way to the
    format, and can fall below 0 for long texts."""
    score = 0.0
    if completion.count("<reasoning>\n") == 1:
        score += 0.125
    if completion.count("\n</reasoning>\n") == 1:
        score += 0.125
    if completion.count("\n<answer>\n") == 1:
        score += 0.125
        # split, not rpartition: they differ where two closing tags share a newline.
        score -= len(completion.split("\n</answer>\n")[-1]) * 0.001
    if completion.count("\n</answer>") == 1:
        score += 0.125
        score -= (len(completion.split("\n</answer>")[-1]) - 1) * 0.001
    return score


@reward("Soft format", max_score=0.5, kind=SHAPE, examples=[
    (_GOOD, {}, 0.5),
    (_TWO_LINES, {}, 0.5),
    (_ONE_LINE, {}, 0.5),
    ("<reasoning></reasoning><answer></answer>", {}, 0.5),  # tags alone pass
    (_GOOD + "Done!", {}, 0.5),
    ("Sure! " + _GOOD, {}, 0.0),  # must begin with the tag
    ("<reasoning>6 * 7 = 42</reasoning> so <answer>42</answer>", {}, 0.0),
    ("42", {}, 0.0),
])
def soft_format(completion: str, *, multiline: Multiline = True) -> float:
    """0.5 when the text begins with a reasoning block and an answer block follows it, with only
    whitespace between the two, else 0. What comes after is free."""
    return 0.5 if re.match(_SOFT, completion, re.DOTALL if multiline else 0) else 0.0


@reward("Strict format", max_score=0.5, kind=SHAPE, examples=[
    (_GOOD, {}, 0.5),
    (_TWO_LINES, {}, 0.5),
    (in_format("", ""), {}, 0.5),  # tags alone pass
    (_GOOD.rstrip(), {}, 0.0),  # the newline at the end is part of the format
    (_ONE_LINE, {}, 0.0),
    (_GOOD + "Done!", {}, 0.0),
    ("42", {}, 0.0),
])
def strict_format(completion: str, *, multiline: Multiline = True) -> float:
    """0.5 when the whole text is in the asked format, with each tag on a line of its own and a
    newline at the end, else 0."""
    return 0.5 if re.match(_STRICT, completion, re.DOTALL if multiline else 0) else 0.0
