"""The Compare tab: base and tuned, or any two checkpoints, answer side by side and are scored."""

import asyncio
import itertools
import json
import re
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from lab.core.problems import LabError, Problem, RunError, explain
from lab.core.prompts import messages, split_reasoning
from lab.core.rewards.registry import REWARDS, Chosen, Scored, score
from lab.core.settings import Settings
from lab.services.chat import Side, Update
from lab.services.lab import Lab
from lab.services.runs import Run
from lab.ui.forms import Form
from lab.ui.widgets import FREE, number, problems_html, table_html

BASE, NEWEST = "base", "newest"
SIDES = ("left", "right")
SAMPLING = ("sampling.temperature", "sampling.top_p", "sampling.max_tokens")
EXAMPLES = 100  # held-out questions that are offered
LARGEST_SEED = 2**31 - 1
FRAME = 0.08  # seconds between two updates of the page
PATIENCE = 5.0  # seconds that a stopped answer may still take
EMPTY = "Pick a question and press Send."
NOTHING = "No adapter to compare with yet. Train a model: its first checkpoint is enough."
WITH_RAW = [{"left": "$$", "right": "$$", "display": True},
            {"left": "\\(", "right": "\\)", "display": False},
            {"left": "\\[", "right": "\\]", "display": True}]
SCORES_CSS = """
.adapter { display: inline-block; margin: 0 0 8px; font-size: 13px; }
.table tfoot td { font-weight: 700; }
.help { margin: 8px 0; }
.exact summary { cursor: pointer; }
.exact pre { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 300px; overflow-y: auto;
  font-family: var(--font-mono); font-size: 13px; margin: 6px 0 0; padding: 10px 12px;
  background: var(--background-fill-secondary); border-radius: 6px; color: inherit; }"""
_ANSWER = re.compile(r"<answer>\s*([^\n]*?)\s*</answer>")


@dataclass
class Pane:
    """One side: who answers, the conversation, and how its last answer scored."""

    who: gr.Dropdown
    checkpoint: gr.Dropdown
    chat: gr.Chatbot
    scores: gr.HTML


@dataclass
class CompareTab:
    panes: tuple[Pane, Pane]
    example: gr.Dropdown
    question: gr.Textbox
    reference: gr.Textbox
    seed: gr.Number
    send: gr.Button
    stop: gr.Button
    clear: gr.Button
    said: gr.HTML
    turns: gr.Textbox


def build_tab(lab: Lab, form: Form) -> CompareTab:
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=3, min_width=320):
            example = gr.Dropdown([], label="Example question", value=None,
                                  info="Held out: the run was not trained on it.",
                                  elem_id="compare-example")
            question = gr.Textbox(label="Question", lines=3, max_lines=12, max_length=20_000,
                                  elem_id="compare-question", info="Send the same text again to "
                                  "answer it anew; another one follows up.")
        with gr.Column(scale=2, min_width=280):
            reference = gr.Textbox(label="Reference answer", max_lines=3, max_length=2000,
                                   elem_id="compare-reference", info="For rewards that compare "
                                   "with it. May stay empty.")
            with gr.Accordion("Sampling", elem_id="compare-sampling"), \
                    gr.Row(elem_classes="fields"):
                for key in SAMPLING:
                    form.widget(key)
                seed = gr.Number(3407, label="Seed", info="The same for both sides.",
                                 elem_id="compare-seed", min_width=150)
    with gr.Row(elem_id="compare-actions"):
        send = gr.Button("Send", variant="primary", elem_id="compare-send", scale=0, min_width=140)
        stop = gr.Button("Stop", elem_id="compare-stop", interactive=False, scale=0, min_width=100)
        clear = gr.Button("Clear", elem_id="compare-clear", scale=0, min_width=100)
    said = gr.HTML(elem_id="compare-said", visible=False)
    with gr.Row(elem_classes="panes"):
        panes = tuple(_pane(side) for side in SIDES)
    # The words of the models as they were: the chat shows them folded and formatted.
    turns = gr.Textbox("[]", visible="hidden", elem_id="compare-turns", label="Turns")
    return CompareTab(panes, example, question, reference, seed, send, stop, clear, said, turns)


