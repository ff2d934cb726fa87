"""`make bench` on a GPU: speed, memory and start-up of the lab, beside the notebook and plain TRL.

    python -m tests.bench.gpu [--root DIR] [--budget SECONDS] [--only lab notebook ...]

All sides of the speed rows get the same model, data, seed and settings: the gsm8k recipe, on word
problems, with a model of random weights, so that nothing is downloaded and every answer runs to its
limit. Each row is a process of its own with a time limit; the root keeps what it prints. With the
same --root, rows that were measured before are kept and join the tables: where time is
short, call it again until all rows are there. With --rounds, rows of steps are measured in turns.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lab.core.catalog import RECIPES
from lab.core.settings import GRAPHS, TRL, TRL_VLLM, UNSLOTH, Settings, read_assignment
from lab.services import machine
from tests.bench import measure
from tests.bench.shapes import SHAPES, SIGNAL

WARM = 3  # steps that are left out of the medians
PARTS = ("step", "generation", "reward", "update")

TRAIN = ["tests.bench.lab_side", "train"]
TRL_SIDE = ["tests.bench.plain_trl"]
MEMORY = "tests.bench.memory"


@dataclass(frozen=True)
class Row:
    """One measurement: module and job, what follows the run's folder, and the seconds it takes on
    a slow machine. It is not begun where less is left of the budget."""

    command: list[str]
    more: tuple[str, ...] = ()
    takes: int = 200


ROWS = {  # what is wanted most stands first
    "lab": Row(TRAIN, ("--engine", UNSLOTH), 260),  # the first of these compiles for the others
    "notebook": Row(["tests.bench.notebook"]),
    "compare": Row(["tests.bench.lab_side", "compare"], takes=150),
    "trl": Row(TRL_SIDE, ("--engine", "transformers"), 150),
    "trl-vllm": Row(TRL_SIDE, ("--engine", "vllm"), 180),
    "1.5b-4bit": Row([MEMORY, "1.5b-4bit"], takes=150),
    "8b-4bit-1k": Row([MEMORY, "8b-4bit-1k"], takes=240),
    "8b-4bit-20k": Row([MEMORY, "8b-4bit-20k"], ("--steps", "1"), 560),
    "lab-decode": Row(TRAIN, ("--engine", UNSLOTH, "--graphs", "decode")),
    "lab-compiled": Row(TRAIN, ("--engine", UNSLOTH, "--compile", "on"), 240),
    "start": Row(["tests.bench.lab_side", "start"], takes=120),
    "lab-trl-vllm": Row(TRAIN, ("--engine", TRL_VLLM)),
    "lab-trl": Row(TRAIN, ("--engine", TRL), 150),
    "lab-eager": Row(TRAIN, ("--engine", UNSLOTH, "--graphs", "off")),
}
CASES = [name for name, row in ROWS.items() if row.command[0] == MEMORY]
TO_TELL = 30  # seconds that a case of memory keeps, to make its model and to tell why it failed
SLOW = ("trl", "lab-trl")  # half the steps tell enough of them

GOALS = (  # ours, theirs, what is compared, "<=" or ">=", how much
    ("lab", "notebook", "seconds a step", "<=", 1.02),
    ("lab-decode", "notebook", "seconds a step", "<=", 1.02),
    ("lab-compiled", "lab", "seconds a step", "<=", 1.0),
    ("lab", "trl", "completions a second", ">=", 5.0),
    ("lab", "trl-vllm", "completions a second", ">=", 1.0),
    ("lab-trl-vllm", "trl-vllm", "completions a second", ">=", 1.0),
    ("lab-trl", "trl", "completions a second", ">=", 1.0),
)
PAIR_GOAL = 1.8
START_GOALS = {"cold": 60, "warm": 25}  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen2.5-1.5b", help="a folder, or a shape by name")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--again", action="store_true", help="also rows that were measured before")
    parser.add_argument("--rounds", type=int, default=1, help="measure each row of speed so often, "
                        "in turns, so that a slow moment of the machine meets all")
    parser.add_argument("--budget", type=float, default=float("inf"),
                        help="seconds: a row that may not end in time is left for the next call")
    parser.add_argument("--out", type=Path, help="also write the raw figures to this file")
    parser.add_argument("--root", type=Path, help="keep runs, logs and models here")
    parser.add_argument("--limit", type=float, default=600, help="seconds for one row")
    parser.add_argument("--answer", type=int, default=256, help="tokens of the longest answer")
    parser.add_argument("--prompts", type=int, default=4, help="questions a step, 8 answers each")
    parser.add_argument("--share", type=float, default=0.3, help="of the GPU's memory, for vLLM")
    parser.add_argument("--four-bit", action="store_true", help="for lab and notebook only")
    parser.add_argument("--graphs", choices=GRAPHS[1:], default="full", help="CUDA graphs")
    parser.add_argument("--compile", choices=("on", "off"), default="off", help="Unsloth's loss")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="more",
                        help="further settings of all sides")
    options = parser.parse_args()
    options.until = time.monotonic() + options.budget
    if options.root:
        measure_all(options, options.root.resolve())
    else:
        with tempfile.TemporaryDirectory() as root:
            measure_all(options, Path(root))


def measure_all(options: argparse.Namespace, root: Path) -> None:
    folder = Path(options.model)
    if not (folder / "config.json").exists():
        folder = measure.model(options.model, root / "models")
    settings = settings_of(options, folder.resolve())
    run = measure.run_folder(root / "run", settings)
    kept = root / "rows.json"
    rows = json.loads(kept.read_text()) if kept.exists() else {}
    facts = machine.look(root)
    if options.again:
        rows = {name: row for name, row in rows.items() if name not in options.only}
    for turn, name in ((turn, name) for turn in range(options.rounds) for name in options.only):
        before = rows.get(name, {"problem": "not measured"})
        if "problem" not in before and ("steps" not in before or before["rounds"] > turn):
            continue
        left = options.until - time.monotonic()
        if left < ROWS[name].takes:
            print(f"{name}: left for the next call ({left:.0f} s are left)", flush=True)
            continue
        print(f"{name} ...", end=" ", flush=True)
        more = [*ROWS[name].more, *switches(name, options)]
        limit = min(options.limit, left)
        where = [str(run)] if name not in CASES else ["--root", str(root), "--limit",
                                                      str(limit - TO_TELL)]
        row = measure.run([*ROWS[name].command, *where, *more], limit,
                          root / "logs" / f"{name}.log", root / "lab" / "caches")
        print(f"{row['wall']} s: {row.get('problem', 'done')}", flush=True)
        if "problem" in row:
            if "tests.bench.lab_side" in ROWS[name].command:
                row["last_lines"] += measure.last_lines(root / "lab")
            print(*row.get("last_lines", ()), sep="\n", flush=True)
        rows[name] = joined(before, {"settings": settings.to_dict(), "rounds": 1} | row
                            | {"switches": more})
        kept.write_text(json.dumps(rows, indent=1))
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps({
                "gpu": [gpu.name for gpu in facts.gpus], "versions": facts.packages,
                "model": options.model, "rows": rows}, indent=1))
    print(report(rows))


def joined(before: dict, row: dict) -> dict:
    """A row with the steps of an earlier round, if there was one, before its own."""
    if "problem" in before or "problem" in row:
        return row if "problem" in before else before
    return before | {"rounds": before["rounds"] + 1, "steps": before["steps"] + row["steps"][WARM:]}


def settings_of(options: argparse.Namespace, model: Path) -> Settings:
    return RECIPES["gsm8k"].settings().with_values({
        **(SIGNAL if options.model in SHAPES else {}),
        "model.name": str(model), "model.load_in_4bit": options.four_bit,
        "data.source": "word-problems", "data.rows": 512, "data.held_out": 0,
        "data.answer_extraction": "column", "train.max_steps": options.steps,
        "train.num_generations": 8, "train.prompts_per_step": options.prompts,
        "train.max_completion_length": options.answer, "train.save_steps": 1_000_000,
        "train.answers_at_once": 8 * options.prompts,  # smaller batches only launch more kernels
        "lora.gradient_checkpointing": "on",  # TRL alone does not know Unsloth's own
        "hardware.gpu_memory_utilization": options.share,
        "hardware.cuda_graphs": options.graphs, "hardware.compile_loss": options.compile,
        **dict(map(read_assignment, options.more))})


def switches(name: str, options: argparse.Namespace) -> list[str]:
    """What a side has to be told besides the settings."""
    if name == "notebook":
        return ["--compile", options.compile] + ["--eager"] * (options.graphs == "off")
    return ["--steps", str(max(WARM + 3, options.steps // 2))] if name in SLOW else []


def report(rows: dict[str, dict]) -> str:
    """Markdown: one line for each side, then the ratios that have a goal."""
    columns = ("side", "s a step", "generation", "reward", "update", "tokens an answer",
               "completions a second", "ready, s", "peak, GB")
    lines = ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    figures = {name: figures_of(row) for name, row in rows.items() if row.get("steps")}
    for name, row in rows.items():
        if name in figures:
            own = figures[name]
            parts = " | ".join(f"{own[part]:.3f}" for part in PARTS)
            lines.append(f"| {engine_of(name, row)} | {parts} | {own['tokens']:.0f} | "
                         f"{own['pace']:.2f} | {row['ready']:.0f} | {row['peak_gb']:.1f} |")
        elif "problem" in row and name not in CASES:
            lines.append(f"| {name} | {row['problem']} |{' |' * 7}")
    lines.append("")
    for ours, theirs, what, sign, goal in GOALS:
        if ours in figures and theirs in figures:
            part = "step" if what == "seconds a step" else "pace"
            ratio = figures[ours][part] / figures[theirs][part]
            met = ratio <= goal if sign == "<=" else ratio >= goal
            lines.append(f"- {ours} / {theirs}, {what}: {ratio:.3f} "
                         f"({'met' if met else 'missed'}: {sign} {goal})")
    if "pair" in rows.get("compare", {}):
        lines += pairs(rows["compare"])
    if "cold" in rows.get("start", {}):
        lines += [f"- Start to the first point, caches {name}: {rows['start'][name]:.1f} s "
                  f"({'met' if rows['start'][name] <= goal else 'missed'}: <= {goal})"
                  for name, goal in START_GOALS.items()]
    return "\n".join([*lines, *memory_table({name: rows[name] for name in CASES
                                             if name in rows})])


def memory_table(rows: dict[str, dict]) -> list[str]:
    """Markdown: one line for each case of memory."""
    if not rows:
        return []
    lines = ["", "| run | share of vLLM | estimate | measured | estimate / measured | goal |",
             "|---" * 6 + "|"]
    for name, row in rows.items():
        if "ratio" not in row:
            lines.append(f"| {name} | {row.get('problem', 'not measured')} |{' |' * 4}")
            continue
        met = "met" if row["learning_gb"] <= row["goal_gb"] else "missed"
        lines.append(f"| {name} | {row['share']:.3f} | {row['estimate_gb']:.1f} GB | "
                     f"{row['learning_gb']:.1f} GB | {row['ratio']:.2f} | {row['goal_gb']} GB, "
                     f"{met} |")
    return lines


def figures_of(row: dict) -> dict[str, float]:
    """Medians of the steps after the warm-up, and completions per second."""
    steps = row["steps"][WARM:] or row["steps"][-1:]
    found = {part: statistics.median(step.get(part, 0.0) for step in steps)
             for part in (*PARTS, "tokens")}
    train = Settings.from_dict(row["settings"]).train
    return found | {"pace": train.answers_per_step() / found["step"]}


def engine_of(name: str, row: dict) -> str:
    """A side's name; with its engine, where the lab took another one than was asked for."""
    asked = dict(zip(row["switches"][::2], row["switches"][1::2], strict=False)).get("--engine")
    taken = row.get("facts", {}).get("engine", asked)
    return name if taken == asked else f"{name} (as {taken})"


def pairs(row: dict) -> list[str]:
    pace = {name: statistics.median(one["tokens_per_second"] for one in row[name])
            for name in ("base_alone", "adapter_alone", "pair")}
    return [f"- pair / {alone.replace('_', ' ')}, tokens a second: {pace['pair']:.0f} / "
            f"{pace[alone]:.0f} = {pace['pair'] / pace[alone]:.2f} "
            f"({'met' if pace['pair'] >= PAIR_GOAL * pace[alone] else 'missed'}: >= {PAIR_GOAL})"
            for alone in ("base_alone", "adapter_alone")]


if __name__ == "__main__":
    main()
