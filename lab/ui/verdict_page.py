"""A held-out verdict as HTML: its headline, both sides in a table, and a few questions to read."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lab.core.insight.headline import chance, percent, points
from lab.core.insight.verdict import NAMES, SIDES
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.registry import GOAL
from lab.core.words import duration
from lab.services.verdicts import Verdict, told_beside
from lab.ui.widgets import number, table_html, when

CSS = """
.headline { margin: 0 0 8px; padding: 14px 16px; font-size: 19px; line-height: 1.4;
  font-weight: 700; border-width: 1px 1px 1px 5px; border-style: solid;
  border-color: var(--border-color-primary); border-radius: var(--block-radius);
  background: var(--block-background-fill); }
.headline.good { border-color: var(--good); background: var(--good-soft); color: var(--good); }
.headline.warning { border-color: var(--warn-line); background: var(--warn-soft);
  color: var(--warn); }
.headline.bad { border-color: var(--bad-line); background: var(--bad-soft); color: var(--bad); }
.help { margin: 0 0 12px; }
tr.goal td { font-weight: 700; }
tr.shape td { color: var(--body-text-color-subdued); }
h3 { margin: 18px 0 8px; }
details { border: 1px solid var(--block-border-color); border-radius: var(--block-radius);
  margin-bottom: 8px; padding: 8px 12px; background: var(--block-background-fill); }
summary { cursor: pointer; overflow-wrap: anywhere; }
details .help { margin: 6px 0 0; }
details .pair { margin-top: 10px; }
details pre { font-family: var(--font-mono); font-size: 13px; color: inherit; }
.bar { height: 8px; border-radius: 4px; overflow: hidden; margin: 8px 0;
  background: var(--border-color-primary); }
