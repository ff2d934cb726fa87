"""The GPU as an engine sees it: whether it can be used, its dtype, its memory in use."""

import os

import torch

from lab.core.problems import WorkFailed


def take() -> None:
    """Make this process's GPU the current one: of several processes each has its own.

    Raises WorkFailed where torch cannot use a GPU, with the reason.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        return
    if torch.version.cuda is None:
        raise WorkFailed("torch cannot use the GPU.", f"torch {torch.__version__} was built "
                         "without CUDA.", "Run `STACK=gpu make setup`, or set 'Stack' to cpu.")
    raise WorkFailed("torch cannot use the GPU.", "No CUDA device is visible to it.",
                     "See to the driver (`python -m lab doctor`) and to CUDA_VISIBLE_DEVICES, or "
                     "set 'Stack' to cpu.")


def dtype() -> torch.dtype:
    """bf16 where the GPU has it (compute capability 8 and newer), else fp16."""
    return torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16


def used_gb() -> float:
    """Memory in use on this process's GPU by whatever runs there, in GB (1e9 bytes)."""
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 1e9


class Gauge:
    """The memory in use on the GPU, as a metric: the peak since the last point.

    Everything on the device counts, so that it is the figure a card must have. `before` is what
    was in use when the worker came. Nothing looks in between two points: asking the driver takes
    milliseconds in which no kernel starts. torch itself keeps the peak of its own pools, and what
    lies outside them hardly changes.
    """

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu = on_gpu
        self.before = used_gb() if on_gpu else 0.0
        self.highest = self.before

    def begin(self) -> None:
        """The model is loaded. What that took does not count: torch's pools then hold blocks that
        nothing needs, and give them back where there is no room for the next one."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            self.highest = used_gb()

    def take(self) -> dict[str, float]:
        if not self.on_gpu:
            return {}
        given_back = torch.cuda.max_memory_reserved() - torch.cuda.memory_reserved()
        peak = used_gb() + given_back / 1e9
        torch.cuda.reset_peak_memory_stats()
        self.highest = max(self.highest, peak)
        return {"gpu/memory_gb": peak}
