"""The reward editor: a card for each chosen reward and the library to add from, one component.

It is HTML of our own (assets/rewards.js) and not gradio's widgets: with some 25 rewards these would
be 250 components, which doubled the browser's work for the page and tripled that for each change.
Its value is what `forms.cards_text` writes; `stands` and `marks` are what the cards tell.
"""

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lab.core import knobs
from lab.core.insight.advantages import SUM_FIRST
from lab.core.knobs import Knob
from lab.core.problems import Problem
from lab.core.rewards.chosen import WEIGHT, Chosen
from lab.core.rewards.registry import GOAL, REWARDS, SHAPE, Reward
from lab.core.rewards.sets import shares
from lab.services.workspace import PROJECT
from lab.ui.forms import MARKS, Form
from lab.ui.rewards.library import library_html
from lab.ui.widgets import number, percent

SCRIPT = Path(PROJECT / "assets" / "rewards.js")
LONGEST = 90  # characters of an example that are shown
TITLES = {GOAL: "Goal", SHAPE: "Shape"}
SAYS = {GOAL: "Whether an answer is right", SHAPE: "Whether an answer is well made"}


def build(form: Form) -> gr.HTML:
    return form.editor(as_template(editor_html()), SCRIPT.read_text(encoding="utf-8"))


def update(chosen: Sequence[Chosen], aggregation: str, problems: Iterable[Problem]) -> Any:
    """What the cards tell: each one's part of the largest sum, and what is wrong at a field."""
    stands = {part.name: {"text": f"{percent(part.share)} of the largest sum",
                          "share": round(part.share, 4)} for part in shares(chosen, aggregation)}
    return gr.update(told=json.dumps({"stands": stands, "marks": marks_of(problems)}))


def marks_of(problems: Iterable[Problem]) -> dict[str, list[str]]:
    """{field: [class, text]} of the cards' fields, the worst of each."""
    found: dict[str, list[str]] = {}
    for problem in sorted(problems, key=lambda one: list(MARKS).index(one.level)):
        if problem.field.startswith("rewards.") and problem.field.count(".") == 2:
            found.setdefault(problem.field, [MARKS[problem.level], str(problem)])
    return found


def in_order() -> list[Reward]:
    """Goals first: they say whether the model learnt what was meant."""
    return sorted(REWARDS.values(), key=lambda reward: reward.kind != GOAL)


def as_template(html: str) -> str:
    """HTML that gradio's template engine leaves as it is; ${}, {{}}, ` and \\ are its own."""
    for sign in "\\`${}":
        html = html.replace(sign, f"&#{ord(sign)};")
    return html


def editor_html() -> str:
    cards = "".join(map(card_html, in_order()))
    return (f"<div class='reward-editor'><div class='cards'>{cards}</div>"
            f"<p class='empty' hidden>No reward is chosen. Take a set above, or add one here.</p>"
            f"{library_html()}</div>")


def card_html(reward: Reward) -> str:
    """Switch, kind, weight, its part of the sum, its own parameters, what it does, examples."""
    name = escape(reward.name)
    kinds = "".join(f"<option value='{kind}'>{title}</option>" for kind, title in TITLES.items())
    hint = "; ".join(f"{title}: {SAYS[kind].lower()}" for kind, title in TITLES.items())
    parts = "".join(
        _field(reward, part, parameter.knob, parameter.kind, parameter.default)
        for part, parameter in reward.knobs.items())
    return (
        f"<section class='card reward' id='reward-{name}' data-name='{name}' hidden "
        f"aria-label='{escape(reward.label)}'><header><label class='switch' "
        f"id='set-rewards-{name}-on'><input type='checkbox' data-part='on'><span>"
        f"{escape(reward.label)}</span></label><label class='kind' "
        f"id='set-rewards-{name}-kind' title='{hint}'><span class='unseen'>Counts as</span>"
        f"<select data-part='kind' data-default='{reward.kind}'>{kinds}</select></label></header>"
        f"<div class='weighed'>{_field(reward, 'weight', WEIGHT, float, 1.0, info='')}"
        f"<div class='stand' id='stand-{name}'><span class='text'></span><div class='meter' "
        f"aria-hidden='true'><i></i></div></div></div>{parts}{about_html(reward)}</section>")


