"""The other side of the benchmark: the same settings, seed and data through TRL's own loop.

    python -m tests.bench.plain_trl RUN_FOLDER   # prints one JSON object with seconds of each step

What differs from the lab's worker is only what the lab changes: TRL draws the answers itself, with
transformers' `generate` and peft's layers.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from peft import LoraConfig  # noqa: E402
from transformers import TrainerCallback  # noqa: E402
from trl import GRPOTrainer  # noqa: E402

from lab.backends import plain  # noqa: E402
from lab.backends.train import config, fitting  # noqa: E402
from lab.core.prompts import messages  # noqa: E402
from lab.core.rewards.registry import BatchReward  # noqa: E402
from lab.core.settings import Settings  # noqa: E402


class Timed(GRPOTrainer):
    """TRL's trainer with a clock at its two parts."""

    spent = {"generation": 0.0, "reward": 0.0}

    def _generate_single_turn(self, *args, **kwargs):
        begun = time.perf_counter()
        try:
            return super()._generate_single_turn(*args, **kwargs)
        finally:
            self.spent["generation"] += time.perf_counter() - begun

    def _calculate_rewards(self, *args, **kwargs):
        begun = time.perf_counter()
        try:
            return super()._calculate_rewards(*args, **kwargs)
        finally:
            self.spent["reward"] += time.perf_counter() - begun


class Clock(TrainerCallback):
    """One line of seconds and reward for each step."""

    def __init__(self) -> None:
        self.steps: list[dict] = []
        self.begun = time.perf_counter()

    def on_train_begin(self, *args, **kwargs):
        self.begun = time.perf_counter()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in logs:
            return
        now = time.perf_counter()
        whole, self.begun = now - self.begun, now
        parts = dict(Timed.spent)
        Timed.spent = {"generation": 0.0, "reward": 0.0}
        self.steps.append({"step": whole, **parts, "update": whole - sum(parts.values()),
                           "reward_value": logs["reward"],
                           "tokens": logs["completions/mean_length"]})


def main(folder: Path) -> None:
    record = json.loads((folder / "settings.json").read_text())
    settings = Settings.from_dict(record["settings"])
    path = record["effective"]["model"]
    tokenizer, model = plain.load_tokenizer(path), plain.load_model(path)
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    rows, _ = fitting(rows, tokenizer, settings)
    torch.manual_seed(settings.lora.random_state)
    clock = Clock()
    trainer = Timed(
        model=model, args=config(settings, folder / "plain"), processing_class=tokenizer,
        reward_funcs=[BatchReward(chosen) for chosen in settings.rewards.chosen],
        train_dataset=Dataset.from_list(
            [{**row, "prompt": messages(row["question"], settings.data.system_prompt)}
             for row in rows]),
        peft_config=LoraConfig(
            r=settings.lora.rank, lora_alpha=settings.lora.alpha, bias="none",
            target_modules=list(settings.lora.target_modules), task_type="CAUSAL_LM"),
        callbacks=[clock])
    trainer.train()
    print(json.dumps(clock.steps))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
