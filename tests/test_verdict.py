"""The held-out verdict: its figures against oracles, and its sentence case by case."""

import json
import random

import pytest

from lab.core.insight import headline, stats, verdict
from lab.core.insight.stats import (
    items_needed,
    mcnemar,
    paired_difference,
    paired_shares,
    wilson,
)
from lab.core.problems import WorkFailed
from lab.core.prompts import SYSTEM_PROMPT, asked_tags, in_format
from lab.core.rewards.chosen import parse_chosen
from lab.core.rewards.scoring import score
from lab.core.task import SYSTEM_PROMPT as STARTER_PROMPT

CLASSIC = parse_chosen("xmlcount,soft_format,strict_format,int,correctness")
SHAPES = parse_chosen("xmlcount,soft_format,int")
GUESS = "<reasoning>7</reasoning><answer>{}</answer>"  # what the gamed run wrote
PLAIN = "First, 7 and 8 make a number. {}"
ANSWER = "15"


@pytest.fixture
def few_draws(monkeypatch):
    """Enough to be sure of what is far from chance, in a tenth of the time."""
    monkeypatch.setattr(stats, "DRAWS", 400)


def answer(text: str, chosen=CLASSIC, tokens: int = 40, cut: bool = False, column=ANSWER) -> dict:
    """One answer as the evaluation worker sends it."""
    scored = score(text, {} if column is None else {"answer": column}, chosen)
    return {"text": text, "rewards": scored.rewards, "errors": scored.errors,
            "total": scored.total, "goal": scored.goal, "correct": scored.reached,
            "tokens": tokens, "cut": cut}


def side(right: set[int], n: int, made: bool, chosen=CLASSIC, **look) -> list[dict]:
    """n answers, right at these places; `made`: in tags."""
    def text(i: int) -> str:
        if i not in right:
            return (GUESS if made else PLAIN).format("3")
        return (GUESS if made else "{}").format(ANSWER)
    return [answer(text(i), chosen, **look) for i in range(n)]


def a_verdict(before: int, after: int, n: int, made: bool = True, step: int = 6,
              adapter: str = "") -> dict:
    """A whole verdict as a run's folder keeps it, for those who read them."""
    base, tuned = side(set(range(before)), n, False), side(set(range(after)), n, made)
    questions = [{"question": f"How many, {i}?", "answer": ANSWER} for i in range(n)]
    return verdict.verdict(CLASSIC, SYSTEM_PROMPT, base, tuned) | {
        "made": 1.7e9, "seconds": 12.5, "step": step, "adapter": adapter, "seed": 0,
        "adapter_effect": 0.5, "longest": None, **verdict.telling(questions, base, tuned)}


def judge(base, tuned, chosen=CLASSIC, **look) -> dict:
    found = verdict.verdict(chosen, SYSTEM_PROMPT, base, tuned, **look)
    assert found["headline"].count("\n") == 0 and found["headline"].endswith(".")
    assert ". " not in found["headline"].replace("0. ", "")  # one sentence
    json.dumps(found)
    return found