.bar i { display: block; height: 100%; background: var(--primary-500); }
@media (max-width: 640px) { .headline { font-size: 17px; } }"""


def progress_html(done: int, of: int, seconds: float, beside: str = "") -> str:
    """How far it is; before the first answer, that it loads."""
    if not done:
        text = "Loading the model"
    else:
        left = seconds / done * (of - done)
        text = f"{done} of {of} answers, about {duration(left)} left"
    share = round(100 * done / of) if of else 0
    return (f"<p class='busy' role='status'>{text} … {escape(beside)}</p>"
            f"<div class='bar' role='progressbar' aria-label='Held-out verdict' aria-valuemin='0' "
            f"aria-valuemax='100' aria-valuenow='{share}'><i style='width:{share}%'></i></div>")


def verdict_html(found: Verdict, chosen: Sequence[Chosen], kept: int,
                 made: Sequence[Verdict] = ()) -> str:
    """One verdict; `kept` is how many questions the run has held out, `made` all its verdicts,
    whatever they compare with."""
    names = found["names"] or NAMES
    at = f"{names[1]} against {names[0]}" if found["names"] else (
        "An adapter of unknown step" if found["step"] is None else
        f"The adapter of step {found['step']}")
    how = "drawn" if found["drawn"] else "greedy"
    many = f"{found['n']} {how} answers a side" if found["seeds"] == 1 else (
        f"{found['n']} questions, {found['seeds']} drawn answers to each a side (errors by "
        "question)")
    about = [f"{at}, {many}, made {when(found['made'])} in {duration(found['seconds'])}.",
             *told_beside(found)]
    left = kept - found["seen"]
    if found["needed"] and found["needed"] > left:
        about.append(f"This run has {left} questions held out{' from both' * bool(found['seen'])}: "
                     "start one with more 'Held-out rows' to tell.")
    return (f"<p class='headline {escape(found['level'])}' role='status'>"
            f"{escape(found['headline'])}</p><p class='help'>{escape(' '.join(about))}</p>"
            f"{_table(found, chosen, names)}"
            f"{_questions('What it gained', found['gained'], names, found['seeds'])}"
            f"{_questions('What it lost', found['lost'], names, found['seeds'])}"
            f"{_earlier(found, made)}")


def _table(found: Verdict, chosen: Sequence[Chosen], names: Sequence[str]) -> str:
    rows, kinds, gaps = [], [], found["difference"]
    sides = [found[side] for side in SIDES]

    def row(name: str, kind: str, values: Sequence[str], gap: str = "") -> None:
        rows.append((name, *values, gap))
        kinds.append(kind)

    if found["right"]:
        row("Right: every goal reached", "goal", [
            f"{percent(one['share'])} ({percent(one['interval'][0])} to "
            f"{percent(one['interval'][1])})" for one in found["right"]],
            _gap(gaps["accuracy"], points))
    ordered = sorted(chosen, key=lambda one: one.takes_as != GOAL)
    for one in ordered:
        row(f"{one.reward.label} ({one.takes_as}, of {number(one.best)})", one.takes_as,
            [number(side["rewards"].get(one.name)) for side in sides])
    row("Weighted reward", "", [number(side["reward"]) for side in sides],
        _gap(gaps["reward"], lambda value: f"{value:+.2f}"))
    for name, key, write in (("In the asked format", "in_format", percent),
                             ("Tokens an answer", "tokens", "{:.0f}".format),
                             ("Cut at the longest length", "cut", percent)):
        row(name, "", ["–" if side[key] is None else write(side[key]) for side in sides])
    score = f"{found['wins']} better, {found['losses']} worse, {found['ties']} alike"
    row("Questions by weighted reward", "", ["", ""], score)
    return table_html(("", *names, "Difference, 95 %"), rows, numbers=(1, 2, 3),
                      classes=kinds)


def _gap(gap: Mapping[str, float] | None, write) -> str:
    if gap is None:
        return ""
    return (f"{write(gap['mean'])} ({write(gap['low'])} to {write(gap['high'])}), "
            f"{chance(gap['p'])}")


def _questions(title: str, rows: Sequence[Mapping[str, Any]], names: Sequence[str],
               seeds: int) -> str:
    """A few questions with both answers, folded: of several the two that differ most."""
    if not rows:
        return ""
    made = []
    for row in rows:
        sides = "".join(
            f"<div><h4>{escape(name)} {_badge(row[side], seeds)}</h4><pre tabindex='0'>"
            f"{escape(row[side]['text']) or '(empty)'}</pre></div>"
            for name, side in zip(names, SIDES, strict=True))
        reference = "" if row["answer"] is None else (
            f"<p class='help'>Reference answer: {escape(str(row['answer']))}</p>")
        made.append(f"<details><summary>{escape(str(row['question']))}</summary>{reference}"
                    f"<div class='pair'>{sides}</div></details>")
    return f"<h3>{title}</h3>{''.join(made)}"


def _badge(answer: Mapping[str, Any], seeds: int) -> str:
    kind, said = {True: ("fits", "goal reached"), False: ("missed", "goal not reached"),
                  None: ("needs", "not judged")}[answer["correct"]]
    often = (f", right in {answer['often']} of {seeds} answers"
             if seeds > 1 and "often" in answer else "")
    return (f"<span class='badge {kind}'>{said}</span> <small>reward {number(answer['total'])}, "
            f"{answer['tokens']} tokens{often}</small>")


def _asked(one: Verdict) -> str:
    """How many questions, and how they were asked where that is not the usual way."""
    many = f" × {one['seeds']}" if one["seeds"] > 1 else ""
    longest = f", up to {one['longest']:,} tokens" if one["longest"] else ""
    return f"{one['n']}{many}{longest}"


def _earlier(found: Verdict, made: Sequence[Verdict]) -> str:
    others = [one for one in reversed(made) if one != found]
    if not others:
        return ""
    rows = [("–" if one["step"] is None else one["step"],
             one["names"][0] if one["names"] else NAMES[0], when(one["made"]),
             _asked(one),
             *("–" if one[side]["accuracy"] is None else percent(one[side]["accuracy"])
               for side in reversed(SIDES)), one["judgement"]) for one in others]
    return "<h3>Other verdicts on this run</h3>" + table_html(
        ("Step", "Against", "Made", "Questions", "Right", "Right, against", "Verdict"), rows,
        numbers=(0, 3, 4, 5))
