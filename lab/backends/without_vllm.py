"""Keeps TRL from importing vLLM where nothing needs it: more than half of a worker's start.

Call `hide` before trl's trainers are imported.
"""

from importlib import import_module


def hide() -> None:
    """TRL's trainers believe from now on that vLLM is not installed."""
    import_module("trl.import_utils").is_vllm_available = lambda min_version=None: False
