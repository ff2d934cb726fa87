"""Starts, supervises, pauses, stops and resumes training workers; one run at a time."""

import contextlib
import math
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
from filelock import FileLock, Timeout

from lab.core import checks, events, experience, lock
from lab.core.adapters import adapter_from, newest_sound
from lab.core.files import write_json
from lab.core.hardware import engines
from lab.core.hardware.allocator import keep_freed_memory
from lab.core.hardware.cures import Cure, cures
from lab.core.hardware.machine import Machine
from lab.core.hardware.memory import decided, estimate
from lab.core.problems import BadData, BadSettings, LabError, Problem, RunError
from lab.core.schedule import planned_anew
from lab.core.settings import CPU, Settings
from lab.services import begin, machine, own_rewards, preflight_record, trackers
from lab.services.data import lengths
from lab.services.data import load as datasets
from lab.services.environment import worker_environment
from lab.services.export.state import exports_of
from lab.services.models import look_at, model_folder, model_problems
from lab.services.processes import birth, family
from lab.services.run_log import RunLog
from lab.services.run_record import from_the_one_that_worked, record
from lab.services.runs import Run, Runs, read_record
from lab.services.settled import settled
from lab.services.starting import Started, start_worker
from lab.services.trash import Deleted, Trash
from lab.services.workers import NOW, is_worked_on, was_killed, wordless_end, worker_of
from lab.services.workspace import RunFolder, Workspace

# Changes of memory and place alone: the same answers are learnt from in the same way.
SAME_LEARNING = {"train.answers_at_once", "lora.gradient_checkpointing",
                 "hardware.gpu_memory_utilization"}
OFFERED = 3  # cures that are offered after a lack of memory
LESS = 0.9  # of the estimate of what ran out of memory: what a cure must stay below
ONE_AT_A_TIME = "One run at a time uses this machine."
LOOK_EVERY = 0.2  # seconds between two looks at a lock
OF_ITS_START = (own_rewards.KEPT, "begin", "mapping")  # of a record: a resume keeps them
NEEDED_GB = 0.2  # of disk before a start: a few checkpoints of a small adapter


class Busy(RunError):
    """Another run has the machine, or is just about to."""


