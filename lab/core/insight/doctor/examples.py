"""What was answered and what was wanted: an example of a reward that does not fire, and why."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lab.core.prompts import final_answer
from lab.core.rewards import shape
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.scoring import score

HASHES, SAME_NUMBER, NEWLINE, TAIL = "hashes", "same number", "newline", "tail"
LONGEST = 60  # characters of an answer that are shown


@dataclass(frozen=True)
class Example:
    """An answer beside what would have had the full score; `cause` where the two tell one."""

    text: str
    cause: str = ""


def of_reward(chosen: Chosen, groups: Sequence[dict]) -> Example | None:
    """The most telling answer of the recorded groups; None where there is none."""
    known = chosen.reward
    found = None
    for text, columns in _answers(groups):
        one = (_against_reference(text, str(columns["answer"]))
               if "answer" in known.columns and columns.get("answer") is not None
               else _against_pattern(text, chosen))
        if one and one.cause:
            return one
        found = found or one
    return found


def _answers(groups: Sequence[dict]):
    for group in groups:
        columns = group.get("columns") if isinstance(group.get("columns"), dict) else {}
        for answer in group.get("answers") or ():
            if isinstance(answer, dict) and isinstance(answer.get("text"), str):
                yield answer["text"], columns


def _against_reference(text: str, wanted: str) -> Example:
    given = final_answer(text)
    told = f"Answered {_cut(given)}, wanted {_cut(wanted)}"
    if "####" in wanted:
        return Example(f"{told}: the reference holds the whole solution.", HASHES)
    if given != wanted and _number(given) is not None and _number(given) == _number(wanted):
        return Example(f"{told}: the same number, written otherwise.", SAME_NUMBER)
    return Example(f"{told}.")


def _against_pattern(text: str, chosen: Chosen) -> Example:
    known = chosen.reward
    # Only the lab's own patterns are tried again: quick, and without anybody's code.
    if known.function.__module__ == shape.__name__:
        ended = text.rpartition("</answer>")
        if _scores(text + "\n", chosen):
            return Example(f"Answered …{_end(text)}: only the newline at the end is missing, which "
                           "chat models do not write.", NEWLINE)
        if ended[1] and _scores(f"{ended[0]}</answer>\n", chosen):
            return Example(f"Answered …{_end(text)}: something follows the answer.", TAIL)
    full = next((given for given, _, expected in known.examples if expected == known.max_score),
                None)
    wanted = f", wanted something like {_cut(full)}" if full else ""
    return Example(f"Answered {_cut(text)}{wanted}.")


def _scores(text: str, chosen: Chosen) -> bool:
    return bool(score(text, {}, [chosen]).rewards[chosen.name])


def _number(text: str) -> float | None:
    """The one number of a text; None where there is none or more than one."""
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return float(found[0].replace(",", "")) if len(found) == 1 else None


def _cut(text: str) -> str:
    return repr(text if len(text) <= LONGEST else text[:LONGEST] + "…")


def _end(text: str) -> str:
    return repr(text[-20:])
