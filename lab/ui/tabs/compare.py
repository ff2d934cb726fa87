"""The Compare tab: two to four sides answer side by side; blind votes, a time-lapse, a verdict."""

import threading
from collections.abc import Callable, Sequence

import gradio as gr

from lab.services.lab import Lab
from lab.ui.compare import asking, blind, lapse, record
from lab.ui.compare.panes import (
    CHOSEN,
    FEWEST,
    MOST,
    SIDES,
    STAY,
    Picked,
    another,
    build_pane,
    choices,
    count_of,
    examples,
    inputs_of,
    picked_of,
)
from lab.ui.compare.panes import shown as boxes
from lab.ui.compare.panes import title as title
from lab.ui.compare.parts import Asking, Blind, CompareTab, cleared, conversation
from lab.ui.compare.sides import BASE
from lab.ui.forms import Form
from lab.ui.verdict import build_panel
from lab.ui.verdict import wire as wire_verdict
from lab.ui.widgets import FOLLOWS, FREE, explained


def build_tab(lab: Lab, form: Form) -> CompareTab:
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=3, min_width=320):
            example = gr.Dropdown([], label="Example question", value=None,
                                  info="Held out: the run was not trained on it.",
                                  elem_id="compare-example")
            question = gr.Textbox(label="Question", lines=3, max_lines=12, max_length=20_000,
                                  elem_id="compare-question", info="Send the same text again to "
                                  "answer it anew; another one follows up. Shift "
                                  "and Enter sends.")
        with gr.Column(scale=2, min_width=280):
            reference = gr.Textbox(label="Reference answer", max_lines=3, max_length=2000,
                                   elem_id="compare-reference", info="For rewards that compare "
                                   "with it. May stay empty.")
            with gr.Accordion("Sampling", open=False, elem_id="compare-sampling"), \
                    gr.Row(elem_classes="fields"):
                for key in asking.SAMPLING:
                    form.widget(key)
                seed = gr.Number(3407, label="Seed", info="The same for all sides.",
                                 elem_id="compare-seed", min_width=150)
    with gr.Row(elem_id="compare-actions"):
        send = gr.Button("Send", variant="primary", elem_id="compare-send", scale=0, min_width=140)
        stop = gr.Button("Stop", elem_id="compare-stop", interactive=False, scale=0, min_width=100)
        clear = gr.Button("Clear", elem_id="compare-clear", scale=0, min_width=100)
        draw = gr.Button("Any question", elem_id="compare-draw", scale=0, min_width=140)
        add = gr.Button("Add a side", elem_id="compare-add", scale=0, min_width=130)
        remove = gr.Button("Remove the last side", elem_id="compare-remove", visible=False, scale=0,
                           min_width=190)
        switch = blind.build_switch()
    about = blind.build_about()
    said = gr.HTML(elem_id="compare-said", visible=False)
    with gr.Row(elem_classes="panes", elem_id="compare-panes"):
        panes = tuple(build_pane(side) for side in SIDES)
    bar, votes, after_vote = blind.build_vote()
    with gr.Row(elem_id="compare-after", elem_classes="toolbar"):
        retry, edit, copy, save = (
            gr.Button(text, elem_id=f"compare-{name}", interactive=False, scale=0, size="md",
                      min_width=width)
            for name, text, width in (
                ("retry", "Again with a new seed", 200), ("edit", "Edit the last question", 200),
                ("copy", "Copy as Markdown", 170), ("save", "Download as JSON", 170)))
        gr.HTML("<span role='status'></span>", elem_id="compare-took", min_width=90)
    tally = blind.build_tally()
    # The words of the models as they were: the chat shows them folded and formatted.
    turns, markdown, count, asked, followed = (
        gr.Textbox(value, visible="hidden", elem_id=f"compare-{name}", label=name.capitalize())
        for name, value in (("turns", record.NONE), ("markdown", ""), ("count", str(FEWEST)),
                            ("asked", ""), ("followed", "")))
    played = lapse.build()
    return CompareTab(
        panes, Asking(example, question, reference, seed, send, stop, clear, draw, retry, edit,
                      copy, save, add, remove),
        Blind(switch, about, bar, votes, after_vote, tally), played, said, turns, markdown, count,
        asked, followed, build_panel())


