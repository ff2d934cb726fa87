"""Layers of a model that learns, in fewer kernels: linear layers with their adapter, and norms.

peft adds an adapter to any layer, and for that goes a long way round: what comes in is cast to 32
bit for the adapter, and back to 16 by autocast; each layer keeps a copy of its own for the way
back; and what the adapter says is scaled and added in passes of their own over all tokens.
transformers writes a norm as eight passes over its tokens, and twice as many on the way back.

Weights, names and files stay what they are: only how a layer computes is another, and where
something is asked for that is not written here, it computes as it did.
"""

from types import MethodType

import torch
import torch.nn.functional as F
from peft.tuners import lora
from torch.autograd.function import once_differentiable

ADAPTED = ("Linear", "Linear4bit")  # peft's, by name: the second exists where bitsandbytes does
ROUNDING = 2 ** -6  # how far two ways to round the same norm to 16 bit come apart, of a value


def make_lean(model: torch.nn.Module) -> None:
    """Let the layers of this model that are written here compute so."""
    for layer in model.modules():
        if isinstance(layer, lora.LoraLayer) and type(layer).__name__ in ADAPTED:
            layer.forward = MethodType(linear, layer)
        elif is_rms_norm(layer):
            layer.forward = MethodType(rms_norm, layer)


# A linear layer with its adapter.


class AddedLowRank(torch.autograd.Function):
    """x (..., inputs), weight W, bias or None, A (r, inputs), B (outputs, r), scaling s
    -> (..., outputs), with W, which may be in 4 bit, and the bias frozen:

        out = x W' + s (x A') B'              added as it is multiplied
        dx  = g W + s (g B) A                 g: the gradient of out
        dA  = s (g B)' x,   dB = s g' (x A')

    Kept for the way back are x, which all layers that read it share, and x A', r numbers a token.
    A weight in 4 bit is unpacked twice, as bitsandbytes does.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, down, up, scaling):
        kind = computed_in(x)
        x, low_down, low_up = (one.to(kind) for one in (x, down, up))
        low = F.linear(x, low_down)
        packed = getattr(weight, "quant_state", None)
        whole = dense(weight, packed, kind)
        out = F.linear(x, whole, None if bias is None else bias.to(kind))
        flat(out).addmm_(flat(low), low_up.T, alpha=scaling)
        ctx.save_for_backward(x, low, whole if packed is None else weight, low_down, low_up)
        ctx.scaling, ctx.kinds, ctx.packed = scaling, (down.dtype, up.dtype), packed
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, wanted):
        x, low, weight, down, up = ctx.saved_tensors
        wanted = flat(wanted.to(x.dtype))
        pulled = scaled(wanted, up, ctx.scaling)
        back = None
        if ctx.needs_input_grad[0]:
            whole = dense(weight, ctx.packed, x.dtype)
            back = (wanted @ whole).addmm_(pulled, down).view_as(x)
        return (back, None, None, (pulled.T @ flat(x)).to(ctx.kinds[0]),
                scaled(wanted.T, flat(low), ctx.scaling).to(ctx.kinds[1]), None)


def dense(weight: torch.Tensor, packed, kind: torch.dtype) -> torch.Tensor:
    """The weight as it multiplies; `packed` is what bitsandbytes knows of one in 4 bit."""
    if packed is None:
        return weight.to(kind)
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, packed).to(kind)


def flat(x: torch.Tensor) -> torch.Tensor:
    """(..., size) -> (tokens, size)."""
    return x.reshape(-1, x.shape[-1])


def scaled(one: torch.Tensor, other: torch.Tensor, by: float) -> torch.Tensor:
    """by * one @ other, in one kernel."""
    return torch.addmm(one.new_empty(()), one, other, beta=0, alpha=by)


def computed_in(x: torch.Tensor) -> torch.dtype:
    """What a multiplication of x would be computed in here."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def linear(layer: lora.LoraLayer, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
    """peft's layer: the short way, where no more than one plain adapter is asked for."""
    base, names = layer.base_layer, layer.active_adapters
    if (args or kwargs or layer.disable_adapters or layer.merged or len(names) != 1
            or not is_plain(layer, names[0])
            or getattr(base, "compute_dtype", None) not in (None, computed_in(x))):
        return type(layer).forward(layer, x, *args, **kwargs)
    return AddedLowRank.apply(x, base.weight, base.bias, layer.lora_A[names[0]].weight,
                              layer.lora_B[names[0]].weight, layer.scaling[names[0]])


def is_plain(layer: lora.LoraLayer, name: str) -> bool:
    """Whether peft computes x W' + b + s (x A') B' for this adapter, and no more."""
    base = layer.base_layer
    return (is_linear(base) and not any(weight.requires_grad for weight in base.parameters())
            and name in layer.lora_A and name not in layer.lora_variant
            and type(layer.lora_dropout[name]) is torch.nn.Identity
            and layer.lora_A[name].bias is None and layer.lora_B[name].bias is None)


def is_linear(base: torch.nn.Module) -> bool:
    """torch's layer, or that of bitsandbytes in 4 bit, once its weights are packed."""
    return type(base) is torch.nn.Linear or (
        type(base).__name__ == "Linear4bit" and getattr(base.weight, "quant_state", None)
        is not None)


# A norm: x / sqrt(mean(x^2) + eps) * w (Zhang and Sennrich 2019, arXiv:1910.07467).


def rms_norm(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """As transformers' classes of this name compute it, rounded once instead of twice."""
    return torch.ops.aten._fused_rms_norm(x, layer.weight.shape, layer.weight,
                                          layer.variance_epsilon)[0]


@torch.no_grad()
def is_rms_norm(layer: torch.nn.Module) -> bool:
    """Whether this is a frozen norm of that formula, on a device that has a kernel for it."""
    weight = getattr(layer, "weight", None)
    if (not type(layer).__name__.endswith("RMSNorm") or not hasattr(layer, "variance_epsilon")
            or weight is None or not weight.is_cuda or weight.requires_grad):
        return False
    x = torch.linspace(-3, 5, weight.numel(), dtype=weight.dtype, device=weight.device)[None]
    try:
        here, there = rms_norm(layer, x), type(layer).forward(layer, x)
    except (RuntimeError, TypeError):  # one that takes or gives more
        return False
    return here.dtype == there.dtype and torch.allclose(here, there, rtol=ROUNDING, atol=1e-6)
