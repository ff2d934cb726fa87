"""What a recipe teaches a real model: its base at several prompts, then runs in several seeds.

    python -m tests.bench.real prompts --model FOLDER --test test.jsonl [--n 400]
    python -m tests.bench.real train --model FOLDER --train train.jsonl --test test.jsonl
        [--recipe gsm8k-small] [--seeds 1 2 3] [--set group.field=value]... --root DIR

Data is GSM8K's as JSONL ("question", "answer" with ####). Accuracy is greedy, on questions of the
test split, none of which is trained on; an answer is right when its number equals the
reference's. `prompts` judges the base by the last number of its text and by the answer tag, and
takes what is better for it. Prints a JSON object a line; needs a GPU with vLLM.
"""

import argparse
import json
import time
from pathlib import Path

from lab.core.catalog import BOXED, RECIPES
from lab.core.prompts import SYSTEM_PROMPT, hash_answer, messages
from lab.core.rewards.chosen import parse_chosen
from lab.core.rewards.scoring import score
from lab.core.settings import read_assignment
from lab.services.evaluate import evaluate
from lab.services.lab import Lab

STEPS = ("\nExample. Question: Tom has 3 boxes of 12 pens and gives away 8 pens. How many are "
         "left?\n<reasoning>\nHe has 3 * 12 = 36 pens.\nHe gives away 8, so 36 - 8 = 28 are left.\n"
         "</reasoning>\n<answer>\n28\n</answer>\n")
TAGS = ("Think step by step between <reasoning> and </reasoning>, one calculation a line. Then "
        "give the final number alone between <answer> and </answer>.")
PROMPTS = {
    "none": "",
    "notebook": SYSTEM_PROMPT,
    "notebook, one example": SYSTEM_PROMPT + STEPS,
    "step by step, tags": TAGS,
    "step by step, tags, one example": TAGS + "\n" + STEPS,
    "boxed": BOXED,
    "step by step": "Solve the problem step by step. End with a line 'The answer is N.' where N is "
                    "one number.",
}
JUDGES = ("number", "last_number")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=("prompts", "train"))
    parser.add_argument("--model", required=True, help="a folder or a Hub id")
    parser.add_argument("--train", type=Path)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--n", type=int, default=1319)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--recipe", choices=RECIPES, default="gsm8k-small")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--set", action="append", default=[], metavar="GROUP.FIELD=VALUE")
    parser.add_argument("--root", type=Path)
    options = parser.parse_args()
    rows = questions(options.test)[:options.n]
    if options.job == "prompts":
        prompts(options, rows)
    else:
        for seed in options.seeds:
            print(json.dumps(trained(options, rows, seed)), flush=True)


def questions(path: Path) -> list[dict]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{"question": line["question"], "answer": hash_answer(line["answer"])}
            for line in lines]


def prompts(options: argparse.Namespace, rows: list[dict]) -> None:
    """The base model's accuracy at each prompt, judged in the way that is best for it."""
    from transformers import AutoTokenizer
    from vllm import LLM, SamplingParams

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    llm = LLM(options.model, dtype="bfloat16", max_model_len=2048, gpu_memory_utilization=0.5)
    for name, system in PROMPTS.items():
        asked = [tokenizer.apply_chat_template(messages(row["question"], system), tokenize=False,
                                               add_generation_prompt=True) for row in rows]
        begun = time.perf_counter()
        done = llm.generate(asked, SamplingParams(temperature=0, max_tokens=options.tokens),
                            use_tqdm=False)
        seconds = time.perf_counter() - begun
        texts = [one.outputs[0].text for one in done]
        tokens = [len(one.outputs[0].token_ids) for one in done]
        told = {"prompt": name, "n": len(rows), "seconds": round(seconds, 1),
                "tokens": round(sum(tokens) / len(tokens), 1),
                "cut": sum(one.outputs[0].finish_reason == "length" for one in done) / len(done)}
        for judge in (*JUDGES, "asked_format", "boxed_answer"):
            chosen = parse_chosen(judge)
            told[judge] = sum(score(text, row, chosen).rewards[judge] == chosen[0].best
                              for text, row in zip(texts, rows, strict=True)) / len(rows)
        either = [any(score(text, row, parse_chosen(judge)).reached for judge in JUDGES)
                  for text, row in zip(texts, rows, strict=True)]
        told["either"] = sum(either) / len(rows)
        print(json.dumps(told | {"first": texts[0][:600]}), flush=True)


def trained(options: argparse.Namespace, rows: list[dict], seed: int) -> dict:
    """One run from its start to its end, and its verdict on the test questions."""
    lab = Lab.at(options.root)
    settings = RECIPES[options.recipe].settings().with_values({
        "model.name": options.model, "data.path": str(options.train), "train.seed": seed,
        "lora.random_state": seed, **dict(read_assignment(text) for text in options.set)})
    begun = time.monotonic()
    folder = lab.jobs.start(settings, f"{options.recipe} seed {seed}")
    run = lab.jobs.wait(folder.id)
    seconds = time.monotonic() - begun
    log = lab.runs.log(run.id)
    told = {"seed": seed, "run": run.id, "status": run.status, "steps": run.step,
            "seconds": round(seconds), "problem": str(run.problem) if run.problem else None,
            "pace": log.pace(), "engine": log.engine,
            "held_out": {step: figures.get("reached") for step, figures in log.held_out.items()}}
    if run.status == "failed":
        return told | {"log": folder.log.read_text(errors="replace")[-1500:]}
    result = evaluate(run, n=len(rows), rows=rows)
    answers = result.pop("answers")
    return told | {"test": result, "right": {
        side: share_right([one[side]["text"] for one in answers], rows)
        for side in ("base", "tuned")}}


def share_right(texts: list[str], rows: list[dict]) -> float:
    """By the number, whatever the run's own goal was: so that recipes can be compared."""
    chosen = parse_chosen("number")
    return sum(bool(score(text, row, chosen).reached)
               for text, row in zip(texts, rows, strict=True)) / len(rows)


if __name__ == "__main__":
    main()
