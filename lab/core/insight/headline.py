"""The one sentence of a held-out verdict: it leads with the goal and calls no shape a success.

The best of several adapters owes a part of its share to chance, where the questions that picked it
are asked again: of ten that are no better than their base, the best passes for better in one case
of seven. So a rise of it is sure only at the level divided by how many there were (Bonferroni), and
so is a fall from one that was picked like that.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lab.core.insight.stats import items_needed

MATTERS = 0.05  # a difference of right answers, or of shape, from which on a person would care
HARDLY = 0.05  # a rise that mends less than this share of what the base got wrong is a small one
SURE = 0.05  # of the exact test
SHRUNK = 0.5  # an answer shorter than this share of its former length has collapsed
CUT = 0.2  # this share of answers at the longest length is worth a word
ENDS = 0.5  # from this share on of what was gained, that answers end in time may be all of it

# What a verdict comes to, and how it is to be taken: "good", "bad", "warning" or "info".
(BETTER, IN_TIME, HARDLY_BETTER, CLOSER, SAME, UNCLEAR, SHAPES_ONLY, WORSE, NO_GOAL, NOT_JUDGED,
 NOT_LIVE) = ("better", "better in time", "hardly better", "closer", "same", "unclear",
              "better made", "worse", "no goal", "not judged", "not live")
LEVELS = {BETTER: "good", IN_TIME: "warning", HARDLY_BETTER: "warning", CLOSER: "info",
          SAME: "info", UNCLEAR: "info", SHAPES_ONLY: "warning", WORSE: "bad", NO_GOAL: "warning",
          NOT_JUDGED: "warning", NOT_LIVE: "bad"}

Figures = Mapping[str, Any]  # those of `verdict.verdict`


def judged(found: Figures) -> dict:
    """{"judgement": one of `LEVELS`, "level", "headline", "needed": questions that would tell}."""
    judgement, said = _judgement(found)
    needed = questions_needed(found) if _is_open(found) else None
    return {"judgement": judgement, "level": LEVELS[judgement], "needed": needed,
            "headline": "; ".join([said, *_caveats(found, judgement)]) + "."}


def questions_needed(found: Figures) -> int:
    """How many questions, with as many answers to each, would tell the difference that was seen
    from chance; where hardly one was seen, half of what would matter."""
    mean = found["difference"]["accuracy"]["mean"]
    return items_needed(max(abs(mean), MATTERS / 2), found["changed"], found["seeds"])


def _judgement(found: Figures) -> tuple[str, str]:
    n = _questions(found)
    gap, right = found["difference"]["accuracy"], found["right"]
    if not found["adapter_live"]:
        at = f", right on {percent(right[1]['share'])} of {n}" if right else ""
        if found["names"]:
            before, after = found["names"]
            return NOT_LIVE, f"{before} and {after} are the same model{at}"
        return NOT_LIVE, ("The adapter is not live: it changes nothing, so both sides are the same "
                          f"model{at}")
    if not found["has_goal"]:
        return NO_GOAL, ("No goal reward is chosen, so nothing says whether answers are right"
                         f"{_of_shapes(found, n)}")
    if gap is None:
        why = f" ({found['why_left_out'].rstrip('.')})" if found["why_left_out"] else ""
        return NOT_JUDGED, ("The goal rewards could judge no answer, so nothing says whether "
                            f"answers are right{why}{_of_shapes(found, n)}")
    lead = _lead(found, n)
    if _rose(gap, found):
        missed = 1 - right[0]["share"]
        if gap["mean"] >= HARDLY * missed:
            if said := _ends_in_time(found):
                return IN_TIME, f"{lead}: it {_is(found)} better{said}"
            return BETTER, f"{lead}: it {_is(found)} better"
        wrong = f"{lead}, which leaves {percent(1 - right[1]['share'], 0)} wrong"
        if _better_made(found):
            return HARDLY_BETTER, f"{wrong}: there the answers are better made, not better"
        return HARDLY_BETTER, f"{wrong}: hardly better"
    if _fell(gap, found):
        made = ", while the answers are better made" if _better_made(found) else ""
        return WORSE, f"{lead}: it {_is(found)} worse{made}"
    return _without_a_sure_change(found, lead)


def _ends_in_time(found: Figures) -> str:
    """Where most of what was gained had been cut before its end: that, and what would tell."""
    turned = found["turned"]
    if turned["cut"] < max(1, ENDS * turned["right"]):
        return ""
    whose = f"the answer of {found['names'][0]}" if found["names"] else "the answer before"
    what = "answers" if found["seeds"] > 1 else "questions"
    return (f" at ending in time, and perhaps at nothing else: on {turned['cut']} of the "
            f"{turned['right']} {what} that turned right {whose} was cut at the longest length, "
            "where a longer one may be right too; ask again with longer answers")


def _without_a_sure_change(found: Figures, lead: str) -> tuple[str, str]:
    """No more and no fewer answers reach the goals for sure."""
    goals = _moved(found, "goals")
    if _rose(goals, found) or _fell(goals, found):  # goals that give part of their points
        shares = found["goals"]
        before, after = percent(shares["base"]), percent(shares["tuned"])
        how = (f"are {after} of their most, against {before}" if found["names"] else
               f"went from {before} to {after} of their most")
        moved = f"the goals' points {how} ({_between(goals, found)})"
        return ((CLOSER, f"{lead}: closer, but not there: {moved}") if _rose(goals, found)
                else (WORSE, f"{lead}: it {_is(found)} worse, for {moved}"))
    gap = found["difference"]["accuracy"]
    also = next((f", for they also picked {'it' if side else 'the other'}, out of {many}"
                 for side, many in enumerate(_picked(found))
                 if many > 1 and (_rose(gap) if side else _fell(gap))), "")
    unclear = (f"; about {_needed(found)} {'that did not ' if also else ''}would tell"
               if _is_open(found) else "")
    if _better_made(found):
        as_far = " as far as these questions tell" if unclear else ""
        return SHAPES_ONLY, f"{lead}: the answers are better made, not better{as_far}{unclear}"
    if unclear:
        return UNCLEAR, f"{lead}: too few questions to tell{also}{unclear}"
    return SAME, f"{lead}: no change of {MATTERS * 100:.0f} points or more"


def _lead(found: Figures, n: str) -> str:
    gap, (before, after) = found["difference"]["accuracy"], found["right"]
    if found["names"]:
        other, this = found["names"]
        was = (f"{other} on {percent(before['share'])} ({points(gap['mean'])} points, "
               if gap["mean"] else f"as {other} is (")
        return (f"{this} is right on {percent(after['share'])} of {n}, {was}"
                f"{_between(gap, found)})")
    was = (f"{percent(before['share'])} before ({points(gap['mean'])} points, "
           if gap["mean"] else "as before (")
    return (f"Right on {percent(after['share'])} of {n}, {was}"
            f"{_between(gap, found)})")


def _is(found: Figures) -> str:
    """A model became better than its base; of two others one is."""
    return "is" if found["names"] else "got"


def _needed(found: Figures) -> str:
    each = f" with {found['seeds']} answers each" if found["seeds"] > 1 else ""
    return f"{questions_needed(found):,} questions{each}"


def _between(gap: Mapping, found: Figures | None = None) -> str:
    """The interval in points; with p where an interval beside 0 alone would say too much."""
    told = f"95 % between {points(gap['low'])} and {points(gap['high'])}"
    beside_0 = gap["low"] > 0 or gap["high"] < 0
    sure = _rose(gap, found) or _fell(gap, found)
    p = f"{gap['p']:.2f}" if gap["p"] >= SURE else f"{gap['p']:.2g}"
    return f"{told}, p = {p}" if beside_0 and not sure else told


def _of_shapes(found: Figures, n: str) -> str:
    """What can be said without a goal."""
    shapes = found["shapes"]
    if shapes is None:
        return ""
    gap = shapes["difference"]
    other, this = found["names"] or ("", "")
    what = f"the answers of {this}" if this else "they"
    how = ("better made" if _rose(gap) else "less well made" if _fell(gap) else
           "made alike" if other else "made as before")
    before = f"with {other}" if other else "before"
    return (f": on {n} {what} are {how}, with {percent(shapes['tuned'])} of the shape rewards' "
            f"points, {percent(shapes['base'])} {before} ({_between(gap)})")


def _caveats(found: Figures, judgement: str) -> list[str]:
    """What a person must know beside it, whatever the judgement."""
    base, tuned, said = found["base"], found["tuned"], []
    if judgement == NOT_LIVE:
        return said
    if found["names"] and tuned["tokens"] < SHRUNK * base["tokens"]:
        said.append(f"its answers are short: {tuned['tokens']:.0f} tokens, against "
                    f"{base['tokens']:.0f}")
    elif tuned["tokens"] < SHRUNK * base["tokens"]:
        rose = judgement in (BETTER, IN_TIME)
        how, then = (("shrank", ": read some before you trust it") if rose
                     else ("collapsed", ""))
        said.append(f"the answers {how} from {base['tokens']:.0f} to {tuned['tokens']:.0f} tokens"
                    f"{then}")
    if tuned["cut"] >= CUT:
        of = "its answers" if found["names"] else "them"
        said.append(f"{percent(tuned['cut'], 0)} of {of} are cut at the longest length")
    if found["left_out"] and judgement != NOT_JUDGED:
        said.append(f"{found['left_out']} more could not be judged")
    return said


def _is_open(found: Figures) -> bool:
    """Whether the questions are too few: no sure change, and one that matters is not ruled out."""
    gap = found["difference"]["accuracy"]
    return (found["adapter_live"] and gap is not None
            and not _rose(gap, found) and not _fell(gap, found)
            and (gap["low"] <= -MATTERS or gap["high"] >= MATTERS))


def _better_made(found: Figures) -> bool:
    gap = _moved(found, "shapes")
    return _rose(gap) and gap["mean"] >= MATTERS


def _moved(found: Figures, kind: str) -> Mapping | None:
    return found[kind] and found[kind]["difference"]


def _rose(gap: Mapping | None, found: Figures | None = None) -> bool:
    """Whether it is sure; with `found`, where the judged side may have been picked."""
    return gap is not None and gap["low"] > 0 and gap["p"] < SURE / _picked(found)[1]


def _fell(gap: Mapping | None, found: Figures | None = None) -> bool:
    """The same, where the other side may have been picked."""
    return gap is not None and gap["high"] < 0 and gap["p"] < SURE / _picked(found)[0]


def _picked(found: Figures | None) -> Sequence[int]:
    """Of how many each side was picked by these questions."""
    return (1, 1) if found is None else found["picked"]


def _questions(found: Figures) -> str:
    one = found["n"] == 1
    how = (f" ({found['seeds']} drawn answers each)" if found["seeds"] > 1 else
           " (answers drawn)" if found["drawn"] else "")
    return f"{found['n']:,} held-out question{'' if one else 's'}{how}"


def percent(share: float, digits: int = 1) -> str:
    return f"{share * 100:.{digits}f} %"


def points(share: float) -> str:
    """A difference of shares with its sign, in points of a hundred."""
    return f"{round(share * 100, 1) + 0.0:+.1f}"  # + 0.0: there is no minus nothing


def chance(p: float) -> str:
    """How often chance alone would differ so."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
