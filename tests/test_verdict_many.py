"""Several answers to a question: errors clustered by question, against scipy, and calibrated."""

import math
import random
from statistics import fmean, stdev

import pytest

from lab.core.insight import stats
from lab.core.insight.stats import (
    clustered_share,
    clustered_shares,
    items_needed,
    mcnemar,
    paired_difference,
    paired_shares,
    wilson,
)
from lab.core.insight.verdict import telling, verdict
from lab.core.rewards.chosen import parse_chosen
from tests.test_verdict import ANSWER, GUESS, PLAIN, answer, judge, side

GOAL = parse_chosen("correctness")
DIFFERENT = ("better", "hardly better", "worse")


@pytest.fixture(scope="module")
def scipy():
    return pytest.importorskip("scipy.stats")


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(stats, "DRAWS", 200)


def drawn(chance: random.Random, questions: list[float], each: int) -> list[list[bool]]:
    """Which of so many drawn answers to questions with these chances are right."""
    return [[chance.random() < one for _ in range(each)] for one in questions]


def shares(chance: random.Random, questions: list[float], each: int) -> list[float]:
    return [sum(one) / each for one in drawn(chance, questions, each)]


def hard(chance: random.Random, n: int) -> list[float]:
    """Chances to be right: most questions are easy or hard, so their answers are much alike."""
    return [chance.betavariate(0.4, 0.4) for _ in range(n)]


def answers(found: list[list[bool]]) -> list[dict]:
    """These answers as the evaluation worker sends them."""
    return [{"text": "7", "rewards": {"correctness": 2.0 * right}, "errors": {},
             "total": 2.0 * right, "goal": float(right), "correct": right, "tokens": 3,
             "cut": False} for question in found for right in question]


# --- held against scipy --------------------------------------------------------------------------


def test_shares_and_mcnemar_are_those_of_scipy(scipy):
    for won, lost in ((1, 0), (9, 0), (10, 1), (30, 12), (5, 5), (120, 80)):
        assert mcnemar(won, lost) == pytest.approx(scipy.binomtest(won, won + lost).pvalue)
    for right, n in ((0, 10), (10, 10), (2, 300), (11, 300), (5, 17)):
        told = scipy.binomtest(right, n).proportion_ci(method="wilson")
        assert wilson(right, n) == pytest.approx((told.low, told.high))


def test_the_bootstrap_and_both_sign_flips_are_those_of_scipy(scipy):
    chance = random.Random(3)
    first = [chance.gauss(1, 1) for _ in range(60)]
    second = [one + chance.gauss(0.3, 1.0) for one in first]
    gaps = [b - a for a, b in zip(first, second, strict=True)]
    found = paired_difference(first, second)
    told = scipy.bootstrap((gaps,), fmean, method="percentile", vectorized=False,
                           n_resamples=4000, rng=1).confidence_interval
    assert (found.low, found.high) == pytest.approx((told.low, told.high), abs=0.03)
    told = scipy.permutation_test((gaps,), fmean, permutation_type="samples", vectorized=False,
                                  n_resamples=4000, rng=1)
    assert found.p == pytest.approx(told.pvalue, abs=0.015)

    questions = hard(chance, 12)  # so few that scipy tries every flip there is
    before, after = shares(chance, questions, 4), shares(chance, [0.9] * 12, 4)
    gaps = [b - a for a, b in zip(before, after, strict=True)]
    told = scipy.permutation_test((gaps,), fmean, permutation_type="samples", vectorized=False,
                                  n_resamples=math.inf)
    assert clustered_shares(before, after).p == pytest.approx(told.pvalue, abs=0.02)


def test_the_clustered_interval_is_that_of_scipys_paired_test_over_questions(scipy):
    """With many questions, where t is the normal."""
    chance = random.Random(4)
    first = shares(chance, hard(chance, 3000), 3)
    second = shares(chance, hard(chance, 3000), 3)
    found = clustered_shares(first, second)
    told = scipy.ttest_rel(second, first)
    low, high = told.confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)
    assert found.p == pytest.approx(told.pvalue, abs=0.03)


def test_the_error_is_millers_clustered_one():
    """His formula over all answers: the sum over questions of the squared sum of what their answers
    are off by, its root over the number of answers."""
    chance, each, n = random.Random(5), 5, 2000
    gaps = [[(chance.random() < a) - (chance.random() < b) for _ in range(each)]
            for a, b in zip(hard(chance, n), hard(chance, n), strict=True)]
    mean = fmean(gap for question in gaps for gap in question)
    error = math.sqrt(sum(sum(gap - mean for gap in question) ** 2 for question in gaps)
                      ) / (n * each)
    naive = stdev(gap for question in gaps for gap in question) / math.sqrt(n * each)
    found = clustered_shares([0.0] * n, [fmean(question) for question in gaps])
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=2e-3)
    assert error > 1.5 * naive  # or this would show nothing


