"""The time-lapse of Compare: one question at each checkpoint, answered in turn, with a slider.

The frames are the value of a panel that the browser draws (assets/lapse.js).
"""

import asyncio
import sys
import threading
import traceback
from collections.abc import AsyncIterator
from html import escape

import gradio as gr

from lab.core.insight.differences import differences
from lab.core.problems import LabError, RunError, explain
from lab.core.rewards.registry import GOAL
from lab.core.rewards.scoring import score
from lab.services import lapse
from lab.services.lab import Lab
from lab.ui.access import owner_only
from lab.ui.compare.asking import SAMPLING, seed_of
from lab.ui.compare.panes import count_of, inputs_of, picked_of
from lab.ui.compare.parts import CompareTab, Lapse
from lab.ui.compare.record import written
from lab.ui.compare.scores import adapter_told, goal_told, speed
from lab.ui.compare.sides import BASE, judge_of
from lab.ui.forms import Form
from lab.ui.panel import panel
from lab.ui.talk import Talk
from lab.ui.widgets import FREE, QUIET, number, problem_in_place, streamed

ABOUT = ("The question above, by itself, answered by the base model and by each checkpoint of the "
         "run, one after another. The slider shows what changed from one to the next.")

CSS = """
.progress { height: 8px; border-radius: 4px; overflow: hidden; margin: 8px 0;
  background: var(--border-color-primary); }
.progress i { display: block; height: 100%; background: var(--primary-500); }"""


def build() -> Lapse:
    with gr.Column(elem_id="compare-lapse"):
        gr.HTML(f"<h2>Time-lapse</h2><p class='help'>{ABOUT}</p>")
        with gr.Row(elem_id="lapse-actions"):
            start = gr.Button("Play through training", elem_id="lapse-start", scale=0,
                              min_width=230)
            stop = gr.Button("Stop", elem_id="lapse-stop", interactive=False, scale=0,
                             min_width=100)
            greedy = gr.Checkbox(True, label="Greedy; else drawn as under Sampling, same seed",
                                 elem_id="lapse-greedy", container=False, scale=0,
                                 min_width=330)
        said = gr.HTML(elem_id="lapse-said", visible=False, css_template=CSS)
        frames = panel("lapse", "lapse", {})
    return Lapse(start, stop, greedy, said, frames)


def wire(tab: CompareTab, lab: Lab, form: Form) -> None:
    at, asking = tab.lapse, tab.asking
    stops: dict[str, threading.Event] = {}  # by browser tab, while it plays

    @at.stop.click(**FREE)
    def stop(request: gr.Request) -> None:
        if event := stops.get(request.session_hash or ""):
            event.set()

    @owner_only
    async def play(question: str, reference: str, seed: float | None, example: str | None,
                   count: str, greedy: bool, request: gr.Request, **given) -> AsyncIterator[dict]:
        event, key = threading.Event(), request.session_hash or ""
        stops[key] = event
        ready = {at.start: gr.update(interactive=True), at.stop: gr.update(interactive=False)}
        try:
            yield {at.start: gr.update(interactive=False), at.stop: gr.update(interactive=True),
                   at.said: _busy("Loading the model …", 0, 0), at.frames: ""}
            run = judge_of(lab, [who for who, _ in picked_of(given)[:count_of(count)]])
            if run is None:
                raise RunError("There is no run to play through yet.",
                               next="Train a model: its first checkpoint is enough.")
            settings = form.read({name: given[name] for name in SAMPLING})
            if greedy:
                settings = settings.with_values({"sampling.temperature": 0.0})
            talk = Talk(lab, settings, question, reference, seed_of(seed), "[]",
                        ((BASE, ""), (run.id, "")), example)
            wanted, there = lapse.moments(run)
            drawn: list[dict] = []
            last = ""

            def frames():
                yield from lapse.answer(lab.chat, run, wanted, talk.prompt(1), talk.sampling,
                                        talk.seed, event)

            async for frame in _each(frames, event):
                drawn.append(await asyncio.to_thread(_frame, talk, frame, last, not drawn))
                last = frame.text if frame.problem is None else last
                yield {at.frames: _value(talk, drawn, len(wanted), there),
                       at.said: _busy(f"{len(drawn)} of {len(wanted)} answered", len(drawn),
                                      len(wanted))}
            over = {} if len(drawn) == len(wanted) else {at.said: _note(
                f"Stopped after {len(drawn)} of {len(wanted)}.")}
            yield ready | {at.said: gr.update(value="", visible=False)} | over
        except LabError as error:
            yield ready | {at.said: problem_in_place(error.problem)}
        except Exception as error:  # an unforeseen one must not leave the buttons as they are
            traceback.print_exception(error, file=sys.stderr)
            yield ready | {at.said: problem_in_place(explain(error))}
        finally:
            event.set()  # on Stop, at the end, and when the page was closed
            if stops.get(key) is event:
                del stops[key]

    at.start.click(play, [asking.question, asking.reference, asking.seed, asking.example, tab.count,
                          at.greedy], [at.start, at.stop, at.said, at.frames],
                   inputs_kwargs=inputs_of(tab.panes) | {
                       name: form.widgets[name] for name in SAMPLING},
                   trigger_mode="once", concurrency_id="lapse", concurrency_limit=1,
                   js="(...given) => { window.labFocus('#lapse-slider', 600000, '#lapse-stop'); "
                   "return given; }", **QUIET)