def _pane(side: str) -> Pane:
    with gr.Column(min_width=320, elem_id=f"compare-{side}"):
        with gr.Row():
            who = gr.Dropdown([("Base model", BASE)], value=BASE, scale=3, min_width=180,
                              label=f"{side.capitalize()} side", elem_id=f"compare-{side}-run")
            checkpoint = gr.Dropdown([("Newest", NEWEST)], value=NEWEST, label="Checkpoint",
                                     scale=2, min_width=120, interactive=False,
                                     elem_id=f"compare-{side}-checkpoint")
        chat = gr.Chatbot(label=f"{side.capitalize()} side", show_label=False, height=380,
                          layout="bubble", buttons=["copy"], placeholder=EMPTY,
                          latex_delimiters=WITH_RAW, feedback_options=None,
                          elem_id=f"compare-{side}-chat")
        scores = gr.HTML(elem_id=f"compare-{side}-scores", css_template=SCORES_CSS)
    return Pane(who, checkpoint, chat, scores)


def wire(tab: CompareTab, lab: Lab, form: Form, page: gr.Blocks, item: gr.Tab) -> None:
    """Events. `item` is the tab's own gr.Tab: opening it looks for new runs and checkpoints."""
    left, right = tab.panes
    pickers = [left.who, left.checkpoint, right.who, right.checkpoint]
    talk = [left.chat, right.chat, left.scores, right.scores, tab.turns, tab.said]
    stops: dict[str, threading.Event] = {}  # by browser tab, while it is being answered

    def choices(*picked: str | None) -> dict:
        return _choices(lab, tab, picked)

    gr.on([page.load, item.select], choices, pickers,
          [*pickers, tab.example, left.chat, right.chat], **FREE)

    def picked(*now: str | None) -> dict:
        return _choices(lab, tab, now) | _cleared(tab)

    for pane in tab.panes:
        gr.on([pane.who.input, pane.checkpoint.input], picked, pickers,
              [*pickers, tab.example, *talk], **FREE)

    @tab.example.input(inputs=[tab.example, left.who, right.who],
                       outputs=[tab.question, tab.reference, *talk], **FREE)
    def take(index: str | None, *who: str) -> dict:
        rows = examples_of(lab, _scoring_run(lab, who))
        row = rows[int(index)] if (index or "").isdecimal() and int(index) < len(rows) else {}
        return _cleared(tab) | {
            tab.question: str(row.get("question") or ""),
            tab.reference: "" if row.get("answer") is None else str(row["answer"])}

    gr.on([tab.clear.click, left.chat.clear, right.chat.clear], lambda: _cleared(tab),
          outputs=talk, **FREE)

    @tab.stop.click(**FREE)
    def stop(request: gr.Request) -> None:
        if event := stops.get(request.session_hash or ""):
            event.set()

    async def ask(question: str, reference: str, seed: float | None, turns: str, who_left: str,
                  at_left: str, who_right: str, at_right: str, request: gr.Request,
                  **sampling) -> AsyncIterator[dict]:
        event = threading.Event()
        key = request.session_hash or ""
        stops[key] = event
        yield {tab.send: gr.update(interactive=False), tab.stop: gr.update(interactive=True),
               tab.said: _note(_busy_note(lab))}
        ready = {tab.send: gr.update(interactive=True), tab.stop: gr.update(interactive=False)}
        talks = None
        try:
            talks = Talk(lab, form.read(sampling), question, reference, _seed(seed), turns,
                         ((who_left, at_left), (who_right, at_right)))
            async for now in talks.answers(event):
                yield _shown(tab, talks, now)
            talks.over = True
            yield ready | _shown(tab, talks)
        except LabError as error:
            yield ready | _failed(tab, talks, error.problem)
        except Exception as error:  # an unforeseen one must not leave the buttons as they are
            yield ready | _failed(tab, talks, explain(error))
            raise
        finally:
            event.set()  # on Stop, at the end, and when the page was closed
            if stops.get(key) is event:
                del stops[key]

    gr.on([tab.send.click, tab.question.submit], ask,
          [tab.question, tab.reference, tab.seed, tab.turns, *pickers],
          [tab.send, tab.stop, *talk], inputs_kwargs={k: form.widgets[k] for k in SAMPLING},
          trigger_mode="once", concurrency_id="chat", concurrency_limit=1,
          api_visibility="private", show_progress="hidden")


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
        self.runs = [_run_of(lab, who) for who, _ in picked]
        self.run = self.runs[1] or self.runs[0] or _newest_with_adapter(lab)
        if self.run is None:
            raise RunError("There is no run to compare yet.", next=NOTHING.split(". ", 1)[1])
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
                if isinstance(item, Update):
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
                                               stop):
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


