"""The fields in which a run is named, tagged and noted; nothing of another person's is lost."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from lab.services.labels import NAME_LENGTH, Label
from lab.services.runs import Run


@dataclass
class LabelView:
    """`was` holds what the fields showed when they were filled, as JSON: what differs from it is
    what a person typed."""

    name: gr.Textbox
    tags: gr.Textbox
    notes: gr.Textbox
    was: gr.Textbox
    save: gr.Button
    archive: gr.Button

    def inputs(self) -> list[Component]:
        return [self.name, self.tags, self.notes, self.was]

    def parts(self) -> list[Component]:
        return [*self.inputs(), self.save, self.archive]

    def fill(self, run: Run) -> dict[Component, Any]:
        """Updates that show this run's label."""
        fields = shown(run)
        return {self.name: fields["name"], self.tags: fields["tags"], self.notes: fields["notes"],
                self.was: json.dumps(fields),
                self.archive: "Take out of the archive" if run.label.archived else "Archive"}

    def follow(self, run: Run, typed: tuple[str, str, str], was: str) -> dict[Component, Any]:
        """The same where another page may have changed it: what is being typed here stays, and a
        field that nobody changed is not touched, for somebody may just begin to type there."""
        updates, now, before = self.fill(run), shown(run), _was(was)
        changed = changes(typed, was)
        for key, field in (("name", self.name), ("tags", self.tags), ("notes", self.notes)):
            if key in changed or now[key] == before.get(key):
                del updates[field]
        kept = {key: value for key, value in _was(was).items() if key in changed}
        return updates | {self.was: json.dumps(now | kept)}


def shown(run: Run) -> dict[str, str]:
    """What the fields show of a run."""
    label: Label = run.label
    return {"name": run.name, "tags": ", ".join(label.tags), "notes": label.notes}


def changes(typed: tuple[str, str, str], was: str) -> dict[str, str]:
    """The fields that a person has changed, with what was typed."""
    before = _was(was)
    return {key: value or "" for key, value in zip(("name", "tags", "notes"), typed, strict=True)
            if (value or "") != before.get(key, "")}


def _was(text: str) -> Mapping[str, str]:
    try:
        told = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def build(was: gr.Textbox) -> LabelView:
    """`was` is hidden, and outside of what is shown and hidden with a run."""
    with gr.Accordion("Name, tags and notes", open=False, elem_id="runs-label"):
        with gr.Row(elem_classes="fields"):
            name = gr.Textbox(label="Name", max_lines=1, max_length=NAME_LENGTH,
                              elem_id="runs-name", info="Of this run in every list. Its folder "
                              "keeps its own name. Empty: the name it was started with.")
            tags = gr.Textbox(label="Tags", max_lines=1, elem_id="runs-tags",
                              info="With commas between. Found with tag:WORD.")
            notes = gr.Textbox(label="Notes", lines=3, max_lines=12, elem_id="runs-notes",
                               elem_classes="wide", info="What was tried, what was found.")
        with gr.Row(elem_classes="buttons"):
            save = gr.Button("Save", elem_id="runs-save", size="md", scale=0, min_width=110)
            archive = gr.Button("Archive", elem_id="runs-archive", size="md", scale=0,
                                min_width=150)
    return LabelView(name, tags, notes, was, save, archive)
