"""The environment of the processes that train, answer and measure."""

import os
from pathlib import Path

from lab.core.hardware import engines
from lab.core.hardware.machine import Machine
from lab.core.settings import Settings
from lab.services.workspace import PROJECT

QUIET = {  # no pings, no network for what is here, no progress bars in logs
    "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1",
}
WARM = "GRPO_LAB_WARM"  # where a process forks workers (lab/warm.py); "0": nowhere
# Threads that wait for each other give their core away. OpenMP lets them spin for it, which makes a
# step many times slower as soon as something else wants the core (docs/starter.md).
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}


def answering_environment(settings: Settings, plan: engines.Plan, facts: Machine,
                          caches: Path) -> dict[str, str]:
    """The environment of a worker that answers with this plan's engine."""
    return worker_environment() | engines.environment(
        settings, plan, caches, facts.packages, os.environ.get("CUDA_VISIBLE_DEVICES"))


def worker_environment() -> dict[str, str]:
    """Our environment plus what keeps the libraries quiet. How threads wait is the person's to
    say, who may have the machine for one run alone. A worker starts its own children anew: they
    must not end with this process."""
    path = os.pathsep.join(p for p in (str(PROJECT), os.environ.get("PYTHONPATH")) if p)
    told = {**PATIENT, **os.environ, **QUIET, "PYTHONPATH": path}
    told.pop(WARM, None)
    return told
