"""Starts, supervises, stops and resumes training workers; one run at a time."""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from lab.core import checks, engines, events
from lab.core.cures import Cure, cures
from lab.core.machine import Choice, Machine
from lab.core.memory import estimate
from lab.core.problems import BadData, BadSettings, LabError, Problem, RunError
from lab.core.settings import CPU, Settings
from lab.services import datasets, machine
from lab.services.models import look_at, model_folder, model_problems
from lab.services.processes import family
from lab.services.runs import (
    NOW,
    Run,
    RunLog,
    Runs,
    read_record,
    was_killed,
    wordless_end,
    worker_of,
)
from lab.services.workspace import PROJECT, RunFolder, Workspace

QUIET = {  # no pings, no network for what is here, no progress bars in logs
    "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1",
}
# Changes of memory and place alone: the same answers are learnt from in the same way.
SAME_LEARNING = {"train.answers_at_once", "lora.gradient_checkpointing",
                 "hardware.gpu_memory_utilization"}
OFFERED = 3  # cures that are offered after a lack of memory
LESS = 0.9  # of the estimate of what ran out of memory: what a cure must stay below
NEEDED_GB = 0.2  # of disk before a start: a few checkpoints of a small adapter


class Jobs:
    """The runs of one workspace as work: start, stop, resume, follow."""

    def __init__(self, workspace: Workspace, free_gpu: Callable[[], None] = lambda: None) -> None:
        """`free_gpu` is called before a run takes a GPU: what else of the lab holds its memory
        must end, for vLLM cannot start beside a process that gives memory back."""
        self.workspace = workspace
        self.free_gpu = free_gpu
        self.runs = Runs(workspace)
        self.watched: dict[str, threading.Thread] = {}

    def start(self, settings: Settings, name: str = "",
              say: Callable[[str], None] = lambda text: None) -> RunFolder:
        """Check everything, write the run's folder and start its worker.

        `say` is told what is going on. Raises a LabError, before anything is left behind.
        """
        self.workspace.make()
        facts = machine.look(self.workspace.root)
        refuse(settings, facts)
        with self._only_one():
            say("Loading the data")
            split = datasets.load(settings.data, settings.train.seed)
            if len(split.train) < settings.train.prompts_per_step:
                raise BadData("There are fewer rows than questions per step.",
                              f"{len(split.train)} rows, {settings.train.prompts_per_step} "
                              "questions a step.",
                              "Use more rows or lower 'Questions per step'.",
                              field="train.prompts_per_step")
            folder = self.workspace.new_run(name)
            try:
                datasets.write_split(split, folder.path)
                _write(folder.settings, record(settings, facts, name, split.notes, folder,
                                               self.workspace.caches))
            except OSError as error:
                raise RunError("The run's folder could not be written.",
                               f"{error.strerror or error}.",
                               "Free some space or give another root with --root.") from error
            say("Starting the worker")
            self._launch(folder)
        return folder

    def ask(self, run_id: str, question: str, seed: int = 0) -> str:
        """Ask a run that trains: its worker answers at the end of the step, with and without the
        adapter. Returns the name under which the `answered` event comes. Raises RunError."""
        folder = self.workspace.run(run_id)
        if not question.strip():
            raise RunError("There is no question.", next="Type one.")
        if worker_of(folder) is None:
            raise RunError(f"Run {run_id} is not training.", "Only its worker could answer.",
                           "Ask it under Compare.")
        folder.asks.mkdir(exist_ok=True)
        name = f"{time.time_ns()}"
        _write(folder.asks / f"{name}.json", {"question": question.strip(), "seed": seed})
        return name

    def offers(self, run_id: str) -> list[Cure]:
        """Changes with which a run that ran out of memory would fit, those that cost least first.

        Where the estimate said that it fits, the estimate was wrong: it is taken to be as much
        too low as it must be.
        """
        run = self.runs.get(run_id)
        if run.problem is None or run.problem.kind != "out_of_memory" or run.settings is None:
            return []
        try:
            shape = look_at(run.settings.model.name).shape
        except LabError:
            return []
        if shape is None:
            return []
        facts = machine.look(self.workspace.root)
        engine = (self.runs.log(run_id).engine
                  or engines.choose_engines(run.settings, facts).first.value)
        there = facts.gpus[0].memory_gb if engine != CPU else facts.memory_gb
        needed = estimate(shape, run.settings, engine, there).total_gb
        return cures(shape, run.settings, engine, min(there, LESS * needed))[:OFFERED]

    def start_again(self, run_id: str, changes: dict[str, Any]) -> RunFolder:
        """Go on with these settings changed: from the newest checkpoint where the changes leave
        the learning as it is, else in a new run. Raises a LabError."""
        run = self.runs.get(run_id)
        if run.settings is None:
            raise RunError(run.problem.what, run.problem.why, run.problem.next)
        if run.folder.checkpoints() and set(changes) <= SAME_LEARNING:
            return self.resume(run_id, changes=changes)
        name = str(read_record(run.folder).get("name", ""))
        return self.start(run.settings.with_values(changes), name)

    def resume(self, run_id: str, steps: int | None = None,
               changes: dict[str, Any] | None = None) -> RunFolder:
        """Go on from the newest checkpoint, up to `steps` in all. Raises RunError.

        `changes` are settings that do not change what is learnt, such as `answers_at_once`.
        """
        folder = self.workspace.run(run_id)
        run = self.runs.get(run_id)
        if run.settings is None:
            raise RunError(run.problem.what, run.problem.why, run.problem.next)
        if run.is_active:
            raise RunError(f"Run {run_id} is still running.", next="There is nothing to resume.")
        saved = folder.checkpoints()
        if not saved:
            raise RunError(f"Run {run_id} has no checkpoint to resume from.",
                           "It ended before the first one was saved.",
                           "Start a new run with the same settings.")
        settings = run.settings.with_values(changes or {})
        if steps is not None:
            settings = settings.with_values({"train.max_steps": steps})
        if settings.train.max_steps <= saved[-1]:
            raise RunError(f"Run {run_id} has done its {saved[-1]} steps.",
                           next=f"To go on, ask for more steps than {saved[-1]}.")
        facts = machine.look(self.workspace.root)
        refuse(settings, facts)
        with self._only_one():
            old = read_record(folder)
            new = record(settings, facts, old.get("name", ""), old.get("notes", []), folder,
                         self.workspace.caches)
            new |= {"created": old.get("created", time.time()),
                    "plans": _from_the_one_that_worked(new["plans"], self.runs.log(run_id))}
            _write(folder.settings, new)
            self._launch(folder)
        return folder

    def stop(self, run_id: str) -> None:
        """Ask the worker to stop after its step and save the adapter. Raises RunError."""
        folder = self.workspace.run(run_id)
        if worker_of(folder) is None:
            raise RunError(f"Run {run_id} is not running.", next="There is nothing to stop.")
        folder.control.write_text("stop\n")

    def kill(self, run_id: str) -> None:
        """End the worker at once. What was logged stays; the newest checkpoint can be resumed."""
        folder = self.workspace.run(run_id)
        process = worker_of(folder)
        if process is not None:
            folder.control.write_text(f"{NOW}\n")
            # The worker first: it would start the next engine when one ends. It may end by itself
            # at any moment, and its children with it.
            for child in [process, *family(process.pid)]:
                with contextlib.suppress(psutil.Error):
                    child.kill()

    def delete(self, run_id: str) -> None:
        """Delete a run's folder. Raises RunError while its worker lives."""
        folder = self.workspace.run(run_id)
        if worker_of(folder) is not None:
            raise RunError(f"Run {run_id} is running.", next="Stop it first.")
        # Out of sight in one move: who still has a last word to write finds no folder for it, and
        # does not put a file into one that is being emptied.
        gone = folder.path.with_name(f".deleted-{folder.id}")
        folder.path.rename(gone)
        shutil.rmtree(gone)

    def wait(self, run_id: str, timeout: float | None = None) -> Run:
        """Block until the worker has ended (it may belong to another process)."""
        process = worker_of(self.workspace.run(run_id))
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.wait(timeout)
        if thread := self.watched.get(run_id):
            thread.join(timeout)
        return self.runs.get(run_id)

    @contextlib.contextmanager
    def _only_one(self):
        """Refuse while a run is active; a lock keeps two starts at once apart."""
        lock = FileLock(self.workspace.root / ".start.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError("Another run is just being started.",
                           next="Wait a moment, then look at the Train tab.") from None
        except OSError as error:
            raise RunError(f"The folder {self.workspace.root} cannot be written.",
                           f"{error.strerror or error}.",
                           "Give another one with --root or GRPO_LAB_HOME.") from error
        try:
            if run := self.runs.active():
                raise RunError(f"Run {run.id} is still training (step {run.step} of {run.steps}).",
                               "One run at a time uses this machine.",
                               "Stop it or wait for its end, then start again.")
            yield
        finally:
            lock.release()

    def _launch(self, folder: RunFolder) -> None:
        if read_record(folder)["plans"][0]["engine"] != CPU:
            self.free_gpu()
        folder.control.unlink(missing_ok=True)
        said = folder.events.stat().st_size if folder.events.exists() else 0
        with folder.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "lab.worker", "train", str(folder.path)],
                cwd=PROJECT, env=worker_environment(), stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True)
        _write(folder.process, {"pid": process.pid, "launched": time.time(),
                                "created": psutil.Process(process.pid).create_time()})
        watcher = threading.Thread(target=supervise, args=(folder, process, said), daemon=True,
                                   name=f"supervisor {folder.id}")
        self.watched[folder.id] = watcher
        watcher.start()


