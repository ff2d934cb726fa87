"""The check of an export: what is asked of it, and the figures in the contract's form."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.core.hardware import engines
from lab.core.problems import LabError
from lab.core.rewards import permission
from lab.services import machine
from lab.services.data import load as datasets
from lab.services.environment import answering_environment
from lab.services.export.source import Source
from lab.services.models import model_folder
from lab.services.one_job import Cancelled
from lab.services.workers import trains_now
from lab.services.workspace import Workspace

QUESTIONS = 16  # that are asked where nothing else is said
CONTRACT = ("n", "parity", "max_logit_difference", "how")
HELD_OUT, TRAINED_ON = "held-out questions", "questions that it trained on"

Worker = Callable[[str, str, dict, dict[str, str]], dict]  # see making.Work.worker


def check_export(source: Source, worker: Worker, kind: str, path: Path, n: int,
                 exact: bool) -> dict[str, Any] | None:
    """What `core/insight/parity.py` finds and "questions"; {"problem": words, "passed": False}
    where it could not be checked at all; None where nothing was to be asked (n is 0).

    `worker` runs a job of the worker and returns its last reply. Raises Cancelled.
    """
    if n < 1:
        return None
    settings, folder = source.run.settings, source.folder
    try:
        rows, what = _rows(source, n)
        if not rows:
            return _not("The run kept no questions to ask.")
        facts = machine.look(folder.path)
        plan = engines.plan_to_answer(settings, facts)
        workspace = Workspace(folder.path.parent)
        # Own code where it may not run: what it would pay is not known, and words are compared.
        chosen = [one for one in settings.rewards.chosen
                  if permission.code_allowed() or not one.reward.runs_code]
        told = worker("check", "check", {
            "kind": kind, "path": str(path),
            # On a GPU both compute in 16 bit, and greedy answers fork where two words nearly tie.
            "exact": exact and not plan.on_gpu, "model": model_folder(settings),
            "in_4bit": settings.model.load_in_4bit, "on_gpu": plan.on_gpu,
            "threads": settings.hardware.threads, "beside_training": trains_now(workspace),
            "template_arguments": settings.model.chat_template_kwargs,
            "adapter": str(source.adapter.path), "rows": rows,
            "system_prompt": settings.data.system_prompt,
            "chosen": [one.to_dict() for one in chosen], "rewards_file": settings.rewards.file,
            "max_tokens": settings.train.max_completion_length},
            answering_environment(settings, plan, facts, workspace.caches))
        return told["check"] | {"questions": what}
    except Cancelled:
        raise
    except LabError as error:
        return _not(str(error.problem))


def in_contract(check: dict[str, Any] | None) -> dict[str, Any] | None:
    """The check as `export --json` prints it."""
    if check is None:
        return None
    if check.get("problem"):
        return {"n": 0, "parity": None, "max_logit_difference": None, "how": check["problem"]}
    return {key: check[key] for key in CONTRACT}


def _rows(source: Source, n: int) -> tuple[list[dict], str]:
    folder = source.folder
    for path, what in ((folder.held_out, HELD_OUT), (folder.data, TRAINED_ON)):
        rows = datasets.read_rows(path)[:n] if path.exists() else []
        if rows:
            return rows, what
    return [], HELD_OUT


def _not(why: str) -> dict[str, Any]:
    return {"problem": why, "passed": False}
