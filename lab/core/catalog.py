"""Tables of what is known by name: models, and recipes (named sets of changed settings)."""

from dataclasses import dataclass, field
from typing import Any

from lab.core.hardware.shapes import Shape
from lab.core.rewards.chosen import parse_chosen
from lab.core.settings import STARTER, TRL_VLLM, Settings
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
    answers: tuple[int, int] = (0, 0)  # tokens of its answers as measured: mean, longest of a batch

    @property
    def size(self) -> str:
        """Its class in `SIZES`."""
        return next(name for most, name in SIZES if self.parameters < most)


# Below so many million parameters: learns on a CPU; on a small card; in 16 bit on a 24 GB card.
SIZES = ((100, "tiny"), (2000, "small"), (5000, "medium"), (float("inf"), "large"))
_THINKS = "Thinks before it answers, unless 'Template arguments' has enable_thinking=false."

MODELS = (
    KnownModel(STARTER, "Starter (ships with the lab, learns on a laptop)", 1.88, "Apache-2.0",
               Shape(4, 192, 512, 3, 3, 64, 571, True, 2048), answers=(20, 40)),
    KnownModel("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2 135M Instruct", 135, "Apache-2.0",
               Shape(30, 576, 1536, 9, 3, 64, 49_152, True, 8192)),
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
               Shape(40, 5120, 17_920, 40, 10, 128, 100_352, False, 16_384, fused=True),
               in_4bit="unsloth/phi-4-bnb-4bit",
               note="Its projections are fused: set 'Target modules' to all-linear, or take "
                    "unsloth/phi-4, where they are apart."),
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
    measured: str = ""  # what it was seen to teach, with which model; docs/gpu.md has the figures

    def settings(self) -> Settings:
        return Settings().with_values(self.values)


# Qwen's own prompt for mathematics. Asked so, the model keeps the way in which it reasons best:
# tags around it, or an example, made a model of 0.5 billion parameters terse and wrong more often.
BOXED = "Please reason step by step, and put your final answer within \\boxed{}."

_GSM8K = {"data.source": "gsm8k", "data.rows": 0, "data.answer_extraction": "after ####"}

# What taught a model of 0.5 billion parameters (docs/gpu.md): the number counts four times as much
# as its form, and LoRA takes about ten times the learning rate of full tuning.
_BY_THE_NUMBER = {
    "data.system_prompt": BOXED, "rewards.chosen": parse_chosen("number,boxed_answer"),
    "model.fast_inference": True, "lora.rank": 32, "lora.alpha": 64,
    "train.learning_rate": 5e-5, "train.warmup_ratio": 0.05}

SUMS = "assets/sums.jsonl"  # ships with the lab: sums and differences of numbers up to 20

# What teaches the starter (docs/starter.md).
_STARTER_PACE = {
    "data.system_prompt": STARTER_SYSTEM_PROMPT, "train.learning_rate": 5e-4,
    "train.max_grad_norm": 1.0, "train.weight_decay": 0.0,
    "train.lr_scheduler_type": "constant_with_warmup", "train.warmup_ratio": 0.05}