def shown(tab: CompareTab) -> list[gr.components.Component]:
    """What `show` fills."""
    return [*_picked(tab), *conversation(tab)]


def show(tab: CompareTab, lab: Lab, run_id: str) -> dict:
    """Updates that put this run beside its base model."""
    picked = [(BASE, ""), (run_id, None), *[(BASE, "")] * (MOST - FEWEST)]
    return _choices(lab, tab, picked, FEWEST, False) | cleared(tab)


def _offered(tab: CompareTab) -> list[gr.components.Component]:
    """What `_offers` fills, besides the chats."""
    return [*(part for pane in tab.panes for part in (pane.who, pane.checkpoint)), tab.followed,
            tab.asking.example, tab.blind.about, tab.blind.tally]


def _picked(tab: CompareTab) -> list[gr.components.Component]:
    """What a choice of sides fills, besides the conversation."""
    return [*_offered(tab), *(pane.box for pane in tab.panes), tab.count, tab.asking.add,
            tab.asking.remove, tab.blind.switch]


def wire(tab: CompareTab, lab: Lab, form: Form, triggers: Sequence[Callable]) -> None:
    """Events. `triggers` are the moments at which there may be new runs and checkpoints."""
    wire_verdict(tab.verdict, lab, triggers)
    pickers = inputs_of(tab.panes)
    stops: dict[str, threading.Event] = {}
    asking.wire(tab, lab, form, stops)
    blind.wire(tab, lab)
    lapse.wire(tab, lab, form)

    def look(turns: str, followed: str, count: str, on: bool, request: gr.Request, **picked
             ) -> dict:
        key = request.session_hash or ""
        if turns != record.NONE or key in stops or key in tab.unvoted:
            followed = CHOSEN if followed == CHOSEN else STAY  # a conversation keeps its sides
        return _offers(lab, tab, picked_of(picked), count_of(count), followed, on)

    gr.on(triggers, look, [tab.turns, tab.followed, tab.count, tab.blind.switch],
          [*_offered(tab), *(pane.chat for pane in tab.panes)], inputs_kwargs=pickers, **FOLLOWS)

    def picked(count: str, on: bool, **now) -> dict:
        return _choices(lab, tab, picked_of(now), count_of(count), on) | cleared(tab)

    gr.on([event for pane in tab.panes for event in (pane.who.input, pane.checkpoint.input)],
          picked, [tab.count, tab.blind.switch], [*_picked(tab), *conversation(tab)],
          inputs_kwargs=pickers, **FREE)

    def sides(change: int) -> Callable:
        @explained
        def changed(count: str, **now) -> dict:
            before, there = picked_of(now), count_of(count)
            many = min(MOST, max(FEWEST, there + change))
            if many > there:
                before[there] = another(lab, before[:there])
            return _choices(lab, tab, before, many, False) | cleared(tab)

        return changed

    for button, change in ((tab.asking.add, 1), (tab.asking.remove, -1)):
        button.click(sides(change), [tab.count], [*_picked(tab), *conversation(tab)],
                     inputs_kwargs=pickers, **FREE)


def _offers(lab: Lab, tab: CompareTab, picked: Picked, count: int, followed: str, on: bool
            ) -> dict:
    """What the pickers offer now. A pick that is still there stays where a person made it; else
    the base stands beside the newest run. `followed` is "", CHOSEN or STAY; `on`: blind."""
    updates, now, kept = choices(lab, tab.panes, picked, count, bool(followed))
    return updates | blind.looks(tab, lab, now, on) | {
        tab.followed: CHOSEN if followed == CHOSEN and kept else "",
        tab.asking.example: examples(lab, now, count)}


def _choices(lab: Lab, tab: CompareTab, picked: Picked, count: int, on: bool) -> dict:
    """The sides that a person has chosen, in so many panes."""
    return _offers(lab, tab, picked, count, CHOSEN, on) | boxes(tab.panes, count) | {
        tab.count: str(count), tab.blind.switch: on,
        tab.asking.add: gr.update(interactive=count < MOST and not on),
        tab.asking.remove: gr.update(visible=count > FEWEST)}
