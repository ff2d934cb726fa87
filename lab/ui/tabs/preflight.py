"""The Preflight tab: what the base model's answers tell of a run, and advice to take."""

import contextlib
import json
import threading
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from lab.core.insight.preflight_advice import follow
from lab.core.problems import BadSettings, LabError, RunError, explain
from lab.core.settings import Settings
from lab.services import preflight_record
from lab.services.lab import Lab
from lab.services.one_job import Cancelled
from lab.services.preflight import LEAST, MOST, Progress, flight
from lab.ui.access import owner_only
from lab.ui.forms import Form
from lab.ui.pass_rates import histogram, pass_rate_chart
from lab.ui.preflight_html import (
    advice_html,
    dead_html,
    figures_html,
    never_fired_html,
    progress_html,
    signal_html,
    stale_html,
)
from lab.ui.widgets import FOLLOWS, FREE, QUIET, explained, problem_in_place, streamed

PLACES = 8  # pieces of advice that are shown
EMPTY = ("<p class='empty'>No preflight yet. Press Run preflight: the base model answers some "
         "questions with the rewards and settings of this page.</p>")
NO_ADVICE = "<p class='fine'>Nothing to advise.</p>"
FIRST_ADVICE = "<p class='help'>What a preflight advises stands here, one press each.</p>"


@dataclass
class PreflightTab:
    questions: gr.Number
    run: gr.Button
    cancel: gr.Button
    said: gr.HTML
    about: gr.HTML
    figures: gr.HTML
    rates: gr.HTML
    dead: gr.HTML
    signal: gr.HTML
    never: gr.HTML
    note: gr.HTML
    places: list[tuple[gr.Column, gr.HTML, gr.Button]]
    advised: gr.Textbox  # the advice as JSON, for the buttons

    def outputs(self) -> list[gr.components.Component]:
        """What a result fills."""
        return [self.about, self.figures, self.rates, self.dead, self.signal, self.never, self.note,
                self.advised, *(part for place in self.places for part in place)]

    def show(self, result: dict[str, Any], about: str = "") -> dict:
        """Updates that show a result."""
        advised = result.get("advice", [])
        updates: dict = {
            self.about: about, self.figures: figures_html(result),
            self.rates: histogram(result["pass_rates"]), self.dead: dead_html(result),
            self.signal: signal_html(result), self.never: never_fired_html(result),
            self.note: "" if advised else NO_ADVICE, self.advised: json.dumps(advised)}
        for number, (box, text, button) in enumerate(self.places):
            there = number < len(advised)
            updates[box] = gr.update(visible=there)
            updates[text] = advice_html(advised[number]) if there else ""
            updates[button] = gr.update(value="Take it", interactive=True)
        return updates


def build_tab(lab: Lab, form: Form) -> PreflightTab:
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=5, min_width=320):
            gr.HTML("<h2>Before the start</h2><p class='help'>The base model answers some "
                    "questions as in the first step of a run, and your rewards score them: what "
                    "would the model learn from, how long would it take, what is missing?</p>")
            with gr.Row(elem_classes="toolbar", elem_id="preflight-toolbar"):
                questions = gr.Number(0, label="Questions", step=1, elem_id="preflight-questions",
                                      scale=0, min_width=200,
                                      info=f"0: {LEAST} to {MOST}, as time allows.")
                run = gr.Button("Run preflight", variant="primary", elem_id="preflight-run",
                                scale=0, min_width=160)
                cancel = gr.Button("Cancel", elem_id="preflight-cancel", interactive=False,
                                   scale=0, min_width=110)
            said = gr.HTML(elem_id="preflight-said", visible=False)
            about = gr.HTML(EMPTY, elem_id="preflight-about")
            figures = gr.HTML(elem_id="preflight-figures")
            rates = pass_rate_chart(elem_id="preflight-rates")
            dead = gr.HTML(elem_id="preflight-dead")
            signal = gr.HTML(elem_id="preflight-signal")
            never = gr.HTML(elem_id="preflight-never")
        with gr.Column(scale=3, min_width=300, elem_classes="side"), \
                gr.Column(elem_classes="sheet"):
            gr.HTML("<h3>Advice</h3>")
            note = gr.HTML(FIRST_ADVICE, elem_id="preflight-note")
            places = [_place(number) for number in range(PLACES)]
    advised = gr.Textbox("[]", visible="hidden", elem_id="preflight-advised", label="Advice")
    return PreflightTab(questions, run, cancel, said, about, figures, rates, dead, signal, never,
                        note, places, advised)


