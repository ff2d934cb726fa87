"""One answering worker for the app: streams answers, shows exact prompts, proves adapters live."""

import contextlib
import itertools
import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.core import asked
from lab.core.hardware import engines
from lab.core.problems import PASSING, BadModel, LabError, Problem, WorkFailed, explained_by_log
from lab.core.settings import CPU, TRL_VLLM, Sampling, Settings
from lab.services import machine, processes
from lab.services.environment import answering_environment
from lab.services.models import longest_of, model_folder
from lab.services.starting import Started, start_worker
from lab.services.workers import log_tail, trains_now
from lab.services.workspace import Workspace

LONGEST = 4096  # tokens of a conversation that an engine is started for, where the model can


@dataclass(frozen=True)
class Side:
    """One pane: a conversation, answered with an adapter or (None) by the base model."""

    messages: list[dict]
    adapter: str | None = None


@dataclass(frozen=True)
class Update:
    """The text of one side so far. `tokens` counts the answer's; `cut`: it hit the limit."""

    side: int
    text: str
    done: bool = False
    tokens: int = 0
    cut: bool = False


class Pace:
    """Tokens a second of one side, between the first that was heard of it and the last: what came
    before it, loading and the prompt, is no pace."""

    def __init__(self) -> None:
        self.first: tuple[float, int] | None = None
        self.rate: float | None = None  # None while nothing tells

    def hear(self, update: Update) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = now, update.tokens
            return
        if now > self.first[0] and update.tokens > self.first[1]:
            self.rate = (update.tokens - self.first[1]) / (now - self.first[0])


@dataclass(frozen=True)
class Rendered:
    """The exact text that the model sees for one conversation, and its length in tokens."""

    text: str
    tokens: int


