"""The held-out verdict in figures: what two sides' scored answers to the same questions come to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from lab.core.insight.headline import judged
from lab.core.insight.stats import (
    Difference,
    clustered_share,
    clustered_shares,
    paired_difference,
    paired_shares,
    wins,
)
from lab.core.problems import WorkFailed
from lab.core.prompts import asked_tags, with_its_turns
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.formats import blocks_only
from lab.core.rewards.registry import GOAL, SHAPE
from lab.core.rewards.scoring import share_of

SIDES = ("base", "tuned")  # keys: what is compared with, and the adapter that is judged
NAMES = ("Base", "Tuned")  # what they are called where the base model is compared with
# What `eval --json` prints of a verdict; the rest is for the page, the card and the record.
CONTRACT = ("n", *SIDES, "difference", "wins", "losses", "ties", "adapter_live", "headline",
            "needed", "seeds", "against", "seen", "picked", "notes")
SHOWN = 3  # gains and losses that are kept with their answers
LONGEST = 4000  # characters of such an answer

Answers = Sequence[Mapping[str, Any]]
Pairs = Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]  # a question's answers, side by side


def verdict(chosen: Sequence[Chosen], system_prompt: str, base: Answers, tuned: Answers,
            seed: int = 0, live: bool = True, drawn: bool = False, seeds: int = 1,
            names: Sequence[str] | None = None, picked: Sequence[int] = (1, 1)) -> dict:
    """Compare two sides' answers to the same questions, in the same order.

    `base` is what is compared with, `tuned` the adapter that is judged; `names` are theirs where it
    is not the base model that is compared with. Each question has `seeds` answers a side, one after
    the other. An answer has "text", "rewards" {name: raw score or None}, "errors" {name: text},
    "total" (weighted, or None), "goal" (0 to 1, or None), "correct" (whether the goals are reached,
    or None), "tokens" and "cut". `live`: the sides are not the same model; `drawn`: answers were
    drawn, not greedy. `picked`: of how many adapters each side was picked as the best by some of
    these questions; see `headline`.

    The result has, for each side, "accuracy" (share of answers that reach every goal; None without
    goals), "in_format" (share of answers that are made of the blocks of the system prompt, as
    `formats.blocks_only` sees it; None where it asks for none), "reward" (mean weighted sum),
    "rewards" (mean raw scores), "tokens" (mean) and "cut" (share); "difference" with 95 % intervals
    clustered by question; "turned" (answers of the first side that are wrong where the other's are
    right, and how many of them were "cut"); and the "headline". Every question counts the same. An
    answer that could not be judged on one side is left out of both; "n" counts the questions that
    are compared by the goals, or by the sum of the rewards where there is no goal. Raises
    WorkFailed where there is not one.
    """
    pairs = list(zip(base, tuned, strict=True))
    asked = [pairs[first:first + seeds] for first in range(0, len(pairs), seeds)]
    has_goal = any(one.takes_as == GOAL for one in chosen)
    by_goal, by_sum = _known(asked, "correct"), _known(asked, "total")
    compared = by_goal or by_sum
    if not compared:
        raise WorkFailed("No answer could be scored.", reason(pairs),
                         "Look at the rewards of this run.")
    tags = asked_tags(system_prompt)
    sides = [{
        "reward": _mean(_of(by_sum, i, "total")),
        "rewards": {one.name: _mean(_each(compared, i, lambda answer, one=one:
                                          answer["rewards"].get(one.name))) for one in chosen},
        "accuracy": _mean(_of(by_goal, i, "correct")),
        "in_format": _mean(_each(compared, i, lambda answer: blocks_only(
            answer["text"], tags, own_lines=False))) if tags else None,
        "tokens": _mean(_of(compared, i, "tokens")),
        "cut": _mean(_of(compared, i, "cut"))} for i in (0, 1)]
    totals = [_of(by_sum, i, "total") for i in (0, 1)]
    better, worse, alike = wins(*totals)
    right = [_of(by_goal, i, "correct") for i in (0, 1)]
    goals = [_of(by_goal, i, "goal") for i in (0, 1)]
    # Answers that were wrong, where those of the judged side are right.
    turned = [before for question in by_goal for before, after in question
              if after["correct"] and not before["correct"]]
    found = {
        "n": len(compared), **dict(zip(SIDES, sides, strict=True)),
        "difference": {
            "reward": asdict(paired_difference(*totals, seed)) if by_sum else None,
            "accuracy": asdict(_difference(right, seeds, seed)) if by_goal else None},
        "wins": better, "losses": worse, "ties": alike, "adapter_live": live,
        "has_goal": has_goal, "drawn": drawn, "seeds": seeds,
        "picked": list(picked), "names": list(names) if names else None, "against": None,
        "seen": 0, "notes": [],
        "left_out": len(asked) - len(compared),
        "why_left_out": reason(pairs) if len(compared) < len(asked) or not by_goal else "",
        "right": [{"share": fmean(side), "interval": clustered_share(side, seeds)}
                  for side in right] if by_goal else None,
        "turned": {"right": len(turned), "cut": sum(before["cut"] for before in turned)},
        "changed": _mean((after - before) ** 2 for before, after in zip(*right, strict=True)),
        # What is right or wrong and nothing between has one difference, not two.
        "goals": None if goals == right else _points(goals, seed),
        "shapes": _points([_each(compared, i, lambda answer: share_of(
            answer["rewards"], chosen, SHAPE)) for i in (0, 1)], seed)}
    return found | judged(found)


def _difference(right: Sequence[Sequence[float]], seeds: int, seed: int) -> Difference:
    """Of the shares of right answers: McNemar's where each question has one."""
    if seeds == 1:
        return paired_shares(*([share == 1 for share in side] for side in right))
    return clustered_shares(*right, seed)