def _place(number: int) -> tuple[gr.Column, gr.HTML, gr.Button]:
    with gr.Column(visible=False, elem_classes="advice", elem_id=f"advice-{number}") as box:
        text = gr.HTML()
        button = gr.Button("Take it", size="sm", elem_id=f"advice-{number}-take")
    return box, text, button


def wire(tab: PreflightTab, lab: Lab, form: Form, page: gr.Blocks, item: gr.Tab) -> None:
    """Events. `item` is the tab's own gr.Tab: opening it shows the newest preflight there is."""
    going: dict[str, threading.Event] = {}  # what ends the preflight of each open page
    buttons = [tab.run, tab.cancel]

    @gr.on([page.load, item.select], inputs_kwargs=form.inputs(), outputs=tab.outputs(), **FOLLOWS)
    @explained
    def look(**values) -> dict:
        return _newest(tab, lab, form, values)

    @owner_only
    async def fly(questions: float | None, request: gr.Request, **values):
        stop = threading.Event()
        key = request.session_hash or ""
        going[key] = stop
        ready = {tab.run: gr.update(interactive=True), tab.cancel: gr.update(interactive=False)}
        yield {tab.run: gr.update(interactive=False), tab.cancel: gr.update(interactive=True),
               tab.said: gr.update(visible=True, value=progress_html(Progress("Waiting")))}
        try:
            settings, count = form.read(values), _count(questions)
            async for news in streamed(
                    lambda: flight(lab, settings, count, settings.train.seed, stop), stop):
                if isinstance(news, dict):
                    yield ready | {tab.said: problem_in_place(None)} | _newest(
                        tab, lab, form, values, news)
                else:
                    yield {tab.said: gr.update(visible=True, value=progress_html(news))}
        except Cancelled as error:
            yield ready | {tab.said: gr.update(
                visible=True, value=f"<p class='note' role='status'>{error.problem}</p>")}
        except LabError as error:
            yield ready | {tab.said: problem_in_place(error.problem)}
        except Exception as error:  # an unforeseen one must not leave the buttons as they are
            yield ready | {tab.said: problem_in_place(explain(error))}
            raise
        finally:
            stop.set()  # also when the page was closed
            if going.get(key) is stop:
                del going[key]

    tab.run.click(fly, [tab.questions], [*buttons, tab.said, *tab.outputs()],
                  inputs_kwargs=form.inputs(), trigger_mode="once", concurrency_id="preflight",
                  concurrency_limit=1, **QUIET)

    # Not `cancels`: it must end by itself, so that its buttons come back in order.
    @tab.cancel.click(**FREE)
    def cancel(request: gr.Request) -> None:
        if event := going.get(request.session_hash or ""):
            event.set()

    for number, (_, _, button) in enumerate(tab.places):
        form.shown_by.append(button.click(
            explained(partial(_take, form, number, button)), [tab.advised],
            [button, *form.outputs()], inputs_kwargs=form.inputs(), **FREE))


def _take(form: Form, number: int, button: gr.Button, advised: str, **values) -> dict:
    """Put one piece of advice into the form."""
    changed = follow(form.read(values), _advice(advised, number))
    return form.show(changed) | {button: gr.update(value="Taken", interactive=False)}


def _newest(tab: PreflightTab, lab: Lab, form: Form, values: dict,
            result: dict[str, Any] | None = None) -> dict:
    """The newest preflight of this root, with what was changed since; or this one."""
    if result is not None:
        return tab.show(result)
    found = preflight_record.newest(lab.workspace)
    if found is None:
        return {tab.about: EMPTY}
    created, before, kept = found
    now: Settings | None = None
    with contextlib.suppress(BadSettings):  # said at the field
        now = form.read(values)
    try:
        return tab.show(kept, stale_html(created, before, now, preflight_record.MATTERS))
    except (KeyError, TypeError, AttributeError):  # of another version of the lab
        return {tab.about: EMPTY}


def _count(questions: float | None) -> int | None:
    if questions is not None and (questions != int(questions) or questions < 0):
        raise RunError("The number of questions cannot be used.",
                       f"{questions:g} is not a whole number of 0 or more.",
                       "Give one; 0 takes as many as time allows.")
    return int(questions or 0) or None


def _advice(advised: str, number: int) -> dict[str, Any]:
    """The settings of one piece of advice, as the page sent it back. Raises RunError."""
    try:
        return dict(json.loads(advised)[number]["set"])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise RunError("This advice is gone.", "The page has lost it.",
                       "Run the preflight again.") from None
