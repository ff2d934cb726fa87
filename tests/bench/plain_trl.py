"""The other side of the benchmark: the same settings, seed and data through TRL's own loop.

    python -m tests.bench.plain_trl RUN_FOLDER [--engine transformers|vllm] [--steps N]

Prints as its last line {"steps": [{"step": seconds, ...}], "ready": seconds}.
What differs from the lab's worker is only what the lab changes: TRL draws the answers itself, with
transformers' `generate` and peft's layers, or with its own use of vLLM. On a GPU the base is in
bf16, whatever the settings say of 4 bit: TRL cannot hand that to vLLM.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
               "HF_HUB_DISABLE_TELEMETRY": "1", "VLLM_NO_USAGE_STATS": "1",
               "VLLM_USE_FLASHINFER_SAMPLER": "0"}

import torch  # noqa: E402
from peft import LoraConfig  # noqa: E402
from transformers import AutoModelForCausalLM, PrinterCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

from lab.backends import plain, wording  # noqa: E402
from tests.bench import given  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with settings.json and data.jsonl")
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(train(options.folder, Path(scratch), options.engine, options.steps), flush=True)
    sys.stderr.flush()
    os._exit(0)  # vLLM's threads must not keep the process, nor its memory


def train(folder: Path, scratch: Path, engine: str, steps: int | None) -> str:
    settings, path = given.read(folder, steps)
    tokenizer = wording.load_tokenizer(path)
    clock = given.Clock()
    if torch.cuda.is_available():
        where = {"bf16": True, "fp16": False}
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.bfloat16, device_map={"": 0})
    else:
        where = {"use_cpu": True, "bf16": False, "fp16": False}
        model = plain.load_model(path)
    where |= given.with_vllm(settings) if engine == "vllm" else {"use_vllm": False}
    torch.manual_seed(settings.lora.random_state)
    trainer = GRPOTrainer(
        model=model, args=GRPOConfig(**given.arguments(settings, scratch), **where),
        processing_class=tokenizer, reward_funcs=given.rewards(settings),
        train_dataset=given.dataset(folder, tokenizer, settings),
        peft_config=LoraConfig(
            r=settings.lora.rank, lora_alpha=settings.lora.alpha, bias="none",
            target_modules=list(settings.lora.target_modules), task_type="CAUSAL_LM"))
    trainer.remove_callback(PrinterCallback)
    clock.watch(trainer)
    trainer.train()
    return clock.report()


if __name__ == "__main__":
    main()
