"""One question put to two sides: who answers, how it streams, how it is scored and shown."""

import asyncio
import itertools
import json
import re
import threading
import time
from collections.abc import AsyncIterator
from html import escape
from typing import Any

from lab.core.problems import LabError, Problem, RunError, explain
from lab.core.prompts import messages, split_reasoning
from lab.core.rewards.registry import REWARDS, Chosen, Scored, score
from lab.core.settings import Settings
from lab.services.chat import Side, Update
from lab.services.lab import Lab
from lab.services.runs import Run
from lab.ui.widgets import number, table_html

BASE = "base"  # who answers, where it is no run
EXAMPLES = 100  # held-out questions that are offered
FRAME = 0.08  # seconds between two updates of the page
PATIENCE = 5.0  # seconds that a stopped answer may still take
_ANSWER = re.compile(r"<answer>\s*([^\n]*?)\s*</answer>")


class Talk:
    """One question put to both sides, on top of the turns before it."""

    def __init__(self, lab: Lab, settings: Settings, question: str, reference: str, seed: int,
                 turns: str, picked: tuple[tuple[str, str], tuple[str, str]]) -> None:
        self.lab = lab
        self.question = question.strip()
        if not self.question:
            raise RunError("There is no question.", next="Type one, or pick an example.")
        self.sampling, self.seed = settings.sampling, seed
        self.before = _turns(turns)
        if self.before and self.before[-1]["question"] == self.question:
            self.before.pop()  # asked again
        self.runs = [run_of(lab, who) for who, _ in picked]
        self.run = self.runs[1] or self.runs[0] or newest_with_adapter(lab)
        if self.run is None:
            raise RunError("There is no run to compare yet.",
                           next="Train a model: its first checkpoint is enough.")
        self.settings = self.run.settings
        models = {_base_of(run) for run in self.runs if run}
        if len(models) > 1:
            names = " and ".join(sorted(name for name, _ in models))
            raise RunError("The two sides have different base models.", f"They are {names}.",
                           "Pick two runs of the same model, or the base model on one side.")
        self.adapters = [run and run.folder.adapter_at(_step(at))
                         for run, (_, at) in zip(self.runs, picked, strict=True)]
        row = next((row for row in examples_of(lab, self.run)
                    if row.get("question") == self.question), {})
        self.reference = reference.strip()
        self.columns = {key: value for key, value in row.items() if key != "answer"}
        if self.reference:
            self.columns["answer"] = self.reference
        self.updates = [Update(side, "") for side in range(2)]
        self.effects: list[float | None] = [None, None]
        self.thought: list[float | None] = [None, None]  # seconds until the reasoning was closed
        self.seconds = [0.0, 0.0]
        self.stopped = self.over = False
        self.told: list[str] = []  # what goes on before the first word

    def prompt(self, side: int) -> list[dict]:
        """What this side is asked: its run's system prompt, its own turns, the question."""
        run = self.runs[side] or self.run
        first, *rest = [*(turn["question"] for turn in self.before), self.question]
        asked = messages(first, run.settings.data.system_prompt)
        for turn, question in zip(self.before, rest, strict=True):
            asked += [{"role": "assistant", "content": turn["answers"][side]},
                      {"role": "user", "content": question}]
        return asked

    async def answers(self, stop: threading.Event) -> AsyncIterator[tuple[bool, bool]]:
        """Stream both sides; says which of them have something new."""
        loop, news, begun = asyncio.get_running_loop(), asyncio.Queue(), time.monotonic()

        def put(item: Any) -> None:
            loop.call_soon_threadsafe(news.put_nowait, item)

        threading.Thread(target=self._work, args=(stop, put), daemon=True, name="compare").start()
        yield True, True
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
            new = [False, False]
            for item in batch:
                if item is None:
                    return
                if isinstance(item, Problem):
                    raise LabError(item.what, item.why, item.next)
                if isinstance(item, str):
                    self.told.append(item)
                    yield False, False
                elif isinstance(item, Update):
                    self._take(item, time.monotonic() - begun)
                    new[item.side] = True
                else:
                    side, self.effects[side] = item
                    new[side] = True
            self.stopped = stop.is_set()
            if any(new):
                yield new[0], new[1]
            await asyncio.sleep(FRAME)

    def _take(self, update: Update, seconds: float) -> None:
        self.updates[update.side] = update
        self.seconds[update.side] = seconds
        if self.thought[update.side] is None and _closed(update.text):
            self.thought[update.side] = seconds

    def _work(self, stop: threading.Event, put) -> None:
        try:
            sides = [Side(self.prompt(i), adapter and str(adapter))
                     for i, adapter in enumerate(self.adapters)]
            for update in self.lab.chat.stream(self.settings, sides, self.sampling, self.seed,
                                               stop, say=put):
                put(update)
            for side, adapter in enumerate(self.adapters):
                if adapter and not stop.is_set():
                    put((side, self.lab.chat.adapter_effect(self.settings, adapter,
                                                            self.prompt(side))))
        except Exception as error:  # told in the page, in place
            put(explain(error))
        finally:
            put(None)

    def former(self, side: int) -> list[dict]:
        """The turns before this one, as the chat of this side shows them."""
        return [bubble for turn in self.before
                for bubble in ({"role": "user", "content": turn["question"]},
                               *_bubbles(turn["answers"][side], True, None))]

    def conversation(self, side: int) -> list[dict]:
        """What the chat of this side shows."""
        update = self.updates[side]
        return [*self.former(side), {"role": "user", "content": self.question},
                *_bubbles(update.text, update.done or self.over, self.thought[side])]

    def turns(self) -> str:
        now = {"question": self.question, "answers": [update.text for update in self.updates]}
        return json.dumps([*self.before, now], ensure_ascii=False)

    def judged(self, side: int) -> str:
        """The scores under a finished answer."""
        update, chosen = self.updates[side], self.run.settings.rewards.chosen
        about = [f"{update.tokens} tokens in {self.seconds[side]:.1f} s"]
        if update.cut:
            about.append("cut at the longest length")
        return (_badge(self.effects[side], bool(self.adapters[side]), self.over)
                + scores_html(score(update.text, self.columns, chosen), chosen, self.columns)
                + f"<p class='help'>{escape(', '.join(about))}. Scored with the rewards of "
                f"{escape(self.run.name)}.</p><details class='exact'><summary>Exact text</summary>"
                f"<pre tabindex='0'>{escape(update.text) or '(empty)'}</pre></details>")


