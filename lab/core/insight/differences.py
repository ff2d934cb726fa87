"""What in an answer differs from the best one of its group, word by word."""

import re
from difflib import SequenceMatcher

WORD = re.compile(r"\s*(?:\w+|[^\w\s])|\s+$")  # with the white space before it
MOST = 1000  # words of an answer that are compared: the time grows with their square


def differences(best: str, other: str) -> list[tuple[str, bool]]:
    """`other` in pieces, each with whether it is not in `best` at that place.

    White space alone is no difference. What is beyond MOST words is not compared, and does not
    differ.
    """
    ours, theirs = WORD.findall(best)[:MOST], WORD.findall(other)
    compared = theirs[:MOST]
    pieces: list[tuple[str, bool]] = []
    matcher = SequenceMatcher(None, *([word.strip() for word in words]
                                      for words in (ours, compared)), autojunk=False)
    for kind, _, _, begin, end in matcher.get_opcodes():
        _add(pieces, compared[begin:end], kind != "equal")
    _add(pieces, theirs[MOST:], False)
    return pieces


def _add(pieces: list[tuple[str, bool]], words: list[str], differs: bool) -> None:
    """The white space before what differs belongs to what was before it."""
    text = "".join(words)
    if differs and (inner := text.lstrip()) != text:
        _put(pieces, text[:len(text) - len(inner)], False)
        text = inner
    _put(pieces, text, differs)


def _put(pieces: list[tuple[str, bool]], text: str, differs: bool) -> None:
    if pieces and pieces[-1][1] == differs:
        text = pieces.pop()[0] + text
    if text:
        pieces.append((text, differs))
