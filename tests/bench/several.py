"""Several processes against one, at equal work for each: throughput and learning.

    python -m tests.bench.several [--processes 2] [--engine trl-vllm] [--model MODEL] [--steps 30]

On a GPU host each process has a GPU of its own. The goal there is 1.7 times the completions a
second of one GPU on two, and 3.4 times on four. With a shape (tests/bench/shapes.py) for a model
each answer runs to its limit: the work of all processes is the same in each step. With a real
model all wait for the longest answer of any.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from lab.core.catalog import RECIPES
from lab.core.settings import ENGINES, STARTER, TRL
from lab.services.lab import Lab
from tests.bench import measure
from tests.bench.shapes import SHAPES, SIGNAL

WARM = 3  # steps that are left out of the medians
END = 10  # steps that tell where a run has come to
PARTS = ("step", "generation", "waiting", "reward", "update")  # of the first process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--engine", choices=ENGINES, default="auto")
    parser.add_argument("--model", default=STARTER, help="a folder, or a shape by name")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--prompts", type=int, default=4, help="questions a step and process")
    parser.add_argument("--answer", type=int, default=80, help="tokens of the longest answer")
    parser.add_argument("--at-once", type=int, default=32, help="answers of a process in one pass")
    parser.add_argument("--share", type=float, help="of a GPU's memory, for vLLM")
    parser.add_argument("--pace-of-one", type=float, help="as it was measured before: not again")
    parser.add_argument("--root", type=Path, help="keep runs and what was compiled here")
    options = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as scratch:
        root = options.root or Path(scratch)
        model = options.model if options.model not in SHAPES else str(
            measure.model(options.model, root / "models"))
        for processes in (options.processes,) if options.pace_of_one else (1, options.processes):
            rows[processes] = measured(Lab.at(root), options, model, processes)
            print(json.dumps({"processes": processes, **rows[processes]}), flush=True)
    several = rows[options.processes]
    one = rows.get(1, {"pace": options.pace_of_one, "reward_end": float("nan")})
    print(f"\n{options.processes} / 1, completions a second: {several['pace'] / one['pace']:.2f}; "
          f"reward at the end {several['reward_end']:.2f} / {one['reward_end']:.2f}")


def measured(lab: Lab, options: argparse.Namespace, model: str, processes: int) -> dict:
    """Medians of one run whose step has `prompts` questions for each of its processes."""
    settings = RECIPES["starter"].settings().with_values({
        **(SIGNAL if options.model in SHAPES else {}),
        "model.name": model, "train.max_steps": options.steps,
        "train.save_steps": 1_000_000, "train.prompts_per_step": options.prompts * processes,
        "train.max_completion_length": options.answer, "train.answers_at_once": options.at_once,
        "lora.gradient_checkpointing": "auto", "hardware.num_processes": processes,
        **({"hardware.gpu_memory_utilization": options.share} if options.share else {}),
        "hardware.engine": options.engine, "model.fast_inference": options.engine not in (
            "auto", TRL)})
    folder = lab.jobs.start(settings)
    run = lab.jobs.wait(folder.id)
    if run.status != "finished":
        raise SystemExit("\n".join([f"{processes} processes: {run.problem}",
                                    *measure.last_lines(lab.workspace.root)]))
    log = lab.runs.log(folder.id)
    curves = log.curves()
    parts = {part: statistics.median(curves[f"seconds/{part}"][WARM:]) for part in PARTS
             if f"seconds/{part}" in curves}
    return {"engine": log.started.facts["engine"], "seconds": parts,
            "groups_that_teach": 1 - statistics.fmean(curves["groups/dead"]),
            "pace": settings.train.answers_per_step() / parts["step"],
            "reward_end": statistics.fmean(curves["reward/weighted"][-END:])}


if __name__ == "__main__":
    main()
