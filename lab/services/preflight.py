"""Preflight: the base model answers some questions before a run, and what that tells of the run."""

import random
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from lab.core.hardware import engines
from lab.core.insight import preflight as arithmetic
from lab.core.insight.preflight import ANSWERS, Sample
from lab.core.insight.preflight_advice import Found, advice, other_forms
from lab.core.problems import BadData, RunError
from lab.core.settings import Settings
from lab.services import begin, machine, own_rewards, preflight_record
from lab.services.chat import engine_request
from lab.services.data import load as datasets
from lab.services.environment import answering_environment
from lab.services.jobs import refuse, refuse_missing_columns
from lab.services.lab import Lab
from lab.services.models import decided_for, look_at, memory_of, model_folder
from lab.services.one_job import Cancelled, replies

WHAT = "preflight"
LEAST, MOST = 16, 64  # questions, where it is not said how many
PATIENCE = 20.0  # seconds after which no more than the least are begun
ALL_ROWS = 8000  # up to so many rows the questions are just those that the run begins with


@dataclass(frozen=True)
class Progress:
    """What is going on, and how many answers are done of how many (0 before the first)."""

    phase: str
    done: int = 0
    of: int = 0


def preflight(lab: Lab, settings: Settings, n: int | None = None, seed: int = 0,
              progress: Callable[[Progress], None] = lambda now: None,
              stop: threading.Event | None = None) -> dict[str, Any]:
    """Let the base answer `n` questions of the training rows and tell what that means for a run.

    The questions are those that the run would begin with, unless there are very many rows. Without
    `n`: 16, and up to 64 while that takes less than 20 seconds. Each is answered as often as the
    run's groups are large, and at least 16 times; another `seed` draws other answers. Set `stop` to
    end early. Returns the object that `preflight --json` prints, and what the page shows besides.
    Raises a LabError.
    """
    for news in flight(lab, settings, n, seed, stop or threading.Event()):
        if isinstance(news, dict):
            return news
        progress(news)
    raise Cancelled(WHAT)


def flight(lab: Lab, settings: Settings, n: int | None, seed: int,
           stop: threading.Event) -> Iterator[Progress | dict[str, Any]]:
    """The same as it goes: `Progress`, again and again, and the result at the end."""
    begun = time.monotonic()
    yield Progress("Checking the settings")
    facts = machine.look(lab.workspace.root)
    refuse(settings, facts, lab.workspace)
    own_rewards.refuse_broken(settings)
    plan = engines.plan_to_answer(settings, facts)
    if plan.on_gpu:
        if run := lab.runs.active():
            raise RunError(f"Run {run.id} is training.", "It uses the GPU.",
                           "Wait for its end, or stop it.")
        lab.chat.close()  # what answers there holds the GPU's memory
    yield Progress("Loading the data")
    rows = datasets.load(settings.data, settings.train.seed).train
    if not rows:
        raise BadData("There is no question to try.", next="Raise 'Rows', or leave out fewer "
                      "questions.", field="data.rows")
    refuse_missing_columns(settings, rows)
    some = rows if len(rows) <= ALL_ROWS else random.Random(settings.train.seed).sample(
        rows, max(ALL_ROWS, n or 0))
    request = {
        "adapter": str(begin.find(settings.lora.begin_from, lab.workspace).path)
        if settings.lora.begin_from else None,
        "settings": decided_for(settings, facts).to_dict(), "model": model_folder(settings),
        "on_gpu": plan.on_gpu, "engine": engine_request(settings, plan),
        "trains_with": engines.choose_engines(settings, facts).first.value,
        "rows": some,
        "copies": max(ANSWERS, settings.train.num_generations),
        "least": n or LEAST, "most": n or MOST, "patience": PATIENCE, "seed": seed,
        "other": [form.to_dict() for form in other_forms(settings.rewards.chosen)]}
    environment = answering_environment(settings, plan, facts, lab.workspace.caches)
    told = yield from _ask(request, environment, stop)
    sample = Sample.from_dict(told)
    estimate = memory_of(settings, facts)
    result = arithmetic.summary(sample, settings, time.monotonic() - begun,
                                estimate.total_gb if estimate else None)
    result["advice"] = [one.to_dict() for one in advice(Found(
        sample.groups, settings, result, look_at(settings.model.name).longest, len(rows)))]
    with suppress(OSError):  # the result is here, also where it cannot be kept
        preflight_record.keep(lab.workspace, settings, result)
    yield result


def _ask(request: dict, environment: dict[str, str],
         stop: threading.Event) -> Generator[Progress, None, dict]:
    """Returns the preflight worker's sample."""
    yield Progress("Importing the libraries")
    with closing(replies("preflight", WHAT, request, environment, stop)) as told:
        for reply in told:
            if "sample" in reply:
                return reply["sample"]
            yield (Progress(reply["phase"]) if "phase" in reply else
                   Progress("Answering", reply["done"], reply["of"]))
    raise AssertionError("replies end with a result or an error")
