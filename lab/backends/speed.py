"""Measures what this machine's cores do, in a second or two: the ground of a forecast."""

import json
import time
from collections.abc import Callable

import psutil
import torch

WIDE, DEEP, ROWS, FEW = 1536, 576, 2048, 32  # a small model's layers; tokens; answers at once
LOGITS = (32, 49_152)
WEIGHTS = (8192, 4096)  # 134 MB: more than any cache holds
SMALL = 64  # width of a layer that is nothing but calls
CALLS = 50  # small layers in a round
ROUNDS = 5


def serve(threads: int, outgoing) -> int:
    """One JSON line: what `measure` tells, with so many threads, and `beside`: how many cores the
    rest of the machine kept busy meanwhile."""
    torch.set_num_threads(threads)
    begun, busy = time.perf_counter(), _busy_elsewhere()
    told = measure()
    beside = (_busy_elsewhere() - busy) / (time.perf_counter() - begun)
    outgoing.write(json.dumps(told | {"beside": max(0.0, beside)}).encode() + b"\n")
    return 0


def _busy_elsewhere() -> float:
    """Seconds that the cores of this machine have worked for others than this process."""
    told = psutil.cpu_times()
    return told.user + told.system - time.process_time()


@torch.inference_mode()
def measure() -> dict[str, float]:
    torch.manual_seed(0)
    linear = torch.nn.functional.linear
    rows, weight = torch.randn(ROWS, DEEP), torch.randn(WIDE, DEEP)
    one, few, large = torch.randn(1, WEIGHTS[1]), torch.randn(FEW, DEEP), torch.randn(*WEIGHTS)
    cold = large.view(-1)[:large.numel() // (WIDE * DEEP) * WIDE * DEEP].view(-1, WIDE, DEEP)
    logits = torch.randn(*LOGITS)
    return {
        "gflops": 2e-9 * ROWS * weight.numel() / _seconds(lambda: linear(rows, weight)),
        "gflops_few": 2e-9 * FEW * cold.numel() / _seconds(
            lambda: [linear(few, layer) for layer in cold]),
        "gb_per_second": 4e-9 * large.numel() / _seconds(lambda: linear(one, large)),
        "gelements": 1e-9 * logits.numel() / _seconds(lambda: logits.softmax(-1)),
        "call": _seconds(_small_layer()) / CALLS}


def _small_layer() -> Callable[[], object]:
    """What one layer of attention and feed-forward calls, on so little that calling is all."""
    linear = torch.nn.functional.linear
    hidden, weight = torch.randn(1, 1, SMALL), torch.randn(SMALL, SMALL)
    past = torch.randn(1, 1, SMALL, SMALL)

    def norm(x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)

    def layer() -> torch.Tensor:
        x = norm(hidden)
        query, key, value = (linear(x, weight)[:, None] for _ in range(3))
        query, key = (torch.cat([-part[..., SMALL // 2:], part[..., :SMALL // 2]], -1) + part
                      for part in (query, key))
        keys, values = torch.cat([past, key], 2), torch.cat([past, value], 2)
        out = torch.nn.functional.scaled_dot_product_attention(query, keys, values)
        x = hidden + linear(out[:, 0], weight)
        y = norm(x)
        return x + linear(torch.nn.functional.silu(linear(y, weight)) * linear(y, weight), weight)

    return lambda: [layer() for _ in range(CALLS)][-1]


def _seconds(work: Callable[[], object]) -> float:
    """The median of some rounds after a first one that makes its memory."""
    work()
    taken = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return sorted(taken)[ROUNDS // 2]
