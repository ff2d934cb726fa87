"""The packed learning pass on a GPU, in 16 bit: as near to the truth as TRL's padded one is.

    .venv/bin/python -m pytest -m gpu tests/test_packed_gpu.py

The truth is the padded pass of the same weights in 32 bit. GRPO_LAB_REAL_MODEL may name the folder
of an instruct model, which is then tried beside the starter.
"""

import os

import pytest
import torch

from lab.backends import plain
from lab.backends.engines import packed
from lab.backends.engines.packed import PackedPass
from lab.services.workspace import STARTER_FOLDER
from tests.test_packed import batch, learnt, log_probs, move, trainer_of

pytestmark = [pytest.mark.gpu,
              pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
REAL = os.environ.get("GRPO_LAB_REAL_MODEL", "")
MODELS = [str(STARTER_FOLDER), *([REAL] if REAL else [])]


def on_gpu(model: str, dtype: torch.dtype, folder, base=None, **changes):
    """TRL's trainer of this model, or of a `base` that is loaded, on the GPU, with the same
    adapter whatever the dtype."""
    from transformers import AutoModelForCausalLM

    base = base or AutoModelForCausalLM.from_pretrained(model, dtype=dtype, device_map={"": 0})
    trainer = trainer_of(base, folder, use_cpu=False, bf16=dtype == torch.bfloat16,
                         fp16=dtype == torch.float16, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for name, weight in trainer.model.named_parameters():
            if "lora_" in name:
                weight.data.copy_(0.02 * torch.randn(weight.shape))
    return trainer


def on(device: str, inputs: dict) -> dict:
    return {name: value.to(device) for name, value in inputs.items()}


def apart(one: dict | torch.Tensor, other) -> float:
    """Root mean square of the difference; of gradients all together, relative to the other's."""
    if isinstance(one, torch.Tensor):
        return float((one.float() - other.float()).square().mean().sqrt())
    difference = sum(float((one[name].float() - other[name].float()).square().sum())
                     for name in other)
    return (difference / sum(float(g.float().square().sum()) for g in other.values())) ** 0.5


@pytest.mark.parametrize("model", MODELS, ids=["starter", "real"][:len(MODELS)])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "made again"])
def test_it_is_as_near_to_32_bit_as_the_padded_pass(model, checkpointing, tmp_path):
    how = {"gradient_checkpointing": checkpointing, "temperature": 0.9}
    inputs = on("cuda", batch(400, masked=(2, 5), dead=(1,)))
    exact = on_gpu(model, torch.float32, tmp_path / "exact", **how)
    true, told = learnt(exact, inputs), log_probs(exact, inputs)
    del exact
    half = on_gpu(model, torch.bfloat16, tmp_path / "half", **how)
    assert half.model.get_base_model().is_gradient_checkpointing == checkpointing
    hold(half, inputs, true, told)


@pytest.mark.parametrize("model", MODELS, ids=["starter", "real"][:len(MODELS)])
def test_so_it_is_with_a_base_in_4_bit(model, tmp_path):
    inputs = on("cuda", batch(400, masked=(2, 5), dead=(1,)))
    quantised = plain.load_model(model, on_gpu=True, in_4bit=True)
    exact = on_gpu(model, torch.float32, tmp_path / "exact", unpacked(model, quantised))
    true, told = learnt(exact, inputs), log_probs(exact, inputs)
    del exact
    hold(on_gpu(model, torch.bfloat16, tmp_path / "half", quantised), inputs, true, told)


@pytest.mark.parametrize("model", MODELS, ids=["starter", "real"][:len(MODELS)])
def test_so_it_is_in_fp16_by_a_mask_as_on_older_cards(model, tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "takes_sequences", lambda model: False)
    inputs = on("cuda", batch(400, masked=(2, 5), dead=(1,)))
    exact = on_gpu(model, torch.float32, tmp_path / "exact")
    true, told = learnt(exact, inputs), log_probs(exact, inputs)
    del exact
    hold(on_gpu(model, torch.float16, tmp_path / "half"), inputs, true, told)


def unpacked(model: str, quantised):
    """The same weights that a base in 4 bit stands for, in 32 bit."""
    from bitsandbytes.functional import dequantize_4bit
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, device_map={"": 0})
    weights = dict(whole.named_parameters())
    with torch.no_grad():
        for name, weight in quantised.named_parameters():
            state = getattr(weight, "quant_state", None)
            weights[name].copy_(weight if state is None else dequantize_4bit(weight.data, state))
    return whole


def hold(half, inputs: dict, true, told) -> None:
    """The packed pass of a trainer in 16 bit against its padded one: neither may be much further
    from what is true."""
    kind = torch.float16 if half.args.fp16 else torch.bfloat16
    with torch.autocast("cuda", kind):  # accelerate does it where it trains
        theirs, they_told = learnt(half, inputs), log_probs(half, inputs)
    assert PackedPass(half).take_over() == ""
    ours, we_told = learnt(half, inputs), log_probs(half, inputs)
    for name, of_ours, of_theirs in (
            ("log-probabilities", apart(we_told[0], told[0]), apart(they_told[0], told[0])),
            ("entropies", apart(we_told[1], told[1]), apart(they_told[1], told[1])),
            ("gradients", apart(ours[1], true[1]), apart(theirs[1], true[1]))):
        print(f"{name}: packed {of_ours:.2g}, padded {of_theirs:.2g} from 32 bit")
        # Entropies are shown and pull at nothing: a hundredth of a nat is no difference there.
        assert of_ours <= 1.5 * of_theirs + (0.01 if name == "entropies" else 1e-6), name


def test_a_move_of_the_adapter_is_seen(tmp_path):
    trainer = on_gpu(MODELS[0], torch.bfloat16, tmp_path)
    inputs = on("cuda", batch(400))
    assert PackedPass(trainer).take_over() == ""
    before = log_probs(trainer, inputs)[0]
    move(trainer)
    assert apart(log_probs(trainer, inputs)[0], before) > 0.01
