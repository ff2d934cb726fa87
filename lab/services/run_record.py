"""What a run's settings.json says of it: its settings as chosen, and as they take effect here."""

import os
import shlex
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from lab.core.hardware import engines
from lab.core.hardware.machine import Choice, Machine
from lab.core.hardware.memory import as_decided
from lab.core.settings import CPU, Settings
from lab.services.models import decided_for, model_folder
from lab.services.run_log import RunLog
from lab.services.workspace import RunFolder


def record(settings: Settings, facts: Machine, name: str, notes: list[str],
           folder: RunFolder, caches: Path) -> dict:
    """What settings.json holds: every setting as chosen, and as it took effect here."""
    stack = engines.choose_stack(settings.hardware.stack, facts)
    ladder = engines.choose_engines(settings, facts)
    train, processes = settings.train, settings.hardware.processes()
    plans = [_plan(choice, settings, facts, folder, caches) for choice in ladder.tried]
    skipped = [f"{engines.TITLES[choice.value]} is not tried, because {choice.why}."
               for choice in ladder.skipped]
    model = model_folder(settings)
    elsewhere = [f"To be started {where}: {shlex.join(command)}" for where, command in
                 engines.commands_elsewhere(sys.executable, str(folder.path), model, settings,
                                            engines.plan_of(ladder.first, settings))]
    return {
        "format": 1, "name": name, "created": time.time(), "settings": settings.to_dict(),
        "effective": {
            "model": model,
            "per_device_train_batch_size": train.per_device_train_batch_size(processes),
            "gradient_accumulation_steps": train.gradient_accumulation_steps(processes),
            "threads": settings.hardware.threads or facts.cores,
        },
        "stack": {"value": stack.value, "why": stack.why}, "plans": plans, "notes": notes,
        "engine_notes": [*skipped, *plans[0]["plan"]["notes"], *elsewhere],
        "versions": facts.packages, "python": facts.python, "system": facts.system,
    }


def _plan(choice: Choice, settings: Settings, facts: Machine, folder: RunFolder,
          caches: Path) -> dict:
    """One engine as the worker starts it; without a command it trains in the worker itself."""
    plan = engines.plan_of(choice, settings)
    if (made := decided_for(settings, facts, choice.value)) != settings:
        plan = replace(plan, checkpointing=made.lora.gradient_checkpointing,
                       notes=(*plan.notes, as_decided(made)))
    alone = choice.value == CPU and settings.hardware.processes() == 1
    return {
        "engine": plan.engine, "title": engines.TITLES[plan.engine], "plan": asdict(plan),
        "command": [] if alone else engines.launch_command(
            sys.executable, str(folder.path), settings, plan),
        "env": engines.environment(settings, plan, caches, facts.packages,
                                   os.environ.get("CUDA_VISIBLE_DEVICES")),
    }


def from_the_one_that_worked(plans: list[dict], log: RunLog) -> list[dict]:
    """The attempts from the engine on that has trained this run: those before could not."""
    place = next((i for i, plan in enumerate(plans) if plan["engine"] == log.engine), 0)
    return plans[place:]


