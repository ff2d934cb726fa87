"""How long a run will take here, before it starts: on a CPU by its speed, measured once; on a GPU
by what is known of the card."""

import json
import os
import platform
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from lab.core.catalog import known_model
from lab.core.files import write_json
from lab.core.hardware.engines import choose_engines
from lab.core.hardware.forecast import Forecast, Speed, forecast
from lab.core.hardware.forecast_gpu import card_named, forecast_gpu
from lab.core.hardware.machine import Machine
from lab.core.problems import LabError
from lab.core.settings import CPU, Settings
from lab.core.words import duration
from lab.services import preflight_record
from lab.services.environment import worker_environment
from lab.services.models import decided_for, look_at
from lab.services.workspace import PROJECT, Workspace

KEPT = 7 * 86_400  # seconds for which a measurement is believed
KEPT_BUSY = 600  # the same where other programs took the cores: it may be seven times too slow
SHARED = 0.25  # cores that others may take from the threads that are measured
PATIENCE = 120  # seconds that it may take on a busy machine
# A prompt's length before any tokenizer is at hand: characters of a usual question, and of a token
# of English; what a chat template adds.
QUESTION, PER_TOKEN, TEMPLATE = 160, 4.0, 20
_one_at_a_time = threading.Lock()


def cache_file() -> Path:
    """Facts of this machine, of no root: beside what other programs keep for this user."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "grpo-lab" / "speed.json"


def forecast_of(settings: Settings, facts: Machine, workspace: Workspace) -> Forecast | None:
    """What a run of these settings would take here; None over several processes, on a GPU that is
    not known, and where the model's shape is not known.

    May measure this machine's CPU first, which takes some seconds, once a week. The length of
    answers is that of the newest preflight of this model and data, else what the catalogue knows.
    """
    engine = choose_engines(settings, facts).first.value
    if settings.hardware.processes() > 1:
        return None
    try:
        shape = look_at(settings.model.name).shape
    except LabError:
        return None
    if shape is None:
        return None
    settings, lengths = decided_for(settings, facts), lengths_of(settings, workspace)
    if engine != CPU:
        card = card_named(facts.gpus[0].name) if facts.gpus else None
        return forecast_gpu(shape, settings, engine, card, *lengths) if card else None
    speed = speed_of(settings.hardware.threads or threads_here(facts),
                     facts.packages.get("torch", ""))
    return forecast(shape, settings, speed, *lengths) if speed else None


def lengths_of(settings: Settings, workspace: Workspace) -> tuple[float, float, float]:
    """(mean of an answer, longest of a batch, mean of a prompt) in tokens; 0 for what is not
    known."""
    if found := preflight_record.newest(workspace):
        _, before, result = found
        differences = settings.differences(before)
        if not any(key in differences for key in (*preflight_record.SAME_TASK, "data.level",
                                                  "data.system_prompt")):
            with suppress(KeyError, TypeError):
                return (result["tokens"]["mean"], result["tokens"]["max"],
                        result["prompt_tokens"]["p50"])
    known = known_model(settings.model.name)
    prompt = min((len(settings.data.system_prompt) + QUESTION) / PER_TOKEN + TEMPLATE,
                 settings.train.max_prompt_length)
    return (*(known.answers if known else (0, 0)), prompt)


def threads_here(facts: Machine) -> int:
    """The threads that torch will take: one per core, unless the environment says fewer."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(facts.cores, int(told)) if told.isdecimal() and int(told) else facts.cores


def speed_of(threads: int, torch_version: str) -> Speed | None:
    """This machine's speed with so many threads: as measured before, else measured now in a child
    process. None where that fails."""
    key = f"{platform.machine()} {_processor()}, {threads} threads, torch {torch_version}"
    with _one_at_a_time:
        kept = _read()
        with suppress(KeyError, TypeError, ValueError):
            if time.time() - kept[key]["when"] < _kept_for(kept[key], threads):
                return Speed.from_dict(kept[key])
        told = _measure(threads)
        if told is None:
            return None
        with suppress(OSError):
            path = cache_file()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {**kept, key: {**told, "when": time.time()}})
        return Speed.from_dict(told)


def _kept_for(told: dict, threads: int) -> float:
    """Seconds for which a measurement is believed. Raises KeyError for one of an older version."""
    free = (psutil.cpu_count() or threads) - told["beside"]
    return KEPT if free >= threads - SHARED else KEPT_BUSY


def _read() -> dict:
    try:
        kept = json.loads(cache_file().read_text(encoding="utf-8"))
        return kept if isinstance(kept, dict) else {}
    except (OSError, ValueError):
        return {}


def _measure(threads: int) -> dict | None:
    try:
        done = subprocess.run([sys.executable, "-m", "lab.worker", "speed", str(threads)],
                              cwd=PROJECT, env=worker_environment(), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=PATIENCE)
        told = json.loads(done.stdout.strip().splitlines()[-1])
        Speed.from_dict(told)
        return told
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError):
        return None


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def in_words(told: Forecast) -> str:
    """One sentence for a terminal and for the page."""
    length = "" if told.known else (f", if its answers have about {told.tokens:.0f} tokens; a "
                                    "preflight measures them")
    return f"About {duration(told.step)} a step, {duration(told.run)} for the run{length}."
