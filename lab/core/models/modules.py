"""Which linear layers a model has, by the names that LoRA knows them by."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lab.core.problems import Problem

ALL_LINEAR = "all-linear"  # peft's word: every linear layer but the output
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FIELD = "lora.target_modules"
_MLP = ("fc1", "fc2")
_NEOX = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")

# By `model_type`, for models whose weights are not here: as transformers' own classes name them.
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3",
                     "gemma3_text", "smollm3", "olmo", "olmo2", "granite", "cohere", "cohere2",
                     "stablelm", "ministral"), PROJECTIONS),
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "glm": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"),
    "glm4": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "gpt_bigcode": ("c_attn", "c_proj", "c_fc"),
    "gptj": ("q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"),
    "gpt_neo": ("q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj"),
    "gpt_neox": _NEOX, "falcon": _NEOX, "bloom": _NEOX,
    "phi": ("q_proj", "k_proj", "v_proj", "dense", *_MLP),
    "opt": ("q_proj", "k_proj", "v_proj", "out_proj", *_MLP),
    "starcoder2": ("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"),
}
_LAYER = re.compile(r"\.\d+\.")
_NAME = re.compile(r"[A-Za-z_][\w.-]*")


def modules_in(shapes: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """The names of the linear layers inside the layers of a model, from {tensor: shape}."""
    found: dict[str, None] = {}
    for tensor, shape in shapes.items():
        module, _, part = tensor.rpartition(".")
        if part == "weight" and len(shape) == 2 and _LAYER.search(tensor):
            found[module.rpartition(".")[2]] = None
    return tuple(found)


def modules_of(config: Any) -> tuple[str, ...]:
    """The same from a config.json; empty where its architecture is not in the table."""
    if not isinstance(config, Mapping):
        return ()
    inner = config.get("text_config")
    kind = (inner if isinstance(inner, Mapping) else config).get("model_type")
    return ARCHITECTURES.get(kind, ()) if isinstance(kind, str) else ()


def wrong_targets(chosen: Sequence[str]) -> str | None:
    """Half a sentence that says why these cannot be target modules, or None."""
    if ALL_LINEAR in chosen and len(chosen) > 1:
        return f"has '{ALL_LINEAR}' and others: it stands alone, for all of them"
    bad = next((name for name in chosen if not _NAME.fullmatch(name)), None)
    return f"has a name that no layer can have: {bad[:60]!r}" if bad is not None else None


def target_problems(chosen: Sequence[str], there: Sequence[str]) -> list[Problem]:
    """What speaks against these target modules in a model that has the linear layers `there`."""
    if ALL_LINEAR in chosen or not there:
        return []
    missing = [name for name in chosen if name.rpartition(".")[2] not in there]
    if not missing:
        return []
    has = f"Its linear layers are {', '.join(there)}."
    cure = f"Set 'Target modules' to {ALL_LINEAR}, or to some of these."
    if len(missing) == len(chosen):
        return [Problem("None of the target modules exists in this model.", has, cure, FIELD)]
    return [Problem(f"{len(chosen) - len(missing)} of {len(chosen)} target modules exist in this "
                    "model.", f"It has no {', '.join(missing)}. {has}", cure, FIELD, "warning")]
