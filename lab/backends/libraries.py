"""Imports all that the CPU's workers use, ahead of them (lab/warm.py)."""

from lab.backends.without_vllm import hide

hide()  # before trl's trainers

import torch  # noqa: E402

import lab.backends.answering.chat  # noqa: E402, F401
import lab.backends.answering.evaluate  # noqa: E402, F401
import lab.backends.answering.preflight  # noqa: E402, F401
import lab.backends.engines.choose  # noqa: E402, F401
import lab.backends.plain  # noqa: E402, F401
import lab.backends.train  # noqa: E402, F401


def compute_with(threads: int) -> None:
    """As OMP_NUM_THREADS would have it, had it been there before the imports."""
    torch.set_num_threads(threads)
