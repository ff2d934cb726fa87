"""The components of Compare, and the updates that fill them from a question that was asked."""

from collections import OrderedDict
from dataclasses import dataclass, field
from html import escape

import gradio as gr

from lab.core.problems import Problem
from lab.ui.compare import record, scores
from lab.ui.compare.panes import SIDES, Pane
from lab.ui.talk import Talk
from lab.ui.verdict import VerdictPanel
from lab.ui.widgets import problem_in_place

KEPT = 200  # blind questions that wait for their vote, of all browser tabs


@dataclass
class Asking:
    """What a question is put with, and what can be done with its answers."""

    example: gr.Dropdown
    question: gr.Textbox
    reference: gr.Textbox
    seed: gr.Number
    send: gr.Button
    stop: gr.Button
    clear: gr.Button
    draw: gr.Button
    retry: gr.Button
    edit: gr.Button
    copy: gr.Button
    save: gr.Button
    add: gr.Button
    remove: gr.Button

    @property
    def after(self) -> list[gr.Button]:
        """Buttons that need a conversation."""
        return [self.retry, self.edit, self.copy, self.save]


@dataclass
class Blind:
    """Blind mode: its switch, who is in play, the buttons of the vote, and what votes tell."""

    switch: gr.Checkbox
    about: gr.HTML
    bar: gr.Column
    votes: dict[str, gr.Button]
    next: gr.Button
    tally: gr.HTML


@dataclass
class Lapse:
    """The time-lapse: its buttons, how far it is, and the panel that the browser draws."""

    start: gr.Button
    stop: gr.Button
    greedy: gr.Checkbox
    said: gr.HTML
    frames: gr.HTML


@dataclass
class CompareTab:
    panes: tuple[Pane, ...]
    asking: Asking
    blind: Blind
    lapse: Lapse
    said: gr.HTML
    turns: gr.Textbox  # the conversation (record.py)
    markdown: gr.Textbox
    count: gr.Textbox  # panes that are shown
    asked: gr.Textbox  # the question that the reference answer belongs to; empty: it was typed
    followed: gr.Textbox
    verdict: VerdictPanel
    unvoted: OrderedDict[str, Talk] = field(default_factory=OrderedDict)  # by browser tab

    @property
    def send(self) -> gr.Button:
        return self.asking.send

    def wait_for_vote(self, key: str, talk: Talk) -> None:
        """Hold a blind question until this browser tab votes on it, or asks another."""
        self.unvoted[key] = talk
        while len(self.unvoted) > KEPT:
            self.unvoted.popitem(last=False)


def conversation(tab: CompareTab) -> list[gr.components.Component]:
    """What a conversation fills."""
    return [*(part for pane in tab.panes for part in pane.filled), tab.turns, tab.markdown,
            tab.said, tab.blind.bar, tab.blind.next, *tab.asking.after]


def cleared(tab: CompareTab) -> dict:
    """Updates that take the conversation away."""
    updates: dict = {tab.turns: record.NONE, tab.markdown: "", tab.said: note(""),
                     tab.blind.bar: gr.update(visible=False),
                     tab.blind.next: gr.update(visible=False)}
    updates |= {button: gr.update(interactive=False) for button in tab.asking.after}
    for pane in tab.panes:
        updates |= {pane.strip: "", pane.scores: "", pane.chat: []}
    return updates


def filled(tab: CompareTab, talk: Talk, new: tuple[bool, ...] = (), named: bool = False,
           **more: str) -> dict:
    """Updates that show a question and its answers as far as they are. `new` says which sides have
    something new (empty: all), `named` that each side is to say who it is, `more` is kept with the
    turn."""
    updates: dict = {}
    for place, pane in enumerate(tab.panes[:talk.count]):
        if new and not new[place]:
            continue
        finished = talk.updates[place].done or talk.over
        updates[pane.chat] = talk.conversation(place)
        updates[pane.strip] = talk.in_short(place, named) if not talk.hidden else scores.strip_html(
            [f"<span class='who'>{SIDES[place].capitalize()} answer</span>"], [])
        updates[pane.scores] = talk.judged(place) if finished else ""
    if talk.told and not talk.over:
        updates[tab.said] = note(" ".join(talk.told))
    if talk.over:
        updates[tab.said] = note("Stopped: the scores are those of unfinished answers."
                                 if talk.stopped else "")
        if not talk.hidden:
            turns = talk.turns(**more)
            updates |= {tab.turns: record.written(turns), tab.markdown: record.markdown(turns)}
            updates |= {button: gr.update(interactive=True) for button in tab.asking.after}
    return updates


def failed(tab: CompareTab, talk: Talk | None, problem: Problem) -> dict:
    """Back to where it was before the question, and why."""
    updates: dict = {tab.said: problem_in_place(problem)}
    if talk is not None:
        for place, pane in enumerate(tab.panes[:talk.count]):
            updates |= {pane.chat: talk.former(place), pane.strip: "", pane.scores: ""}
    return updates


def note(text: str) -> dict:
    return gr.update(value=f"<p class='note' role='status'>{escape(text)}</p>" if text else "",
                     visible=bool(text))
