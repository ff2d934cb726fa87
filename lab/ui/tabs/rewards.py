"""The Rewards tab: what is rewarded and how much, what it can be gamed by, and a playground."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from lab.core.insight.advantages import NORMALIZE_FIRST, SUM_FIRST
from lab.core.problems import Problem
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.sets import far_apart
from lab.services.lab import Lab
from lab.ui import own_rewards
from lab.ui.forms import REWARD_LIST, Form
from lab.ui.rewards import cards, playground, sets_view, sources, whatif_view
from lab.ui.widgets import problems_html

TOGETHER = "train.multi_objective_aggregation"


@dataclass
class RewardsTab:
    notes: gr.HTML
    sets: sets_view.SetsView
    bar: gr.HTML
    editor: gr.HTML
    offer: gr.HTML
    play: playground.Playground

    def live(self) -> list[Component]:
        """What follows every change of the form, beside its widgets."""
        return [self.notes, self.bar, self.offer, *self.sets.live()]

    def of_the_owner(self) -> list[Component]:
        """What a visitor of a Space cannot press."""
        return [self.sets.save, self.sets.take_in, self.play.take, self.play.ask]

    def updates(self, lab: Lab, form: Form, values: Mapping[str, Any],
                problems: Sequence[Problem]) -> dict[Component, Any]:
        notes = [p for p in problems if p.field == REWARD_LIST]
        told = {self.notes: problems_html(notes)}
        if any(p.field.startswith("rewards.") and p.level == "error" for p in problems):
            return told | {self.editor: cards.update((), SUM_FIRST, problems)}
        chosen, together = form.chosen(values), values[TOGETHER]
        return told | {self.editor: cards.update(chosen, together, problems),
                       self.bar: cards.bar_html(chosen, together),
                       self.offer: offer_html(chosen, together),
                       **self.sets.updates(lab, chosen)}


def build_tab(lab: Lab, form: Form) -> RewardsTab:
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=5, min_width=320):
            gr.HTML("<h2>What is rewarded</h2><p class='help'>Each answer's reward is the sum of "
                    "raw score × weight, and the model learns from how the answers to one question "
                    "differ in it. A <b>goal</b> says whether an answer is right, a <b>shape</b> "
                    "whether it is well made. A weight of 0 watches a reward without training on "
                    "it.</p>")
            picked = sets_view.build(lab)
            notes = gr.HTML(elem_id="reward-problems")
            bar = gr.HTML(elem_id="reward-bar")
            editor = cards.build(form)
            own_rewards.build(lab, form)
            with gr.Column(elem_classes="together"):
                offer = gr.HTML(elem_id="gdpo-offer")
                form.widget(TOGETHER)
        with gr.Column(scale=4, min_width=300, elem_classes="side"):
            play = playground.build()
    return RewardsTab(notes, picked, bar, editor, offer, play)


def wire(tab: RewardsTab, lab: Lab, form: Form, triggers: Sequence[Callable]) -> None:
    """`triggers` are further moments at which the shown answers are scored."""
    sets_view.wire(tab.sets, lab, form)
    playground.wire(tab.play, form, triggers, form.shown_by)
    sources.wire(tab.play, lab, form)
    whatif_view.wire(tab.play.whole, tab.play.told, tab.play.run, lab, form)


def offer_html(chosen: Sequence[Chosen], together: str) -> str:
    """Why rewards could be brought to one scale first, or what it means that they are."""
    if together == NORMALIZE_FIRST:
        return ("<p class='help'>Each reward counts by its weight alone, whatever its highest "
                "score: look at the bar above.</p>")
    text = far_apart(chosen)
    return f"<p class='help offer'>{escape(text)}</p>" if text else ""
