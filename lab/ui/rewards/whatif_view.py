"""A whole run under the page's rewards: whose answers would rank higher, what would teach."""

import asyncio
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from lab.core.rewards.chosen import Chosen
from lab.core.rewards.registry import GOAL
from lab.core.rewards.timed import is_costly
from lab.services.lab import Lab
from lab.services.whatif import whatif
from lab.ui.forms import Form
from lab.ui.rewards.cards import TITLES
from lab.ui.widgets import QUIET, counted, explained, percent, table_html

HELP = ("<p class='help'>Every group that the run recorded, scored with the rewards of this page: "
        "how its answers would have been compared, not what it would have learnt.</p>")


def wire(button: gr.Button, shown: gr.HTML, run: gr.Dropdown, lab: Lab, form: Form) -> None:
    run.change(lambda: "", outputs=shown, **QUIET)

    @button.click(inputs=run, inputs_kwargs=form.inputs("rewards."), outputs=shown,
                  concurrency_id="whatif", concurrency_limit=1, trigger_mode="once",
                  **QUIET | {"show_progress": "minimal"})
    @explained
    async def ask(run_id: str | None, **values) -> str:
        if not run_id:
            return "<p class='note'>Pick a run first.</p>"
        chosen = form.chosen(values)
        asked = [one for one in chosen if not is_costly(one)]
        told = await asyncio.to_thread(whatif, lab, run_id, asked)
        now = lab.runs.get(run_id).settings.rewards.chosen
        return whatif_html(told, now, asked, [one for one in chosen if one not in asked])


def whatif_html(told: Mapping[str, Any], now: Sequence[Chosen], then: Sequence[Chosen],
                left_out: Sequence[Chosen] = ()) -> str:
    """`told` as `core/insight/whatif.py` gives it."""
    kinds = {one.name: one.takes_as for one in (*now, *then)}
    goals = {when: _sum(told, when, chosen) for when, chosen in (("now", now), ("then", then))}
    lines = [(f"{label_of(name, (*now, *then))} ({TITLES[kinds[name]].lower()})",
              _share(share["now"]), _share(share["then"]))
             for name, share in told["signal_share"].items()]
    lines += [("All goals together", _share(goals["now"]), _share(goals["then"])),
              ("Groups that teach nothing", _share(told["dead"]["now"]),
               _share(told["dead"]["then"]))]
    out = "".join(f"<p class='help'>{escape(one.reward.label)} is left out here: "
                  f"<code>lab whatif</code> asks it too.</p>" for one in left_out)
    failed = told["errors"]["then"]
    return (f"<p class='facts'>In <b>{told['rank_changes']} of {counted(told['groups'], 'group')}"
            f"</b> the answers would come in another order.</p>"
            + table_html(("Part of what the advantages tell apart", "As it was", "With these"),
                         lines, numbers=(1, 2))
            + (f"<p class='facts wrong'>A reward failed on {counted(failed, 'answer')}: they are "
               "left out.</p>" if failed else "") + out + HELP)


def label_of(name: str, chosen: Sequence[Chosen]) -> str:
    return next(one.reward.label for one in chosen if one.name == name)


def _sum(told: Mapping[str, Any], when: str, chosen: Sequence[Chosen]) -> float | None:
    parts = [told["signal_share"][one.name][when] for one in chosen if one.takes_as == GOAL]
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _share(share: float | None) -> str:
    return "–" if share is None else percent(round(share, 2))
