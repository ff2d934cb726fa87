"""Answers held-out questions while a run trains, greedily, between two steps, with its engine."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lab.backends import wording
from lab.backends.engines.base import Engine
from lab.backends.generate import Drawing
from lab.core import events
from lab.core.adapters import BEGIN
from lab.core.insight import held_out
from lab.core.problems import explain
from lab.core.prompts import prompt_of
from lab.core.rewards.scoring import score_all
from lab.core.settings import Settings


@dataclass(frozen=True)
class Outcome:
    """What an evaluation asks of the trainer: to keep a checkpoint of this step; to stop."""

    keep: bool = False
    stop: bool = False


class Evaluating:
    """Called at the end of a step (and with 0 before the first), says `held_out` when it is due.

    The trainer's own engine and weights answer, in its own thread. Greedy answers draw nothing at
    random, so that a run learns the same with it and without. Only the first process answers; the
    others get an empty outcome and wait where the trainer has them meet.

    `rows` are those kept aside: the last ones are taken, while `lab eval` takes the first.
    `said` are the evaluations before this stretch of the run, which started at `resumed_from`.
    """

    def __init__(self, folder: Path, engine: Engine, settings: Settings, rows: list[dict], say,
                 resumed_from: int = 0, wants_stop=lambda: False) -> None:
        self.engine, self.settings, self.say, self.wants_stop = engine, settings, say, wants_stop
        self.said = held_out.told_before(folder / "events.jsonl", resumed_from)
        self.resumed_from = resumed_from
        self.first = ("adapter that it begins with" if (folder / BEGIN).is_dir()
                      else "base model")  # who answers before the first step
        self.reason = ""  # why the run is to end itself
        self.rows = rows[-self.questions(len(rows)):] if self.is_on(rows) else []
        self.prompts = [self.tokens(row) for row in self.rows]
        self.seconds: float | None = None  # that the newest evaluation took
        self.since = time.perf_counter()

    def is_on(self, rows: list[dict]) -> bool:
        """Whether there is something to do; says why not, as a warning where it was asked for."""
        train = self.settings.train
        if not train.evaluates:
            return False
        if not self.engine.whole:
            self.tell("The base model is cut in parts over several GPUs: held-out questions are "
                      "not answered while it trains.")
            return False
        if not rows:
            self.tell("No question is held out, so none is answered while it trains.")
            return False
        if not self.questions(len(rows)):
            self.tell("The run is too short for held-out questions: answering enough of them "
                      f"would take more than {train.eval_share:.0%} of it. Set 'Evaluate every' "
                      "to have them answered all the same.")
            return False
        return True

    def questions(self, there: int) -> int:
        """How many of the held-out rows are asked."""
        train = self.settings.train
        wanted = min(train.eval_questions or there, there)
        if train.eval_steps:
            return wanted
        return min(wanted, held_out.bearable_questions(train))

    def tell(self, text: str) -> None:
        train = self.settings.train
        level = "warning" if train.eval_steps or train.stop_at or train.patience else "info"
        self.say(events.Notice(level, text))

    def tokens(self, row: dict) -> list[int]:
        tokenizer = self.engine.tokenizer
        return wording.to_tokens(tokenizer, wording.render(
            tokenizer, prompt_of(row, self.settings.data.system_prompt)))

    def __call__(self, step: int) -> Outcome:
        if not self.rows or not self.engine.trainer.is_world_process_zero():
            return Outcome()
        outcome = Outcome()
        if self.is_due(step) and not self.wants_stop():
            begun = time.perf_counter()
            try:
                outcome = self.evaluate(step)
            except Exception as error:  # what only watches must not cost the run
                self.rows = []
                self.say(events.Notice(
                    "warning", f"Held-out questions could not be answered at step {step}, and "
                    f"are not asked again: {explain(error)}"))
            self.since = time.perf_counter()
            self.seconds = self.since - begun
        return outcome

    def is_due(self, step: int) -> bool:
        train = self.settings.train
        if step in self.said:
            return False
        if step in (0, train.max_steps):
            return True
        if train.eval_steps:
            return step % train.eval_steps == 0
        trained = time.perf_counter() - self.since
        return (step % held_out.grid(train.max_steps) == 0
                and (self.seconds is None or self.seconds <= train.eval_share * trained))

    def evaluate(self, step: int) -> Outcome:
        engine, chosen = self.engine, self.settings.rewards.chosen
        drawing = Drawing(self.settings.train.max_completion_length, temperature=0.0)
        if step == 0:
            self.say(events.Phase(f"The {self.first} answers {len(self.rows)} held-out questions"))
        size, answers = engine.at_once() or len(self.prompts), []
        for start in range(0, len(self.prompts), size):
            if start and self.wants_stop():
                return Outcome()
            engine.doing("answering held-out questions", start, len(self.prompts))
            answers += engine.draw(self.prompts[start:start + size], drawing)
        scored = score_all(
            [wording.to_text(engine.tokenizer, ids) for ids in answers],
            [row | {"completion_tokens": len(ids)}
             for ids, row in zip(answers, self.rows, strict=True)], chosen,
            prompts=[prompt_of(row, self.settings.data.system_prompt)
                     for row in self.rows])
        self.said[step] = held_out.metrics_of(
            scored, [len(ids) for ids in answers],
            [bool(ids) and ids[-1] not in engine.stops for ids in answers])
        self.say(events.HeldOut(step, self.said[step]))
        if step == 0 and 0 < self.settings.train.stop_at <= (self.said[0]["goal"] or 0.0):
            self.say(events.Notice("warning", f"The {self.first} is at the goal that the run is "
                                   "to stop at, before it has learnt anything: "
                                   f"{held_out.figure(self.said[0], 'goal')}."))
        self.reason = held_out.reason_to_stop(self.said, self.settings.train, self.resumed_from)
        return Outcome(keep=held_out.best_step(self.said) == step, stop=bool(self.reason))

    def best(self, among: Collection[int]) -> int | None:
        """Which of these steps did best so far."""
        return held_out.best_step(self.said, among)