def test_of_one_answer_each_the_clustered_p_is_that_of_mcnemar():
    before = [1.0] * 32 + [0.0] * 28
    found = clustered_shares(before, [1.0] * 30 + [0.0] * 2 + [1.0] * 9 + [0.0] * 19)
    assert found.p == pytest.approx(mcnemar(9, 2), abs=0.02)


@pytest.mark.parametrize("n", [1, 5, 40])
def test_the_clustered_interval_holds_its_mean_and_has_a_width_where_nothing_changed(n):
    for before, after in ((0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.25, 0.5)):
        found = clustered_shares([before] * n, [after] * n)
        assert -1 <= found.low <= found.mean <= found.high <= 1
        assert found.high - found.low > 0.04
    with pytest.raises(ValueError):
        clustered_shares([], [])


def test_answers_count_as_many_as_they_are_worth():
    chance = random.Random(6)
    alike = [1.0, 0.0] * 50  # all answers to a question are the same: they are one
    assert clustered_share(alike, 8) == pytest.approx(wilson(50, 100), abs=2e-3)
    free = shares(chance, [0.5] * 1000, 8)  # nothing in a question makes them alike
    low, high = clustered_share(free, 8)
    assert high - low == pytest.approx(wilson(4000, 8000)[1] - wilson(4000, 8000)[0], rel=0.1)
    assert clustered_share([1.0] * 10, 8) == wilson(10, 10)  # as careful as one answer each


# --- calibrated ----------------------------------------------------------------------------------


@pytest.mark.parametrize("each", [1, 4])
def test_a_model_against_itself_is_called_different_in_about_one_of_twenty(each, few_draws):
    """200 repeats, 60 questions each: 10 expected; one time in a thousand more than 20."""
    chance, called = random.Random(7), 0
    for repeat in range(200):
        questions = hard(chance, 60)
        found = verdict(GOAL, "", *(answers(drawn(chance, questions, each)) for _ in range(2)),
                        seed=repeat, seeds=each)
        called += found["judgement"] in DIFFERENT
    assert 2 <= called <= 20


def test_the_best_of_ten_that_are_no_better_is_hardly_ever_called_better(few_draws):
    """200 repeats of ten adapters, each of which answers two in five of 200 questions anew. By p
    alone the best of them is better in one of seven; one in forty is what may be."""
    chance, called, naive = random.Random(9), 0, 0
    for repeat in range(200):
        base = [chance.random() < 0.4 for _ in range(200)]
        best = max(([chance.random() < 0.4 if chance.random() < 0.4 else right for right in base]
                    for _ in range(10)), key=sum)
        found = verdict(GOAL, "", *(answers([[right] for right in one]) for one in (base, best)),
                        seed=repeat, picked=(1, 10))
        called += found["judgement"] in DIFFERENT
        gap = found["difference"]["accuracy"]
        naive += gap["low"] > 0 and gap["p"] < 0.05
    assert called <= 5 and naive > 15


def test_answers_that_are_alike_in_a_question_make_no_difference_surer(few_draws):
    """Two models, equally good and right on other questions: with every answer taken as a question
    of its own they pass for different in a third of all repeats; by question in one of twenty."""
    chance, called, naive = random.Random(8), 0, 0
    for repeat in range(200):
        sides = [drawn(chance, hard(chance, 60), 8) for _ in range(2)]
        found = verdict(GOAL, "", *map(answers, sides), seed=repeat, seeds=8)
        called += found["judgement"] in DIFFERENT
        naive += paired_shares(*([right for question in side for right in question]
                                 for side in sides)).p < 0.05
    assert 2 <= called <= 20
    assert naive > 50


@pytest.mark.parametrize("each", [1, 4])
def test_so_many_questions_as_are_said_to_be_needed_find_what_is_there_four_times_in_five(
        each, monkeypatch):
    """A real difference of about 12 points, with as many questions as a first look asks for."""
    monkeypatch.setattr(stats, "DRAWS", 400)
    chance = random.Random(9)

    def sides(n: int) -> tuple[list[float], list[float]]:
        questions = hard(chance, n)
        return (shares(chance, questions, each),
                shares(chance, [one + (1 - one) * 0.24 for one in questions], each))

    before, after = sides(20_000)
    gaps = [b - a for a, b in zip(before, after, strict=True)]
    needed = items_needed(fmean(gaps), fmean(gap * gap for gap in gaps), each)
    found = 0
    for _ in range(150):
        one = (clustered_shares if each > 1 else paired_shares)(*sides(needed))
        found += one.low > 0 and one.p < 0.05
    assert 0.68 <= found / 150 <= 0.92
    assert needed < (250 if each == 1 else 150)  # several answers each need fewer questions


