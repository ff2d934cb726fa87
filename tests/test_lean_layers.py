"""Layers in fewer kernels against peft's and transformers' own: the same numbers and gradients."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners import lora
from torch.nn import Linear

from lab.backends.engines.lean_layers import AddedLowRank, is_rms_norm, make_lean, rms_norm

EXACT = {"atol": 1e-6, "rtol": 1e-5}


class Two(torch.nn.Module):
    """Two layers, the first without a bias."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first = Linear(24, 40, bias=False, dtype=dtype)
        self.second = Linear(40, 16, dtype=dtype)

    def forward(self, x):
        return self.second(self.first(x).relu())


def adapted(dtype: torch.dtype = torch.float32, **config):
    """Two with adapters that say something."""
    torch.manual_seed(0)
    model = get_peft_model(Two(dtype), LoraConfig(r=4, lora_alpha=10, target_modules=[
        "first", "second"], **config))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.2)
    return model


def adapted_in_4_bit(device: str, kind: torch.dtype):
    """The same with a base in 4 bit, large enough for it."""
    bnb = pytest.importorskip("bitsandbytes")

    model = Two(kind)
    model.is_loaded_in_4bit = True  # what peft asks for
    for name, (rows, columns) in {"first": (256, 128), "second": (128, 256)}.items():
        layer = bnb.nn.Linear4bit(columns, rows, bias=name == "second", compute_dtype=kind,
                                  quant_type="nf4", compress_statistics=True)
        torch.manual_seed(0)
        layer.load_state_dict({key: torch.randn(value.shape) / 8
                               for key, value in layer.state_dict().items()})
        setattr(model, name, layer.to(kind))
    model = get_peft_model(model.to(device), LoraConfig(
        r=4, lora_alpha=10, target_modules=["first", "second"], init_lora_weights=False))
    assert {type(layer).__name__ for layer in model.modules()
            if isinstance(layer, lora.LoraLayer)} == {"Linear4bit"}
    return model


def learnt(model, x: torch.Tensor, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """What comes out, and the gradients of what went in and of all that learns."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast(x.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        out = model(x)
    (out.float() * torch.linspace(-1, 1, out.shape[-1], device=x.device)).sum().backward()
    return {"out": out.detach(), "x": x.grad, **{
        name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}}


def short_ways(monkeypatch) -> list:
    """What goes the short way from here on, each time."""
    counted, apply = [], AddedLowRank.apply
    monkeypatch.setattr(AddedLowRank, "apply", lambda *args: counted.append(1) or apply(*args))
    return counted


@pytest.mark.parametrize("shape", [(7, 24), (2, 5, 24)], ids=["tokens", "a batch"])
def test_outputs_and_gradients_are_those_of_peft(shape, monkeypatch):
    model, x = adapted(), torch.randn(shape)
    theirs = learnt(model, x)
    make_lean(model)
    counted = short_ways(monkeypatch)
    torch.testing.assert_close(learnt(model, x), theirs, **EXACT)
    assert len(counted) == 2


def test_so_they_are_with_a_base_in_4_bit(monkeypatch):
    """Runs where bitsandbytes is, on a CPU too."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, x = adapted_in_4_bit(device, torch.float32), torch.randn(7, 128, device=device)
    theirs = learnt(model, x)
    make_lean(model)
    counted = short_ways(monkeypatch)
    torch.testing.assert_close(learnt(model, x), theirs, atol=1e-4, rtol=1e-4)
    assert len(counted) == 2
    model.base_model.model.first.base_layer.compute_dtype = torch.bfloat16
    learnt(model, x)
    assert len(counted) == 3  # only the second: the first multiplies in another kind than peft's


def test_what_learns_is_what_did_and_files_are_the_same(tmp_path):
    model = adapted()
    before = model.state_dict()
    make_lean(model)
    assert list(model.state_dict()) == list(before)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()


def test_in_16_bit_it_is_as_near_to_32_bit_as_peft_is():
    model, x = adapted(torch.bfloat16), torch.randn(64, 24)
    theirs = learnt(model, x.bfloat16(), torch.bfloat16)
    make_lean(model)
    ours = learnt(model, x.bfloat16(), torch.bfloat16)
    true = learnt(model.float(), x.bfloat16().float())
    for name, value in true.items():
        assert ours[name].dtype == theirs[name].dtype
        apart = [(one[name].float() - value).norm() / value.norm() for one in (ours, theirs)]
        assert apart[0] <= 1.2 * apart[1], name


@pytest.mark.parametrize("how", ["no adapter", "merged", "two adapters", "dropout", "dora",
                                 "rslora", "a base that learns"])
def test_what_is_asked_for_besides_is_computed_as_peft_does(how, monkeypatch):
    model = adapted(lora_dropout=0.5 * (how == "dropout"), use_dora=how == "dora",
                    use_rslora=how == "rslora")
    if how == "two adapters":
        model.add_adapter("other", LoraConfig(r=2, target_modules=["first", "second"],
                                              init_lora_weights=False))
        model.base_model.set_adapter(["default", "other"])
    if how == "merged":
        model.merge_adapter()
    if how == "a base that learns":
        model.base_model.model.first.base_layer.weight.requires_grad_(True)
        model.base_model.model.second.base_layer.bias.requires_grad_(True)
    x = torch.randn(6, 24)

    def all_of_it():
        torch.manual_seed(1)  # of the dropout
        if how != "no adapter":
            return learnt(model, x) if how != "merged" else {"out": model(x)}
        with model.disable_adapter():
            return {"out": model(x)}

    theirs = all_of_it()
    make_lean(model)
    counted = short_ways(monkeypatch)
    torch.testing.assert_close(all_of_it(), theirs, **EXACT)
    assert bool(counted) == (how == "rslora")


def test_a_copy_computes_with_its_own_weights():
    model = adapted()
    make_lean(model)
    other, x = copy.deepcopy(model), torch.randn(3, 24)
    with torch.no_grad():
        for layer in other.modules():
            if isinstance(layer, lora.Linear):
                layer.lora_B["default"].weight.zero_()
        said = model(x)
        assert not torch.allclose(other(x), said)
        with model.disable_adapter():
            torch.testing.assert_close(other(x), model(x))


def test_activations_may_be_made_again(monkeypatch):
    model, x = adapted(), torch.randn(5, 24)
    make_lean(model)
    kept = learnt(model, x)
    inner = model.base_model.model
    forward = inner.forward
    monkeypatch.setattr(inner, "forward", lambda x: torch.utils.checkpoint.checkpoint(
        forward, x, use_reentrant=False))
    torch.testing.assert_close(learnt(model, x), kept, **EXACT)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_norm_in_one_kernel_is_as_near_to_32_bit_as_in_eight():
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

    torch.manual_seed(0)
    norm = Qwen2RMSNorm(96).requires_grad_(False).to("cuda", torch.bfloat16)
    norm.weight.normal_(1, 0.3)
    x, pull = (torch.randn(50, 96, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def both(compute, x):
        x = x.clone().requires_grad_()
        out = compute(x)
        out.backward(pull.to(out.dtype))
        return out.detach(), x.grad

    assert is_rms_norm(norm)
    theirs, ours = both(norm, x), both(lambda x: rms_norm(norm, x), x)
    true = both(norm.float(), x.float())
    for we, they, value in zip(ours, theirs, true, strict=True):
        assert we.dtype == they.dtype
        assert (we - value).norm() <= 1.1 * (they - value).norm()
    other = Gemma3RMSNorm(96).requires_grad_(False).to("cuda", torch.bfloat16)
    assert not is_rms_norm(other)  # adds 1 to its weight