def _choices(lab: Lab, tab: CompareTab, picked: tuple[str | None, ...]) -> dict:
    """What the pickers offer now. A pick that is still there stays."""
    runs = [run for run in lab.runs.all() if run.settings and _saved(run)]
    offered = [("Base model", BASE), *((_title(run), run.id) for run in runs)]
    known = {value for _, value in offered}
    who = [picked[0], picked[2]]
    if not any(value in known and value != BASE for value in who):
        who = [BASE, runs[0].id if runs else BASE]  # nothing was chosen yet
    who = [value if value in known else BASE for value in who]
    updates: dict = {}
    for pane, value, at in zip(tab.panes, who, (picked[1], picked[3]), strict=True):
        run = next((run for run in runs if run.id == value), None)
        steps = run.folder.checkpoints() if run else []
        saved = [("Newest", NEWEST), *((f"Step {step}", str(step)) for step in reversed(steps))]
        keep = at if at in {v for _, v in saved} else NEWEST
        updates[pane.who] = gr.update(choices=offered, value=value)
        updates[pane.checkpoint] = gr.update(choices=saved, value=keep, interactive=bool(run))
        updates[pane.chat] = gr.update(placeholder=EMPTY if runs else NOTHING)
    rows = examples_of(lab, _scoring_run(lab, who))
    updates[tab.example] = gr.update(choices=[
        (_short(row["question"]), str(index)) for index, row in enumerate(rows)])
    return updates


def _shown(tab: CompareTab, talk: Talk, new: tuple[bool, bool] = (True, True)) -> dict:
    updates: dict = {}
    for side, pane in enumerate(tab.panes):
        if not new[side]:
            continue
        updates[pane.chat] = talk.conversation(side)
        finished = talk.updates[side].done or talk.over
        updates[pane.scores] = talk.judged(side) if finished else ""
    if talk.over:
        updates[tab.turns] = talk.turns()
        updates[tab.said] = _note("Stopped: the scores are those of unfinished answers."
                                  if talk.stopped else "")
    return updates


def _failed(tab: CompareTab, talk: Talk | None, problem: Problem) -> dict:
    """Back to where it was before the question, and why."""
    updates: dict = {tab.said: _said(problem)}
    if talk is not None:
        updates |= {pane.chat: talk.former(side) for side, pane in enumerate(tab.panes)}
        updates |= {pane.scores: "" for pane in tab.panes}
    return updates


def _cleared(tab: CompareTab) -> dict:
    updates: dict = {tab.turns: "[]", tab.said: _note("")}
    for pane in tab.panes:
        updates[pane.scores] = ""
        updates[pane.chat] = []
    return updates


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


def _run_of(lab: Lab, who: str | None) -> Run | None:
    """The run of a side, None for the base model. Raises RunError."""
    if not who or who == BASE:
        return None
    run = lab.runs.get(who)
    if run.settings is None:
        raise RunError(run.problem.what, run.problem.why, run.problem.next)
    return run


def _scoring_run(lab: Lab, who: list[str] | tuple[str, ...]) -> Run | None:
    """The run whose rewards and questions are used: the right side's, else the left side's."""
    for value in reversed(who):
        try:
            if run := _run_of(lab, value):
                return run
        except LabError:
            continue
    return _newest_with_adapter(lab)


def _newest_with_adapter(lab: Lab) -> Run | None:
    return next((run for run in lab.runs.all() if run.settings and _saved(run)), None)


def _saved(run: Run) -> bool:
    try:
        return bool(run.folder.adapter_at(None))
    except LabError:
        return False


def _base_of(run: Run) -> tuple[str, bool]:
    return run.settings.model.name.strip(), run.settings.model.load_in_4bit


def _step(at: str | None) -> int | None:
    return int(at) if at and at.isdecimal() else None


def _seed(value: float | None) -> int:
    if value is None or value != int(value) or not 0 <= value <= LARGEST_SEED:
        raise RunError("The seed cannot be used.", "It must be a whole number from 0 to "
                       f"{LARGEST_SEED}.", "Take 3407, or any other.")
    return int(value)


def _busy_note(lab: Lab) -> str:
    if run := lab.runs.active():
        return (f"{run.name} is training: answers come slower meanwhile, and so do its steps. "
                "Its newest checkpoint answers, not the step it is at.")
    return ""


def _note(text: str) -> dict:
    return gr.update(value=f"<p class='note' role='status'>{escape(text)}</p>" if text else "",
                     visible=bool(text))


def _said(problem: Problem) -> dict:
    return gr.update(value=f"<div role='alert'>{problems_html([problem])}</div>", visible=True)


def _title(run: Run) -> str:
    when = time.strftime("%d %b %H:%M", time.localtime(run.created)) if run.created else run.id
    name = "" if run.name == run.id else f"{run.name} · "
    return f"{name}{when} · step {run.step}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 110 else f"{text[:109]}…"
