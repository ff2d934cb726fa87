"""The GPU as an engine sees it: whether it can be used, its dtype, its memory in use."""

import os
import threading
import time

import torch

from lab.core.problems import WorkFailed

LOOK_EVERY = 0.1  # seconds between two looks at the memory in use


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
    """Follows the memory in use on the GPU, as a metric: the peak since the last point.

    Everything on the device counts, so that it is the figure a card must have. `before` is what
    was in use when the worker came.
    """

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu = on_gpu
        self.peak = self.highest = self.before = 0.0
        if on_gpu:
            self.before = used_gb()
            self._look()
            threading.Thread(target=self._follow, daemon=True, name="gpu memory").start()

    def _follow(self) -> None:
        while True:
            time.sleep(LOOK_EVERY)
            self._look()

    def _look(self) -> None:
        now = used_gb()
        self.peak = max(self.peak, now)
        self.highest = max(self.highest, now)

    def take(self) -> dict[str, float]:
        if not self.on_gpu:
            return {}
        self._look()
        peak, self.peak = self.peak, 0.0
        return {"gpu/memory_gb": peak}