# the sentence, case by case: (name, right before, right after, of n, made before, made after,
# judgement, words that must stand there, words that must not)
TABLE = [
    ("rose", 36, 165, 300, False, True, "better",
     ["Right on 55.0 % of 300 held-out questions, 12.0 % before (+43.0 points, 95 % between +3",
      "it got better"], ["not better", "too few"]),
    ("rose, not its shapes", 36, 165, 300, True, True, "better", ["it got better"], ["made"]),
    ("only the shapes rose, many questions", 30, 30, 1000, False, True, "better made",
     ["Right on 3.0 % of 1,000 held-out questions, as before (95 % between",
      "the answers are better made, not better"], ["got better", "would tell"]),
    ("only the shapes rose, few questions", 3, 5, 50, False, True, "better made",
     ["better made, not better as far as these questions tell", "questions would tell"],
     ["got better"]),
    ("it got worse", 165, 90, 300, False, False, "worse",
     ["Right on 30.0 % of 300 held-out questions, 55.0 % before (-25.0 points", "it got worse"],
     ["made"]),
    ("it got worse, well made", 165, 90, 300, False, True, "worse",
     ["it got worse, while the answers are better made"], ["got better"]),
    ("too few questions", 5, 7, 50, False, False, "unclear",
     ["(+4.0 points, 95 % between -", "too few questions to tell; about", "would tell"],
     ["better"]),
    ("nothing changed, few questions", 0, 0, 20, False, False, "unclear",
     ["Right on 0.0 % of 20 held-out questions, as before (95 % between -16.1 and +16.1)",
      "too few questions to tell"], ["better"]),
    ("nothing changed, many questions", 100, 101, 1000, False, False, "same",
     ["no change of 5 points or more"], ["better", "would tell"]),
    ("all right before and after", 300, 300, 300, False, False, "same",
     ["Right on 100.0 % of 300 held-out questions, as before"], ["better"]),
    ("a small rise without shapes", 2, 11, 300, False, False, "hardly better",
     ["Right on 3.7 % of 300 held-out questions, 0.7 % before (+3.0 points, 95 % between +1.0 and "
      "+5.7)", "which leaves 96 % wrong", "hardly better"], ["it got better"]),
    ("a rise from a high base", 270, 285, 300, False, False, "better", ["it got better"], []),
    ("one question", 0, 1, 1, False, False, "unclear", ["of 1 held-out question, "], ["better"]),
]


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case[0])
def test_the_headline_leads_with_the_goal_and_says_what_is_so(case, few_draws):
    _, before, after, n, made, then, judgement, words, never = case
    found = judge(side(set(range(before)), n, made), side(set(range(after)), n, then))
    assert found["judgement"] == judgement, found["headline"]
    assert found["headline"].startswith("Right on ")
    for text in words:
        assert text in found["headline"], found["headline"]
    for text in never:
        assert text not in found["headline"], found["headline"]


@pytest.mark.parametrize("both", [0, 1, 2])
def test_the_gamed_run_does_not_read_as_a_success(both):
    """The first real run: 2 of 300 right became 11, 209 tokens 22, the reward +1.59; whichever of
    the two stayed right."""
    base = side({0, 1}, 300, made=False, tokens=209)
    tuned = side(set(range(2 - both, 13 - both)), 300, made=True, tokens=22)
    found = judge(base, tuned)
    assert sum(b["correct"] and t["correct"] for b, t in zip(base, tuned, strict=True)) == both
    assert found["difference"]["reward"]["mean"] > 0.9
    assert found["difference"]["reward"]["p"] < 0.001 and found["wins"] >= 298
    assert found["level"] == "warning" and found["judgement"] == "hardly better"
    assert found["headline"].startswith(
        "Right on 3.7 % of 300 held-out questions, 0.7 % before (+3.0 points, 95 % between ")
    for words in ("leaves 96 % wrong", "better made, not better",
                  "collapsed from 209 to 22 tokens"):
        assert words in found["headline"]
    assert "got better" not in found["headline"]


def test_a_rise_of_the_best_of_several_must_be_surer(few_draws):
    """100 of 200 right, 88 before: 20 gained and 8 lost, p = 0.036."""
    base, tuned = side(set(range(88)), 200, True), side(set(range(8, 108)), 200, True)
    assert "it got better" in judge(base, tuned)["headline"]
    found = judge(base, tuned, picked=(1, 6))
    assert found["judgement"] == "unclear" and ", p = 0.036): too few" in found["headline"]
    assert (f"for they also picked it, out of 6; about {found['needed']} questions that did not "
            "would tell") in found["headline"]
    names = ["Step 2", "Step 6"]
    assert judge(tuned, base, names=names, picked=(1, 6))["judgement"] == "worse"
    found = judge(tuned, base, names=names, picked=(6, 1))
    assert "too few questions to tell, for they also picked the other" in found["headline"]
    sure = side(set(range(8, 138)), 200, True)
    assert judge(base, sure, picked=(1, 20))["judgement"] == "better"


