"""Blind mode of Compare: who answers is hidden until the person has voted; what the votes tell."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from html import escape

import gradio as gr

from lab.core.adapters import Adapter
from lab.core.insight.votes import (
    ALIKE,
    BAD,
    LEFT,
    PLACES,
    RIGHT,
    SURE,
    TOTAL,
    VOTES,
    Agreement,
    Vote,
    agreements,
    between,
    identity,
    sentence,
    tally,
    wanted,
)
from lab.core.problems import LabError
from lab.core.rewards.registry import GOAL
from lab.services import verdicts, votes
from lab.services.lab import Lab
from lab.services.runs import Run
from lab.ui.access import owner_only
from lab.ui.compare.panes import FEWEST, Picked, count_of, inputs_of, picked_of, shown
from lab.ui.compare.parts import CompareTab, cleared, conversation, filled, note
from lab.ui.compare.sides import judge_of, run_of
from lab.ui.talk import Talk
from lab.ui.widgets import FREE, QUIET, explained, problem_in_place, table_html
from lab.ui.widgets import counted as counted_as

WORDS = {LEFT: "Left is better", RIGHT: "Right is better", ALIKE: "Alike", BAD: "Both bad"}
GONE = "There is no question to vote on: it was voted on already, or the lab was started anew. Ask."
# The number keys vote while the focus is among the answers or the buttons, and nowhere else.
KEYS_JS = """
const buttons = {1: 'vote-left', 2: 'vote-right', 3: 'vote-alike', 4: 'vote-bad'};
const press = event => {
  if (!element.isConnected) return document.removeEventListener('keydown', press);
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const at = event.target, button = document.getElementById(buttons[event.key]);
  if (!button || !button.getClientRects().length || button.disabled) return;
  if (!at.closest?.('#compare-vote, #compare-panes')) return;
  if (at.matches('input, textarea, select')) return;
  event.preventDefault();
  button.click();
};
document.addEventListener('keydown', press);"""
CSS = """
.headline { margin: 8px 0; padding: 14px 16px; font-size: 19px; line-height: 1.4;
  font-weight: 700; border-width: 1px 1px 1px 5px; border-style: solid;
  border-color: var(--border-color-primary); border-radius: var(--block-radius);
  background: var(--block-background-fill); }
