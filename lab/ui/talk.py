"""One question put to the sides of Compare: who answers, how it streams, how it is scored."""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, replace
from html import escape
from typing import Any

from lab.core.problems import BadModel, LabError, Problem, RunError, explain
from lab.core.prompts import prompt_of
from lab.core.rewards.scoring import Scored, score
from lab.core.settings import Settings
from lab.core.weights import check_sound
from lab.services import verdicts
from lab.services.against import base_of
from lab.services.chat import Pace, Side, Update
from lab.services.data.references import reference_of
from lab.services.lab import Lab
from lab.ui.compare import record, scores
from lab.ui.compare.sides import checkpoints_of as checkpoints_of
from lab.ui.compare.sides import examples_of, judge_of, opening_of, row_of, run_of
from lab.ui.compare.sides import has_adapter as has_adapter

FRAME = 0.08  # seconds between two updates of the page
PATIENCE = 5.0  # seconds that a stopped answer may still take
EFFECT, FLAW = "effect", "flaw"


class Talk:
    """One question put to all sides, on top of the turns before it."""

    def __init__(self, lab: Lab, settings: Settings, question: str, reference: str, seed: int,
                 turns: str, picked: Sequence[tuple[str, str]], example: str | None = None,
                 judge: str | None = None) -> None:
        """`picked` is (run or BASE, checkpoint) of each side. `example` is the place of the
        question among `examples_of`, where it was picked there: its row has the turns before it,
        and what the rewards look at. `judge` is the run whose rewards score, where it is not to be
        found by `judge_of`."""
        self.lab = lab
        self.question = question.strip()
        if not self.question:
            raise RunError("There is no question.", next="Type one, or pick an example.")
        self.sampling, self.seed = settings.sampling, seed
        self.count = len(picked)
        self.before = record.read(turns, self.count)
        if self.before and self.before[-1]["question"] == self.question:
            self.before.pop()  # asked again
        self.runs = [run_of(lab, who) for who, _ in picked]
        self.run = run_of(lab, judge) or judge_of(lab, [who for who, _ in picked])
        if self.run is None:
            raise RunError("There is no run to compare yet.",
                           next="Train a model: its first checkpoint is enough.")
        self.settings = self.run.settings
        models = {base_of(run) for run in (*self.runs, self.run) if run}
        if len(models) > 1:
            names = " and ".join(sorted(name for name, _ in models))
            raise RunError("The sides have different base models.", f"They are {names}.",
                           "Pick runs of the same model, or the base model.")
        self.adapters = [run and run.folder.saved_at(run.step_at(at))
                         for run, (_, at) in zip(self.runs, picked, strict=True)]
        self.weights = [verdicts.fingerprint(adapter.path) if adapter else ""
                        for adapter in self.adapters]
        rows = examples_of(lab, self.run)
        row = row_of(rows, self.question, example)
        self.opening = opening_of(rows, [*self.before, {"question": self.question}], example)
        self.reference = reference_of(reference) or ""  # as training would read it
        self.columns = {key: value for key, value in row.items() if key != "answer"}
        if self.reference:
            self.columns["answer"] = self.reference
        self.updates = [Update(side, "") for side in range(self.count)]
        self.effects: list[float | None] = [None] * self.count
        self.flaws: list[Problem | None] = [None] * self.count  # why a side is not asked
        self.thought: list[float | None] = [None] * self.count  # seconds to the reasoning's end
        self.paces = [Pace() for _ in range(self.count)]
        self.rated: dict[int, Scored] = {}
        self.stopped = self.over = False
        self.hidden = False  # a blind question before its vote: nothing tells who is who
        self.told: list[str] = []  # what goes on before the first word

    def prompt(self, side: int) -> list[dict]:
        """What this side is asked: its run's system prompt, its own turns, the question."""
        run = self.runs[side] or self.run
        _, *rest = [*(turn["question"] for turn in self.before), self.question]
        asked = prompt_of(self.opening, run.settings.data.system_prompt)
        for turn, question in zip(self.before, rest, strict=True):
            asked += [{"role": "assistant", "content": turn["answers"][side]},
                      {"role": "user", "content": question}]
        return asked

    async def answers(self, stop: threading.Event) -> AsyncIterator[tuple[bool, ...]]:
        """Stream all sides; says which of them have something new."""
        loop, news, begun = asyncio.get_running_loop(), asyncio.Queue(), time.monotonic()

        def put(item: Any) -> None:
            loop.call_soon_threadsafe(news.put_nowait, item)

        threading.Thread(target=self._work, args=(stop, put), daemon=True, name="compare").start()
        yield (True,) * self.count
        stopped_at = None
        while True:
            try:
                batch = [await asyncio.wait_for(news.get(), 0.5)]
            except TimeoutError:
                batch = []
                if stop.is_set():
                    stopped_at = stopped_at or time.monotonic()
                    if time.monotonic() - stopped_at > PATIENCE:
                        return  # it waits for its turn: somebody else is being answered
            while not news.empty():
                batch.append(news.get_nowait())
            new = [False] * self.count
            for item in batch:
                if item is None:
                    self.stopped = stop.is_set()
                    return
                if isinstance(item, Problem):
                    raise LabError(item.what, item.why, item.next)
                if isinstance(item, str):
                    self.told.append(item)
                    yield (False,) * self.count
                elif isinstance(item, Update):
                    self._take(item, time.monotonic() - begun)
                    if item.done:  # rewards may take their time, and know who asks
                        await asyncio.to_thread(self.scored, item.side)
                    new[item.side] = True
                else:
                    kind, side, value = item
                    (self.effects if kind == EFFECT else self.flaws)[side] = value
                    new[side] = True
            self.stopped = stop.is_set()
            if any(new):
                yield tuple(new)
            await asyncio.sleep(FRAME)

    def _take(self, update: Update, seconds: float) -> None:
        side = update.side
        self.updates[side] = update
        if self.thought[side] is None and scores.closed(update.text):
            self.thought[side] = seconds

    def _work(self, stop: threading.Event, put) -> None:
        """Ask all sides whose adapter is sound: one that is not is said, and the others answer."""
        try:
            asked, flaw = [], None
            for side, adapter in enumerate(self.adapters):
                try:
                    if adapter:
                        check_sound(adapter.path)
                    asked.append(side)
                except BadModel as error:
                    flaw = error
                    put((FLAW, side, error.problem))
            if not asked:
                raise flaw
            sides = [Side(self.prompt(side), self.adapters[side] and str(self.adapters[side].path))
                     for side in asked]
            for update in self.lab.chat.stream(self.settings, sides, self.sampling, self.seed,
                                               stop, say=put):
                self.paces[asked[update.side]].hear(update)
                put(replace(update, side=asked[update.side]))
            for side in asked:
                adapter = self.adapters[side]
                if adapter and not stop.is_set():
                    put((EFFECT, side, self.lab.chat.adapter_effect(
                        self.settings, adapter.path, self.prompt(side))))
        except Exception as error:  # told in the page, in place
            put(explain(error))
        finally:
            put(None)

    def former(self, side: int) -> list[dict]:
        """The turns before this one, as the chat of this side shows them."""
        return scores.former(self.opening, self.before, side)

    def conversation(self, side: int) -> list[dict]:
        """What the chat of this side shows."""
        update = self.updates[side]
        said = ([{"role": "assistant", "content": "(not asked)"}] if self.flaws[side] else
                scores.bubbles(update.text, update.done or self.over, self.thought[side]))
        return [*self.former(side), {"role": "user", "content": self.question}, *said]

    def name(self, side: int) -> str:
        """Who answers on this side, in words."""
        run, adapter = self.runs[side], self.adapters[side]
        return f"{run.name}, {adapter.title}" if run and adapter else "Base model"

    def answered(self, side: int) -> dict:
        """One side as records hold it: who, and what its answer earned."""
        update, run, adapter = self.updates[side], self.runs[side], self.adapters[side]
        scored, effect = self.scored(side), self.effects[side]
        return {"run": run.id if run else "", "step": adapter.step if adapter else None,
                "adapter": self.weights[side], "tokens": update.tokens, "cut": update.cut,
                "effect": effect if effect is None or math.isfinite(effect) else None,
                "rewards": scored.rewards, "errors": scored.errors, "total": scored.total,
                "goal": scored.goal, "reached": scored.reached}

    def turn(self) -> dict:
        """This question with its answers, as compare/record.py describes it."""
        return {"question": self.question, "reference": self.reference,
                "answers": [update.text for update in self.updates],
                "sides": [{"name": self.name(side), **self.answered(side),
                           "tokens_per_second": self.paces[side].rate}
                          for side in range(self.count)],
                "rewards": [{"name": one.name, "label": one.reward.label, "kind": one.takes_as,
                             "weight": one.weight} for one in self.settings.rewards.chosen],
                "rewards_of": self.run.name, "model": self.settings.model.name,
                "seed": self.seed, "sampling": asdict(self.sampling), "made": time.time()}

    def turns(self, **more: Any) -> list[dict]:
        """All turns, this one with `more` the last."""
        return [*self.before, self.turn() | more]

    def in_short(self, side: int, named: bool = False) -> str:
        """One line above an answer: which weights answer, how fast, and how it scored; `named`: the
        run too."""
        if self.hidden:
            return ""
        update = self.updates[side]
        about = scores.speed(update.tokens, self.paces[side].rate, update.cut)
        parts = [scores.adapter_html(self.effects[side], self.adapters[side], self.over,
                                     self.flaws[side])]
        if (update.done or self.over) and not self.flaws[side]:
            scored = self.scored(side)
            parts = [scores.goal_html(scored, self.settings.rewards.chosen),
                     scores.total_html(scored.total), *parts]
        if named:
            parts.insert(0, f"<span class='who'>{escape(self.name(side))}</span>")
        return scores.strip_html(parts, about)

    def scored(self, side: int) -> Scored:
        """What the run's rewards give this side's answer; kept once it is whole. A side that was
        not asked has no scores."""
        update = self.updates[side]
        if self.flaws[side]:
            return Scored({}, {}, None)
        if side not in self.rated:
            found = score(update.text, self.columns | {"completion_tokens": update.tokens},
                          self.settings.rewards.chosen)
            if not (update.done or self.over):
                return found
            self.rated[side] = found
        return self.rated[side]

    def judged(self, side: int) -> str:
        """The scores under a finished answer."""
        if self.hidden or self.flaws[side]:
            return ""
        return (scores.scores_html(self.scored(side), self.settings.rewards.chosen, self.columns)
                + scores.exact_html(self.updates[side].text, self.run.name))
