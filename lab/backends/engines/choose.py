"""The engine that a plan names."""

from lab.backends.engines.base import Engine
from lab.core.hardware.engines import Plan
from lab.core.settings import TRL_VLLM, UNSLOTH, Settings


def make_engine(plan: Plan, settings: Settings, path: str) -> Engine:
    """Nothing is loaded yet. Where it is Unsloth's, import unsloth.py before anything else."""
    if plan.engine == UNSLOTH:
        from lab.backends.engines.unsloth import UnslothEngine

        return UnslothEngine(plan, settings, path)
    if plan.engine == TRL_VLLM:
        from lab.backends.engines.trl_vllm import VllmEngine

        return VllmEngine(plan, settings, path)
    return Engine(plan, settings, path)