def test_with_nothing_seen_to_change_it_still_needs_more_than_a_few_questions():
    assert items_needed(0.025, 0.0, 4) > 50
    assert items_needed(0.025, 0.0, 1) > items_needed(0.025, 0.0, 4)


# --- the verdict ---------------------------------------------------------------------------------


def test_every_question_counts_the_same_and_what_was_not_judged_is_left_out_in_pairs(few_draws):
    right, wrong, unknown = (answer(ANSWER), answer("3"), answer(ANSWER, column=None))
    base = [right, wrong, unknown, wrong, unknown, right]
    tuned = [right, right, right, right, right, unknown]
    found = judge(base, tuned, drawn=True, seeds=2)
    assert found["n"] == 2 and found["left_out"] == 1
    assert (found["base"]["accuracy"], found["tuned"]["accuracy"]) == (0.25, 1.0)
    assert found["difference"]["accuracy"]["mean"] == 0.75
    assert "of 2 held-out questions (2 drawn answers each)" in found["headline"]
    assert "questions with 2 answers each would tell" in found["headline"]


def test_of_several_answers_the_pair_that_changed_most_is_shown_with_how_often_it_was_right():
    questions = [{"question": f"q{i}", "answer": ANSWER} for i in range(3)]
    base = [answer(text) for text in ("3", "3", "15", "15", "15", "3")]
    tuned = [answer(text) for text in ("3", "15", "15", "3", "3", "15")]
    found = telling(questions, base, tuned, 2)
    assert [row["question"] for row in found["gained"]] == ["q0"]
    assert [row["question"] for row in found["lost"]] == ["q1"]  # q2 changed both ways
    gained, lost = found["gained"][0], found["lost"][0]
    assert (gained["base"]["text"], gained["tuned"]["text"]) == ("3", "15")
    assert (gained["base"]["often"], gained["tuned"]["often"]) == (0, 1)
    assert (lost["base"]["text"], lost["tuned"]["text"], lost["tuned"]["often"]) == ("15", "3", 1)


NAMES = ("slow (step 40)", "fast (step 60)")


@pytest.mark.parametrize(("before", "after", "n", "judgement", "words"), [
    (36, 165, 300, "better", "fast (step 60) is right on 55.0 % of 300 held-out questions, slow "
     "(step 40) on 12.0 % (+43.0 points, 95 % between +3"),
    (165, 36, 300, "worse", ": it is worse"),
    (30, 30, 300, "same", "of 300 held-out questions, as slow (step 40) is (95 % between"),
    (2, 3, 20, "unclear", "too few questions to tell; about"),
])
def test_two_adapters_are_called_by_their_names_and_nothing_is_said_to_have_become(
        before, after, n, judgement, words, few_draws):
    found = judge(side(set(range(before)), n, False), side(set(range(after)), n, False),
                  names=NAMES)
    assert found["judgement"] == judgement and words in found["headline"]
    for word in ("before", " got ", "Base"):
        assert word not in found["headline"]


def test_the_other_cases_of_two_adapters_are_sentences_too(few_draws):
    plain, shaped = side(set(), 100, False, tokens=200), side(set(), 100, True, tokens=20)
    shapes = parse_chosen("xmlcount,soft_format,int")
    same = judge(plain, plain, live=False, names=NAMES)
    assert same["headline"].startswith("slow (step 40) and fast (step 60) are the same model")
    aimless = judge([answer(PLAIN.format(3), shapes)] * 50, [answer(GUESS.format(3), shapes)] * 50,
                    shapes, names=NAMES)
    assert "questions the answers of fast (step 60) are better made, with" in aimless["headline"]
    assert "% with slow (step 40) (95 % between" in aimless["headline"]
    assert "its answers are short: 20 tokens, against 200" in (
        judge(plain, shaped, names=NAMES)["headline"])
    part = parse_chosen("xmlcount:kind=goal,int")
    half = answer("<reasoning>\n7\n</reasoning>\n", part)
    closer = judge([answer("7", part)] * 100, [half] * 100, part, names=NAMES)
    assert "the goals' points are 50.0 % of their most, against 0.0 %" in closer["headline"]
