"""Loads models and adapters with transformers and peft, and turns conversations into tokens."""

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from lab.core.problems import BadModel


def load_tokenizer(model: str):
    """The tokenizer of a model folder or Hub id, with a pad token and a chat template.

    Raises BadModel where there is no template: without one, a conversation has no text.
    """
    tokenizer = AutoTokenizer.from_pretrained(model)
    if not tokenizer.chat_template:
        raise BadModel("This model has no chat template.",
                       f"The tokenizer of {model} does not say how a conversation is written.",
                       "Choose an instruct or chat variant of it.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(model: str):
    """The base model in fp32: on a CPU bf16 is slow or missing, and LoRA learns in fp32 anyway."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    loaded.config.use_cache = True
    return loaded.eval()


def load_adapter(base, folder: Path, name: str):
    """Add an adapter to a base model, or to one with adapters. Raises BadModel if it misfits."""
    if not (folder / "adapter_model.safetensors").is_file():
        raise BadModel(f"There is no adapter in {folder}.",
                       "adapter_model.safetensors is missing.",
                       "Choose a checkpoint that exists, or wait for the first one.")
    try:
        if isinstance(base, PeftModel):
            base.load_adapter(str(folder), adapter_name=name)
            loaded = base
        else:
            loaded = PeftModel.from_pretrained(base, str(folder), adapter_name=name)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise BadModel("This adapter does not fit the model.",
                       f"It was trained on another one: {_first_line(error)}",
                       "Choose the model that the run was trained on.") from error
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
