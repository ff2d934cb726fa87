"""`eval`: two sides answer held-out questions, and are compared."""

import argparse
from collections.abc import Mapping

from lab.commands.settings import add_allow_code
from lab.commands.shown import DONE, Line, add_checkpoint, better_one, print_json
from lab.core.insight.headline import chance, percent, points
from lab.core.insight.verdict import CONTRACT, SIDES
from lab.core.problems import BadSettings
from lab.services.against import BASE, find
from lab.services.evaluate import MOST_SEEDS, evaluate
from lab.services.lab import Lab
from lab.services.runs import BEST, NEWEST
from lab.services.verdicts import told_beside


def add(command) -> None:
    sub = command("eval", run, "Answer held-out questions with a run and with its base model, or "
                  "with another run, and compare.")
    sub.add_argument("which", metavar="RUN")
    add_checkpoint(sub)
    sub.add_argument("--against", metavar="RUN[:STEP]", default=BASE, help="what it is compared "
                     f"with: another run or RUN itself, its checkpoint by its step, '{BEST}' or "
                     f"'{NEWEST}' (default: its base model)")
    sub.add_argument("--n", type=int, default=200, help="held-out questions, at most")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--longest", type=int, metavar="TOKENS", help="tokens of an answer at most "
                     "(default: as in training)")
    add_allow_code(sub)
    sub.add_argument("--sampled", action="store_true", help="draw answers instead of greedy ones")
    sub.add_argument("--seeds", type=int, default=1, metavar="N", help="drawn answers to each "
                     "question, a seed each; more than 1 are drawn without --sampled too")


def run(options: argparse.Namespace) -> int:
    if options.n < 1:
        raise BadSettings("--n must be at least 1.")
    if not 1 <= options.seeds <= MOST_SEEDS:
        raise BadSettings(f"--seeds must be from 1 to {MOST_SEEDS}.")
    line, runs = Line(options.json), Lab.at(options.root, options.allow_code).runs
    asked = runs.get(options.which)
    result = evaluate(
        asked, asked.step_at(options.checkpoint), options.n, options.seed, options.sampled,
        progress=lambda done, of: line.show(f"{done} of {of} answers"), seeds=options.seeds,
        other=find(options.against, runs), longest=options.longest)
    if options.json:
        print_json({key: result[key] for key in CONTRACT})
        return DONE
    print(f"\n{result['headline']}\n")
    for text in figures(result):
        print(text)
    if hint := better_one(asked, options.checkpoint, result["step"]):
        print(hint)
    return DONE


def figures(result: Mapping) -> list[str]:
    """The figures behind the headline, a line each."""
    at = "an unknown step" if result["step"] is None else f"step {result['step']}"
    how = (f"{result['seeds']} drawn answers each, errors clustered by question"
           if result["seeds"] > 1 else "drawn" if result["drawn"] else "greedy")
    heads = ("other", "this") if result["names"] else ("base", "tuned")
    what = ("; this is {1}, other is {0}".format(*result["names"]) if result["names"]
            else f"; tuned is the adapter of {at}")
    told = [f"{result['n']} held-out questions, {how}{what}", *told_beside(result),
            f"{'':18}{heads[0]:>10}{heads[1]:>10}"]

    def row(name: str, write, *values: float | None, after: str = "") -> None:
        cells = "".join(f"{'-' if value is None else write(value):>10}" for value in values)
        told.append(f"  {name:16}{cells}{after}")

    gaps = result["difference"]
    for name, key, write in (("right", "accuracy", percent), ("in format", "in_format", percent),
                             ("cut", "cut", percent), ("tokens", "tokens", "{:.1f}".format),
                             ("reward", "reward", "{:.3f}".format)):
        gap = gaps.get(key)
        how = points if key == "accuracy" else "{:+.3f}".format
        after = "" if gap is None else (
            f"   {how(gap['mean'])}, 95 % between {how(gap['low'])} and {how(gap['high'])}, "
            f"{chance(gap['p'])}")
        row(name, write, *(result[side][key] for side in SIDES), after=after)
    for name in result["base"]["rewards"]:
        row(f"  {name}", "{:.3f}".format, *(result[side]["rewards"][name] for side in SIDES))
    told.append(f"  by the sum of the rewards: better on {result['wins']}, worse on "
                f"{result['losses']}, alike on {result['ties']}")
    return told