def supervise(folder: RunFolder, process: subprocess.Popen, said: int) -> None:
    """Wait for a worker's end; if it said no last word, write down for it what is known.

    `said` is how long events.jsonl was before it: a resumed run has an older last word.
    """
    code = process.wait()
    if not folder.path.exists():
        return  # the run was deleted just now
    log = RunLog(folder.events).refresh()
    spoke = folder.events.exists() and folder.events.stat().st_size > said
    if spoke and isinstance(log.last, events.LAST):
        return
    if was_killed(folder):
        last = events.Stopped(log.steps[-1] if log.steps else 0)
    else:
        last = last_word_of(folder, log, code)
    with contextlib.suppress(OSError):
        writer = events.EventWriter(folder.events)
        writer(last)
        writer.close()


def last_word_of(folder: RunFolder, log: RunLog, code: int) -> events.Failed:
    """What is known of a worker that ended with this exit status and no last word."""
    problem = wordless_end(folder)
    why = (f"It was ended by signal {-code}, perhaps for lack of memory."
           if code < 0 else problem.why)
    return events.Failed(log.steps[-1] if log.steps else 0, problem.what, why, problem.next)


def speaks_against(settings: Settings, facts: Machine) -> list[Problem]:
    """Every problem of these settings on this machine, the model's own too, errors first."""
    found = checks.problems_of(settings, facts)
    if any(p.field.startswith("model.") and p.level == "error" for p in found):
        return found
    try:
        model_folder(settings)
        found += model_problems(settings, facts)
    except LabError as error:
        found.append(error.problem)
    return sorted(found, key=lambda p: p.level != "error")


