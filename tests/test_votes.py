"""Blind votes: the sign test against scipy's figures, the sentences, agreement, what is kept."""

import json

import pytest

from lab.core.insight.votes import (
    ALIKE,
    BAD,
    LEFT,
    RIGHT,
    TOTAL,
    Agreement,
    Tally,
    agreements,
    between,
    identity,
    sentence,
    tally,
    wanted,
)
from lab.core.problems import RunError
from lab.services import votes
from lab.services.lapse import thinned
from lab.services.workspace import RunFolder
from lab.ui.compare import record

BASE, TUNED, OLDER = ("", ""), ("a run", "f1"), ("a run", "f2")


def side(who: tuple[str, str], total: float | None = 0.0, **rewards: float | None) -> dict:
    return {"run": who[0], "adapter": who[1], "step": 6 if who[0] else None, "text": "7",
            "tokens": 1, "cut": False, "rewards": rewards, "errors": {}, "total": total,
            "goal": None, "reached": None}


def a_vote(vote: str, left: dict, right: dict) -> dict:
    return {"made": 1.7e9, "question": "How many?", "reference": "7", "seed": 1, "sampling": {},
            "left": left, "right": right, "vote": vote}


@pytest.mark.parametrize(("won", "of", "p", "low", "high"), [
    (9, 12, 0.1459960938, 0.4676946651, 0.9110583316),
    (3, 12, 0.1459960938, 0.0889416684, 0.5323053349), (5, 5, 0.0625, 0.5655175352, 1.0),
    (6, 6, 0.03125, 0.6096657121, 1.0), (0, 7, 0.015625, 0.0, 0.3543304351),
    (20, 40, 1.0, 0.3519952693, 0.6480047307), (61, 100, 0.0352002002, 0.5120301705, 0.6998312599),
    (1, 1, 1.0, 0.2065493144, 1.0)])
def test_the_sign_test_and_its_interval_are_those_of_scipy(won, of, p, low, high):
    """binomtest(won, of, 0.5): pvalue, and proportion_ci(0.95, "wilson"), of scipy 1.17.1."""
    counted = Tally(won, of - won, alike=4, bad=2)
    assert counted.p == pytest.approx(p, abs=1e-9)
    assert counted.interval == pytest.approx((low, high), abs=1e-8)


@pytest.mark.parametrize(("counted", "said"), [
    (Tally(), "No vote yet on base and tuned."),
    (Tally(0, 0, 2, 1), "You preferred neither base nor tuned (2 alike, 1 both bad)."),
    (Tally(9, 3, 1), "You preferred tuned to base in 9 of 12 votes (75 %, 95 % between 47 % and "
                     "91 %; 1 alike): p = 0.146, too few to tell. About 29 would, if it goes on "
                     "like this."),
    (Tally(1, 0), "You preferred tuned to base in 1 of 1 vote (100 %, 95 % between 21 % and 100 %):"
                  " p = 1.000, too few to tell. About 6 would, if it goes on like this."),
    (Tally(10, 0), "You preferred tuned to base in 10 of 10 votes (100 %, 95 % between 72 % and "
                   "100 %): p = 0.002, hardly chance. You prefer tuned."),
    (Tally(1, 11), "You preferred base to tuned in 11 of 12 votes (92 %, 95 % between 65 % and "
                   "99 %): p = 0.006, hardly chance. You prefer base."),
    (Tally(4, 4), "You preferred tuned to base in 4 of 8 votes (50 %, 95 % between 22 % and 78 %): "
                  "p = 1.000, no preference so far.")])
def test_votes_come_to_one_plain_sentence(counted, said):
    assert sentence(counted, "base", "tuned") == said


def test_a_vote_counts_for_a_side_wherever_it_stood():
    made = [a_vote(LEFT, side(TUNED), side(BASE)), a_vote(RIGHT, side(BASE), side(TUNED)),
            a_vote(LEFT, side(BASE), side(TUNED)), a_vote(ALIKE, side(BASE), side(TUNED)),
            a_vote(BAD, side(TUNED), side(BASE)), a_vote(LEFT, side(OLDER), side(BASE))]
    of_these = between(made, BASE, TUNED)
    assert len(of_these) == 5 and identity(made[5]["left"]) == OLDER
    assert tally(of_these, TUNED) == Tally(2, 1, 1, 1)
    assert tally(of_these, BASE) == Tally(1, 2, 1, 1)


