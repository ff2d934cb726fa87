"""The lab's side of the GPU benchmark, as a process of its own that prints one line of JSON.

    python -m tests.bench.lab_side train RUN_FOLDER [--engine unsloth] [--steps N]
    python -m tests.bench.lab_side compare RUN_FOLDER
    python -m tests.bench.lab_side start RUN_FOLDER

`train` runs the settings of the folder through Jobs; `compare` asks base and adapter through Chat.
The lab's own root is the folder `lab` beside it. `start` takes the starter recipe instead, in a
root without caches, and once more with what the first time left there.
"""

import argparse
import json
import shutil
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from lab.core.catalog import RECIPES
from lab.core.problems import LabError
from lab.core.settings import ENGINES, GRAPHS, SWITCH, Sampling, Settings
from lab.services.chat import Chat, Side
from lab.services.lab import Lab
from lab.services.models import model_folder
from tests.bench import measure

NAMES = {"step": "seconds/step", "generation": "seconds/generation", "reward": "seconds/reward",
         "update": "seconds/update", "reward_value": "reward/weighted",
         "tokens": "completions/mean_length", "longest": "completions/max_length"}
QUESTION = [{"role": "user", "content": "A farm has 12 hens and buys 7 more. How many hens?"}]
ANSWER = 512  # tokens of one answer in `compare`
REPEATS = 3
RANK = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=("train", "compare", "start"))
    parser.add_argument("folder", type=Path, help="with settings.json")
    parser.add_argument("--engine", choices=ENGINES)
    parser.add_argument("--graphs", choices=GRAPHS)
    parser.add_argument("--compile", choices=SWITCH, help="Unsloth's loss")
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    told = json.loads((options.folder / "settings.json").read_text(encoding="utf-8"))
    settings = Settings.from_dict(told["settings"]).with_values({
        key: value for key, value in (("hardware.engine", options.engine),
                                      ("hardware.cuda_graphs", options.graphs),
                                      ("hardware.compile_loss", options.compile),
                                      ("train.max_steps", options.steps)) if value})
    job = {"train": train, "compare": compare, "start": start}[options.job]
    try:
        print(json.dumps(job(settings, options.folder.resolve().parent / "lab")), flush=True)
    except LabError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def train(settings: Settings, root: Path) -> dict:
    """Seconds of every step, as the lab itself logs them."""
    lab = Lab.at(root)
    begun = time.time()
    folder = lab.jobs.start(settings)
    run = lab.jobs.wait(folder.id)
    log = lab.runs.log(folder.id)
    if run.status != "finished":
        print("\n".join(folder.log.read_text(errors="replace").splitlines()[-30:]))
        sys.exit(f"The run is {run.status}: {run.problem}")
    return {"steps": steps_of(log), "ready": log.started_at - begun, "facts": log.started.facts,
            "learning_gb": log.last.facts.get("gpu_peak_gb", 0.0),
            "notices": [notice.text for notice in log.notices]}


def start(settings: Settings, root: Path) -> dict:
    """Seconds from Start to the first point of the starter recipe's curve, cold and warm."""
    fresh = root.with_name("start")
    shutil.rmtree(fresh, ignore_errors=True)
    starter = RECIPES["starter"].settings().with_values({"train.max_steps": 2})
    return {name: measure.first_point(Lab.at(fresh), starter) for name in ("cold", "warm")}


def steps_of(log) -> list[dict]:
    columns = log.curves()
    there = {part: columns[name] for part, name in NAMES.items() if columns.get(name)}
    return [dict(zip(there, values, strict=True))
            for values in zip(*there.values(), strict=False)]


def compare(settings: Settings, root: Path) -> dict:
    """Tokens per second of one answer alone, and of two sides together."""
    adapter = str(some_adapter(model_folder(settings), root / "adapter"))
    chat = Chat(Lab.at(root).workspace)
    base, tuned = Side(QUESTION), Side(QUESTION, adapter)
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=ANSWER)
    begun = time.monotonic()
    pace(chat, settings, [base, tuned], replace(sampling, max_tokens=16), 0)
    ready = time.monotonic() - begun
    asked = {"base_alone": [base], "adapter_alone": [tuned], "pair": [base, tuned]}
    for sides in asked.values():  # each kind once more: the first of a kind compiles kernels
        pace(chat, settings, sides, replace(sampling, max_tokens=64), 1)
    found = {name: [] for name in asked}
    for seed in range(REPEATS):  # in turns, so that a slow moment meets all three
        for name, sides in asked.items():
            found[name].append(pace(chat, settings, sides, sampling, seed))
    chat.close()
    return {"ready": ready, **found}


def pace(chat: Chat, settings: Settings, sides: list[Side], sampling: Sampling,
         seed: int) -> dict:
    """Tokens per second of all sides together, and what lies behind."""
    begun = time.monotonic()
    first, tokens = 0.0, [0] * len(sides)
    for update in chat.stream(settings, sides, sampling, seed, threading.Event()):
        first = first or time.monotonic() - begun
        tokens[update.side] = max(tokens[update.side], update.tokens)
    seconds = time.monotonic() - begun
    return {"tokens": tokens, "seconds": seconds, "first": first,
            "tokens_per_second": sum(tokens) / seconds}


def some_adapter(model: str, out: Path) -> Path:
    """An adapter for this model with random weights, of which none are zero."""
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):  # names and shapes are all that is needed
        base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
        wrapped = get_peft_model(base, LoraConfig(
            r=RANK, lora_alpha=RANK, target_modules=list(Settings().lora.target_modules),
            task_type="CAUSAL_LM", base_model_name_or_path=model))
    out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    save_file({name: 0.02 * torch.randn(weight.shape, generator=generator)
               for name, weight in get_peft_model_state_dict(wrapped).items()},
              out / "adapter_model.safetensors", metadata={"format": "pt"})
    wrapped.peft_config["default"].inference_mode = True
    wrapped.peft_config["default"].save_pretrained(out)
    return out


if __name__ == "__main__":
    main()
