"""Peak memory of the GPU in a run of the lab, beside what the lab estimates for it.

    python -m tests.bench.memory CASE [--share 0.1] [--steps 2] [--answer N] [--set key=value ...]

CASE is 1.5b-4bit, 8b-4bit-1k or 8b-4bit-20k. Prints one JSON object. Everything on the device
counts, less what was in use before the start. With --answer shorter than the case's, the prompts
become longer instead: the sequences stay as long as they were, and a step needs less time.
"""

import argparse
import json
import tempfile
from pathlib import Path

from tokenizers import Tokenizer

from lab.core.catalog import RECIPES
from lab.core.settings import Settings, read_assignment
from lab.core.task import problems
from lab.services import machine
from tests.bench import measure

CASES = {  # recipe, shape, share of vLLM, what else is set
    "1.5b-4bit": ("gsm8k", "qwen2.5-1.5b", 0.07, {}),
    "8b-4bit-1k": ("notebook", "llama-3.1-8b", 0.1, {}),
    "8b-4bit-20k": ("notebook", "llama-3.1-8b", 0.2, {
        "model.max_seq_length": 20_480, "train.max_completion_length": 20_224,
        "train.num_generations": 8, "train.answers_at_once": 1}),
}
ROWS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--share", type=float, help="of the GPU's memory, for vLLM")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--answer", type=int, help="tokens of the longest answer")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="more")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "bench-models")
    parser.add_argument("--limit", type=float, default=480, help="seconds for the run")
    parser.add_argument("--out", type=Path, help="also write the JSON object to this file")
    options = parser.parse_args()
    model = measure.model(CASES[options.case][1], options.cache)
    with tempfile.TemporaryDirectory() as scratch:
        settings = settings_of(options, model, Path(scratch))
        folder = measure.run_folder(Path(scratch) / "run", settings)
        row = measure.run(["tests.bench.lab_side", "train", str(folder)], options.limit,
                          Path(scratch) / "log")
        if "problem" in row:
            row["last_lines"] += measure.last_lines(Path(scratch) / "lab")
    told = {"case": options.case, "peak_gb": row["peak_gb"],
            "share": settings.hardware.gpu_memory_utilization,
            "seconds_per_step": [step["step"] for step in row.get("steps", [])],
            "tokens": [step["tokens"] for step in row.get("steps", [])],
            **{name: row[name] for name in ("problem", "last_lines", "facts", "notices", "ready",
                                            "wall") if name in row},
            **estimated(model, settings, row), "settings": settings.to_dict()}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(told, indent=1))
    print(*told.get("last_lines", ()), sep="\n")
    print(json.dumps(told), flush=True)


def settings_of(options: argparse.Namespace, model: Path, scratch: Path) -> Settings:
    recipe, _, share, more = CASES[options.case]
    settings = RECIPES[recipe].settings().with_values({
        "model.name": str(model), "data.source": "word-problems", "data.rows": ROWS,
        "data.held_out": 0, "data.answer_extraction": "column",
        "train.max_steps": options.steps, "train.save_steps": 1_000_000,
        "hardware.engine": "unsloth", "hardware.cuda_graphs": "decode",
        "hardware.gpu_memory_utilization": options.share or share, **more})
    train = settings.train
    if options.answer and options.answer < train.max_completion_length:
        longest = train.max_completion_length - options.answer + train.max_prompt_length
        settings = settings.with_values({
            "train.max_completion_length": options.answer, "train.max_prompt_length": longest,
            "data.source": "file",
            "data.path": str(long_questions(model, longest - train.max_prompt_length, scratch))})
    return settings.with_values(dict(map(read_assignment, options.more)))


def long_questions(model: Path, tokens: int, scratch: Path) -> Path:
    """A file of questions that have about so many tokens each: many problems one after another."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    pool = [problem.question for problem in problems(2, 200, 1_000_000)]
    lengths = [len(tokenizer.encode(f"{question} ").ids) for question in pool]
    path = scratch / "long.jsonl"
    with path.open("w", encoding="utf-8") as f:
        for row in range(ROWS):
            asked, length, number = [], 0, row  # each begins with another problem
            while (length := length + lengths[number % len(pool)]) <= tokens:
                asked.append(pool[number % len(pool)])
                number += 1
            f.write(json.dumps({"question": " ".join(asked), "answer": str(row)}) + "\n")
    return path


def estimated(model: Path, settings: Settings, row: dict) -> dict:
    """What lab/core/memory.py says, and measured / estimated; or why there is no estimate."""
    try:
        from lab.core import memory
        from lab.core.shapes import Shape

        shape = Shape.from_config(json.loads((model / "config.json").read_text()))
        gpu = machine.look(model).gpus[0]
        found = memory.estimate(shape, settings, "unsloth", gpu.memory_gb)
        return {"estimate_gb": found.total, "estimate": str(found),
                "measured_to_estimate": row["peak_gb"] / found.total}
    except Exception as error:  # a measurement without its estimate is still one
        return {"no_estimate": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main()
