"""What the starter recipe reaches: accuracy and format before and after, in several seeds.

    python -m tests.bench.learning [--seeds 1 2 3 4 5] [--n 200]

Held-out problems of the level that was trained on, and of levels that were not. A run is timed
from its start to its end, imports and all.
"""

import argparse
import statistics
import tempfile
import time

from lab.core.catalog import RECIPES
from lab.core.task import DEFAULT_LEVEL, LEVELS, problems
from lab.services.data.load import HELD_OUT_SEED
from lab.services.evaluate import evaluate
from lab.services.lab import Lab

STRICT = 0.5  # what strict_format gives for the asked format


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--n", type=int, default=200)
    options = parser.parse_args()
    print("| seed | run, s | s a step | greedy right | sampled right | asked format, sampled |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as root:
        lab = Lab.at(root)
        for seed in options.seeds:
            begun = time.monotonic()
            folder = lab.jobs.start(RECIPES["starter"].settings().with_values(
                {"train.seed": seed, "lora.random_state": seed}))
            run = lab.jobs.wait(folder.id)
            seconds = time.monotonic() - begun
            assert run.status == "finished", run.problem
            pace = statistics.median(lab.runs.log(run.id).metrics["seconds/step"])
            greedy = evaluate(run, n=options.n, seed=seed)
            sampled = evaluate(run, n=options.n, seed=seed, sampled=True)
            print(f"| {seed} | {seconds:.0f} | {pace:.2f} | {pair(greedy, right)} | "
                  f"{pair(sampled, right)} | {pair(sampled, in_format)} |", flush=True)
        print(f"\nGreedy, the last of these runs on levels it was not rewarded on "
              f"(it trained on level {DEFAULT_LEVEL}):\n")
        for level in LEVELS:
            rows = [{"question": p.question, "answer": p.answer}
                    for p in problems(level, options.n, HELD_OUT_SEED)]
            print(f"- level {level}: {pair(evaluate(run, n=options.n, rows=rows), right)}",
                  flush=True)


def pair(result: dict, figure) -> str:
    return f"{figure(result['base']):.1%} -> {figure(result['tuned']):.1%}"


def right(side: dict) -> float:
    return side["accuracy"]


def in_format(side: dict) -> float:
    return side["rewards"]["strict_format"] / STRICT


if __name__ == "__main__":
    main()