class Jobs:
    """The runs of one workspace as work: start, pause, stop, resume, follow."""

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
        refuse(settings, facts, self.workspace)
        settings = settled(settings, self.workspace)
        with self._only_one():
            say("Loading the data")
            split = datasets.load(settings.data, settings.train.seed)
            if len(split.train) < settings.train.prompts_per_step:
                raise BadData("There are fewer rows than questions per step.",
                              f"{len(split.train)} rows, {settings.train.prompts_per_step} "
                              "questions a step.",
                              "Use more rows or lower 'Questions per step'.",
                              field="train.prompts_per_step")
            refuse_missing_columns(settings, split.train)
            own_rewards.refuse_broken(settings)
            folder = self.workspace.new_run(name)
            try:
                datasets.write_split(split, folder.path)
                settings, kept = own_rewards.keep(settings, folder)
                if settings.lora.begin_from:
                    kept["begin"] = begin.keep(begin.find(settings.lora.begin_from,
                                                          self.workspace), folder)
                new = record(settings, facts, name, split.notes, folder, self.workspace.caches)
                new["engine_notes"] += begin.in_words(kept, settings.train.beta)
                write_json(folder.settings, new | kept | {"mapping": split.mapping.to_dict()}
                       | {"preflight": preflight_record.for_run(self.workspace, settings)})
            except BaseException as error:
                shutil.rmtree(folder.path, ignore_errors=True)
                if isinstance(error, UnicodeError):
                    raise BadSettings("A setting or the run's name is no text.", f"{error}.",
                                      "Write it anew, in UTF-8.") from error
                if isinstance(error, OSError):
                    raise RunError("The run's folder could not be written.",
                                   f"{error.strerror or error}.", "Free some space or give another "
                                   "root with --root.") from error
                raise
            say("Starting the worker")
            self._launch(folder)
        return folder

    def ask(self, run_id: str, question: str, seed: int = 0) -> str:
        """Ask a run that trains: its worker answers at the end of the step, with and without the
        adapter. Returns the name under which the `answered` event comes. Raises RunError."""
        folder = self.workspace.run(run_id)
        if not question.strip():
            raise RunError("There is no question.", next="Type one.")
        if not is_worked_on(folder):
            raise RunError(f"Run {run_id} is not training.", "Only its worker could answer.",
                           "Ask it under Compare.")
        folder.asks.mkdir(exist_ok=True)
        name = f"{time.time_ns()}"
        write_json(folder.asks / f"{name}.json", {"question": question.strip(), "seed": seed})
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
        had = decided(shape, run.settings, engine, there)  # what was left to the lab, as it was
        needed = estimate(shape, had, engine, there).total_gb
        return cures(shape, had, engine, min(there, LESS * needed))[:OFFERED]

    def start_again(self, run_id: str, changes: dict[str, Any]) -> RunFolder:
        """Go on with these settings changed: from the newest checkpoint where the changes leave
        the learning as it is, else in a new run. Raises a LabError."""
        run = self.runs.get(run_id)
        if run.settings is None:
            raise RunError(run.problem.what, run.problem.why, run.problem.next)
        if run.folder.checkpoints() and set(changes) <= SAME_LEARNING:
            return self.resume(run_id, changes=changes)
        return self.start(run.settings.with_values(changes),
                          run.label.name or run.record.get("name", ""))

    def resume(self, run_id: str, steps: int | None = None,
               changes: dict[str, Any] | None = None) -> RunFolder:
        """Go on from the newest sound checkpoint, up to `steps` in all; where the run died before
        its first, from its start with the same data. Raises RunError.

        `changes` are settings that do not change what is learnt, such as `answers_at_once`.
        """
        folder = self.workspace.run(run_id)
        run = self.runs.get(run_id)
        if run.settings is None:
            raise RunError(run.problem.what, run.problem.why, run.problem.next)
        if run.is_active:
            raise RunError(f"Run {run_id} is still running.", next="There is nothing to resume.")
        saved, damaged = newest_sound(folder.path)
        if not saved and not run.begins_again:
            raise RunError(f"Run {run_id} has no checkpoint to resume from.",
                           " ".join(damaged.values())
                           or "None was saved.",
                           "Start a new run with the same settings.")
        settings = run.settings.with_values(changes or {})
        if steps is not None:
            settings = settings.with_values({"train.max_steps": steps})
        if run.can_go_on and saved == settings.train.max_steps == run.settings.train.max_steps:
            return self._complete(run, saved)
        if settings.train.max_steps <= saved:
            raise RunError(f"Run {run_id} has done its {saved} steps.",
                           next=f"To go on, ask for more steps than {saved}.")
        facts = machine.look(self.workspace.root)
        # What it began with is in its checkpoints, and where that came from may be gone.
        refuse(settings.with_values({begin.FIELD: ""}), facts)
        own_rewards.refuse_to_score(run)
        with self._only_one():
            old = read_record(folder)
            new = record(settings, facts, old.get("name", ""), old.get("notes", []), folder,
                         self.workspace.caches)
            new |= {key: old[key] for key in OF_ITS_START if key in old}
            if not saved:
                new["engine_notes"] += begin.in_words(old, settings.train.beta)
            was = run.settings.train
            if told := planned_anew(was, settings.train, saved):
                new["engine_notes"].append(told)
            if settings.train.max_steps != was.max_steps:
                new["planned"] = [*old.get("planned", []), {"from": saved, "steps": was.max_steps}]
            elif "planned" in old:
                new["planned"] = old["planned"]
            new |= {"created": old.get("created", time.time()), "preflight": old.get("preflight"),
                    "plans": from_the_one_that_worked(new["plans"], self.runs.log(run_id))}
            write_json(folder.settings, new)
            self._launch(folder)
        return folder

    def _complete(self, run: Run, step: int) -> RunFolder:
        """End a run whose worker died between its last checkpoint and its last word: nothing is
        left to train. Raises RunError."""
        folder = run.folder
        held = lock.hold(folder.lock)
        if held is None:
            raise RunError(f"Run {run.id} is at work.", next="Wait for its end.")
        try:
            with held:
                adapter_from(folder.checkpoint(step), folder.adapter, step)
                writer = events.EventWriter(folder.events)
                writer(events.Finished(step, round(run.seconds, 1)))
                writer.close()
        except OSError as error:
            raise RunError("The run's adapter could not be written.",
                           f"{error.strerror or error}.", "See to that, then resume.") from error
        return folder

    def stop(self, run_id: str) -> None:
        """Ask the worker to stop after its step and save the adapter. Raises RunError."""
        folder = self.workspace.run(run_id)
        if not is_worked_on(folder):
            raise RunError(f"Run {run_id} is not running.", next="There is nothing to stop.")
        folder.control.write_text("stop\n")

    def pause(self, run_id: str) -> None:
        """Ask the worker to wait after its step, with everything in memory. Raises RunError."""
        folder = self.workspace.run(run_id)
        if not is_worked_on(folder):
            raise RunError(f"Run {run_id} is not running.", next="There is nothing to pause.")
        folder.pause.touch()

    def go_on(self, run_id: str) -> None:
        """End the pause of a run. Raises RunError where it is in none."""
        folder = self.workspace.run(run_id)
        if not is_worked_on(folder):
            raise RunError(f"Run {run_id} is not running.", "Nobody waits to go on with it.",
                           "Resume it from its last checkpoint.")
        if not folder.pause.exists():
            raise RunError(f"Run {run_id} is not paused.", next="There is nothing to do.")
        folder.pause.unlink(missing_ok=True)

    def kill(self, run_id: str) -> None:
        """End the worker at once. What was logged stays; the newest checkpoint can be resumed.

        It has ended when this returns: the system takes a while to give back the memory of a large
        process, which could not be followed by another run before. Raises RunError where it is out
        of reach.
        """
        folder = self.workspace.run(run_id)
        process = worker_of(folder)
        if process is not None:
            folder.control.write_text(f"{NOW}\n")
            # The worker first: it would start the next engine when one ends. It may end by itself
            # at any moment, and its children with it.
            for child in [process, *family(process.pid)]:
                with contextlib.suppress(psutil.Error):
                    child.kill()
            end = time.monotonic() + lock.PATIENCE
            while is_worked_on(folder) and time.monotonic() < end:
                time.sleep(lock.PAUSE)
        elif lock.is_held(folder.lock):
            raise RunError(f"The worker of run {run_id} cannot be ended from here.",
                           "Another machine or container has started it.",
                           "Let it stop after its step, or end it there.")

    def delete(self, run_id: str) -> Deleted:
        """Take a run out of every list; for some days it can be brought back (services/trash.py).
        Raises RunError while its worker lives, or where its folder cannot be moved."""
        folder = self.workspace.run(run_id)
        if is_worked_on(folder):
            raise RunError(f"Run {run_id} is running.", next="Stop it first.")
        if any(one.is_active for one in exports_of(folder)):
            raise RunError(f"Run {run_id} is being exported.",
                           next="Cancel the export, or wait for its end.")
        # In one move: who still has a last word to write finds no folder for it.
        try:
            return Trash(self.workspace).put(folder)
        except OSError as error:
            raise RunError("The run could not be deleted.", f"{error.strerror or error}.",
                           "Look whether another program uses its folder.") from error

    def wait(self, run_id: str, timeout: float | None = None) -> Run:
        """Block until the worker has ended (it may belong to another process)."""
        folder = self.workspace.run(run_id)
        end = math.inf if timeout is None else time.monotonic() + timeout
        if (process := worker_of(folder)) is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.wait(timeout)
        if thread := self.watched.get(run_id):
            thread.join(timeout)
        while lock.is_held(folder.lock) and time.monotonic() < end:
            time.sleep(LOOK_EVERY)  # it is no process of this machine
        return self.runs.get(run_id)

    @contextlib.contextmanager
    def _only_one(self):
        """Raise Busy while a run is active; a lock keeps two starts at once apart."""
        lock = FileLock(self.workspace.root / ".start.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise Busy("Another run is just being started.",
                       next="Wait a moment, then look at the Train tab.") from None
        except OSError as error:
            raise RunError(f"The folder {self.workspace.root} cannot be written.",
                           f"{error.strerror or error}.",
                           "Give another one with --root or GRPO_LAB_HOME.") from error
        try:
            if run := self.runs.active():
                if run.is_paused:
                    raise Busy(f"Run {run.id} is paused at step {run.step} of {run.steps} and "
                               "keeps its memory.", ONE_AT_A_TIME, "Stop it, which saves it, or "
                               "let it go on to its end; then start again.")
                raise Busy(f"Run {run.id} is still training (step {run.step} of {run.steps}).",
                           ONE_AT_A_TIME, "Stop it or wait for its end, then start again.")
            yield
        finally:
            lock.release()

    def _launch(self, folder: RunFolder) -> None:
        on_cpu = read_record(folder)["plans"][0]["engine"] == CPU
        if not on_cpu:
            self.free_gpu()
        folder.control.unlink(missing_ok=True)
        folder.pause.unlink(missing_ok=True)
        said = folder.events.stat().st_size if folder.events.exists() else 0
        memory = keep_freed_memory() if on_cpu else {}
        with folder.log.open("ab") as log:
            process = start_worker(
                ["train", str(folder.path)], memory | worker_environment(), session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, anew=not on_cpu)
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):  # ended at once
            write_json(folder.process,
                       {"pid": process.pid, "began": birth(process.pid), "said": said})
        watcher = threading.Thread(target=supervise, args=(folder, process, said), daemon=True,
                                   name=f"supervisor {folder.id}")
        self.watched[folder.id] = watcher
        watcher.start()


