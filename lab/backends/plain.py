"""Loads models and adapters with transformers and peft, and turns conversations into tokens."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from lab.backends import gpu
from lab.core.problems import BadModel


def load_tokenizer(model: str):
    """The tokenizer of a model folder or Hub id, with a pad token and a chat template.

    Raises BadModel where there is no template: without one, a conversation has no text.
    """
    return prepare(AutoTokenizer.from_pretrained(model), model)


def prepare(tokenizer, model: str):
    """The same for a tokenizer that something else has loaded."""
    if not tokenizer.chat_template:
        raise BadModel("This model has no chat template.",
                       f"The tokenizer of {model} does not say how a conversation is written.",
                       "Choose an instruct or chat variant of it.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(model: str, on_gpu: bool = False, in_4bit: bool = False):
    """The base model. On a CPU in fp32: bf16 is slow or missing there, and LoRA learns in fp32
    anyway. On a GPU in bf16 (fp16 before compute capability 8), or quantised to nf4.
    """
    placed: dict = {"dtype": torch.float32}
    if on_gpu:
        placed = {"dtype": gpu.dtype(), "device_map": {"": torch.cuda.current_device()}}
        if in_4bit:
            placed["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=gpu.dtype())
        elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
            placed.pop("device_map")  # accelerate places, or cuts up, each process's copy
    loaded = AutoModelForCausalLM.from_pretrained(model, **placed)
    loaded.config.use_cache = True
    return loaded.eval()


def weights_of_adapter(folder: Path) -> Path:
    """The file with an adapter's weights. Raises BadModel where there is none."""
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise BadModel(f"There is no adapter in {folder}.", f"{weights.name} is missing.",
                       "Choose a checkpoint that exists, or wait for the first one.")
    return weights


def check_adapter(model: str, folder: Path) -> None:
    """Raise BadModel if an adapter's layers are not those of this model. Loads neither.

    vLLM copies what it finds into its own place, also from an adapter of another shape, and
    answers. Where a model's layers have names of another kind altogether, nothing is said.
    """
    layers, wrong, known = layers_of(model), [], 0
    for key, shape in shapes_in(weights_of_adapter(folder)).items():
        name, _, part = key.removeprefix("base_model.model.").rpartition(".lora_")
        if name not in layers:
            wrong.append(f"{name} is not one of its layers.")
            continue
        known += 1
        side = 1 if part.startswith("A") else 0  # A is (rank, inputs), B is (outputs, rank)
        if shape[side] != layers[name][side]:
            wrong.append(f"{name} has {layers[name][side]} values where the adapter has "
                         f"{shape[side]}.")
    if wrong and known:
        raise misfit(wrong[0])


def shapes_in(weights: Path) -> dict[str, list[int]]:
    """{name: shape} of what a safetensors file holds. Raises BadModel if it cannot be read."""
    try:
        with safe_open(weights, "pt") as file:
            return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise BadModel("This adapter cannot be read.", f"{weights}: {error}",
                       "Choose another checkpoint, or train it again.") from error


def misfit(why: str) -> BadModel:
    return BadModel("This adapter does not fit the model.", f"It was trained on another one: {why}",
                    "Choose the model that the run was trained on.")


@functools.cache
def layers_of(model: str) -> dict[str, tuple[int, int]]:
    """{name: (outputs, inputs)} of a model's linear layers, from its configuration alone."""
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    return {name: (layer.out_features, layer.in_features)
            for name, layer in made.named_modules() if isinstance(layer, torch.nn.Linear)}


def load_adapter(base, folder: Path, name: str):
    """Add an adapter to a base model, or to one with adapters. Raises BadModel if it misfits."""
    weights_of_adapter(folder)
    try:
        if isinstance(base, PeftModel):
            base.load_adapter(str(folder), adapter_name=name)
            loaded = base
        else:
            loaded = PeftModel.from_pretrained(base, str(folder), adapter_name=name)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise misfit(_first_line(error)) from error
    return loaded.eval()


def stop_tokens(model, tokenizer) -> list[int]:
    """Every token that ends an answer: the model's own, and the tokenizer's."""
    ends = model.generation_config.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    return list(dict.fromkeys([*ends, tokenizer.eos_token_id]))


def render(tokenizer, conversation: Sequence[dict]) -> str:
    """The exact text that the model sees before its answer."""
    return tokenizer.apply_chat_template(list(conversation), tokenize=False,
                                         add_generation_prompt=True)


def to_tokens(tokenizer, text: str) -> list[int]:
    """Tokens of a rendered prompt; the template has written its special tokens already."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[1] if len(lines) > 1 and "Error(s) in loading" in lines[0] else lines[0])[:300] \
        if lines else type(error).__name__
