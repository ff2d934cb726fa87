"""What the Runs tab shows for what a page looks at: the list, the opened run, those beside it."""

import json
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from lab.services.history import NEWEST_FIRST, listed
from lab.services.lab import Lab
from lab.services.runs import Run
from lab.services.trash import KEPT_DAYS, size_told
from lab.ui import export_view
from lab.ui.history import label_view, overlay, table
from lab.ui.history.details import details_html, settings_html
from lab.ui.history.table import AT_ONCE, read_ticked
from lab.ui.widgets import title_of

CHOSEN = "chosen"
RUNS, ARCHIVED, DELETED = "Runs", "Archived", "Deleted"


@dataclass
class RunsTab:
    words: gr.Textbox
    order: gr.Dropdown
    place: gr.Radio
    table: gr.HTML
    ticked: gr.Textbox  # ids of the runs that are set beside the opened one, as JSON
    limit: gr.Number  # rows that are shown
    empty: gr.Button
    empty_question: gr.Row
    empty_yes: gr.Button
    empty_no: gr.Button
    run: gr.Dropdown
    details: gr.HTML
    said: gr.HTML
    undo: gr.Button
    undone: gr.Textbox  # what `undo` would bring back
    open: gr.Button
    fork: gr.Button
    resume: gr.Button
    delete: gr.Button
    question: gr.Row
    asked: gr.HTML
    really: gr.Button
    keep: gr.Button
    label: label_view.LabelView
    curves: gr.HTML
    settings: gr.HTML
    export: export_view.ExportPanel
    panel: gr.Column
    followed: gr.Textbox  # CHOSEN where a person picked the run, else empty: the newest is shown

    def looked(self) -> list[gr.components.Component]:
        """What says which runs are listed and which one is open."""
        return [self.run, self.words, self.order, self.place, self.limit, self.ticked,
                self.export.chosen]


@dataclass(frozen=True)
class Look:
    """What a page looks at, as its components say it (`RunsTab.looked`)."""

    run: str | None
    words: str = ""
    order: str = NEWEST_FIRST
    place: str = RUNS
    limit: float | None = AT_ONCE
    ticked: str = "[]"
    chosen: str = ""  # of its checkpoints, see ExportPanel


def shown(tab: RunsTab) -> list[gr.components.Component]:
    """What `show` fills."""
    return [tab.table, tab.panel, tab.run, tab.details, tab.open, tab.fork, tab.resume,
            tab.delete, tab.question, tab.asked, tab.really, tab.said, tab.followed, tab.place,
            tab.ticked, tab.limit, tab.empty, tab.empty_question, tab.undo, tab.curves,
            tab.settings, *tab.export.filled(), *tab.label.parts()]


def opened(tab: RunsTab, lab: Lab, look: Look) -> dict:
    return look_at(lab, tab, look) | quiet(tab) | {tab.followed: CHOSEN}


def look_at(lab: Lab, tab: RunsTab, look: Look) -> dict:
    """Everything the tab shows, with this run open, or the newest one where it is not there."""
    runs = lab.runs.all()
    known = {run.id: run for run in runs}
    there = [run for run in runs if not run.label.archived]
    run = known.get(look.run or "") or (there or runs or [None])[0]
    ticked = [one for one in read_ticked(look.ticked) if one in known]
    listing = list_of(lab, tab, Look(run.id if run else None, look.words, look.order, look.place,
                                   look.limit, json.dumps(ticked)), runs)
    if run is None:
        return listing | {tab.panel: gr.update(visible=False),
                          tab.run: gr.update(choices=[], value=None)}
    usable = run.settings is not None
    name = run.name if len(run.name) <= 40 else f"{run.name[:39]}…"
    return listing | {
        tab.panel: gr.update(visible=True), tab.ticked: json.dumps(ticked),
        tab.run: gr.update(value=run.id, choices=[
            (title_of(one), one.id) for one in runs if one is run or not one.label.archived]),
        tab.details: details_html(run, known),
        tab.open: gr.update(interactive=True),
        tab.fork: gr.update(interactive=usable),
        tab.resume: gr.update(interactive=run.can_go_on),
        tab.delete: gr.update(value=f"Delete {name}", interactive=not run.is_active),
        tab.question: gr.update(visible=False),
        tab.asked: f"<p>Delete <b>{escape(run.name)}</b> with its curves, answers and adapters? "
                   f"For {KEPT_DAYS} days it can be brought back.</p>",
        tab.really: f"Yes, delete {name}",
        **export_view.look(tab.export, lab, run, look.chosen),
        **tab.label.fill(run), **beside(tab, known, run.id, ticked),
    }


def list_of(lab: Lab, tab: RunsTab, look: Look, runs: list[Run] | None = None) -> dict:
    """The table, and what belongs to it."""
    runs = lab.runs.all() if runs is None else runs
    deleted = lab.trash.all()
    archived = [run for run in runs if run.label.archived]
    counts = {RUNS: len(runs) - len(archived), ARCHIVED: len(archived), DELETED: len(deleted)}
    limit = AT_ONCE if look.limit == AT_ONCE else len(runs)
    if look.place == DELETED:
        html = table.deleted_html(deleted, size_told(deleted))
    else:
        found = listed(runs, look.words or "", look.order, look.place == ARCHIVED)
        none = (table.NONE_FITS.format(words=repr((look.words or "").strip()))
                if (look.words or "").strip() and counts[look.place] else
                table.NONE_ARCHIVED if look.place == ARCHIVED else table.NO_RUNS)
        html = table.table_of(found, look.run or "", read_ticked(look.ticked), look.order, limit,
                        {run.id: run for run in runs}, none)
    return {tab.table: html, tab.limit: limit,
            tab.place: gr.update(choices=[(f"{name} ({count})" if count else name, name)
                                          for name, count in counts.items()]),
            tab.empty: gr.update(visible=look.place == DELETED and bool(deleted)),
            tab.empty_question: gr.update(visible=False)}


def beside(tab: RunsTab, known: dict[str, Run], opened: str | None, ticked: list[str]) -> dict:
    """Curves and settings of the opened run and those that are ticked."""
    ids = dict.fromkeys([*([opened] if opened else []), *ticked])
    many = [known[one] for one in ids if one in known]
    return {tab.curves: overlay.chosen(many, opened or ""), tab.settings: settings_html(many)}


def told_by(event: gr.EventData, key: str) -> str:
    """One text of what the page's script tells with an event; anyone can send it."""
    given = event._data.get(key) if isinstance(event._data, dict) else None
    return given if isinstance(given, str) else ""


def nothing() -> dict:
    return gr.update(value="", visible=False)


def quiet(tab: RunsTab) -> dict:
    """Nothing is said, and nothing is to be undone."""
    return {tab.said: nothing(), tab.undo: gr.update(visible=False)}


def done(text: str) -> dict[str, Any]:
    return gr.update(value=f"<p class='note' role='status'>{escape(text)}</p>", visible=True)
