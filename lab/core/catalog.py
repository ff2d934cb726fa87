"""Tables of what is known by name: models, and recipes (named sets of changed settings)."""

from dataclasses import dataclass, field
from typing import Any

from lab.core.rewards.registry import parse_chosen
from lab.core.settings import STARTER, Settings
from lab.core.shapes import Shape
from lab.core.task import SYSTEM_PROMPT as STARTER_SYSTEM_PROMPT


@dataclass(frozen=True)
class KnownModel:
    """A model that the form offers by name, with what is known of it without any download."""

    name: str
    title: str
    parameters: float  # in millions, as published
    licence: str
    shape: Shape
    gated: bool = False  # the licence is to be accepted on its page first
    in_4bit: str = ""  # Hub id of the same weights, quantised by Unsloth
    note: str = ""  # what to know of its chat template

    @property
    def size(self) -> str:
        """Its class in `SIZES`."""
        return next(name for most, name in SIZES if self.parameters < most)


# Below so many million parameters: learns on a CPU; on a small card; in 16 bit on a 24 GB card.
SIZES = ((100, "tiny"), (2000, "small"), (5000, "medium"), (float("inf"), "large"))
_THINKS = "Thinks before it answers unless the template is told enable_thinking=False."

MODELS = (
    KnownModel(STARTER, "Starter (ships with the lab, learns on a laptop)", 1.88, "Apache-2.0",
               Shape(4, 192, 512, 3, 3, 64, 571, True, 2048)),
    KnownModel("Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5 0.5B Instruct", 494, "Apache-2.0",
               Shape(24, 896, 4864, 14, 2, 64, 151_936, True, 32_768, qkv_bias=True),
               in_4bit="unsloth/Qwen2.5-0.5B-Instruct-bnb-4bit"),
    KnownModel("Qwen/Qwen2.5-1.5B-Instruct", "Qwen2.5 1.5B Instruct", 1544, "Apache-2.0",
               Shape(28, 1536, 8960, 12, 2, 128, 151_936, True, 32_768, qkv_bias=True),
               in_4bit="unsloth/Qwen2.5-1.5B-Instruct-bnb-4bit"),
    KnownModel("Qwen/Qwen2.5-3B-Instruct", "Qwen2.5 3B Instruct", 3086, "Qwen Research",
               Shape(36, 2048, 11_008, 16, 2, 128, 151_936, True, 32_768, qkv_bias=True),
               in_4bit="unsloth/Qwen2.5-3B-Instruct-bnb-4bit"),
    KnownModel("Qwen/Qwen2.5-7B-Instruct", "Qwen2.5 7B Instruct", 7616, "Apache-2.0",
               Shape(28, 3584, 18_944, 28, 4, 128, 152_064, False, 32_768, qkv_bias=True),
               in_4bit="unsloth/Qwen2.5-7B-Instruct-bnb-4bit"),
    KnownModel("Qwen/Qwen3-0.6B", "Qwen3 0.6B", 596, "Apache-2.0",
               Shape(28, 1024, 3072, 16, 8, 128, 151_936, True, 40_960, qk_norm=True),
               in_4bit="unsloth/Qwen3-0.6B-bnb-4bit", note=_THINKS),
    KnownModel("Qwen/Qwen3-1.7B", "Qwen3 1.7B", 1721, "Apache-2.0",
               Shape(28, 2048, 6144, 16, 8, 128, 151_936, True, 40_960, qk_norm=True),
               in_4bit="unsloth/Qwen3-1.7B-bnb-4bit", note=_THINKS),
    KnownModel("Qwen/Qwen3-4B", "Qwen3 4B", 4022, "Apache-2.0",
               Shape(36, 2560, 9728, 32, 8, 128, 151_936, True, 40_960, qk_norm=True),
               in_4bit="unsloth/Qwen3-4B-bnb-4bit", note=_THINKS),
    KnownModel("Qwen/Qwen3-8B", "Qwen3 8B", 8191, "Apache-2.0",
               Shape(36, 4096, 12_288, 32, 8, 128, 151_936, False, 40_960, qk_norm=True),
               in_4bit="unsloth/Qwen3-8B-bnb-4bit", note=_THINKS),
    KnownModel("Qwen/Qwen3-14B", "Qwen3 14B", 14_768, "Apache-2.0",
               Shape(40, 5120, 17_408, 40, 8, 128, 151_936, False, 40_960, qk_norm=True),
               in_4bit="unsloth/Qwen3-14B-bnb-4bit", note=_THINKS),
    KnownModel("meta-llama/Llama-3.2-1B-Instruct", "Llama 3.2 1B Instruct", 1236,
               "Llama 3.2 Community",
               Shape(16, 2048, 8192, 32, 8, 64, 128_256, True, 131_072), gated=True,
               in_4bit="unsloth/Llama-3.2-1B-Instruct-bnb-4bit"),
    KnownModel("meta-llama/Llama-3.2-3B-Instruct", "Llama 3.2 3B Instruct", 3213,
               "Llama 3.2 Community",
               Shape(28, 3072, 8192, 24, 8, 128, 128_256, True, 131_072), gated=True,
               in_4bit="unsloth/Llama-3.2-3B-Instruct-bnb-4bit"),
    KnownModel("meta-llama/Llama-3.1-8B-Instruct", "Llama 3.1 8B Instruct", 8030,
               "Llama 3.1 Community",
               Shape(32, 4096, 14_336, 32, 8, 128, 128_256, False, 131_072), gated=True,
               in_4bit="unsloth/Llama-3.1-8B-Instruct-bnb-4bit"),
    KnownModel("mistralai/Mistral-7B-Instruct-v0.3", "Mistral 7B Instruct v0.3", 7248,
               "Apache-2.0",
               Shape(32, 4096, 14_336, 32, 8, 128, 32_768, False, 32_768), gated=True,
               in_4bit="unsloth/mistral-7b-instruct-v0.3-bnb-4bit"),
    KnownModel("microsoft/phi-4", "Phi-4 14B", 14_660, "MIT",
               Shape(40, 5120, 17_920, 40, 10, 128, 100_352, False, 16_384),
               in_4bit="unsloth/phi-4-bnb-4bit",
               note="Its projections are fused, so the LoRA target modules do not exist in it: "
                    "take unsloth/phi-4, where they are apart."),
    KnownModel("google/gemma-3-1b-it", "Gemma 3 1B", 1000, "Gemma",
               Shape(26, 1152, 6912, 4, 1, 256, 262_144, True, 32_768, qk_norm=True, norms=4),
               gated=True, in_4bit="unsloth/gemma-3-1b-it-bnb-4bit",
               note="Has no system turn: the system prompt is put before the first question."),
)


def known_model(name: str) -> KnownModel | None:
    """The row of a model's name, or of its 4-bit twin's."""
    return next((m for m in MODELS if name in (m.name, m.in_4bit) and name), None)


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
