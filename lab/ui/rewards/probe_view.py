"""The hack probe as the page shows it: what bad answers earn beside a good one."""

from html import escape

from lab.core.problems import Problem
from lab.core.rewards.probe import Probe, Try
from lab.ui.widgets import number, problems_html

CLEAN = ("None of {count} bad answers earns as much as half of the good one, but for right ones "
         "in the wrong form.")


def probe_html(found: Probe) -> str:
    """What is to be said first, then every answer with what it earned."""
    problems = [Problem(one.sentence, level=one.level) for one in found.findings]
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes)
    clean = "" if found.findings or found.good.share is None else (
        f"<p class='fine'>{CLEAN.format(count=len(found.bad))}</p>")
    rows = "".join(_row(one) for one in (found.good, *found.bad))
    return (f"<div class='probe' aria-live='polite'>{problems_html(problems)}{clean}"
            + (f"<ul class='notes'>{notes}</ul>" if notes else "")
            + f"<details><summary>All {len(found.bad) + 1} answers that were tried</summary>"
              f"<ul class='tries'>{rows}</ul></details></div>")


def _row(one: Try) -> str:
    share = "" if one.share is None else f"{100 * one.share:.0f} %"
    width = 100 * max(0.0, min(1.0, one.share or 0.0))
    look = "good" if one.key == "good" else "right" if one.right else "bad"
    return (f"<li class='{look}' data-try='{escape(one.key)}'><details><summary><span>"
            f"{escape(one.title)}</span><span class='number'>{number(one.scored.total)}"
            f"{f' · {share}' if share else ''}</span><span class='meter' aria-hidden='true'>"
            f"<i style='width:{width:.1f}%'></i></span></summary>"
            f"<pre tabindex='0'>{escape(one.text) or '(empty)'}</pre></details></li>")