def _field(reward: Reward, part: str, look: Knob, kind: type, default: Any,
           info: str | None = None) -> str:
    """One parameter: its label, its input, and below it its help or what is wrong with it."""
    name, info = escape(reward.name), look.help if info is None else info
    at = f"in-{name}-{part}"
    own = f"id='{at}' data-part='{part}' data-default='{escape(json.dumps(default))}' " \
          f"aria-describedby='{at}-info'"
    label = f"<label for='{at}'>{escape(look.label)}</label>"
    if kind is bool:
        made = f"<label class='check'><input type='checkbox' {own}> {escape(look.label)}</label>"
    elif look.choices:
        options = "".join(f"<option value='{escape(json.dumps(choice))}'>{escape(str(choice))}"
                          "</option>" for choice in look.choices)
        made = f"{label}<select {own}>{options}</select>"
    elif kind is str:
        made = (f"{label}<textarea rows='{look.lines}' {own} spellcheck='false'></textarea>"
                if look.lines > 1 else
                f"{label}<input type='text' {own} spellcheck='false' autocomplete='off'>")
    else:
        made = f"{label}<input type='number' step='{look.step or 'any'}' {own}>"
    return (f"<div class='field' id='set-rewards-{name}-{part}'>{made}<p class='info' "
            f"id='{at}-info' data-info='{escape(info)}'>{escape(info)}</p></div>")


def about_html(reward: Reward) -> str:
    """What a reward does, and how its examples score."""
    rows = "".join(
        f"<tr><td><code>{escape(_short(completion))}</code>{_given(columns)}</td>"
        f"<td class='number'>{'–' if expected is None else knobs.plain(round(expected, 3))}</td>"
        "</tr>" for completion, columns, expected in reward.examples)
    examples = ("<details><summary>Examples</summary><div class='table' tabindex='0'><table>"
                "<thead><tr><th>Answer</th><th class='number'>Score</th></tr></thead>"
                f"<tbody>{rows}</tbody></table></div></details>") if rows else ""
    needs = ", ".join(reward.columns)
    return (f"<p class='help'>{escape(reward.help)}</p><p class='facts'><code>"
            f"{escape(reward.name)}</code> scores at most <b>{number(reward.max_score)}</b>"
            f"{f'; needs {escape(needs)}' if needs else ''}</p>{examples}")


def _given(columns: dict[str, Any]) -> str:
    told = "; ".join(f"{name}: {_short(str(value))}" for name, value in columns.items())
    return f"<span class='given'>{escape(told)}</span>" if told else ""


def _short(text: str) -> str:
    text = text.replace("\n", "⏎") or "(empty)"
    return text if len(text) <= LONGEST else f"{text[:LONGEST - 1]}…"


def bar_html(chosen: Sequence[Chosen], aggregation: str = SUM_FIRST) -> str:
    """The largest sum as one bar: goals first and in colour, shapes after them."""
    parts = sorted((part for part in shares(chosen, aggregation) if part.share > 0),
                   key=lambda part: part.kind != GOAL)
    if not parts:
        return ""
    goal = sum(part.share for part in parts if part.kind == GOAL)
    labels = {one.name: one.reward.label for one in chosen}
    told = "; ".join(f"{labels[part.name]} ({part.kind}) {percent(part.share)}" for part in parts)
    pieces = "".join(f"<i class='{part.kind}' style='flex-grow:{part.share:.4f}' "
                     f"title='{escape(labels[part.name])}: {percent(part.share)}'><span>"
                     f"{escape(labels[part.name])}</span></i>" for part in parts)
    most = sum(part.most for part in parts)
    of = f"The largest sum is {number(most)}" if aggregation == SUM_FIRST else \
        "Each reward is normalised first, so weights alone count"
    return (f"<div class='sum'><div class='stack' role='img' aria-label='{escape(told)}'>{pieces}"
            f"</div><p class='help'>{of}: <b class='goal'>{percent(goal)} for being right"
            f"</b>, {percent(1 - goal)} for the shape.</p></div>")