async def _each(frames, stop: threading.Event) -> AsyncIterator[lapse.Frame]:
    """Every frame of a blocking iterator: `streamed` gives only the newest."""
    kept: list[lapse.Frame] = []

    def counted():
        for frame in frames():
            kept.append(frame)
            yield len(kept)

    given = 0
    async for count in streamed(counted, stop):
        for frame in kept[given:count]:
            yield frame
        given = count


def _frame(talk: Talk, frame: lapse.Frame, before: str, first: bool) -> dict:
    """One answer as the browser gets it: scored, and in pieces that differ from the one before."""
    adapter, chosen = frame.adapter, talk.settings.rewards.chosen
    step = 0 if adapter is None else adapter.step
    made = {"title": "Base model" if adapter is None else adapter.title.capitalize(), "step": step}
    if frame.problem is not None:
        return made | {"problem": f"{frame.problem.what} {frame.problem.why}".strip()}
    scored = score(frame.text, talk.columns | {"completion_tokens": frame.tokens}, chosen)
    ordered = sorted(chosen, key=lambda one: one.takes_as != GOAL)
    pieces = [(frame.text, False)] if first else differences(before, frame.text)
    return made | {
        "goal": goal_told(scored, chosen), "adapter": adapter_told(frame.effect, adapter, True),
        "total": number(scored.total), "sum": scored.total,
        "about": ", ".join(speed(frame.tokens, frame.rate, frame.cut)),
        "scores": [[one.reward.label, one.takes_as,
                    "failed" if one.name in scored.errors else number(scored.rewards[one.name])]
                   for one in ordered],
        "pieces": pieces, "same": not first and frame.text == before}


def _value(talk: Talk, drawn: list[dict], of: int, there: int) -> str:
    part = "" if of == there else (f"{of} of {there} moments are asked, evenly spread: the base "
                                   "model and the last checkpoint are among them.")
    return written({"question": talk.question, "run": talk.run.name, "of": of, "part": part,
                    "reference": talk.reference, "frames": drawn})


def _busy(text: str, done: int, of: int) -> dict:
    share = round(100 * done / of) if of else 0
    return gr.update(visible=True, value=(
        f"<p class='busy' role='status'>{escape(text)}</p><div class='progress' role='progressbar' "
        f"aria-label='Time-lapse' aria-valuemin='0' aria-valuemax='100' aria-valuenow='{share}'>"
        f"<i style='width:{share}%'></i></div>"))


def _note(text: str) -> dict:
    return gr.update(value=f"<p class='note' role='status'>{escape(text)}</p>", visible=True)
