"""Held-out verdict: two sides answer the same questions in a child process, and are compared."""

import threading
import time
from collections.abc import Callable
from contextlib import closing

from lab.core.hardware import engines
from lab.core.insight.verdict import telling, verdict
from lab.core.problems import BadData, RunError, WorkFailed
from lab.core.settings import Settings
from lab.services import against, machine, own_rewards, verdicts
from lab.services.against import Against
from lab.services.chat import engine_request
from lab.services.environment import answering_environment
from lab.services.models import model_folder
from lab.services.one_job import replies
from lab.services.runs import Run
from lab.services.workers import trains_now
from lab.services.workspace import Workspace

NEVER = threading.Event()
MOST_SEEDS = 64  # answers to a question on each side


def evaluate(run: Run, checkpoint: int | None = None, n: int = 200, seed: int = 0,
             sampled: bool = False, rows: list[dict] | None = None,
             progress: Callable[[int, int], None] = lambda done, of: None,
             stop: threading.Event = NEVER,
             free_gpu: Callable[[], None] = lambda: None,
             seeds: int = 1, other: Against | None = None, longest: int | None = None) -> dict:
    """Answer up to `n` held-out questions with an adapter of `run` and with the base model, or with
    the adapter `other`, and compare.

    Answers are greedy, or (`sampled`, or more than one of the `seeds`) drawn as in training: one
    with each seed from `seed` on. The questions and the rewards are those of `run`. Questions that
    a side was trained on are left out. `longest` is the most tokens of an answer, where it is not
    to be as in training. `rows` are other questions than the run's own, {"question",
    "answer"} each. A verdict on its own ones is kept in its folder. Once `stop` is set, the child
    that answers is ended. `free_gpu` is called before it takes a GPU.

    Returns the figures of `core/insight/verdict.py`, which adapter they are of ("step", "adapter")
    and what it was compared with ("against": None for the base model), "seen" (how many questions
    were left out), "picked" (of how many steps each side is the best by some of the questions),
    "notes" on what is not the same or not known, "gained" and "lost" to read, and "answers": a list
    with question, answer, base and tuned, for each question a line with each seed. Raises a
    LabError, Cancelled where it was stopped.
    """
    if run.settings is None:
        raise RunError(run.problem.what, run.problem.why, run.problem.next)
    own_rewards.refuse_to_score(run)
    adapter = run.folder.saved_at(checkpoint)
    if other:
        against.check(run, adapter, other)
    # Before it is asked: a run that trains may save a newer one.
    weights = verdicts.fingerprint(adapter.path)
    compared = other and {"run": other.run.id, "name": other.run.name, "step": other.adapter.step,
                          "adapter": verdicts.fingerprint(other.adapter.path)}
    own, notes, seen = rows is None, against.differing(run, other), 0
    if own:
        kept = against.read_held_out(run)
        rows, unknown = against.unseen(kept, run, other)
        notes += unknown
        seen = len(kept) - len(rows)
        if kept and not rows:
            raise BadData(f"None of the {seen:,} held-out questions of run {run.id} is new to both "
                          "sides.", "The other run, or one that they began from, was trained on "
                          "them.", "Compare each of the two with the base model.")
    rows, picked = rows[:n], (1, 1)
    if own:
        picked, told = against.picked(rows, kept, run, adapter, other)
        notes += told
    if not rows:
        raise BadData(f"Run {run.id} has no held-out questions.",
                      "Its settings kept none aside.", "Start a run with 'Held-out rows' above 0.")
    settings, sampled = run.settings, sampled or seeds > 1
    trained = settings.train.max_completion_length
    longest = None if longest == trained else longest
    if longest is not None:
        settings = with_answers_of(settings, longest)
        notes += [f"Answers had up to {longest:,} tokens here, and up to {trained:,} in training."]
    facts = machine.look(run.folder.path)
    plan = engines.plan_to_answer(settings, facts)
    if plan.on_gpu:
        free_gpu()
    environment = answering_environment(settings, plan, facts,
                                        Workspace(run.folder.path.parent).caches)
    prompt = settings.data.system_prompt
    request = {
        "threads": settings.hardware.threads,
        "beside_training": trains_now(Workspace(run.folder.path.parent)),
        "model": model_folder(settings), "in_4bit": settings.model.load_in_4bit,
        "template_arguments": settings.model.chat_template_kwargs,
        "on_gpu": plan.on_gpu, "engine": engine_request(settings, plan),
        "sides": [{"adapter": other and str(other.adapter.path),
                   "system_prompt": other.run.settings.data.system_prompt if other else prompt},
                  {"adapter": str(adapter.path), "system_prompt": prompt}],
        "rows": rows,
        "chosen": [c.to_dict() for c in settings.rewards.chosen],
        "rewards_file": settings.rewards.file,
        "temperature": settings.train.temperature if sampled else 0.0,
        "top_p": settings.train.top_p, "max_tokens": settings.train.max_completion_length,
        "seed": seed, "seeds": seeds}
    begun = time.monotonic()
    try:
        (base, tuned), effect = _sides(request, environment, progress, stop)
    except WorkFailed as error:
        if not error.problem.is_passing:
            raise
        (base, tuned), effect = _sides(request, environment, progress, stop)
    found = verdict(settings.rewards.chosen, prompt, base, tuned, seed, live=effect > 0,
                    drawn=sampled, seeds=seeds, picked=picked,
                    names=other and against.names_of(run, adapter, other)) | {
        "made": time.time(), "seconds": round(time.monotonic() - begun, 1), "step": adapter.step,
        "adapter": weights, "seed": seed, "adapter_effect": effect, "against": compared,
        "seen": seen, "notes": notes, "longest": longest, **telling(rows, base, tuned, seeds)}
    if own:
        verdicts.keep(run.folder, found)
    return found | {"answers": [
        {"question": row["question"], "answer": row.get("answer"), "base": b, "tuned": t}
        for row, b, t in zip([row for row in rows for _ in range(seeds)], base, tuned,
                             strict=True)]}


def with_answers_of(settings: Settings, longest: int) -> Settings:
    """The same with answers of up to so many tokens, and room for them. Raises BadSettings."""
    needed = settings.train.max_prompt_length + longest
    return settings.with_values({
        "train.max_completion_length": longest,
        "model.max_seq_length": max(settings.model.max_seq_length, needed)})


def held_out_count(run: Run) -> int:
    """How many questions the run kept aside."""
    try:
        with run.folder.held_out.open("rb") as file:
            return sum(1 for line in file if line.strip())
    except OSError:
        return 0


def _sides(request: dict, environment: dict[str, str],
           progress: Callable[[int, int], None], stop: threading.Event) -> tuple[list, float]:
    """(both sides' answers, the adapter's effect) from the evaluation worker."""
    with closing(replies("eval", "evaluation", request, environment, stop)) as told:
        for reply in told:
            if "sides" in reply:
                return reply["sides"], reply["effect"]
            progress(reply["done"], reply["of"])
    raise AssertionError("replies end with a result or an error")