RECIPES = {recipe.key: recipe for recipe in (
    Recipe("starter", "Starter: word problems on this machine",
           "A small model that ships with the lab learns to reason before it answers. A minute or "
           "two on a laptop, no network.",
           {**_STARTER_PACE, "model.max_seq_length": 512, "train.max_steps": 70,
            "train.max_prompt_length": 128, "train.max_completion_length": 80,
            "train.save_steps": 20, "sampling.max_tokens": 200}),
    Recipe("laptop", "Laptop: sums on SmolLM2 135M",
           "A real model, without a GPU: it learns to work out a sum where it used to talk about "
           "it. Twenty steps; fetches 270 MB from the Hub once.",
           {"model.name": "HuggingFaceTB/SmolLM2-135M-Instruct", "model.max_seq_length": 128,
            "data.source": "file", "data.path": SUMS, "data.rows": 0, "data.held_out": 60,
            "data.system_prompt": "Answer with the number only.",
            # Any way of writing it counts: what is rewarded is that the sum is right.
            "rewards.chosen": parse_chosen("last_number"),
            "train.max_steps": 20, "train.prompts_per_step": 4, "train.max_prompt_length": 64,
            # Room for nearly half of what it says untrained: with 16 tokens it learnt to end in
            # time, and hardly more (docs/verdict.md).
            "train.max_completion_length": 48, "train.learning_rate": 3e-4,
            "train.max_grad_norm": 1.0, "train.weight_decay": 0.0,
            "train.lr_scheduler_type": "constant_with_warmup", "train.save_steps": 10,
            "train.eval_steps": 10, "train.eval_questions": 60, "sampling.max_tokens": 96},
           measured="Two CPU cores, 3 to 4 minutes, three seeds: right on sums it has not seen "
                    "33 % → 65, 65 and 67 %, with room for 96 tokens on both sides."),
    Recipe("gsm8k", "GSM8K on Qwen2.5 1.5B, 4 bit",
           "School maths on a small instruct model with one GPU of 8 GB or more.",
           {**_GSM8K, **_BY_THE_NUMBER, "model.name": "Qwen/Qwen2.5-1.5B-Instruct",
            "model.load_in_4bit": True, "lora.gradient_checkpointing": "auto",
            "train.prompts_per_step": 8, "train.max_completion_length": 512,
            "train.answers_at_once": 8, "train.optim": "paged_adamw_8bit"},
           needs_gpu=True,
           measured="Rewards, prompt and learning rate as measured with gsm8k-small; this model "
                    "itself was not."),
    Recipe("gsm8k-small", "GSM8K on Qwen2.5 0.5B",
           "School maths on the smallest instruct model that learns it, with one GPU of 40 GB.",
           {**_GSM8K, **_BY_THE_NUMBER, "model.name": "Qwen/Qwen2.5-0.5B-Instruct",
            "hardware.engine": TRL_VLLM, "hardware.gpu_memory_utilization": 0.15,
            "data.held_out": 500, "train.prompts_per_step": 32,
            "train.max_completion_length": 400, "train.max_steps": 195,
            "train.answers_at_once": 256, "lora.gradient_checkpointing": "on",
            "train.eval_questions": 500, "train.eval_steps": 40},
           needs_gpu=True,
           measured="Qwen2.5-Coder 0.5B on an H100, 16 to 18 minutes, three seeds: right on "
                    "GSM8K's test questions 26 % → 37, 37 and 41 %."),
    Recipe("notebook", "GSM8K on Llama 3.1 8B, as in the classic notebook",
           "The values of the notebook this field knows, unchanged; checkpointing of gradients, "
           "which changes no result, only where memory is short.",
           {**_GSM8K, "model.name": "meta-llama/Llama-3.1-8B-Instruct",
            "model.load_in_4bit": True, "model.fast_inference": True, "lora.rank": 32,
            "lora.gradient_checkpointing": "auto", "train.num_generations": 6,
            "train.prompts_per_step": 1, "train.max_completion_length": 768,
            "train.answers_at_once": 6, "train.optim": "paged_adamw_8bit",
            "train.save_steps": 250,
            # The notebook's format rewards do not let reasoning run over several lines.
            "rewards.chosen": parse_chosen("xmlcount,soft_format:multiline=false,"
                                           "strict_format:multiline=false,int,correctness")},
           needs_gpu=True,
           measured="Qwen2.5-Coder 0.5B in its place, 300 steps in 15 minutes: right to the letter "
                    "0 % → 3.5 %, and answers half as long. It pays for the form first."),
    Recipe("own", "Your own data",
           "A file of yours (CSV, JSON, JSONL, Parquet); choose it under Data.",
           # What taught the starter, which stands here until a model is chosen: experience.py
           # tells what another one wants.
           {**_STARTER_PACE, "data.source": "file", "data.rows": 0,
            # Numbers, words and lists of either, however they are spelled; then the format.
            "rewards.chosen": parse_chosen("any_of,asked_format:weight=0.25"),
            "train.max_steps": 100, "train.max_prompt_length": 512,
            "train.max_completion_length": 256, "train.save_steps": 20}),
)}
DEFAULT_RECIPE = "starter"
