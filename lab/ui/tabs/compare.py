"""The Compare tab: base and tuned, or any two checkpoints, answer side by side and are scored."""

import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from html import escape

import gradio as gr

from lab.core.problems import LabError, Problem, RunError, explain
from lab.services.lab import Lab
from lab.services.runs import Run
from lab.ui.access import owner_only
from lab.ui.forms import Form
from lab.ui.talk import BASE, Talk, examples_of, has_adapter, newest_with_adapter, run_of
from lab.ui.widgets import FREE, problem_in_place

NEWEST = "newest"
SIDES = ("left", "right")
SAMPLING = ("sampling.temperature", "sampling.top_p", "sampling.max_tokens")
LARGEST_SEED = 2**31 - 1
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
            with gr.Accordion("Sampling", open=False, elem_id="compare-sampling"), \
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

    @owner_only
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


def _choices(lab: Lab, tab: CompareTab, picked: tuple[str | None, ...]) -> dict:
    """What the pickers offer now. A pick that is still there stays."""
    runs = [run for run in lab.runs.all() if run.settings and has_adapter(run)]
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
    if talk.told and not talk.over:
        updates[tab.said] = _note(" ".join(talk.told))
    if talk.over:
        updates[tab.turns] = talk.turns()
        updates[tab.said] = _note("Stopped: the scores are those of unfinished answers."
                                  if talk.stopped else "")
    return updates


def _failed(tab: CompareTab, talk: Talk | None, problem: Problem) -> dict:
    """Back to where it was before the question, and why."""
    updates: dict = {tab.said: problem_in_place(problem)}
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


def _scoring_run(lab: Lab, who: list[str] | tuple[str, ...]) -> Run | None:
    """The run whose rewards and questions are used: the right side's, else the left side's."""
    for value in reversed(who):
        try:
            if run := run_of(lab, value):
                return run
        except LabError:
            continue
    return newest_with_adapter(lab)


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


def _title(run: Run) -> str:
    when = time.strftime("%d %b %H:%M", time.localtime(run.created)) if run.created else run.id
    name = "" if run.name == run.id else f"{run.name} · "
    return f"{name}{when} · step {run.step}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 110 else f"{text[:109]}…"