def test_without_a_goal_it_says_that_nothing_tells_what_is_right(few_draws):
    found = judge(side(set(), 100, False, SHAPES), side(set(), 100, True, SHAPES), SHAPES)
    assert found["judgement"] == "no goal" and found["level"] == "warning"
    assert found["headline"].startswith(
        "No goal reward is chosen, so nothing says whether answers are right: on 100 held-out "
        "questions they are better made, with ")
    assert found["base"]["accuracy"] is found["tuned"]["accuracy"] is None
    assert found["difference"]["accuracy"] is None and found["right"] is None


def test_goals_that_could_judge_nothing_are_not_a_score_of_zero(few_draws):
    base, tuned = ([answer(PLAIN.format(3), column=None)] * 5 for _ in range(2))
    with pytest.raises(WorkFailed, match="needs the column 'answer'"):
        judge(base, tuned)  # the reward that failed counts, so there is no sum either
    watched = parse_chosen("int,correctness:weight=0")
    base, tuned = ([answer(PLAIN.format(3), watched, column=None)] * 5 for _ in range(2))
    found = judge(base, tuned, watched)
    assert found["judgement"] == "not judged" and found["base"]["accuracy"] is None
    assert "could judge no answer" in found["headline"] and "'answer'" in found["headline"]


def test_what_could_not_be_judged_is_left_out_of_both_sides_and_counted(few_draws):
    base, tuned = side(set(range(10)), 100, False), side(set(range(60)), 100, False)
    base[0] = answer(ANSWER, column=None)
    tuned[99] = answer(ANSWER, column=None)
    found = judge(base, tuned)
    assert found["n"] == 98 and found["left_out"] == 2
    assert found["base"]["accuracy"] == pytest.approx(9 / 98)
    assert "2 more could not be judged" in found["headline"]


def test_an_adapter_that_changes_nothing_is_said_first(few_draws):
    base = side(set(range(30)), 300, False)
    found = judge(base, base, live=False)
    assert found["judgement"] == "not live" and found["level"] == "bad"
    assert found["headline"] == (
        "The adapter is not live: it changes nothing, so both sides are the same model, right on "
        "10.0 % of 300 held-out questions.")


def test_shorter_and_cut_answers_are_said_beside_any_judgement(few_draws):
    base = side(set(range(36)), 300, False, tokens=200)
    shrunk = judge(base, side(set(range(165)), 300, True, tokens=99))
    assert shrunk["judgement"] == "better"
    assert "shrank from 200 to 99 tokens: read some before you trust it" in shrunk["headline"]
    assert "tokens" not in judge(base, side(set(range(165)), 300, True, tokens=100))["headline"]
    cut = judge(base, side(set(range(165)), 300, True, tokens=200, cut=True))
    assert "100 % of them are cut at the longest length" in cut["headline"]
    assert "collapsed from 200 to 9 tokens" in judge(
        base, side(set(), 300, False, tokens=9))["headline"]
    assert "(answers drawn)" in judge(base, base, drawn=True)["headline"]


def test_where_the_answers_before_were_cut_the_gain_may_be_that_they_end(few_draws):
    """SmolLM2 on sums, 16 tokens an answer: 3 % became 40 %. With 96 tokens its base is right on
    33 %: it had learnt to be brief."""
    cut = side(set(range(36)), 300, False, tokens=200, cut=True)
    tuned = side(set(range(165)), 300, True, tokens=120)
    found = judge(cut, tuned)
    assert found["judgement"] == "better in time" and found["level"] == "warning"
    assert found["turned"] == {"right": 129, "cut": 129}
    assert ("it got better at ending in time, and perhaps at nothing else: on 129 of the 129 "
            "questions that turned right the answer before was cut") in found["headline"]
    brief = judge(cut, side(set(range(165)), 300, True, tokens=20))
    assert "shrank from 200 to 20 tokens: read some" in brief["headline"]
    few = [{**one, "cut": place < 36 + 60} for place, one in enumerate(cut)]
    found = judge(few, tuned)
    assert found["turned"] == {"right": 129, "cut": 60} and found["judgement"] == "better"
    named = judge(cut, tuned, names=("other", "this"))
    assert "turned right the answer of other was cut" in named["headline"]
    drawn = judge(cut[:100], tuned[:100], seeds=2, drawn=True)
    assert "answers that turned right" in drawn["headline"]


