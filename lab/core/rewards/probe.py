"""The hack probe: what do deliberately bad answers earn beside a good one, under these rewards?

GRPO teaches a model whatever earns more. Where a bad answer earns as much as a good one, it is only
a question of steps until the model has found it. The list follows what policies were seen to do
(our own runs among them), and the five bad outputs that reward guides tell one to try by hand.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.core.knobs import plain
from lab.core.prompts import in_format
from lab.core.rewards.attempts import bad_answers, good_answers
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.registry import GOAL, SHAPE
from lab.core.rewards.scoring import Scored
from lab.core.rewards.timed import is_costly, timed_scores

ALMOST = 1e-6
AS_MUCH, NEARLY, HALF = 1.0 - ALMOST, 0.9, 0.5  # of what the good answer earns
PATIENCE = 0.02  # seconds for one answer; a reward that takes longer is not probed at each change
QUESTION = "Ann has 6 boxes with 7 apples in each of them. How many apples does she have?"
REFERENCE = "42"
ASK_ALL = "Ask all of them below."

# What it means that an answer earns too much; after "earns 2 of 4".
_MEANS = {
    "empty": "saying nothing pays.",
    "echo": "repeating the question pays.",
    "tags": "the tags alone pay, with nothing in them.",
    "repeated": "more tags pay, whatever stands in them.",
    "guess": "without a thought.",  # goes on without a colon
    "listed": "naming every option pays.",
    "wrong": "being right hardly counts.",
    "long": "being right hardly counts, and length costs nothing.",
    "cut": "it never came to its answer.",
    "again": "no reward asks for a thought.",
    "unformatted": "the asked format counts for nothing.",
    "padded": "length itself is paid for.",
}


@dataclass(frozen=True)
class Try:
    """One answer of the probe under the chosen rewards."""

    key: str
    title: str
    text: str
    right: bool  # what it answers is right, if it answers
    scored: Scored
    share: float | None  # of what the good answer earns; None where that cannot be said


@dataclass(frozen=True)
class Finding:
    """One sentence about answers that earn too much. `share` is of what the good one earns."""

    keys: tuple[str, ...]  # of the tries, the first of which it speaks of
    share: float
    level: str  # "error": a bad answer earns nearly as much, or more; else "warning"
    sentence: str


@dataclass(frozen=True)
class Probe:
    """What the answers earned, and what is to be said about it."""

    question: str
    reference: str
    good: Try
    bad: tuple[Try, ...]
    findings: tuple[Finding, ...]  # the worst first
    notes: tuple[str, ...]  # what the probe could not tell, and why
    best: float  # the largest sum that the rewards can give

    @property
    def is_clean(self) -> bool:
        return not self.findings and not self.notes


def probe(question: str, reference: str, chosen: Sequence[Chosen],
          columns: Mapping[str, Any] | None = None, good: str = "",
          patience: float | None = PATIENCE) -> Probe:
    """Score bad answers to one question beside a good one; takes milliseconds.

    `columns` are the row's other ones. `good` is a good answer to compare with; without it, the
    best paid of several honest answers is taken. A reward that takes longer than `patience`
    (seconds, for one answer), asks another machine or runs code is left out and named; None asks
    all. Raises ValueError for a choice that no answer could be scored with.
    """
    row = {**(columns or {}), "question": question, "answer": reference}

    def scored(texts: Sequence[str], asked: Sequence[Chosen]) -> list[Scored]:
        return timed_scores(texts, [row] * len(texts), asked)[0]

    slow = {} if patience is None else _slow(row, chosen, patience)
    asked = [one for one in chosen if one.name not in slow]
    honest = good_answers(question, reference)
    form, text, best_scored = max(
        ((form, text, result) for (form, text), result in zip(
            honest, scored([text for _, text in honest], asked), strict=True)),
        key=lambda one: -math.inf if one[2].total is None else round(one[2].total, 6))
    if good:
        text, (best_scored,) = good, scored([good], asked)
    earned = best_scored.total
    comparable = earned is not None and earned > ALMOST
    attempts = bad_answers(question, reference, form, text)
    bad = tuple(
        Try(key, title, answer, right, result, result.total / earned
            if comparable and result.total is not None else None)
        for (key, title, answer, right), result in zip(
            attempts, scored([answer for _, _, answer, _ in attempts], asked), strict=True))
    there = Try("good", "A good answer", text, True, best_scored, 1.0 if comparable else None)
    best = sum(one.weight * one.best for one in asked)
    # Where only shapes are left of a choice with goals, every wrong answer would be one to report.
    blind = _has_goal(chosen) and not _has_goal(asked)
    notes = _notes(there, best, slow, chosen, bool(good))
    return Probe(question, reference, there, bad,
                 () if blind else tuple(_findings(there, bad, asked)), (*notes, *(
                     [f"So nothing says here which answer is right. {ASK_ALL}"] if blind else ())),
                 best)


def _has_goal(chosen: Sequence[Chosen]) -> bool:
    return any(one.takes_as == GOAL and one.weight > 0 for one in chosen)


def _slow(row: Mapping[str, Any], chosen: Sequence[Chosen], patience: float) -> dict[str, str]:
    """{name: why} of the rewards that are not to be asked about twenty answers now."""
    found = {one.name: "asks another machine" if one.reward.remote else "runs code"
             for one in chosen if is_costly(one)}
    asked = [one for one in chosen if one.name not in found]
    # Once for what a first call prepares (a pattern, a child process), once for its time.
    for _ in range(2):
        _, seconds = timed_scores([in_format("", "")], [row], asked)
    return found | {name: f"took {1000 * spent:.0f} ms for one answer"
                    for name, spent in seconds.items() if spent > patience}


def _findings(good: Try, bad: Sequence[Try], chosen: Sequence[Chosen]) -> list[Finding]:
    shaped = any(one.takes_as == SHAPE and one.weight > 0 for one in chosen)
    found = [one for one in bad if _pays_too_much(one, shaped)]
    findings, said = [], set()
    for one in found:
        if one.key in said:
            continue
        # The same sum is said once.
        alike = [other for other in found if not one.right and not other.right
                 and other is not one and abs(other.share - one.share) < ALMOST]
        said |= {other.key for other in alike}
        bad_enough = one.share > 1 + ALMOST or one.share >= NEARLY and not one.right
        findings.append(Finding((one.key, *(other.key for other in alike)), one.share,
                                "error" if bad_enough else "warning",
                                _sentence(one, good, alike)))
    return sorted(findings, key=lambda finding: -finding.share)


def _pays_too_much(one: Try, shaped: bool) -> bool:
    if one.share is None:
        return False
    if one.key == "padded":  # right and in the format: as much is fair
        return one.share > 1 + ALMOST
    if one.right:
        return one.share >= NEARLY and (shaped or one.key != "unformatted")
    return one.share >= HALF - ALMOST


def _sentence(one: Try, good: Try, alike: Sequence[Try]) -> str:
    earned, of = (_points(each.scored.total) for each in (one, good))
    if one.share > 1 + ALMOST:
        how = f"{earned}, more than the {of} of a good answer"
    elif one.share >= AS_MUCH:
        how = f"{earned} of {of}, as much as a good answer"
    elif one.share >= NEARLY:
        how = f"{earned} of {of}, nearly as much as a good answer ({100 * one.share:.0f} %)"
    else:
        how = f"{earned} of {of}"
    means = _MEANS[one.key]
    text = f"{one.title} earns {how}{' ' if means.startswith('without') else ': '}{means}"
    if alike:
        names = [_lower(other.title) for other in alike]
        listed = ", ".join(names[:-1]) + (" and " if names[1:] else "") + names[-1]
        text += f" So {'do' if names[1:] else 'does'} {listed}."
    return text


def _notes(good: Try, best: float, slow: Mapping[str, str], chosen: Sequence[Chosen],
           given: bool) -> list[str]:
    scores = good.scored.rewards
    labels = {one.name: one.reward.label for one in chosen}
    notes = [f"{labels[name]} {why}, and is not probed at each change."
             for name, why in slow.items()]
    notes += [f"{labels[name]} failed on the good answer: {error}"
              for name, error in good.scored.errors.items()]
    unjudged = [labels[name] for name, value in scores.items()
                if value is None and name not in good.scored.errors]
    if unjudged:
        notes.append(f"{' and '.join(unjudged)} cannot judge this question with this reference.")
    if good.share is None:
        notes.append("No good answer earns anything, so bad ones cannot be compared with it. "
                     + ("Mend yours." if given else "Write one of your own."))
    elif good.scored.total < NEARLY * best - ALMOST:
        missing = [one for one in chosen if one.weight > 0
                   and (value := scores.get(one.name)) is not None and value < NEARLY * one.best]
        listed = ", ".join(f"{labels[one.name]} {_points(one.weight * scores[one.name])} of "
                           f"{_points(one.weight * one.best)}" for one in missing)
        notes.append(f"The good answer earns {_points(good.scored.total)} of {_points(best)}"
                     f"{f' ({listed})' if listed else ''}."
                     + ("" if given else " If you can write a better one, do: bad answers are "
                                         "compared with it."))
    return notes


def _points(value: float) -> str:
    return plain(round(value, 3))


def _lower(title: str) -> str:
    return title[:1].lower() + title[1:]
