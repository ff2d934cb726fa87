"""A preflight's result as HTML: figures, dead groups, the signal, and what never fired."""

import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lab.core.settings import Settings, setting_named
from lab.core.words import duration
from lab.services.preflight import Progress
from lab.ui.widgets import counted, number, table_html

SHOWN = 400  # characters of an example


def progress_html(now: Progress) -> str:
    if not now.of:
        return f"<p class='busy' role='status'>{escape(now.phase)} …</p>"
    share = 100 * now.done / now.of
    return (f"<p class='busy' role='status'>The base model answers: {now.done} of {now.of}</p>"
            f"<div class='meter' role='progressbar' aria-label='Answers' aria-valuemin='0' "
            f"aria-valuemax='{now.of}' aria-valuenow='{now.done}'>"
            f"<i style='width:{share:.1f}%'></i></div>")


def stale_html(created: float, before: Settings, now: Settings | None,
               matters: Sequence[str]) -> str:
    """When it was, and what of the settings is another now."""
    when = time.strftime("%d %b %H:%M", time.localtime(created))
    changed = [] if now is None else [
        setting_named(key).knob.label for key in now.differences(before) if key in matters]
    told = f"Preflight of {when}."
    if changed:
        listed = ", ".join(f"'{label}'" for label in changed[:6])
        told += (f" Since then changed: {listed}{' and more' if len(changed) > 6 else ''}. "
                 "Run it again for figures of these settings.")
    return f"<p class='{'stale' if changed else 'facts'}'>{escape(told)}</p>"


def figures_html(found: Mapping[str, Any]) -> str:
    """What a run would take and what its answers are like."""
    parts, tokens = found["step_parts"], found["tokens"]
    own = found["dead"].get(str(found["group_size"]))
    memory = found["memory_gb"]
    cells = [
        ("A step", duration(found["seconds_per_step"]), f"answering "
         f"{duration(parts['generation'])}, learning {duration(parts['update'])}"),
        ("The run", duration(found["run_seconds"]), "as long as answers stay as they are"),
        ("Memory", "unknown" if memory is None else f"{memory:.1f} GB", "estimated"),
        ("Groups that teach nothing", _percent(own), "" if own is None else
         f"{found['dead_right']:.0%} all right, {found['dead_wrong']:.0%} all wrong"),
        ("Answers", f"{tokens['mean']:.0f} tokens", f"95 % within {tokens['p95']:.0f}; "
         f"{found['cut']:.0%} cut off"),
        ("Distinct", _percent(found["distinct"]), "of the answers to a question"),
    ]
    text = "".join(f"<div><dt>{escape(a)}</dt><dd>{escape(b)}<span>{escape(c)}</span></dd></div>"
                   for a, b, c in cells)
    tried = (f"{counted(found['prompts'], 'question')}, {counted(found['answers'], 'answer')}, "
             f"{duration(found['seconds'])}.")
    prompts = found["prompt_tokens"]
    if prompts["too_long"]:
        tried += (f" {prompts['too_long']} of {prompts['of']} prompts are too long and would be "
                  "left out.")
    return f"<div class='summary'><dl>{text}</dl><p>{escape(tried)}</p></div>"


def dead_html(found: Mapping[str, Any]) -> str:
    """Dead groups by group size, the current one marked."""
    rows = []
    for size, share in found["dead"].items():
        if share is None:
            continue
        own = int(size) == found["group_size"]
        rows.append(_bar(f"{size} answers", share, "yours" if own else "", own))
    return (f"<h3>Groups that teach nothing</h3><p class='help'>All answers of such a group score "
            f"alike, so none is better than another. By the number of answers to a question:</p>"
            f"<div class='shares' role='list'>{''.join(rows)}</div>")


def signal_html(found: Mapping[str, Any]) -> str:
    """What the answers of a group differ in, reward by reward."""
    label = found["labels"].get
    rows = [_bar(label(name, name), row["signal_share"] or 0.0,
                 "never fired" if row["fired"] == 0 else f"earned by {_percent(row['fired'])}")
            for name, row in found["rewards"].items()]
    table = table_html(
        ["Reward", "Mean", "Spread", "Earned by", "Of the signal"],
        [[label(name, name), number(row["mean"]), number(row["std"]), _percent(row["fired"]),
          _percent(row["signal_share"])] for name, row in found["rewards"].items()],
        numbers=range(1, 5))
    return (f"<h3>What the model would learn from</h3><p class='help'>Each reward's share of what "
            f"the answers of a group differ in. What has none teaches nothing, whatever its weight."
            f"</p><div class='shares' role='list'>{''.join(rows)}</div>"
            f"<details><summary>In figures</summary>{table}</details>")


def never_fired_html(found: Mapping[str, Any]) -> str:
    """Rewards that no answer earned, each with an answer and what was wanted; and failures."""
    parts, label = [], found["labels"].get
    for one in found["never_fired"]:
        name = label(one["reward"], one["reward"])
        parts.append(
            f"<article class='never'><h4>{escape(name)} <span>no answer earned it</span></h4>"
            f"<div class='pair'><div><p class='help'>Answered</p>"
            f"<pre tabindex='0'>{_short(one['answered'])}</pre></div><div><p class='help'>Wanted"
            f"</p><pre tabindex='0'>{_short(one['wanted'])}</pre></div></div></article>")
    for name, text in found["errors"].items():
        parts.append(f"<p class='wrong'>{escape(label(name, name))} fails on some answers: "
                     f"{escape(str(text)[:SHOWN])}</p>")
    return f"<h3>What never fired</h3>{''.join(parts)}" if parts else ""


def advice_html(one: Mapping[str, Any]) -> str:
    """One piece of advice: what, its figure, and the settings it would set."""
    rows = "".join(f"<li>{escape(setting_named(key).knob.label)}: <b>{escape(_value(value))}</b>"
                   "</li>" for key, value in one["set"].items())
    return (f"<p class='what'>{escape(one['what'])}</p><p class='help'>{escape(one['figure'])}</p>"
            f"<ul>{rows}</ul>")


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{one['name']} × {number(one['weight'])}" for one in value)
    text = " ".join(str(value).split()) if not isinstance(value, float) else number(value)
    return text if len(text) <= 120 else f"… {text[-118:]}"


def _bar(label: str, share: float, note: str = "", marked: bool = False) -> str:
    width = 100 * min(1.0, max(0.0, share))
    return (f"<div role='listitem' class='share{' own' if marked else ''}'>"
            f"<span class='name'>{escape(label)}</span><span class='track' aria-hidden='true'>"
            f"<i style='width:{width:.1f}%'></i></span><span class='figure'>{share:.0%}</span>"
            f"<span class='note'>{escape(note)}</span></div>")


def _short(text: str) -> str:
    return escape(text if len(text) <= SHOWN else f"{text[:SHOWN]} …") or "<i>nothing</i>"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"
