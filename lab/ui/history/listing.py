"""What is listed and what is opened: search, order, ticks, and what others change meanwhile."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import gradio as gr

from lab.core.problems import LabError
from lab.services.history import NEWEST_FIRST, ORDERS
from lab.services.lab import Lab
from lab.ui.export_view import STANDS_JS
from lab.ui.history.page import (
    Look,
    RunsTab,
    beside,
    list_of,
    look_at,
    opened,
    shown,
    told_by,
)
from lab.ui.history.table import AT_ONCE, read_ticked
from lab.ui.widgets import FOLLOWS, FREE


def wire(tab: RunsTab, lab: Lab, triggers: Sequence[Callable]) -> None:
    """Events. `triggers` are the moments at which there may be something new."""
    filled, looked = shown(tab), tab.looked()

    def follow(chosen: str, name: str, tags: str, notes: str, was: str, *given) -> dict:
        look = Look(*given)
        found = look_at(lab, tab, look if chosen else Look(None, *given[1:]))
        if found[tab.run].get("value") != look.run:
            return found
        # The same run: what was typed and made ready of it, or is being asked, stays.
        found = {part: update for part, update in found.items() if part not in (
            tab.question, tab.empty_question, *tab.export.kept(), *tab.label.parts())}
        try:
            return found | tab.label.follow(lab.runs.get(look.run), (name, tags, notes), was)
        except LabError:
            return found

    news = gr.on(triggers, follow, [tab.followed, *tab.label.inputs(), *looked], filled, **FOLLOWS)
    news.then(None, [tab.run, tab.export.checkpoint, tab.export.chosen], tab.export.checkpoint,
              js=STANDS_JS, **FREE)
    tab.run.input(lambda *given: opened(tab, lab, Look(*given)), looked, filled, **FREE)
    listing = [tab.table, tab.place, tab.limit, tab.empty, tab.empty_question]

    def relist(*given) -> dict:
        return list_of(lab, tab, Look(*given))

    # Not `input` of the words: gradio sends none for what is pasted.
    gr.on([tab.words.change, tab.order.input, tab.place.input],
          lambda *given: relist(*given[:4], AT_ONCE, *given[5:]), looked, listing,
          trigger_mode="always_last", **FREE)

    @tab.table.order(inputs=looked, outputs=[*listing, tab.order], **FREE)
    def order(event: gr.EventData, *given) -> dict:
        by = told_by(event, "by")
        by = by if by in ORDERS else NEWEST_FIRST
        if by == given[2] == NEWEST_FIRST:
            by = "oldest"  # pressed again
        return relist(*given[:2], by, *given[3:]) | {tab.order: by}

    @tab.table.more(inputs=looked, outputs=listing, **FREE)
    def more(*given) -> dict:
        return relist(*given[:4], None, *given[5:])

    def pick(event: gr.EventData, *given) -> dict:
        return opened(tab, lab, Look(told_by(event, "run"), *given[1:]))

    for pressed in (tab.table.pick, tab.details.pick):
        pressed(pick, looked, filled, **FREE)

    # The table too: the page draws it anew only where it is another one than it was last told.
    with_it = [tab.ticked, tab.curves, tab.settings, tab.table]

    @tab.table.tick(inputs=looked, outputs=with_it, trigger_mode="always_last", **FREE)
    def tick(event: gr.EventData, *given) -> dict:
        rows = event._data.get("shown") if isinstance(event._data, dict) else None
        return _ticked(given, rows if isinstance(rows, dict) else {})

    @tab.curves.untick(inputs=looked, outputs=with_it, **FREE)
    def untick(event: gr.EventData, *given) -> dict:
        return _ticked(given, {told_by(event, "run"): False})

    def _ticked(given: tuple, rows: dict) -> dict:
        """`rows` says of each run whether it is ticked; the others stay as they are."""
        look = Look(*given)
        ticked = [one for one in read_ticked(look.ticked) if rows.get(one, True) is True]
        ticked += [one for one, on in rows.items() if on is True and one not in ticked]
        runs = lab.runs.all()
        look = replace(look, ticked=json.dumps(ticked))
        return {tab.ticked: look.ticked, tab.table: list_of(lab, tab, look, runs)[tab.table],
                **beside(tab, {run.id: run for run in runs}, look.run, ticked)}
