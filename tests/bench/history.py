"""How fast a long history is: 200 runs of 2,000 steps, listed, searched, opened and overlaid.

    python -m tests.bench.history [--runs 200] [--steps 2000] [--root DIR]

The folders are made by the lab's own writer, with the metrics that a run of the starter recipe
has; DIR keeps them for the next call. Times are those of the server's own work, first
in a process that knows nothing of the runs yet.
"""

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lab.core import events
from lab.core.adapters import WEIGHTS
from lab.core.catalog import RECIPES
from lab.services import labels
from lab.services.lab import Lab
from lab.services.workspace import RunFolder
from lab.ui.header import chip_of
from lab.ui.history import page
from lab.ui.history.label_view import LabelView
from lab.ui.history.overlay import curves_of
from lab.ui.live import Feed

GOALS = {"list": 0.3, "open": 0.5}  # seconds
REWARDS = ("xmlcount", "soft_format", "strict_format", "int", "correctness")
METRICS = ("loss", "grad_norm", "learning_rate", "reward", "reward_std", "completions/mean_length",
           "completions/clipped_ratio", "completions/min_length", "completions/max_length",
           "entropy", "num_tokens", "frac_reward_zero_std", "reward/weighted", "reward/low",
           "reward/high", "reward/within_group_std", "groups/dead", "groups/dead_right",
           "groups/dead_wrong", "goal/mean", "goal/reached", "shape/mean", "answers/left_out",
           "answers/distinct", "tokens_per_second", "seconds/step", "seconds/generation",
           "seconds/reward", "seconds/update",
           *(f"rewards/{name}/{what}" for name in REWARDS for what in ("mean", "std")),
           *(f"signal/{name}" for name in REWARDS))


def make(root: Path, number: int, steps: int, answers: int) -> RunFolder:
    """One run that was finished, with its curves, answers, held-out points and a label."""
    dice = random.Random(number)
    folder = RunFolder(root / f"{20250101 + number // 100}-{number % 100:02d}0000-run-{number}")
    folder.path.mkdir(parents=True)
    settings = RECIPES["starter"].settings().with_values(
        {"train.max_steps": steps, "train.seed": number, "train.learning_rate": 1e-4 * (
            1 + number % 5), "data.level": 1 + number % 3})
    folder.settings.write_text(json.dumps({
        "format": 1, "name": f"run {number}", "created": 1.7e9 + 1e5 * number,
        "settings": settings.to_dict(), "stack": {"value": "cpu", "why": "it is a benchmark"}}))
    group = {"prompt": "How many apples does Tom have now? " * 4, "columns": {"answer": "7"},
             "answers": [{"text": "<reasoning>He has 3 and buys 4.</reasoning><answer>7</answer>",
                          "tokens": 24, "cut": False, "rewards": dict.fromkeys(REWARDS, 0.5),
                          "errors": {}, "total": 2.5, "advantage": 0.7071} for _ in range(answers)]}
    say = events.EventWriter(folder.events)
    say(events.Started(steps, 0, {"engine": "cpu", "dtype": "float32"}))
    say(events.HeldOut(0, {"n": 100, "goal": 0.1, "reached": 0.1}))
    for step in range(1, steps + 1):
        rise = 1 - math.exp(-3 * step / steps)
        say(events.Step(step, {name: rise * dice.random() for name in METRICS}))
        say(events.Samples(step, [group]))
        if step % (steps // 20) == 0:
            say(events.HeldOut(step, {"n": 100, "goal": rise, "reached": rise, "reward": rise,
                                      "tokens": 30.0, "cut": 0.0}))
    say(events.Finished(steps, 1.0))
    say.close()
    for step in range(steps // 5, steps + 1, steps // 5):
        checkpoint = folder.checkpoint(step)
        checkpoint.mkdir(parents=True)
        head = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
        (checkpoint / WEIGHTS).write_bytes(len(head).to_bytes(8, "little") + head + bytes(16))
    folder.process.write_text(json.dumps({"pid": 1, "began": "then", "said": 0}))
    folder.lock.touch()
    labels.change(folder, tags=[f"set {number % 7}"], notes=f"The run with the seed {number}.")
    return folder


def timed(name: str, work: Callable[[], object], goal: str = "") -> None:
    """Print how long it takes, beside its goal if it has one."""
    begun, busy = time.perf_counter(), time.process_time()
    work()
    seconds, busy = time.perf_counter() - begun, time.process_time() - busy
    told = f"   goal {GOALS[goal]:.1f} s, {seconds / GOALS[goal]:.2f} of it" if goal else ""
    print(f"{name:46}{seconds:7.3f} s, CPU {busy:6.3f} s{told}", flush=True)


def measure(root: Path) -> None:
    """Print what each look takes in this process, which has read nothing yet."""
    lab = Lab.at(root)
    tab, folders = Tab(), lab.workspace.folders()
    middle = folders[len(folders) // 2].id

    def listing(look: page.Look) -> Callable[[], object]:
        return lambda: page.list_of(lab, tab, look)

    timed("the list, in a process that knows nothing", listing(page.Look(None)), "list")
    timed("the list again", listing(page.Look(None)), "list")
    timed("searched: three words, ordered by goal",
          listing(page.Look(None, "starter tag:set seed", "goal")), "list")
    timed("every row", listing(page.Look(None, limit=None)), "list")
    timed("the header's chip", lambda: chip_of(lab))
    timed("a run opened in Runs, from its summary", lambda: page.look_at(
        lab, tab, page.Look(middle)), "open")
    timed("a run opened in Train, its curves read", lambda: Feed(lab).history([middle]), "open")
    timed("the same again", lambda: Feed(lab).history([middle]), "open")
    timed("eight runs beside each other: settings", lambda: page.beside(
        tab, {run.id: run for run in lab.runs.all()}, middle, [one.id for one in folders[:7]]))
    timed("a curve of one of them, read from its events", lambda: curves_of(
        lab, [[folders[0].id], "reward/weighted", "steps"]), "open")


class Tab:
    """Stands for the tab's components and those of its parts, which are told apart by being."""

    def __init__(self) -> None:
        self.label = LabelView(*"ntwoab")

    def __getattr__(self, name: str) -> "Tab":
        if name.startswith("_"):
            raise AttributeError(name)
        self.__dict__[name] = part = Tab()
        return part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--answers", type=int, default=8, help="in the group of each step")
    parser.add_argument("--root", type=Path, help="keeps the runs for the next call")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = options.root or Path(scratch) / "runs"
        there = len(Lab.at(root).workspace.folders())
        for number in range(there, options.runs):
            make(root, number, options.steps, options.answers)
        folders = Lab.at(root).workspace.folders()
        size = sum(one.events.stat().st_size for one in folders)
        print(f"{len(folders)} runs, {size / 1e6:.0f} MB of events")
        if not there:
            timed("their summaries made, once", Lab.at(root).runs.all)
        measure(root)


if __name__ == "__main__":
    main()
