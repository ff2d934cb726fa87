"""Real runs for the doctor's tests, healthy ones and ones with a planted fault, kept as curves.

    python -m tests.curves healthy [SEED ...]      # the starter recipe, 70 steps each
    python -m tests.curves NAME [SEED ...]         # one of FAULTS, 32 steps each
    python -m tests.curves NAME --from EVENTS...   # of runs that were recorded elsewhere

Each run is trained by a process of its own and goes to tests/data/NAME.json.gz: its seed, every
step's metrics to four digits, and (of our own questions) a group of answers.
"""

import argparse
import contextlib
import gzip
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from lab.core import events
from lab.core.catalog import RECIPES
from lab.core.rewards.chosen import parse_chosen
from lab.core.rewards.registry import GOAL, REWARDS, SHAPE, reward
from lab.core.settings import Settings
from lab.services.data.load import load
from lab.services.run_log import RunLog
from lab.services.workspace import PROJECT, STARTER_FOLDER, Workspace

GAMED = {  # the settings of the recorded run in tests/data/gamed.json.gz
    "data.source": "gsm8k", "train.learning_rate": 4e-5, "train.prompts_per_step": 16,
    "train.num_generations": 8, "train.max_steps": 60, "train.max_completion_length": 320}
DATA = PROJECT / "tests" / "data"
FIVE = "xmlcount,soft_format,strict_format,int,correctness"
DROPPED = ("loss", "num_tokens", "epoch", "learning_rate", "reward/low", "reward/high",
           "completions/min", "completions/max", "completions/mean_terminated", "tokens_per_second",
           "frac_reward_zero_std", "reward_std", "clip_ratio", "step_time", "sampling/",
           "completion_length")  # metrics that no rule reads start so


@dataclass(frozen=True)
class Fault:
    """What is wrong with a run: other settings, references or rewards than the recipe's."""

    values: dict = field(default_factory=dict)
    rewards: str = ""
    reference: str = "{}"  # how a reference is written
    others: bool = False  # the references are those of other questions
    steps: int = 32


FAULTS = {
    "healthy": Fault(steps=100),
    "constant": Fault(rewards="always"),
    "pair": Fault({"train.num_generations": 2, "data.level": 4}),
    "short": Fault({"train.max_completion_length": 8}),
    "fast": Fault({"train.learning_rate": 0.05}),
    # With this model a longer answer is one that reasons, and is more often right: so that length
    # alone is paid for, each question has the reference of another.
    "long": Fault(rewards="correctness,long:weight=4", others=True),
    "raises": Fault(rewards=f"{FIVE},brittle"),
    "reference": Fault(reference="{}.00 pieces"),
}


@contextlib.contextmanager
def planted_rewards():
    """While this lasts, the registry has the rewards of FAULTS."""

    @reward("Always the same", max_score=2.0, kind=GOAL)
    def always(completion: str) -> float:
        """1, whatever the answer."""
        return 1.0

    @reward("Long", max_score=1.0, kind=SHAPE)
    def long(completion: str) -> float:
        """More for more characters, up to 300."""
        return min(1.0, len(completion) / 300)

    @reward("Fails on some answers", max_score=0.5, kind=SHAPE)
    def brittle(completion: str) -> float:
        """By the first digit of the answer; there may be none, or it is a 0 or a 7."""
        return 0.5 / (int(next(letter for letter in completion if letter.isdigit())) % 7)

    try:
        yield
    finally:
        for name in ("always", "long", "brittle"):
            del REWARDS[name]


def settings_of(name: str, seed: int) -> Settings:
    """The starter recipe with this fault. Needs `planted_rewards`."""
    fault = FAULTS[name]
    chosen = {"rewards.chosen": parse_chosen(fault.rewards)} if fault.rewards else {}
    return RECIPES["starter"].settings().with_values({
        "train.max_steps": fault.steps, "train.save_steps": 1000, "train.seed": seed,
        "lora.random_state": seed, "hardware.threads": 1, **fault.values, **chosen})


