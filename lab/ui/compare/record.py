"""The conversation of Compare as the page keeps it: read back, and written as Markdown.

It is a list of turns as JSON, which is also what is downloaded. A turn is {"question", "reference",
"answers": [text], "sides": [{"name", "run", "step", "adapter", "effect", "tokens", "cut",
"tokens_per_second", "rewards", "errors", "total", "goal", "reached"}], "rewards": [{"name",
"label", "kind", "weight"}], "rewards_of", "model", "seed", "sampling", "made"}, and of a blind one
"vote".
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from lab.core.files import finite
from lab.ui.widgets import number

NONE = "[]"  # a conversation without a turn


def read(text: str, sides: int) -> list[dict]:
    """The turns, as the page sent them back; none where they make no sense, or are of another
    number of sides."""
    try:
        turns = json.loads(text or NONE)
        for turn in turns:
            if not (isinstance(turn["question"], str) and len(turn["answers"]) == sides
                    and all(isinstance(answer, str) for answer in turn["answers"])):
                return []
        return turns if isinstance(turns, list) else []
    except (ValueError, TypeError, KeyError, RecursionError):
        return []


def written(turns: list[dict]) -> str:
    """The inverse of `read`. What is no finite number is null, as JSON wants it."""
    return json.dumps(finite(turns), ensure_ascii=False, allow_nan=False)


def markdown(turns: list[dict]) -> str:
    """The conversation to paste elsewhere: questions, answers side after side, scores in a table.
    A turn that the page sent back in another form is left out."""
    parts = []
    for place, turn in enumerate(turns, 1):
        try:
            parts.append(_turn(place, turn))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            continue
    return "\n\n".join(parts) + "\n" if parts else ""


def _turn(place: int, turn: Mapping[str, Any]) -> str:
    sampling = ", ".join(f"{name} {value:g}" for name, value in turn["sampling"].items())
    said = [f"## Question {place}", fenced(turn["question"])]
    about = f"{turn['model']}, seed {turn['seed']}, {sampling}."
    if turn["reference"]:
        about = f"Reference answer: `{one_line(turn['reference'])}`. {about}"
    said.append(about)
    for side, answer in zip(turn["sides"], turn["answers"], strict=True):
        said += [f"### {one_line(side['name'])}", fenced(answer or "(empty)")]
    if turn.get("vote"):
        said.append(f"Blind vote: {one_line(str(turn['vote']))}.")
    return "\n\n".join([*said, _scores(turn), f"Scored with the rewards of {turn['rewards_of']}."])


def _scores(turn: Mapping[str, Any]) -> str:
    sides = turn["sides"]
    rows = [["", *(side["name"] for side in sides)]]
    for one in turn["rewards"]:
        rows.append([f"{one['label']} ({one['kind']}, weight {number(one['weight'])})",
                     *(number(side["rewards"].get(one["name"])) for side in sides)])
    told = {True: "reached", False: "not reached", None: "–"}
    rows += [["Total", *(number(side["total"]) for side in sides)],
             ["Goal", *(told[side["reached"]] for side in sides)],
             ["Tokens", *(f"{side['tokens']}{', cut' if side['cut'] else ''}" for side in sides)]]
    lines = ["| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in row) + " |"
             for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def fenced(text: str) -> str:
    """Text as it is, in a fence that nothing in it can close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def one_line(text: str) -> str:
    return " ".join(str(text).split())