def supervise(folder: RunFolder, process: Started, said: int) -> None:
    """Wait for a worker's end; if it said no last word, write down for it what is known.

    `said` is how long events.jsonl was before it: a resumed run has an older last word.
    """
    code = process.wait()
    if code == lock.OCCUPIED or not folder.settings.exists():
        return  # another worker has the word, or the run is being deleted
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


def speaks_against(settings: Settings, facts: Machine,
                   workspace: Workspace | None = None) -> list[Problem]:
    """Every problem of these settings on this machine, the model's own too, errors first."""
    found = [*checks.problems_of(settings, facts), *lengths.problems_of(settings)]
    if any(p.field.startswith("model.") and p.level == "error" for p in found):
        return found
    try:
        model_folder(settings)
        found += model_problems(settings, facts)
        found += begin.problems(settings, workspace)
        found += trackers.problems(settings)
        found += experience.warnings(settings, facts, look_at(settings.model.name).parameters)
    except LabError as error:
        found.append(error.problem)
    return sorted(found, key=lambda p: p.level != "error")


def refuse(settings: Settings, facts: Machine, workspace: Workspace | None = None) -> None:
    """Raise BadSettings with every error of these settings on this machine."""
    wrong = [p for p in checks.in_short(speaks_against(settings, facts, workspace))
             if p.level == "error"]
    if wrong:
        first = wrong[0]
        more = " ".join(str(p) for p in wrong[1:])
        raise BadSettings(first.what, first.why, f"{first.next} {more}".strip(), first.field)
    if facts.free_disk_gb < NEEDED_GB:
        raise RunError("The disk is full.", f"{facts.free_disk_gb} GB are free where runs are "
                       "kept.", "Free some space, or give another root with --root.")


def refuse_missing_columns(settings: Settings, rows: list[dict]) -> None:
    """Raise BadData where a chosen reward asks for a column that the rows do not have: it would
    fail on each answer."""
    for chosen in settings.rewards.chosen:
        missing = [name for name in chosen.reward.columns if name not in rows[0]]
        if missing:
            raise BadData(f"The reward '{chosen.name}' needs the column '{missing[0]}'.",
                          f"The rows have: {', '.join(rows[0])}.", "Choose other columns under "
                          "Data, or switch it off.", field="rewards.chosen")
