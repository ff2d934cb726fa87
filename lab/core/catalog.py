"""Tables of what is known by name: models, and recipes (named sets of changed settings)."""

from dataclasses import dataclass, field
from typing import Any

from lab.core.rewards.registry import parse_chosen
from lab.core.settings import STARTER, Settings
from lab.core.task import SYSTEM_PROMPT as STARTER_SYSTEM_PROMPT


@dataclass(frozen=True)
class KnownModel:
    """A model that the form offers by name."""

    name: str
    title: str
    parameters: float  # in millions
    licence: str
    gated: bool = False


MODELS = (
    KnownModel(STARTER, "Starter (ships with the lab, learns on a laptop)", 2, "Apache-2.0"),
    KnownModel("Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5 0.5B Instruct", 494, "Apache-2.0"),
    KnownModel("Qwen/Qwen2.5-1.5B-Instruct", "Qwen2.5 1.5B Instruct", 1544, "Apache-2.0"),
    KnownModel("Qwen/Qwen3-0.6B", "Qwen3 0.6B", 596, "Apache-2.0"),
    KnownModel("meta-llama/Llama-3.1-8B-Instruct", "Llama 3.1 8B Instruct", 8030,
               "Llama 3.1 Community", gated=True),
)


@dataclass(frozen=True)
class Recipe:
    """A named starting point: what differs from the defaults, and one sentence why one takes it."""

    key: str
    title: str
    summary: str
    values: dict[str, Any] = field(default_factory=dict)
    needs_gpu: bool = False

    def settings(self) -> Settings:
        return Settings().with_values(self.values)


_GSM8K = {"data.source": "gsm8k", "data.rows": 0, "data.answer_extraction": "after ####"}

RECIPES = {recipe.key: recipe for recipe in (
    Recipe("starter", "Starter: word problems on this machine",
           "A small model that ships with the lab learns to reason before it answers. Two minutes "
           "on a laptop, no network.",
           {"data.system_prompt": STARTER_SYSTEM_PROMPT, "model.max_seq_length": 512,
            "train.max_steps": 100, "train.learning_rate": 5e-4, "train.max_prompt_length": 128,
            "train.max_completion_length": 80, "train.max_grad_norm": 1.0,
            "train.weight_decay": 0.0, "train.lr_scheduler_type": "constant_with_warmup",
            "train.warmup_ratio": 0.05, "train.save_steps": 20, "sampling.max_tokens": 200}),
    Recipe("gsm8k", "GSM8K on Qwen2.5 1.5B, 4 bit",
           "School maths on a small instruct model with one GPU.",
           {**_GSM8K, "model.name": "Qwen/Qwen2.5-1.5B-Instruct", "model.load_in_4bit": True,
            "model.fast_inference": True, "lora.rank": 32,
            "lora.gradient_checkpointing": "unsloth", "train.prompts_per_step": 4,
            "train.max_completion_length": 768, "train.answers_at_once": 8,
            "train.optim": "paged_adamw_8bit"}, needs_gpu=True),
    Recipe("notebook", "GSM8K on Llama 3.1 8B, as in the classic notebook",
           "The values of the notebook this field knows, unchanged.",
           {**_GSM8K, "model.name": "meta-llama/Llama-3.1-8B-Instruct",
            "model.load_in_4bit": True, "model.fast_inference": True, "lora.rank": 32,
            "lora.gradient_checkpointing": "unsloth", "train.num_generations": 6,
            "train.prompts_per_step": 1, "train.max_completion_length": 768,
            "train.answers_at_once": 6, "train.optim": "paged_adamw_8bit",
            "train.save_steps": 250,
            # The notebook's format rewards do not let reasoning run over several lines.
            "rewards.chosen": parse_chosen("xmlcount,soft_format:multiline=false,"
                                           "strict_format:multiline=false,int,correctness")},
           needs_gpu=True),
    Recipe("own", "Your own data",
           "A file of yours (CSV, JSON, JSONL, Parquet); choose it under Data.",
           {"data.source": "file", "data.rows": 0, "data.held_out": 50}),
)}
DEFAULT_RECIPE = "starter"