def scores_html(scored: Scored, chosen: tuple[Chosen, ...], columns: dict) -> str:
    """Each reward's raw score, its weight, and what it adds to the total."""
    rows = []
    for one in chosen:
        raw = scored.rewards.get(one.name)
        missing = [c for c in REWARDS[one.name].columns if c not in columns]
        if missing == ["answer"]:
            said = "needs a reference answer"
        elif missing:
            said = f"needs the column {missing[0]}"
        elif one.name in scored.errors:
            said = scored.errors[one.name]
        else:
            said = number(raw) if raw is not None else "not judged"
        rows.append((REWARDS[one.name].label, said, number(one.weight),
                     number(None if raw is None else raw * one.weight)))
    table = table_html(("Reward", "Score", "Weight", "Counts"), rows, numbers=(1, 2, 3))
    total = ("<tfoot><tr><td>Total</td><td></td><td></td>"
             f"<td class='number total'>{number(scored.total)}</td></tr></tfoot>")
    return table.replace("</table>", f"{total}</table>")


def examples_of(lab: Lab, run: Run | None) -> list[dict]:
    """Held-out questions of a run; none where the file is missing or damaged."""
    if run is None:
        return []
    rows = []
    try:
        with run.folder.held_out.open(encoding="utf-8") as file:
            for line in itertools.islice(file, EXAMPLES):
                row = json.loads(line)
                if isinstance(row, dict) and isinstance(row.get("question"), str):
                    rows.append(row)
    except (OSError, ValueError):
        pass
    return rows


def _bubbles(text: str, done: bool, seconds: float | None) -> list[dict]:
    """An answer as chat messages: the reasoning folded when it is over, the answer in bold."""
    reasoning, rest = split_reasoning(text)
    bubbles = []
    if reasoning is not None:
        over = done or _closed(text)
        look: dict = {"title": "Reasoning", "status": "done" if over else "pending"}
        if seconds is not None:
            look["duration"] = round(seconds, 1)
        bubbles.append({"role": "assistant", "content": reasoning or "…", "metadata": look})
    if rest.strip():
        bubbles.append({"role": "assistant", "content": _ANSWER.sub(r"**\1**", rest)})
    if not bubbles:
        bubbles.append({"role": "assistant", "content": "(no words)" if done else "…"})
    return bubbles


def _closed(text: str) -> bool:
    return "</reasoning>" in text or "</think>" in text


def _badge(effect: float | None, tuned: bool, over: bool) -> str:
    """Proof that the adapter is at work."""
    if not tuned:
        return "<p class='badge adapter' data-effect=''>Base model, no adapter</p>"
    if effect is None:
        said = "Its adapter was not checked" if over else "Checking the adapter …"
        return f"<p class='badge adapter' data-effect=''>{said}</p>"
    if effect > 0:
        return (f"<p class='badge adapter fits' data-effect='{effect:.6g}'>Adapter live: changes "
                f"logits by up to {effect:.2g}</p>")
    return ("<p class='badge adapter needs' data-effect='0'>This adapter changes nothing: it "
            "answers just as the base model does</p>")


def _turns(text: str) -> list[dict]:
    """The turns before this one, as the page sent them back; none where they make no sense."""
    try:
        turns = json.loads(text or "[]")
        for turn in turns:
            if not (isinstance(turn["question"], str) and len(turn["answers"]) == 2
                    and all(isinstance(answer, str) for answer in turn["answers"])):
                return []
        return turns if isinstance(turns, list) else []
    except (ValueError, TypeError, KeyError):
        return []


def run_of(lab: Lab, who: str | None) -> Run | None:
    """The run of a side, None for the base model. Raises RunError."""
    if not who or who == BASE:
        return None
    run = lab.runs.get(who)
    if run.settings is None:
        raise RunError(run.problem.what, run.problem.why, run.problem.next)
    return run


def newest_with_adapter(lab: Lab) -> Run | None:
    return next((run for run in lab.runs.all() if run.settings and has_adapter(run)), None)


def has_adapter(run: Run) -> bool:
    try:
        return bool(run.folder.adapter_at(None))
    except LabError:
        return False


def _base_of(run: Run) -> tuple[str, bool]:
    return run.settings.model.name.strip(), run.settings.model.load_in_4bit


def _step(at: str | None) -> int | None:
    return int(at) if at and at.isdecimal() else None
