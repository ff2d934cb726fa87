"""Held-out verdict: base and tuned answer the same questions in a child process; both compared."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from statistics import fmean

from lab.core import engines
from lab.core.problems import BadData, Problem, RunError, WorkFailed, explained_by_log
from lab.core.settings import Settings
from lab.core.stats import paired_difference, wins
from lab.services import datasets, machine, processes
from lab.services.chat import engine_request
from lab.services.jobs import answering_environment
from lab.services.models import model_folder
from lab.services.runs import Run
from lab.services.workspace import PROJECT, Workspace


def evaluate(run: Run, checkpoint: int | None = None, n: int = 200, seed: int = 0,
             sampled: bool = False, rows: list[dict] | None = None,
             progress: Callable[[int, int], None] = lambda done, of: None) -> dict:
    """Answer up to `n` held-out questions greedily (or `sampled` as in training) and compare.

    `rows` are other questions than the run's own, {"question", "answer"} each.

    Returns the object that `eval --json` prints, plus "answers": a list with question, answer,
    base and tuned for each. Raises a LabError.
    """
    if run.settings is None:
        raise RunError(run.problem.what, run.problem.why, run.problem.next)
    adapter = run.folder.adapter_at(checkpoint)
    if rows is None:
        rows = datasets.read_rows(run.folder.held_out) if run.folder.held_out.exists() else []
    rows = rows[:n]
    if not rows:
        raise BadData(f"Run {run.id} has no held-out questions.",
                      "Its settings kept none aside.", "Start a run with 'Held-out rows' above 0.")
    settings = run.settings
    facts = machine.look(run.folder.path)
    plan = engines.plan_to_answer(settings, facts)
    environment = answering_environment(settings, plan, facts,
                                        Workspace(run.folder.path.parent).caches)
    request = {
        "model": model_folder(settings), "in_4bit": settings.model.load_in_4bit,
        "on_gpu": plan.on_gpu, "engine": engine_request(settings, plan),
        "adapters": [None, str(adapter)], "rows": rows,
        "system_prompt": settings.data.system_prompt,
        "chosen": [c.to_dict() for c in settings.rewards.chosen],
        "temperature": settings.train.temperature if sampled else 0.0,
        "top_p": settings.train.top_p, "max_tokens": settings.train.max_completion_length,
        "seed": seed}
    try:
        (base, tuned), effect = _sides(request, environment, progress)
    except WorkFailed as error:
        if not error.problem.is_passing:
            raise
        (base, tuned), effect = _sides(request, environment, progress)
    return verdict(settings, base, tuned, seed) | {
        "adapter_live": effect > 0, "adapter_effect": effect,
        "answers": [{"question": row["question"], "answer": row.get("answer"), "base": b,
                     "tuned": t} for row, b, t in zip(rows, base, tuned, strict=True)]}


def verdict(settings: Settings, base: list[dict], tuned: list[dict], seed: int) -> dict:
    """The two sides in numbers. Questions that one side could not be scored on are left out."""
    pairs = [(b, t) for b, t in zip(base, tuned, strict=True)
             if b["total"] is not None and t["total"] is not None]
    if not pairs:
        raise WorkFailed("No answer could be scored.",
                         "; ".join({text for b in base for text in b["errors"].values()}),
                         "Look at the rewards of this run.")
    totals = [[side["total"] for side in column] for column in zip(*pairs, strict=True)]
    graded = [(float(b["correct"]), float(t["correct"])) for b, t in pairs
              if b["correct"] is not None]
    better, worse, alike = wins(*totals)
    names = [c.name for c in settings.rewards.chosen]
    columns = list(zip(*pairs, strict=True))
    right = list(zip(*graded, strict=True)) or [(), ()]
    sides = [{"reward": fmean(totals[i]),
              "rewards": {name: _mean(a["rewards"][name] for a in columns[i]) for name in names},
              "accuracy": _mean(right[i]), "cut": _mean(a["cut"] for a in columns[i])}
             for i in (0, 1)]
    return {
        "n": len(pairs), "base": sides[0], "tuned": sides[1],
        "difference": {
            "reward": asdict(paired_difference(*totals, seed)),
            "accuracy": asdict(paired_difference(*right, seed)) if graded else None},
        "wins": better, "losses": worse, "ties": alike}


def _mean(values) -> float | None:
    known = [v for v in values if v is not None]
    return fmean(known) if known else None


def _sides(request: dict, environment: dict[str, str],
           progress: Callable[[int, int], None]) -> tuple[list, float]:
    """Run the evaluation worker. Raises WorkFailed with its own words."""
    with tempfile.TemporaryFile() as log, subprocess.Popen(
            [sys.executable, "-m", "lab.worker", "eval"], cwd=PROJECT, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as process:
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.close()
            for line in process.stdout:
                reply = json.loads(line)
                if "problem" in reply:
                    log.seek(0)
                    problem = explained_by_log(Problem(**reply["problem"]),
                                               log.read().decode("utf-8", errors="replace"))
                    raise WorkFailed(problem.what, problem.why, problem.next, kind=problem.kind)
                if "sides" in reply:
                    return reply["sides"], reply["effect"]
                progress(reply["done"], reply["of"])
        finally:
            processes.end(process, patience=0)
        log.seek(0)
        said = log.read().decode("utf-8", errors="replace").strip().splitlines()
    raise WorkFailed("The evaluation ended without a result.", said[-1] if said else "",
                     "Try again; if it happens again, evaluate fewer questions.")
