"""Loads models and adapters with transformers and peft."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from lab.backends import gpu
from lab.core.models.modules import ALL_LINEAR
from lab.core.problems import BadModel, reading_files_of_a_model
from lab.core.weights import check_sound


def take_threads(request: dict) -> None:
    """Answer with the CPU threads that were set (`threads`, 0: as many as PyTorch takes by itself),
    or with half of them `beside_training`."""
    whole = request.get("threads") or _threads_of_its_own()
    torch.set_num_threads(max(1, whole // 2) if request.get("beside_training") else whole)


@functools.cache
def _threads_of_its_own() -> int:
    return torch.get_num_threads()


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
    with reading_files_of_a_model("model"):
        loaded = AutoModelForCausalLM.from_pretrained(model, trust_remote_code=False, **placed)
    loaded.config.use_cache = True
    return loaded.eval()


def targets(chosen: Sequence[str]) -> str | list[str]:
    """Target modules as peft takes them."""
    return ALL_LINEAR if ALL_LINEAR in chosen else list(chosen)


def named_targets(model, chosen: Sequence[str]) -> list[str]:
    """The same by name, for what does not know `all-linear`: every linear layer but the output."""
    if ALL_LINEAR not in chosen:
        return list(chosen)
    output = model.get_output_embeddings()
    return sorted({name.rpartition(".")[2] for name, layer in model.named_modules()
                   if isinstance(layer, torch.nn.Linear | Conv1D) and layer is not output})


def weights_of_adapter(folder: Path) -> Path:
    """The file with an adapter's weights. Raises BadModel where there is none, or a damaged one.
    """
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise BadModel(f"There is no adapter in {folder}.", f"{weights.name} is missing.",
                       "Choose a checkpoint that exists, or wait for the first one.")
    check_sound(folder)
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
        made = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(model, trust_remote_code=False))
    return {name: (layer.nf, layer.nx) if isinstance(layer, Conv1D) else
            (layer.out_features, layer.in_features)
            for name, layer in made.named_modules() if isinstance(layer, torch.nn.Linear | Conv1D)}


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


def begin_with(model: PeftModel, folder: Path) -> None:
    """Give a model's new adapter the weights of another. Raises BadModel where not all of them
    find their place, or some place is left as it was."""
    weights_of_adapter(folder)
    try:
        done = set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise misfit(_first_line(error)) from error
    left = [*done.unexpected_keys, *(key for key in done.missing_keys if ".lora_" in key)]
    if left:
        raise misfit(f"{left[0]} has no counterpart.")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[1] if len(lines) > 1 and "Error(s) in loading" in lines[0] else lines[0])[:300] \
        if lines else type(error).__name__