def train_one(name: str, seed: int, folder: Path) -> None:
    """Train it in this process; its events go to folder/events.jsonl."""
    from lab.backends.without_vllm import hide

    hide()
    from lab.backends.engines.base import Engine
    from lab.backends.train import train
    from lab.core.hardware.engines import Plan

    with planted_rewards():
        settings = settings_of(name, seed)
        rows = load(settings.data, seed).train
        answers = [row["answer"] for row in rows]
        if FAULTS[name].others:
            answers = answers[1:] + answers[:1]
        for row, answer in zip(rows, answers, strict=True):
            row["answer"] = FAULTS[name].reference.format(answer)
        say = events.EventWriter(folder / "events.jsonl")
        engine = Engine(Plan("cpu", "", on_gpu=False), settings, str(STARTER_FOLDER))
        say(train(engine, settings, rows, folder, say))


def train_apart(name: str, seed: int, folder: Path) -> None:
    """The same in a process of its own."""
    subprocess.run([sys.executable, "-m", "tests.curves", name, str(seed), "--folder",
                    str(folder)], cwd=PROJECT, check=True)


def curves_of(path: Path) -> dict:
    """What is kept of a run's events: steps, metrics, and the groups of the first step."""
    log = RunLog(path).refresh()
    found = log.groups_at(min(log.samples))
    return {"steps": list(log.steps),
            "metrics": {name: [None if value != value else float(f"{value:.4g}")
                               for value in column]
                        for name, column in sorted(log.metrics.items())
                        if not name.startswith(DROPPED)},
            "held_out": log.held_out,
            "groups": [group | {"answers": group["answers"][:2]} for group in found[1][:1]]}


def recorded(path: Path) -> dict:
    """What is kept of a run that was recorded elsewhere: no text, no path, and of its settings
    those that rules look at."""
    record = path.with_name("settings.json")
    settings = json.loads(record.read_text())["settings"] if record.exists() else {}
    return curves_of(path) | {"groups": [], "settings": {
        group: values for group, values in settings.items() if group in ("train", "rewards")}}


def write(name: str, runs: list[dict]) -> None:
    DATA.mkdir(exist_ok=True)
    body = json.dumps(runs, separators=(",", ":")).encode()
    (DATA / f"{name}.json.gz").write_bytes(gzip.compress(body, 9, mtime=0))


def read(name: str) -> list[dict]:
    """The runs in tests/data/NAME.json.gz, each with steps, metrics and groups, and those that were
    trained here with seed and settings. Settings are to be read within `planted_rewards`."""
    return json.loads(gzip.decompress((DATA / f"{name}.json.gz").read_bytes()))


def as_run(workspace: Workspace, name: str, run: dict, settings: Settings) -> str:
    """Put a kept run into a workspace as a finished one; its id."""
    folder = workspace.make().new_run(name)
    folder.settings.write_text(json.dumps(
        {"name": name, "created": 1.0, "settings": settings.to_dict()}))
    say = events.EventWriter(folder.events)
    say(events.Started(settings.train.max_steps, 0, {}))
    for place, step in enumerate(run["steps"]):
        say(events.Step(step, {n: column[place] for n, column in run["metrics"].items()}))
    if run["groups"]:
        say(events.Samples(run["steps"][-1], run["groups"]))
    say(events.Finished(run["steps"][-1], 1.0))
    say.close()
    return folder.id


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("seeds", type=int, nargs="*", default=[1])
    parser.add_argument("--from", dest="events", type=Path, nargs="+")
    parser.add_argument("--folder", type=Path, help="train one here, and keep nothing")
    options = parser.parse_args()
    if options.events:
        return write(options.name, [recorded(path) for path in options.events])
    if options.folder:
        return train_one(options.name, options.seeds[0], options.folder)
    runs = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            train_apart(options.name, seed, Path(folder))
            with planted_rewards():
                told = {"seed": seed, "settings": settings_of(options.name, seed).to_dict()}
            runs.append(told | curves_of(Path(folder) / "events.jsonl"))
        write(options.name, runs)


if __name__ == "__main__":
    main()