class Chat:
    """Owns the chat worker, a child process that is started when first needed.

    One request is answered at a time; a second caller waits, until its `stop` is set. A worker that
    is silent for too long (lab/core/asked.py), or goes on after a stop, is ended: nothing that a
    model brings along may hold the page. All methods raise a LabError with what to do. The worker
    loads a base model once and switches adapters.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._process: Started | None = None
        self._plan = engines.Plan("", "")
        self._replies: queue.Queue = queue.Queue()
        self._log = workspace.root / "chat.log"
        self._one_at_a_time = threading.Lock()
        self._is_ready = False
        self._numbers = itertools.count(1)

    def stream(self, settings: Settings, sides: Sequence[Side], sampling: Sampling, seed: int,
               stop: threading.Event, say: Callable[[str], None] = lambda text: None
               ) -> Iterator[Update]:
        """Answer all sides together, token by token, each with the same seed and sampling.

        Yields an Update whenever a side has new text, and a last one (done) for each side. Set
        `stop` to end early: sides that were still going get their last Update as they are. `say`
        is told what is going on before the first token.
        """
        request = {"ask": "stream", "sides": [asdict(side) for side in sides],
                   "sampling": asdict(sampling), "seed": seed}
        for reply in self._ask(settings, request, stop, say):
            yield Update(reply["side"], reply["text"], reply["done"], reply["tokens"],
                         reply["cut"])

    def render(self, settings: Settings, conversations: Sequence[list[dict]]) -> list[Rendered]:
        """The exact prompts, as training renders them, with their lengths."""
        reply = self._one(settings, {"ask": "render", "conversations": list(conversations)})
        return [Rendered(**item) for item in reply["rendered"]]

    def adapter_effect(self, settings: Settings, adapter: Path, messages: list[dict]) -> float:
        """Largest change that the adapter makes to any next-token logit after this prompt.

        With vLLM: to the log-probability of any likely next token.
        """
        reply = self._one(settings, {"ask": "effect", "adapter": str(adapter),
                                     "messages": messages})
        return reply["largest"]

    def close(self) -> None:
        """End the worker; its memory, the GPU's too, is free when this returns."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
            processes.end(process, patience=10)

    def _one(self, settings: Settings, request: dict) -> dict:
        return list(self._ask(settings, request, threading.Event(), lambda text: None))[-1]

    def _ask(self, settings: Settings, request: dict, stop: threading.Event,
             say: Callable[[str], None]) -> Iterator[dict]:
        """The replies to a request. An engine that met memory in motion is started once more."""
        try:
            yield from self._ask_once(settings, request, stop, say)
        except LabError as error:
            if not error.problem.is_passing:
                raise
            say(f"{error.problem.what} It is tried once more.")
            self.close()
            yield from self._ask_once(settings, request, stop, say)

    def _ask_once(self, settings: Settings, request: dict, stop: threading.Event,
                  say: Callable[[str], None]) -> Iterator[dict]:
        """Send one request and yield its replies; the one with "last" ends it."""
        request = {"model": model_folder(settings), "in_4bit": settings.model.load_in_4bit,
                   "template_arguments": settings.model.chat_template_kwargs,
                   "threads": settings.hardware.threads,
                   "beside_training": trains_now(self.workspace), **request}
        if not self._my_turn(stop):
            return
        try:
            yield from self._answers(settings, request, stop, say)
        finally:
            self._one_at_a_time.release()

    def _my_turn(self, stop: threading.Event) -> bool:
        """Wait for the requests before; False if a person stopped this one meanwhile."""
        while not self._one_at_a_time.acquire(timeout=0.1):
            if stop.is_set():
                return False
        return True

    def _answers(self, settings: Settings, request: dict, stop: threading.Event,
                 say: Callable[[str], None]) -> Iterator[dict]:
        number = next(self._numbers)
        process = self._worker(settings, say)
        request["engine"] = engine_request(settings, self._plan)
        finished, at = False, asked.READY if self._is_ready else asked.STARTING
        try:
            self._send(process, {"number": number, **request})
            heard, told = time.monotonic(), None
            while not finished:
                if stop.is_set() and told is None:
                    self._send(process, {"number": number, "ask": "stop"})
                    told = time.monotonic()
                try:
                    reply = self._replies.get(timeout=0.05)
                except queue.Empty:
                    now = time.monotonic()
                    if told is not None and now - told > asked.STOPPED:
                        finished = True
                        self._end(process)
                        say("It did not stop by itself, so its worker was ended.")
                    elif now - heard > asked.SILENCE[at]:
                        finished = True
                        self._end(process)
                        raise _too_long(at) from None
                    continue
                heard = time.monotonic()
                if reply is None:
                    self._process = None
                    finished = True
                    raise WorkFailed("The answering worker ended.",
                                     f"Its exit status was {process.wait()}.",
                                     "Ask again: it is started anew.")
                if "at" in reply:
                    self._is_ready = True
                    # What it says of an earlier request is no word of this one.
                    at = reply["at"] if reply["number"] == number else asked.READY
                    continue
                if reply["number"] != number:
                    continue
                finished = reply.get("last", False)
                if "problem" in reply:
                    problem = explained_by_log(Problem(**reply["problem"]), log_tail(self._log))
                    raise BadModel(problem.what, problem.why, problem.next, kind=problem.kind)
                if "status" in reply:
                    say(reply["status"])
                elif "working" not in reply:
                    yield reply
        finally:
            if not finished:  # the reader went away: do not let the worker go on for nobody
                with contextlib.suppress(OSError, WorkFailed):
                    self._send(process, {"number": number, "ask": "stop"})

    def _end(self, process: Started) -> None:
        """End a worker that does not listen."""
        if self._process is process:
            self._process = None
        processes.end(process, patience=0)

    def _send(self, process: Started, body: dict) -> None:
        try:
            process.stdin.write(json.dumps(body).encode() + b"\n")
            process.stdin.flush()
        except OSError as error:
            self._process = None
            raise WorkFailed("The answering worker ended.", str(error),
                             "Ask again: it is started anew.") from error

    def _worker(self, settings: Settings, say: Callable[[str], None]) -> Started:
        """The worker that answers these settings. Its share of the GPU is settled at its start:
        later, what it holds itself would count as in use by others."""
        facts = machine.look(self.workspace.root)
        plan = engines.plan_to_answer(settings, facts)
        if self._process is not None and self._process.poll() is None:
            if self._plan.engine == plan.engine:
                return self._process
            self.close()
        for note in plan.notes:
            say(note)
        self.workspace.make()
        self._replies, self._is_ready = queue.Queue(), False
        environment = answering_environment(settings, plan, facts, self.workspace.caches)
        with self._log.open("ab") as log:
            process = start_worker(
                ["chat", plan.engine], environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, anew=plan.engine != CPU)
        threading.Thread(target=_pump, args=(process, self._replies), daemon=True,
                         name="chat replies").start()
        self._process, self._plan = process, plan
        return process


def _too_long(at: str) -> WorkFailed:
    """What is said of a worker that was silent for too long."""
    waited = f"Nothing was heard of it for {asked.SILENCE[at]:.0f} seconds."
    return WorkFailed("The answering worker was ended.", f"{asked.DOING[at]} {waited}",
                      "Ask again, or choose another model.",
                      kind=PASSING if at == asked.READY else "")


def engine_request(settings: Settings, plan: engines.Plan) -> dict | None:
    """What a worker starts vLLM with; None where it answers without."""
    if plan.engine != TRL_VLLM:
        return None
    longest = max(settings.model.max_seq_length, LONGEST)
    return {"share": plan.share, "cuda_graphs": plan.cuda_graphs != "off",
            "rank": settings.lora.rank,
            "max_model_len": min(longest, longest_of(settings) or longest)}


def _pump(process: Started, replies: queue.Queue) -> None:
    """Move the worker's lines into the queue; None marks its end."""
    for line in process.stdout:
        with contextlib.suppress(ValueError):
            replies.put(json.loads(line))
    replies.put(None)