def test_each_reward_is_asked_whether_it_wants_what_the_person_wants():
    right, wrong = side(TUNED, 2.0, goal=1.0, form=0.0), side(BASE, 1.0, goal=0.0, form=1.0)
    alike, unjudged = side(BASE, 2.0, goal=1.0, form=0.0), side(BASE, None, goal=None, form=0.0)
    made = [a_vote(LEFT, right, wrong)] * 3 + [a_vote(RIGHT, wrong, right)] * 4 + [
        a_vote(LEFT, right, alike), a_vote(RIGHT, unjudged, right), a_vote(BAD, right, wrong)]
    found = agreements(made, ["goal", "form", "gone"])
    assert found["goal"] == found[TOTAL] == Agreement(9, 7, 7)
    assert found["form"] == Agreement(9, 7, 0) and found["gone"] == Agreement(9, 0, 0)
    assert [found[name].judgement for name in ("goal", "form", "gone")] == [
        "wants what you want", "wants the opposite", "sees no difference"]
    assert wanted(found[TOTAL]) == (
        "The weighted rewards preferred the answer that you preferred in 7 of 7; in 2 more they "
        "saw no difference (p = 0.016): they want what you want.")
    assert "the opposite of what you want" in wanted(found["form"])
    assert "saw no difference in 9 votes" in wanted(found["gone"])
    assert "too few to tell" in wanted(Agreement(2, 2, 2))
    assert wanted(agreements([a_vote(BAD, right, wrong)], [])[TOTAL]).startswith("No vote yet")


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def test_votes_are_kept_and_a_damaged_line_spoils_itself_alone(folder):
    assert votes.of_run(folder) == []
    made = [a_vote(LEFT, side(TUNED, 1.0, form=None), side(BASE)),
            a_vote(BAD, side(BASE), side(TUNED))]
    votes.keep(folder, made[0])
    damaged = [{**made[0], "vote": "both"}, {**made[0], "left": {}}, {**made[0], "made": "now"},
               {**made[0], "right": side(BASE) | {"rewards": {"a": "1"}}}, [], None,
               {**made[0], "left": side(BASE, float("nan"))}]
    with folder.votes.open("ab") as file:
        file.write(b"\xff\n[[[\n" + b"".join(json.dumps(one).encode() + b"\n" for one in damaged))
        file.write(json.dumps(made[0]).encode()[:40])  # cut off: the disk was full
    votes.keep(folder, made[1])
    assert votes.of_run(folder) == made


def test_a_vote_that_cannot_be_kept_is_said(folder):
    folder.votes.mkdir()
    with pytest.raises(RunError, match="could not be kept"):
        votes.keep(folder, a_vote(LEFT, side(BASE), side(TUNED)))
    assert votes.of_run(folder) == []


@pytest.mark.parametrize("count", [1, 2, 20, 21, 22, 57, 1000])
def test_checkpoints_are_thinned_evenly_and_the_ends_stay(count):
    items = list(range(count))
    kept = thinned(items, 20)
    assert len(kept) == min(count, 20) and kept == sorted(set(kept))
    assert (kept[0], kept[-1]) == (0, count - 1)
    gaps = {b - a for a, b in zip(kept, kept[1:], strict=False)}
    assert max(gaps, default=1) - min(gaps, default=1) <= 1


def test_a_conversation_is_written_as_markdown_that_no_answer_can_break():
    told = {"name": "Base | model", "tokens": 3, "cut": True, "total": 0.5, "reached": False,
            "rewards": {"int": 0.5}, "tokens_per_second": float("inf")}
    turn = {"question": "How many?\n# No heading", "reference": "`7`", "rewards_of": "a run",
            "answers": ["```\n| a |", ""], "seed": 3, "sampling": {"temperature": 0.5},
            "model": "starter", "sides": [told, told | {"total": None, "reached": None}],
            "rewards": [{"name": "int", "label": "Whole number", "kind": "shape", "weight": 1}]}
    text = record.markdown([turn, {"question": "of another form"}])
    assert "````text\n```\n| a |\n````" in text and text.count("## Question") == 1
    assert "### Base | model" in text and "| Total | 0.5 | – |" in text
    assert "|  | Base \\| model | Base \\| model |" in text
    assert "| Whole number (shape, weight 1) | 0.5 | 0.5 |" in text
    assert "| Tokens | 3, cut | 3, cut |" in text and "| Goal | not reached | – |" in text
    back = record.written([turn])
    assert json.loads(back)[0]["sides"][0]["tokens_per_second"] is None
    assert record.read(back, 2)[0]["answers"] == turn["answers"]
    for wrong in ("", "{", "[1]", "{}", '[{"question": 1, "answers": ["", ""]}]', "[" * 9999):
        assert record.read(wrong, 2) == []
    assert record.read(back, 3) == []  # of another number of sides
