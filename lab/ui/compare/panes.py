"""The panes of Compare: two to four sides, what each can be, and how they are kept."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lab.core.prompts import with_its_turns
from lab.services.lab import Lab
from lab.services.runs import Run
from lab.ui.compare.scores import CSS
from lab.ui.compare.sides import BASE, checkpoints_of, examples_of, has_adapter, judge_of
from lab.ui.widgets import one_line

SIDES = ("left", "right", "third", "fourth")
FEWEST, MOST = 2, len(SIDES)
CHOSEN, STAY = "chosen", "stay"  # how the sides are kept: a person chose them; for now
EMPTY = "Pick a question and press Send."
NOTHING = "No adapter to compare with yet. Train a model: its first checkpoint is enough."
WITH_RAW = [{"left": "$$", "right": "$$", "display": True},
            {"left": "\\(", "right": "\\)", "display": False},
            {"left": "\\[", "right": "\\]", "display": True}]
LONGEST = 110  # characters of a question in the list of examples

Picked = list[tuple[str | None, str | None]]  # (run or BASE, checkpoint) of each pane


@dataclass
class Pane:
    """One side: who answers, the conversation, and how its last answer scored."""

    side: str
    box: gr.Column
    who: gr.Dropdown
    checkpoint: gr.Dropdown
    strip: gr.HTML
    chat: gr.Chatbot
    scores: gr.HTML

    @property
    def filled(self) -> list[gr.components.Component]:
        """What an answer fills."""
        return [self.strip, self.chat, self.scores]


def build_pane(side: str) -> Pane:
    with gr.Column(min_width=0, elem_id=f"compare-{side}",
                   elem_classes=_look(SIDES.index(side) < FEWEST)) as box:
        with gr.Row(elem_classes="pickers"):  # blind mode hides them (assets/style.css)
            who = gr.Dropdown([("Base model", BASE)], value=BASE, scale=4, min_width=200,
                              label=f"{side.capitalize()} side", elem_id=f"compare-{side}-run")
            checkpoint = gr.Dropdown([("None", "")], value="", label="Checkpoint", scale=5,
                                     min_width=200, interactive=False, visible="hidden",
                                     elem_id=f"compare-{side}-checkpoint")
        strip = gr.HTML(elem_id=f"compare-{side}-strip", css_template=CSS)
        chat = gr.Chatbot(label=f"{side.capitalize()} side", show_label=False, height=None,
                          min_height=140, max_height=480,
                          layout="bubble", buttons=["copy"], placeholder=EMPTY,
                          latex_delimiters=WITH_RAW, feedback_options=None,
                          elem_id=f"compare-{side}-chat")
        scores = gr.HTML(elem_id=f"compare-{side}-scores", css_template=CSS)
    return Pane(side, box, who, checkpoint, strip, chat, scores)


def inputs_of(panes: Sequence[Pane]) -> dict[str, gr.Dropdown]:
    """The pickers by name, for `inputs_kwargs`; `picked_of` reads them."""
    return {f"{pane.side}.{part}": getattr(pane, part)
            for pane in panes for part in ("who", "checkpoint")}


def picked_of(values: Mapping[str, Any]) -> Picked:
    """What all panes have picked, those that are not shown too."""
    return [(values[f"{side}.who"], values[f"{side}.checkpoint"]) for side in SIDES]


def count_of(text: str) -> int:
    """How many panes are shown."""
    return int(text) if text in ("2", "3", "4") else FEWEST


def choices(lab: Lab, panes: Sequence[Pane], picked: Picked, count: int, kept: bool
            ) -> tuple[dict, Picked, bool]:
    """(what the pickers offer now as updates, what is picked then, whether the sides were kept).

    A pick that is still there stays where the sides are `kept`; else the base stands beside the
    newest run and the best of its adapters.
    """
    runs = [run for run in lab.runs.all() if run.settings and has_adapter(run)]
    offered = [("Base model", BASE), *((title(run), run.id) for run in runs)]
    known = {value for _, value in offered}
    who = [value if value in known else BASE for value, _ in picked]
    kept = kept and any(value != BASE for value in who[:count])
    if not kept:
        who[:FEWEST] = [BASE, runs[0].id if runs else BASE]
    updates, now = {}, []
    for pane, value, (before, at) in zip(panes, who, picked, strict=True):
        run = next((run for run in runs if run.id == value), None)
        saved = checkpoints_of(run)
        # A run that nobody picked stands there with its best adapter as soon as it has one.
        at = at if kept and value == before and at in {v for _, v in saved} else saved[0][1]
        now.append((value, at))
        updates[pane.who] = gr.update(choices=offered, value=value)
        updates[pane.checkpoint] = gr.update(choices=saved, value=at, interactive=bool(run),
                                            visible=True if run else "hidden")
        updates[pane.chat] = gr.update(placeholder=EMPTY if runs else NOTHING)
    return updates, now, kept


def another(lab: Lab, picked: Picked) -> tuple[str, str]:
    """A side that is worth adding to these: a checkpoint of their run that is not among them, from
    the middle of those; else the base model."""
    run = judge_of(lab, [who for who, _ in picked])
    if run is None:
        return BASE, ""
    taken = {run.folder.saved_at(run.step_at(at)).step for who, at in picked if who == run.id}
    left = [one.step for one in run.folder.saved() if one.step not in taken
            and one.step is not None]
    if left:
        return run.id, str(left[len(left) // 2])
    return BASE, ""


def shown(panes: Sequence[Pane], count: int) -> dict:
    """Updates that show so many panes; the first two always are."""
    return {pane.box: gr.update(elem_classes=_look(place < count))
            for place, pane in enumerate(panes) if place >= FEWEST}


def _look(shown: bool) -> list[str]:
    """Hidden by style: gradio shows a box with its parts as they were when it last did."""
    return ["pane"] if shown else ["pane", "off"]


def examples(lab: Lab, picked: Picked, count: int) -> dict:
    """An update of the picker of held-out questions."""
    rows = examples_of(lab, judge_of(lab, [who for who, _ in picked[:count]]))
    return gr.update(choices=[(one_line(with_its_turns(row), LONGEST), str(index))
                              for index, row in enumerate(rows)])


def title(run: Run) -> str:
    when = time.strftime("%d %b %H:%M", time.localtime(run.created)) if run.created else run.id
    name = "" if run.name == run.id else f"{run.name} · "
    newest = run.folder.newest()
    at = newest.title if newest else "no adapter"
    ahead = "" if newest and newest.step == run.step else f" (the run: step {run.step})"
    return f"{name}{when} · {at}{ahead}"
