"""When an export passes its check: what is compared, and what must hold."""

from dataclasses import replace

import pytest

from lab.core.insight.parity import Compared, parity

ALIKE = Compared((1.0, 0.0, None, 2.0), (1.0, 0.0, None, 2.0), tuple("abcd"), tuple("abcd"),
                 far=1e-5, effect=3.0, near=1e-6, moved=0.5, same_prompts=True)


def test_what_answers_alike_passes_whether_rounded_or_not():
    for exact in (True, False):
        found = parity(ALIKE, exact)
        assert found == {"n": 4, "parity": 1.0, "same": 1.0, "max_logit_difference": 1e-5,
                         "effect": 3.0, "passed": True, "why": ""}


def test_the_same_score_in_other_words_counts_and_without_a_score_the_words_do():
    other = replace(ALIKE, words=("a", "b", "c", "D"))
    assert parity(other, False)["parity"] == 1.0 and parity(other, False)["same"] == 0.75
    unscored = replace(ALIKE, words=("a", "b", "C", "d"))
    assert parity(unscored, False)["parity"] == 0.75


@pytest.mark.parametrize(("changed", "exact", "words"), [
    ({"scores": (1.0, 0.0, None, 0.0)}, True, "another score on 25%"),
    ({"scores": (1.0, 0.0, None, 0.0)}, False, "another score on 25%"),
    ({"far": 0.02}, True, "A logit differs by 0.02"),
    ({"far": float("nan")}, False, "not finite"),
    ({"near": 0.3}, False, "little of what was learnt is left"),
    ({"same_prompts": False}, False, "writes the prompt in another way"),
])
def test_each_way_to_fail_is_said(changed, exact, words):
    found = parity(replace(ALIKE, **changed), exact)
    assert not found["passed"] and words in found["why"]


def test_rounding_may_move_a_logit_as_long_as_what_was_learnt_is_left():
    assert parity(replace(ALIKE, far=0.4, near=0.1), False)["passed"]
