"""What every side of a comparison is given: data, GRPOConfig values, and a clock.

Import it after unsloth where that is used: it imports trl, transformers and torch.
"""

import json
import time
from pathlib import Path
from typing import Any

import psutil
from datasets import Dataset
from transformers import TrainerCallback

from lab.backends import train
from lab.core.prompts import messages
from lab.core.rewards.scoring import BatchReward
from lab.core.settings import Settings


def read(folder: Path, steps: int | None = None) -> tuple[Settings, str]:
    """(settings, folder of the model) of a run, perhaps with another number of steps."""
    record = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    settings = Settings.from_dict(record["settings"])
    if steps:
        settings = settings.with_values({"train.max_steps": steps})
    return settings, record["effective"]["model"]


def dataset(folder: Path, tokenizer, settings: Settings) -> Dataset:
    """The run's rows as TRL wants them, without those whose prompts are too long."""
    # Not splitlines(): a question may hold a character that it takes for the end of a line.
    lines = (folder / "data.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
    rows = [{**row, "prompt": messages(row["question"], settings.data.system_prompt)}
            for row in map(json.loads, lines)]
    return Dataset.from_list([
        row for row in rows if len(tokenizer(tokenizer.apply_chat_template(
            row["prompt"], tokenize=False, add_generation_prompt=True),
            add_special_tokens=False)["input_ids"]) <= settings.train.max_prompt_length])


def rewards(settings: Settings) -> list[BatchReward]:
    return [BatchReward(chosen) for chosen in settings.rewards.chosen]


def arguments(settings: Settings, out: Path) -> dict[str, Any]:
    """GRPOConfig's values, those of the lab; where it runs is left to each side."""
    return train.arguments(settings, out) | {"report_to": []}


def with_vllm(settings: Settings) -> dict[str, Any]:
    """What GRPOConfig gets on top where vLLM draws the answers on the GPU that trains."""
    return {"use_vllm": True, "vllm_mode": "colocate", "vllm_enable_sleep_mode": False,
            "vllm_gpu_memory_utilization": settings.hardware.gpu_memory_utilization,
            "vllm_max_model_length": settings.model.max_seq_length,
            "vllm_importance_sampling_correction": False}


class Clock(TrainerCallback):
    """One line of seconds, tokens and reward for each step."""

    def __init__(self) -> None:
        self.steps: list[dict] = []
        self.spent = {"generation": 0.0, "reward": 0.0}
        self.begun = time.perf_counter()

    def watch(self, trainer) -> None:
        """Stand at the two parts of a trainer's step, and note that it is ready."""
        for name, part in (("_generate_single_turn", "generation"),
                           ("_calculate_rewards", "reward")):
            if hasattr(trainer, name):
                setattr(trainer, name, self._timed(getattr(trainer, name), part))
        trainer.add_callback(self)
        self.ready = time.time() - psutil.Process().create_time()

    def _timed(self, function, part: str):
        def timed(*args, **kwargs):
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent[part] += time.perf_counter() - begun

        return timed

    def on_train_begin(self, *args, **kwargs):
        self.begun = time.perf_counter()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in logs:
            return
        now = time.perf_counter()
        whole, self.begun = now - self.begun, now
        parts, self.spent = self.spent, {"generation": 0.0, "reward": 0.0}
        self.steps.append({"step": whole, **parts, "update": whole - sum(parts.values()),
                           "reward_value": logs["reward"],
                           "tokens": logs["completions/mean_length"],
                           "longest": logs["completions/max_length"]})
        print(self.report(), flush=True)  # for one that is ended at its limit

    def report(self) -> str:
        """One line of JSON, the last that a side prints."""
        return json.dumps({"steps": self.steps, "ready": self.ready})