def _known(asked: Sequence[Pairs], key: str) -> list[Pairs]:
    """The questions with the answers that have this on both sides; without those that have none."""
    known = ([pair for pair in question if None not in (pair[0][key], pair[1][key])]
             for question in asked)
    return [question for question in known if question]


def _each(asked: Sequence[Pairs], side: int, value: Callable[[Mapping], Any]
          ) -> list[float | None]:
    """A mean for each question, over its answers."""
    return [_mean(value(pair[side]) for pair in question) for question in asked]


def _of(asked: Sequence[Pairs], side: int, key: str) -> list[float | None]:
    return _each(asked, side, lambda answer: answer[key])


def reason(pairs: Pairs) -> str:
    """Why answers could not be judged, in the words of the rewards; at most three of them."""
    told = dict.fromkeys(text for pair in pairs for side in pair
                         for text in side["errors"].values())
    return "; ".join(list(told)[:3])


def telling(questions: Sequence[Mapping], base: Answers, tuned: Answers, seeds: int = 1
            ) -> dict[str, list[dict]]:
    """A few questions to read: {"gained": [...], "lost": [...]}, the largest first.

    A question whose answers have become right, or wrong, comes before one that only scores
    otherwise. Of several answers the pair is shown in which the change is largest.
    """
    pairs = list(zip(base, tuned, strict=True))
    rows = []
    for place, question in enumerate(questions):
        answers = pairs[place * seeds:(place + 1) * seeds]
        gaps = [_gap(*pair) for pair in answers]
        mean = tuple(round(fmean(part), 9) for part in zip(*gaps, strict=True))
        rows.append((mean, question, answers, gaps))
    rows.sort(key=lambda row: row[0], reverse=True)
    return {"gained": [_to_read(*row[1:], max(row[3])) for row in rows[:SHOWN]
                       if row[0] > (0, 0)],
            "lost": [_to_read(*row[1:], min(row[3])) for row in rows[::-1][:SHOWN]
                     if row[0] < (0, 0)]}


def _to_read(question: Mapping, answers: Pairs, gaps: Sequence[tuple], shown: tuple) -> dict:
    """A question with the two answers that have this gap."""
    row = {"question": with_its_turns(question), "answer": question.get("answer")}
    for place, side in enumerate(SIDES):
        row[side] = _kept(answers[gaps.index(shown)][place])
        if len(answers) > 1:
            row[side]["often"] = sum(pair[place]["correct"] is True for pair in answers)
    return row


def _gap(base: Mapping, tuned: Mapping) -> tuple[float, float]:
    right = [side["correct"] for side in (base, tuned)]
    sums = [side["total"] for side in (base, tuned)]
    return (0.0 if None in right else float(right[1] - right[0]),
            0.0 if None in sums else round(sums[1] - sums[0], 9))


def _kept(answer: Mapping) -> dict:
    text = answer["text"]
    return {"text": text if len(text) <= LONGEST else f"{text[:LONGEST]} …",
            **{key: answer[key] for key in ("correct", "total", "rewards", "tokens", "cut")}}


def _points(shares: list[list[float | None]], seed: int) -> dict | None:
    """Shares of the highest scores of one kind of reward: {"base", "tuned", "difference"}."""
    known = [pair for pair in zip(*shares, strict=True) if None not in pair]
    if not known:
        return None
    before, after = zip(*known, strict=True)
    moved: Difference = paired_difference(before, after, seed)
    return {"base": fmean(before), "tuned": fmean(after), "difference": asdict(moved)}


def _mean(values) -> float | None:
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else None
