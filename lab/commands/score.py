"""`score`: the rewards of answers that stand in a file."""

import argparse
from dataclasses import asdict
from pathlib import Path

from lab.commands.settings import add_rewards_file, chosen_rewards, rewards_file
from lab.commands.shown import DONE, print_json
from lab.core.problems import BadData
from lab.core.rewards.scoring import score_all
from lab.services.data.references import reference_of
from lab.services.data.tables import read_table


def add(command) -> None:
    sub = command("score", run, "Score answers of a file (CSV, JSON, JSONL, Parquet or "
                  "Excel) with completion, answer and any other column.")
    sub.add_argument("file", type=Path, metavar="FILE")
    sub.add_argument("--rewards", metavar="NAME[:weight=W][:param=V],...",
                     help="default: all of the rewards file, or else all five, with weight 1")
    add_rewards_file(sub)


def run(options: argparse.Namespace) -> int:
    chosen = chosen_rewards(options.rewards, rewards_file(options))
    table = read_table(options.file)
    # A reference as training would read it: 72, 72.0, "72.0" and ["72"] are one.
    rows = [{name: reference_of(value) if name == "answer" else value
             for name, value in row.items() if value is not None}
            for row in table.take(range(len(table)))]
    texts = [completion_of(row, f"Row {number} of {options.file}")
             for number, row in enumerate(rows, 1)]
    scored = score_all(texts, rows, chosen)
    if options.json:
        print_json({"rows": [asdict(s) for s in scored]})
        return DONE
    names = [c.name for c in chosen]
    print("  ".join(f"{name:>13}" for name in [*names, "total"]))
    for result in scored:
        values = [*(result.rewards[name] for name in names), result.total]
        print("  ".join(f"{'-' if v is None else format(v, '.3f'):>13}" for v in values))
        for text in result.errors.values():
            print(f"    error: {text}")
    return DONE


def completion_of(row: dict, where: str) -> str:
    """Take the completion out of a row: text, or messages that end with it. Raises BadData."""
    completion = row.pop("completion", None)
    if isinstance(completion, list) and completion and isinstance(completion[-1], dict):
        completion = completion[-1].get("content")
        if isinstance(completion, list) and all(isinstance(part, dict) for part in completion):
            completion = "".join(str(part.get("text", "")) for part in completion)
    if not isinstance(completion, str):
        raise BadData(f"{where} has no text in 'completion'.",
                      f"It has: {', '.join(row) or 'nothing'}.",
                      'Give each row a "completion", a text or a list of messages, and an '
                      '"answer".')
    return completion