def test_goals_that_give_part_of_their_points_can_come_closer_without_being_reached(few_draws):
    chosen = parse_chosen("xmlcount:kind=goal,int")
    half = "<reasoning>\n7\n</reasoning>\n"
    base = [answer("7", chosen)] * 100
    closer = judge(base, [answer(half, chosen)] * 100, chosen)
    assert closer["judgement"] == "closer"
    assert "closer, but not there: the goals' points went from 0.0 % to 50.0 %" in (
        closer["headline"])
    assert judge([answer(half, chosen)] * 100, base, chosen)["judgement"] == "worse"


def test_a_reward_that_never_rises_is_no_success_whatever_the_weights(few_draws):
    """Only what the goals say counts: any shapes, any weights."""
    chance = random.Random(0)
    for _ in range(20):
        weights = ",".join(f"{one.name}:weight={chance.choice([0.1, 1, 10])}" for one in CLASSIC)
        chosen = parse_chosen(weights)
        right = set(range(chance.randrange(0, 40)))
        found = judge(side(right, 200, False, chosen), side(right, 200, True, chosen), chosen)
        assert found["judgement"] == "better made" and found["level"] != "good"


def test_the_questions_to_read_are_those_that_became_right_or_wrong_first():
    questions = [{"question": f"q{i}", "answer": ANSWER} for i in range(4)]
    base = [answer(t) for t in ("15", PLAIN.format(3), PLAIN.format(3), "3")]
    tuned = [answer(t) for t in ("x" * 9000, "15", in_format("7", "3"), "3")]
    found = verdict.telling(questions, base, tuned)
    assert [row["question"] for row in found["gained"]] == ["q1", "q2"]
    assert [row["question"] for row in found["lost"]] == ["q0"]
    assert len(found["lost"][0]["tuned"]["text"]) < 5000


# figures

ORACLE_MCNEMAR = [  # statsmodels 0.15.0, mcnemar([[0, lost], [won, 0]], exact=True)
    (1, 0, 1.0), (9, 0, 0.00390625), (10, 1, 0.01171875), (30, 12, 0.007915897334896727),
    (5, 5, 1.0), (120, 80, 0.0056851559967503055), (3, 9, 0.14599609375)]
ORACLE_WILSON = [  # statsmodels 0.15.0, proportion_confint(right, n, method="wilson")
    (0, 10, 0.0, 0.27753279986288926), (10, 10, 0.7224672001371106, 1.0),
    (2, 300, 0.0018301483579117855, 0.023977583250306973),
    (11, 300, 0.02059530516285302, 0.06445384817189297),
    (5, 17, 0.13279989610295234, 0.5313311006653985)]


@pytest.mark.parametrize(("won", "lost", "p"), ORACLE_MCNEMAR)
def test_mcnemar_is_that_of_statsmodels(won, lost, p):
    assert mcnemar(won, lost) == pytest.approx(p, rel=1e-12)
    assert mcnemar(0, 0) == 1.0


@pytest.mark.parametrize(("right", "n", "low", "high"), ORACLE_WILSON)
def test_wilson_is_that_of_statsmodels(right, n, low, high):
    assert wilson(right, n) == pytest.approx((low, high), abs=1e-12)


def pairs(both: int, lost: int, won: int, neither: int) -> tuple[list[bool], list[bool]]:
    return ([True] * (both + lost) + [False] * (won + neither),
            [True] * both + [False] * lost + [True] * won + [False] * neither)