def refuse(settings: Settings, facts: Machine) -> None:
    """Raise BadSettings with every error of these settings on this machine."""
    wrong = [p for p in speaks_against(settings, facts) if p.level == "error"]
    if wrong:
        first = wrong[0]
        more = " ".join(str(p) for p in wrong[1:])
        raise BadSettings(first.what, first.why, f"{first.next} {more}".strip(), first.field)
    if facts.free_disk_gb < NEEDED_GB:
        raise RunError("The disk is full.", f"{facts.free_disk_gb} GB are free where runs are "
                       "kept.", "Free some space, or give another root with --root.")


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


def _from_the_one_that_worked(plans: list[dict], log: RunLog) -> list[dict]:
    """The attempts from the engine on that has trained this run: those before could not."""
    place = next((i for i, plan in enumerate(plans) if plan["engine"] == log.engine), 0)
    return plans[place:]


def _plan(choice: Choice, settings: Settings, facts: Machine, folder: RunFolder,
          caches: Path) -> dict:
    """One engine as the worker starts it; without a command it trains in the worker itself."""
    plan = engines.plan_of(choice, settings)
    alone = choice.value == CPU and settings.hardware.processes() == 1
    return {
        "engine": plan.engine, "title": engines.TITLES[plan.engine], "plan": asdict(plan),
        "command": [] if alone else engines.launch_command(
            sys.executable, str(folder.path), settings, plan),
        "env": engines.environment(settings, plan, caches, facts.packages,
                                   os.environ.get("CUDA_VISIBLE_DEVICES")),
    }


def answering_environment(settings: Settings, plan: engines.Plan, facts: Machine,
                          caches: Path) -> dict[str, str]:
    """The environment of a worker that answers with this plan's engine."""
    return worker_environment() | engines.environment(
        settings, plan, caches, facts.packages, os.environ.get("CUDA_VISIBLE_DEVICES"))


def worker_environment() -> dict[str, str]:
    """Our environment plus what keeps the libraries quiet; never anything taken away."""
    path = os.pathsep.join(p for p in (str(PROJECT), os.environ.get("PYTHONPATH")) if p)
    return {**os.environ, **QUIET, "PYTHONPATH": path}


def _write(path: Path, body: dict) -> None:
    """Replace a JSON file in one move, so that no reader ever sees half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(body, indent=1, ensure_ascii=False), encoding="utf-8")
    draft.replace(path)
