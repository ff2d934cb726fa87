"""Scored answers as HTML: each reward's part, the text with what was taken from it, a group."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean, pstdev

from lab.core.insight.advantages import NORMALIZE_FIRST, advantages_of, group_of
from lab.core.insight.metrics import ALMOST
from lab.core.prompts import answer_span, reasoning_span
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.scoring import Scored
from lab.core.rewards.timed import timed_scores
from lab.ui.rewards.cards import TITLES
from lab.ui.widgets import counted, number

SUMMARY = 90  # characters of an answer in its line
NOT_ASKED = "is not asked while you type"


@dataclass(frozen=True)
class Answer:
    """One answer under the chosen rewards; those that were not asked are not in `seconds`, which
    holds what each took for one answer."""

    text: str
    scored: Scored
    seconds: Mapping[str, float]


def scored_answers(texts: Sequence[str], rows: Sequence[Mapping], chosen: Sequence[Chosen]
                   ) -> list[Answer]:
    found, seconds = timed_scores(texts, rows, chosen)
    return [Answer(text, scored, seconds) for text, scored in zip(texts, found, strict=True)]


def answers_html(answers: Sequence[Answer], chosen: Sequence[Chosen], scale: str,
                 aggregation: str) -> str:
    """One answer in full, or several as a group with its mean, spread and advantages."""
    if len(answers) == 1:
        only = answers[0]
        return f"{score_html(only, chosen)}{text_html(only.text)}"
    asked = [reward for reward in chosen if reward.name in answers[0].seconds]
    group = group_of([one.scored.rewards for one in answers],
                     [one.scored.errors for one in answers], asked, aggregation)
    gains = advantages_of(group, group.compared, scale, aggregation)
    largest = max(1e-9, *map(abs, gains))
    rows = "".join(_line(place, one, total, gain, gain / largest, chosen) for place, (
        one, total, gain) in enumerate(zip(answers, group.totals, gains, strict=True), 1))
    return (f"<div class='group-facts' aria-live='polite'>{_about(group, aggregation)}</div>"
            f"<ul class='tries answers'>{rows}</ul>")


def _about(group, aggregation: str) -> str:
    known = [total for total in group.totals if total is not None]
    out = len(group.totals) - len(known)
    left = (f" {counted(out, 'answer')} left out, because a reward failed or could not judge."
            if out else "")
    if not known:
        return f"<p class='facts'>No answer could be judged.{left}</p>"
    text = (f"<p class='facts'><b>{counted(len(group.totals), 'answer')}</b>: mean "
            f"<b>{number(fmean(known))}</b>, spread <b>{number(pstdev(known))}</b>.{left}</p>")
    compared = [value for value in group.compared if value is not None]
    if max(compared) - min(compared) < ALMOST:
        text += ("<p class='facts wrong'>All score alike: as a group they would teach nothing."
                 "</p>")
    elif aggregation == NORMALIZE_FIRST:
        text += ("<p class='facts'>Advantages as if this group were all of the step: they are "
                 "scaled over the whole of it.</p>")
    return text


def _line(place: int, one: Answer, total: float | None, gain: float, width: float,
          chosen: Sequence[Chosen]) -> str:
    short = " ".join(one.text.split()) or "(empty)"
    short = short if len(short) <= SUMMARY else f"{short[:SUMMARY - 1]}…"
    side = "up" if gain > 0 else "down" if gain < 0 else ""
    told = f"{gain:+.2f}".replace("-", "−") if total is not None else "left out"
    return (f"<li data-advantage='{gain:.4f}'><details><summary><span>{place}. {escape(short)}"
            f"</span><span class='number'>{number(total)} · {told}</span>"
            f"<span class='meter {side}' aria-hidden='true'>"
            f"<i style='width:{100 * abs(width):.1f}%'></i></span></summary>"
            f"{score_html(one, chosen)}{text_html(one.text)}</details></li>")


def score_html(one: Answer, chosen: Sequence[Chosen]) -> str:
    """Raw score × weight = part for each reward, how long it took, and the sum."""
    rows = "".join(_reward_row(reward, one) for reward in chosen)
    best = sum(reward.best * reward.weight for reward in chosen if reward.name in one.seconds)
    right = {True: "<b class='goal'>Right</b>", False: "<b class='wrong'>Not right</b>",
             None: ""}[one.scored.reached]
    return ("<div class='table' tabindex='0'><table aria-live='polite'><thead><tr><th>Reward</th>"
            "<th class='number'>Score</th><th class='number'>Weight</th>"
            "<th class='number'>Counts</th><th class='number'>ms</th></tr></thead>"
            f"<tbody>{rows}</tbody><tfoot><tr><th scope='row'>Sum</th>"
            f"<td colspan='4' class='number total' data-total='{one.scored.total}'>{right} "
            f"<b>{number(one.scored.total)}</b> of at most {number(best)}</td></tr></tfoot>"
            "</table></div>")


def _reward_row(reward: Chosen, one: Answer) -> str:
    name = reward.name
    label = reward.reward.label
    head = (f"<tr data-reward='{escape(name)}'><th scope='row'>{escape(label)} "
            f"<span class='badge kind {reward.takes_as}'>{TITLES[reward.takes_as]}</span></th>")
    if name not in one.seconds:
        return f"{head}<td colspan='4' class='help'>{NOT_ASKED}</td></tr>"
    took = f"<td class='number' data-label='ms'>{_milliseconds(one.seconds[name])}</td></tr>"
    if error := one.scored.errors.get(name):
        return f"{head}<td colspan='3' class='wrong'>{escape(error)}</td>{took}"
    raw = one.scored.rewards[name]
    if raw is None:
        return f"{head}<td colspan='3'>cannot judge this answer</td>{took}"
    return (f"{head}<td class='number' data-label='Score'>{number(raw)}</td>"
            f"<td class='number' data-label='Weight'>× {number(reward.weight)}</td>"
            f"<td class='number' data-label='Counts'>{number(raw * reward.weight)}</td>{took}")


def _milliseconds(seconds: float) -> str:
    took = 1000 * seconds
    return f"{took:.0f}" if took >= 10 else f"{took:.2g}" if took >= 0.01 else "< 0.01"


def text_html(text: str) -> str:
    """An answer's text, with its reasoning and what is judged as its answer marked."""
    spans = [(*answer_span(text), "answer", "Judged as the answer")]
    if reasoning := reasoning_span(text):
        spans.insert(0, (*reasoning, "reasoning", "Reasoning"))
    edges = sorted({0, len(text), *(edge for span in spans for edge in span[:2])})
    pieces = []
    for begin, end in itertools.pairwise(edges):
        looks = " ".join(look for first, last, look, _ in spans if first <= begin and end <= last)
        piece = escape(text[begin:end])
        pieces.append(f"<mark class='{looks}'>{piece}</mark>" if looks else piece)
    legend = " ".join(f"<mark class='{look}'>{title}</mark>" if begin < end else
                      f"<span class='help'>{title}: nothing</span>"
                      for begin, end, look, title in spans)
    return (f"<pre class='answer-text' tabindex='0'>{''.join(pieces) or '(empty)'}</pre>"
            f"<p class='legend'>{legend}</p>")