.headline.sure { border-color: var(--good); background: var(--good-soft); color: var(--good); }
h3 { margin: 18px 0 4px; }
.help { margin: 8px 0; }
tr.goal td:first-child { font-weight: 700; }
tr.sum td { font-weight: 700; }
@media (max-width: 640px) { .headline { font-size: 17px; } }"""


def build_switch() -> gr.Checkbox:
    return gr.Checkbox(False, label="Blind", elem_id="compare-blind", container=False, scale=0,
                       min_width=110)


def build_about() -> gr.HTML:
    """The line that says who is in play."""
    return gr.HTML(elem_id="compare-blind-about", visible=False)


def build_vote() -> tuple[gr.Column, dict[str, gr.Button], gr.Button]:
    """(the bar, its buttons by vote, the way to the next question)."""
    with gr.Column(visible=False, elem_id="compare-vote") as bar:
        gr.HTML("<p class='help'>Which answer is better? Keys 1 to 4 vote too.</p>",
                js_on_load=KEYS_JS)
        with gr.Row(elem_id="compare-vote-buttons"):
            made = {vote: gr.Button(f"{place} · {WORDS[vote]}", elem_id=f"vote-{vote}", scale=0,
                                    min_width=170) for place, vote in enumerate(VOTES, 1)}
    after = gr.Button("Next question", variant="primary", visible=False, scale=0, min_width=170,
                      elem_id="vote-next")
    return bar, made, after


def build_tally() -> gr.HTML:
    return gr.HTML(elem_id="compare-tally", css_template=CSS, visible=False)


def wire(tab: CompareTab, lab: Lab) -> None:
    at, panes = tab.blind, inputs_of(tab.panes)
    talk = conversation(tab)

    @at.switch.input(inputs=[at.switch, tab.count], inputs_kwargs=panes, outputs=[
        tab.count, at.about, at.tally, tab.asking.add, tab.asking.remove,
        *(pane.box for pane in tab.panes), *talk], **FREE)
    def switch(on: bool, count: str, request: gr.Request, **picked) -> dict:
        """Two sides are compared blindly, whose pickers would tell which is which."""
        tab.unvoted.pop(request.session_hash or "", None)
        many = FEWEST if on else count_of(count)
        return cleared(tab) | looks(tab, lab, picked_of(picked), on) | shown(tab.panes, many) | {
            tab.count: str(many), tab.asking.add: gr.update(interactive=not on),
            tab.asking.remove: gr.update(visible=many > FEWEST)}

    def cast(vote: str) -> Callable:
        @explained
        @owner_only
        def voted(request: gr.Request, on: bool, **picked) -> dict:
            key = request.session_hash or ""
            asked = tab.unvoted.get(key)
            if asked is None:
                return {at.bar: gr.update(visible=False), tab.said: note(GONE)}
            try:
                votes.keep(asked.run.folder, record_of(asked, vote))
            except LabError as error:  # it can be cast again
                return {tab.said: problem_in_place(error.problem)}
            tab.unvoted.pop(key, None)
            asked.hidden = False
            told = ("You found them alike." if vote == ALIKE else "You found both bad."
                    if vote == BAD else f"You preferred {_named(asked, PLACES.index(vote))}.")
            return filled(tab, asked, named=True, vote=told) | looks(
                tab, lab, picked_of(picked), on) | {
                at.bar: gr.update(visible=False), at.next: gr.update(visible=True),
                tab.said: note(told)}

        return voted

    for vote, button in at.votes.items():
        button.click(cast(vote), [at.switch], [at.about, at.tally, *talk], inputs_kwargs=panes,
                     trigger_mode="once", js="(...given) => { window.labFocus('#vote-next'); "
                     "return given; }", **QUIET)


def _named(talk: Talk, side: int) -> str:
    return talk.name(side) if talk.runs[side] else "the base model"


def record_of(talk: Talk, vote: str) -> dict:
    """A vote as services/votes.py keeps it."""
    sides = {place: {"text": talk.updates[side].text, **talk.answered(side)}
             for side, place in enumerate(PLACES)}
    return {"made": time.time(), "question": talk.question, "reference": talk.reference,
            "seed": talk.seed, "sampling": asdict(talk.sampling), **sides, "vote": vote}


def looks(tab: CompareTab, lab: Lab, picked: Picked, on: bool) -> dict:
    """Updates of who is in play and of what the votes tell, for these sides."""
    sides, run = _sides(lab, picked[:FEWEST]), judge_of(lab, [who for who, _ in picked[:FEWEST]])
    about, told = "", ""
    if on and sides:
        about = (f"<p class='note'>One of the two answers is of {escape(sides[0].name)}, the other "
                 f"of {escape(sides[1].name)}. Where each stands is drawn anew for every question, "
                 "which begins a conversation of its own. Switch Blind off to pick other sides."
                 "</p>")
    if run is not None:
        found = votes.of_run(run.folder)
        if on or found:
            told = tally_html(run, found, sides)
    return {tab.blind.about: gr.update(value=about, visible=bool(about)),
            tab.blind.tally: gr.update(value=told, visible=bool(told))}


class _Side:
    """A side as it is picked: what it is called, and which weights it has."""

    def __init__(self, run: Run | None, adapter: Adapter | None) -> None:
        self.run, self.adapter = run, adapter

    @property
    def name(self) -> str:
        if self.run is None:
            return "the base model"
        return f"{self.run.name}, {self.adapter.title}"

    @property
    def identity(self) -> tuple[str, str]:
        """As `votes.identity` of what it answers."""
        return ("", "") if self.run is None else (
            self.run.id, verdicts.fingerprint(self.adapter.path))


def _sides(lab: Lab, picked: Picked) -> list[_Side]:
    """The two sides, the base model first; empty where one cannot be read in this moment."""
    made = []
    try:
        for who, at in picked:
            run = run_of(lab, who)
            made.append(_Side(run, run and run.folder.saved_at(run.step_at(at))))
    except LabError:
        return []
    return sorted(made, key=lambda side: side.run is not None)


def tally_html(run: Run, found: Sequence[Vote], sides: Sequence[_Side]) -> str:
    """What this run's votes tell of the two sides, and of its rewards."""
    first, second = (side.identity for side in sides) if found and sides else (("", ""), ("", ""))
    counted = tally(between(found, first, second), second)
    said = sentence(counted, *(side.name for side in sides)) if sides else "No vote yet."
    sure = " sure" if counted.decided and counted.p < SURE else ""
    parts = [f"<h2>Blind votes</h2><p class='headline{sure}' role='status'>{escape(said)}</p>"]
    if found:
        chosen = run.settings.rewards.chosen
        told = agreements(found, [one.name for one in chosen])
        parts.append("<h3>Does the reward want what you want?</h3>"
                     f"<p class='help'>{escape(wanted(told[TOTAL]))}</p>")
        rows = [("Weighted sum", *_row(told[TOTAL]))] + [
            (f"{one.reward.label} ({one.takes_as})", *_row(told[one.name]))
            for one in sorted(chosen, key=lambda one: one.takes_as != GOAL)]
        kinds = ["sum", *sorted((one.takes_as for one in chosen), key=lambda kind: kind != GOAL)]
        parts.append(table_html(("Reward", "Differs in", "Prefers what you prefer", ""), rows,
                                numbers=(1, 2), classes=kinds))
    if others := _others(run, found, {first, second}):
        parts.append("<h3>Votes on other sides</h3>" + table_html(
            ("Sides", "First", "Second", "Alike", "Both bad"), others, numbers=(1, 2, 3, 4)))
    if found:
        parts.append(f"<p class='help'>{counted_as(len(found), 'vote')} of {escape(run.name)}, "
                     "kept in its folder. The test leaves ties out; the rewards are compared in "
                     "all votes in which you preferred one.</p>")
    return "".join(parts)


def _row(one: Agreement) -> tuple[str, str, str]:
    agrees = f"{one.agrees} of {one.differs}" if one.differs else "–"
    return f"{one.differs} of {one.votes}", agrees, one.judgement


def _others(run: Run, found: Sequence[Vote], shown: set) -> list[tuple]:
    """The votes on other pairs of sides than the one that is picked, a row each."""
    pairs: dict[frozenset, list[Vote]] = {}
    names: dict[tuple[str, str], str] = {("", ""): "base model"}
    for vote in found:
        for place in PLACES:
            side, step = vote[place], vote[place]["step"]
            if identity(side) not in names:
                of = "" if side["run"] == run.id else f" of {side['run']}"
                names[identity(side)] = ("step unknown" if step is None else f"step {step}") + of
        pairs.setdefault(frozenset(identity(vote[place]) for place in PLACES), []).append(vote)
    rows = []
    for pair, cast in pairs.items():
        if pair == shown:
            continue
        first, second = sorted(pair)[0], sorted(pair)[-1]  # the base model first
        counted = tally(cast, second)
        rows.append((f"{names[first]}, {names[second]}", counted.lost, counted.won, counted.alike,
                     counted.bad))
    return rows
