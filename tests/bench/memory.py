"""Peak memory of the GPU in a run of the lab, beside what the lab estimates for it.

    python -m tests.bench.memory CASE [--share 0.1] [--steps 2] [--answer N] [--set key=value ...]

Prints one JSON object. Everything on the device counts, once the model is loaded: `learning_gb` is
the worker's own figure; `peak_gb` is that of nvidia-smi from the start on, with the blocks that
torch keeps from loading and gives back on a card where they are missed. vLLM gets the share that
the estimate calls the smallest, and a little more: what a small card would have to have. With
--answer shorter than the case's, the prompts become longer instead: the sequences stay as long and
a step needs less time, but has fewer log-probabilities.
"""

import argparse
import json
import tempfile
from pathlib import Path

from tokenizers import Tokenizer

from lab.core.catalog import RECIPES
from lab.core.hardware import memory
from lab.core.hardware.shapes import Shape
from lab.core.settings import UNSLOTH, Settings, read_assignment
from lab.core.task import problems
from lab.services import machine
from tests.bench import measure

CASES = {  # recipe, shape, goal in GB, answers that vLLM draws together, what else is set
    "1.5b-4bit": ("gsm8k", "qwen2.5-1.5b", 5, 2, {
        "train.answers_at_once": 1, "train.optim": "adamw_8bit"}),
    "8b-4bit-1k": ("notebook", "llama-3.1-8b", 15, None, {}),
    "8b-4bit-20k": ("notebook", "llama-3.1-8b", 54, None, {
        "model.max_seq_length": 20_480, "train.max_completion_length": 20_224,
        "train.num_generations": 8, "train.answers_at_once": 1}),
}
ROWS = 64
SPARE = 1.05  # times the smallest share: the estimate of it may be a little low


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--share", type=float, help="of the GPU's memory, for vLLM")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--answer", type=int, help="tokens of the longest answer")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="more")
    parser.add_argument("--root", type=Path, help="keep models, caches and logs here")
    parser.add_argument("--limit", type=float, default=480, help="seconds for the run")
    options = parser.parse_args()
    if options.root:
        told = measured(options, options.root.resolve())
    else:
        with tempfile.TemporaryDirectory() as root:
            told = measured(options, Path(root))
    print(*told.get("last_lines", ()), sep="\n")
    print(json.dumps(told), flush=True)


def measured(options: argparse.Namespace, root: Path) -> dict:
    """One run of a case in the lab of this root, and what was estimated for it."""
    _, shape, goal, *_ = CASES[options.case]
    model = measure.model(shape, root / "models")
    gpu_gb = machine.look(root).gpus[0].memory_gb
    settings = settings_of(options, model, root, gpu_gb)
    folder = measure.run_folder(root / f"run-{options.case}", settings)
    row = measure.run(["tests.bench.lab_side", "train", str(folder)], options.limit,
                      root / "logs" / f"memory-{options.case}.log")
    if "problem" in row:
        row["last_lines"] += measure.last_lines(root / "lab")
    return {"case": options.case, "goal_gb": goal,
            "share": settings.hardware.gpu_memory_utilization,
            **beside(row, model, settings, gpu_gb),
            "seconds_per_step": [step["step"] for step in row.get("steps", [])],
            "tokens": [step["tokens"] for step in row.get("steps", [])],
            **{name: row[name] for name in ("learning_gb", "peak_gb", "problem", "last_lines",
                                            "facts", "notices", "ready", "wall") if name in row},
            "settings": settings.to_dict()}


def beside(row: dict, model: Path, settings: Settings, gpu_gb: float) -> dict:
    """The estimate for the engine that trained, part by part, and estimate / measurement."""
    engine = row.get("facts", {}).get("engine", settings.hardware.engine)
    found = memory.estimate(shape_of(model), settings, engine, gpu_gb)
    told = {"estimate_gb": round(found.total_gb, 2),
            "parts": {part.name: round(part.gb, 3) for part in found.parts}}
    if row.get("learning_gb"):
        told["ratio"] = round(found.total_gb / row["learning_gb"], 3)
    return told


def shape_of(model: Path) -> Shape:
    return Shape.from_config(json.loads((model / "config.json").read_text(encoding="utf-8")))


def settings_of(options: argparse.Namespace, model: Path, root: Path, gpu_gb: float) -> Settings:
    recipe, _, _, together, more = CASES[options.case]
    settings = RECIPES[recipe].settings().with_values({
        "model.name": str(model), "data.source": "word-problems", "data.rows": ROWS,
        "data.held_out": 0, "data.answer_extraction": "column",
        "train.max_steps": options.steps, "train.save_steps": 1_000_000,
        "lora.gradient_checkpointing": "unsloth",  # as on a card that is small for it
        "hardware.engine": UNSLOTH, "hardware.cuda_graphs": "decode", **more})
    train = settings.train
    if options.answer and options.answer < train.max_completion_length:
        longest = train.max_completion_length - options.answer + train.max_prompt_length
        settings = settings.with_values({
            "train.max_completion_length": options.answer, "train.max_prompt_length": longest,
            "data.source": "file",
            "data.path": str(long_questions(model, longest - train.max_prompt_length, root))})
    settings = settings.with_values(dict(map(read_assignment, options.more)))
    share = options.share or round(SPARE * memory.smallest_share(
        shape_of(model), settings, UNSLOTH, gpu_gb, together), 3)
    return settings.with_values({"hardware.gpu_memory_utilization": share})


def long_questions(model: Path, tokens: int, root: Path) -> Path:
    """A file of questions that have about so many tokens each: many problems one after another."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    pool = [problem.question for problem in problems(2, 200, 1_000_000)]
    lengths = [len(tokenizer.encode(f"{question} ").ids) for question in pool]
    path = root / "long.jsonl"
    with path.open("w", encoding="utf-8") as f:
        for row in range(ROWS):
            asked, length, number = [], 0, row  # each begins with another problem
            while (length := length + lengths[number % len(pool)]) <= tokens:
                asked.append(pool[number % len(pool)])
                number += 1
            f.write(json.dumps({"question": " ".join(asked), "answer": str(row)}) + "\n")
    return path


if __name__ == "__main__":
    main()