def test_the_interval_of_paired_shares_is_newcombes():
    """His paper's first example: 36 both, 12 and 2 one only, 0 neither."""
    found = paired_shares(*pairs(36, 2, 12, 0))
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.0569, 0.3404), abs=1e-4)
    turned = paired_shares(*pairs(36, 12, 2, 0))
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    with pytest.raises(ValueError):
        paired_shares([], [])


def test_the_interval_of_paired_shares_covers_and_never_leaves_its_range():
    """Exact chances of every outcome of 25 items, for several truths."""
    from math import comb

    n = 25
    for lost, won, rest_right in ((0.05, 0.3, 0.4), (0.2, 0.2, 0.5), (0.02, 0.1, 0.0)):
        covered = total = 0.0
        for first in range(n + 1):
            for second in range(n + 1 - first):
                rest = n - first - second
                chance = (comb(n, first) * comb(n - first, second) * lost ** first * won ** second
                          * (1 - lost - won) ** rest)
                if chance < 1e-7:
                    continue
                found = paired_shares(*pairs(round(rest_right * rest), first, second,
                                             rest - round(rest_right * rest)))
                assert -1 <= found.low <= found.mean <= found.high <= 1
                total += chance
                covered += chance * (found.low <= won - lost <= found.high)
        assert covered / total > 0.93


def test_the_bootstrap_and_the_sign_flips_are_those_of_scipy():
    """200 gaps of a normal, mean 0.2, deviation 1, against scipy 1.17.1 on these very numbers:
    bootstrap(method="percentile", n_resamples=20000) and permutation_test("samples", 50000)."""
    chance = random.Random(5)
    found = paired_difference([0.0] * 200, [chance.gauss(0.2, 1.0) for _ in range(200)], seed=1)
    assert (found.low, found.high) == pytest.approx((0.02235, 0.33659), abs=0.02)
    assert found.p == pytest.approx(0.0270, abs=0.01)


def test_so_many_questions_are_needed_as_connor_says():
    assert items_needed(0.05, 0.2) == 630  # 625.6, two digits told
    assert items_needed(-0.1, 0.3) == 240
    assert items_needed(0.025, 0.0) == items_needed(0.025, 0.025)
    with pytest.raises(ValueError):
        items_needed(0.0, 0.5)


@pytest.mark.parametrize(("prompt", "tags"), [
    (SYSTEM_PROMPT, ("reasoning", "answer")), (STARTER_PROMPT, ("reasoning", "answer")),
    ("", ()), ("Say <b> once.", ()), ("<a><b></b></a> <c></c>", ("a", "c")),
    ("Use <think> … </think>, then <answer>4</answer>; as in <answer>5</answer>",
     ("think", "answer"))])
def test_the_asked_format_is_read_from_the_system_prompt(prompt, tags):
    assert asked_tags(prompt) == tags


def test_the_share_in_format_is_that_of_answers_in_the_blocks_of_the_system_prompt():
    texts = (in_format("6 * 7", "42").rstrip(), GUESS.format(42), "42", GUESS.format(""))
    base, tuned = [answer("42")] * 4, [answer(text) for text in texts]
    found = judge(base, tuned)
    assert (found["base"]["in_format"], found["tuned"]["in_format"]) == (0.0, 0.5)
    assert verdict.verdict(CLASSIC, "", base, tuned)["tuned"]["in_format"] is None


def test_a_chance_too_small_to_write_is_not_none():
    assert [headline.chance(p) for p in (0.0, 0.0004, 0.0364, 1.0)] == [
        "p < 0.001", "p < 0.001", "p = 0.036", "p = 1.000"]


def test_every_judgement_has_its_level():
    assert set(headline.LEVELS.values()) == {"good", "bad", "warning", "info"}
    assert [one for one, level in headline.LEVELS.items() if level == "good"] == ["better"]
