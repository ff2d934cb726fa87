"""`data`: which questions a run would learn from, what was left out, and what can be earned."""

import argparse
from pathlib import Path

from lab.commands.settings import add_rewards_file, add_settings, chosen_settings
from lab.commands.shown import DONE, print_json
from lab.core.problems import RunError
from lab.services.data.lengths import at_hand
from lab.services.data.report import Report, report
from lab.services.lab import Lab


def add(command) -> None:
    sub = command("data", run, "Show the data of a run before it starts: columns, the mapping and "
                  "its guesses, references that cannot be earned, lengths, what is left out.")
    add_settings(sub)
    add_rewards_file(sub)
    sub.add_argument("--left-out", type=Path, metavar="FILE.csv",
                     help="write the number and the reason of every row that is not used")


def run(options: argparse.Namespace) -> int:
    settings = chosen_settings(options)
    lab = Lab.at(options.root, options.allow_code)
    try:
        found = report(settings, lab.chat)
    finally:
        lab.chat.close()
    if options.left_out:
        try:
            options.left_out.write_text(found.table(), encoding="utf-8")
        except OSError as error:
            raise RunError(f"{options.left_out} could not be written.",
                           f"{error.strerror or error}.", "Give another file.") from error
    if options.json:
        print_json(found.to_dict())
    else:
        print("\n".join(lines(found, at_hand(settings))))
    return DONE


def lines(found: Report, measured: bool) -> list[str]:
    """The report for a terminal."""
    told = found.to_dict()
    mapping, tokens, first = told["mapping"], told["prompt_tokens"], told["first"]
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in told["references"].items() if count)
    parts = [
        ("columns", ", ".join(told["columns"])),
        ("question", repr(mapping["template"]) if mapping["template"] else mapping["question"]),
        ("answer", f"{mapping['answer'] or 'none'} ({mapping['extraction']})"),
        ("rows", f"{told['rows']:,}, usable {told['usable']:,}: {told['train']:,} to train on, "
                 f"{told['held_out']:,} held out"),
        ("left out", ", ".join(f"{count:,} {reason.replace('_', ' ')}"
                               for reason, count in told["left_out"].items()) or "none"),
        ("references", kinds or "none"),
        ("tokens", f"half of the prompts have at most {tokens['p50']}, 95 % at most "
                   f"{tokens['p95']}, the longest {tokens['max']}; {tokens['too_long']:,} are too "
                   "long" if tokens else
                   "not counted, because " + ("there is no row" if measured else
                                              "the model's tokenizer is not on this machine"))]
    return [*(f"{name:10} {text}" for name, text in parts),
            *(f"note: {note}" for note in told["notes"]),
            *(["", first["prompt"] or first["question"], f"-> {first['answer']}"]
              if first["question"] else [])]
