"""Several processes against one, at equal work for each: throughput and learning.

    python -m tests.bench.several [--processes 2] [--engine trl-vllm] [--model FOLDER] [--steps 30]

On a GPU host each process has a GPU of its own. The goal there is 1.7 times the completions a
second of one GPU on two.
"""

import argparse
import json
import statistics
import tempfile

from lab.core.catalog import RECIPES
from lab.core.settings import ENGINES, STARTER, TRL
from lab.services.lab import Lab
from tests.bench.measure import last_lines

WARM = 3  # steps that are left out of the medians
END = 10  # steps that tell where a run has come to


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--engine", choices=ENGINES, default="auto")
    parser.add_argument("--model", default=STARTER)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--prompts", type=int, default=4, help="questions a step and process")
    parser.add_argument("--answer", type=int, default=80, help="tokens of the longest answer")
    options = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as root:
        for processes in (1, options.processes):
            rows[processes] = measured(Lab.at(root), options, processes)
            print(json.dumps({"processes": processes, **rows[processes]}), flush=True)
    one, several = rows[1], rows[options.processes]
    print(f"\n{options.processes} / 1, completions a second: {several['pace'] / one['pace']:.2f}; "
          f"reward at the end {several['reward_end']:.2f} / {one['reward_end']:.2f}")


def measured(lab: Lab, options: argparse.Namespace, processes: int) -> dict:
    """Medians of one run whose step has `prompts` questions for each of its processes."""
    settings = RECIPES["starter"].settings().with_values({
        "model.name": options.model, "train.max_steps": options.steps,
        "train.save_steps": 1_000_000, "train.prompts_per_step": options.prompts * processes,
        "train.max_completion_length": options.answer, "hardware.num_processes": processes,
        "hardware.engine": options.engine, "model.fast_inference": options.engine not in (
            "auto", TRL)})
    folder = lab.jobs.start(settings)
    run = lab.jobs.wait(folder.id)
    if run.status != "finished":
        raise SystemExit("\n".join([f"{processes} processes: {run.problem}",
                                    *last_lines(lab.workspace.root)]))
    curves = lab.runs.log(folder.id).curves()
    seconds = statistics.median(curves["seconds/step"][WARM:])
    return {"engine": lab.runs.log(folder.id).started.facts["engine"], "seconds": seconds,
            "pace": settings.train.answers_per_step() / seconds,
            "reward_end": statistics.fmean(curves["reward/weighted"][-END:])}


if __name__ == "__main__":
    main()
