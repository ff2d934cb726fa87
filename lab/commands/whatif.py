"""`whatif`: how a run's recorded answers would have been compared under other rewards."""

import argparse

from lab.commands.settings import add_rewards_file, chosen_rewards, rewards_file
from lab.commands.shown import DONE, print_json
from lab.services.lab import Lab
from lab.services.whatif import whatif


def add(command) -> None:
    sub = command("whatif", run, "Score a run's recorded answers with other rewards: who would "
                  "have been ranked higher, and what would have taught nothing. Trains nothing.")
    sub.add_argument("which", metavar="RUN")
    sub.add_argument("--rewards", metavar="NAME[:weight=W][:param=V],...", required=True)
    add_rewards_file(sub)


def run(options: argparse.Namespace) -> int:
    chosen = chosen_rewards(options.rewards, rewards_file(options))
    told = whatif(Lab.at(options.root), options.which, chosen)
    if options.json:
        print_json(told)
        return DONE
    print(f"{told['groups']} recorded groups; the answers of {told['rank_changes']} of them would "
          "come in another order.")
    print(f"{'':20}{'now':>10}{'then':>10}")
    print(f"{'dead groups':20}{_percent(told['dead']['now'])}{_percent(told['dead']['then'])}")
    for name, share in told["signal_share"].items():
        print(f"{name:20}{_percent(share['now'])}{_percent(share['then'])}")
    print("Below 'dead groups': each reward's part of what the advantages tell apart.")
    if failed := told["errors"]["then"]:
        print(f"A reward failed on {failed} answers; they are left out.")
    return DONE


def _percent(share: float | None) -> str:
    return f"{'-' if share is None else format(share, '.0%'):>10}"
