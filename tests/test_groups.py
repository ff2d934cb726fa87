"""Groups at a glance, the way through them, what became of questions, and what differs."""

import json

import pytest

from lab.core import events
from lab.core.insight.differences import MOST, differences
from lab.core.insight.groups import (
    FORGOTTEN,
    LEARNING,
    NEVER,
    SOLVED,
    UNKNOWN,
    glance_of,
    moved,
    places,
    questions_of,
)
from lab.services.run_log import RunLog

GOALS = {"correctness": 2.0}


def group(question: str, *scores: float | None, **more) -> dict:
    """A recorded group; each answer scores this much of the goal."""
    known = [score for score in scores if score is not None]
    mean = sum(known) / len(known) if known else 0.0
    return {"prompt": f"user: {question}", "columns": {"question": question, "answer": "4"},
            "answers": [{"text": str(score), "tokens": 3, "cut": False,
                         "rewards": {"correctness": score}, "errors": {}, "total": score,
                         "advantage": 0.0 if score is None else score - mean} | more
                        for score in scores]}


def test_a_glance_tells_what_a_group_taught():
    mixed, solved = glance_of(group("a", 2, 0, 2), GOALS), glance_of(group("a", 2, 2), GOALS)
    assert (mixed.taught, mixed.rate, mixed.answers) == (True, 2 / 3, 3)
    assert (solved.taught, solved.rate) == (False, 1) and solved.key == mixed.key
    broken = glance_of(group("b", None, None, errors={"correctness": "no"}, cut=True), GOALS)
    assert (broken.rate, broken.errors, broken.cut, broken.taught) == (None, 2, 2, False)
    assert broken.key != mixed.key
    assert glance_of(group("a", 2, 0), {}).rate is None  # no goal: nothing says what is right


@pytest.mark.parametrize("damage", [None, 7, "x", [], {}, {"answers": 3}])
def test_what_is_no_group_is_none(damage):
    assert glance_of(damage, GOALS) is None


@pytest.mark.parametrize("damage", [
    {"answers": []}, {"answers": [None, 4]}, {"answers": [{"rewards": 3, "advantage": "x"}]},
    {"answers": [{"rewards": {"correctness": "x"}}]},
    {"answers": [{}], "columns": 5, "prompt": ["a"]}])
def test_a_damaged_group_has_a_glance_all_the_same(damage):
    assert glance_of(damage, GOALS).taught is False


def seen(**steps) -> dict:
    return {int(step[1:]): [one and glance_of(one, GOALS) for one in groups]
            for step, groups in steps.items()}


def test_the_way_through_groups_goes_by_groups_and_by_steps_within_a_kind():
    run = seen(s1=[group("a", 0, 0), group("b", 2, 0)], s2=[None, group("c", 2, 2)],
               s5=[group("d", 2, 0), group("e", 0, 2)])
    there = places(run)
    assert there == [(1, 0), (1, 1), (2, 1), (5, 0), (5, 1)]
    assert moved(there, None, "") == moved(there, (1, 0), "newest") == (5, 1)
    assert moved(there, (1, 1), "next") == (2, 1) and moved(there, (5, 1), "next") is None
    assert moved(there, (5, 0), "before") == (2, 1) and moved(there, (1, 0), "before") is None
    assert moved(there, (1, 1), "step after") == (2, 1) and moved(there, (5, 0),
                                                                   "step after") is None
    assert moved(there, (5, 1), "step before") == (2, 1)
    assert moved(there, (2, 1), "step before") == (1, 0)
    assert moved(there, (1, 0), "step before") is None
    assert moved(there, (3, 0), "") == (5, 0) and moved(there, (9, 0), "") == (5, 1)
    assert places(run, "dead") == [(1, 0), (2, 1)] and places(run, "right") == [(2, 1)]
    assert places(run, "mixed") == [(1, 1), (5, 0), (5, 1)] and places(run, "errors") == []
    assert moved(places(run, "mixed"), (1, 0), "next") == (1, 1)
    assert moved([], (1, 0), "next") is None


def test_questions_are_solved_learnt_never_right_or_forgotten():
    run = seen(s1=[group("solved", 0, 2), group("never", 0, 0), group("forgotten", 2, 0)],
               s2=[group("solved", 2, 2), group("learning", 2, 0), group("forgotten", 0, 0)],
               s3=[group("never", 0, 0), group("not judged", None), group("lucky", 2, 0, 0, 0)],
               s4=[group("lucky", 0, 0, 0, 0)])
    found = {one.text: one for one in questions_of(run)}
    assert {text: one.state for text, one in found.items()} == {
        "solved": SOLVED, "never": NEVER, "forgotten": FORGOTTEN, "learning": LEARNING,
        "not judged": UNKNOWN, "lucky": LEARNING}
    assert [at for at, _ in found["forgotten"].visits] == [(1, 2), (2, 2)]
    visits = [len(one.visits) for one in questions_of(run)]
    assert visits == sorted(visits, reverse=True)


def test_a_log_keeps_a_glance_of_each_group_and_a_resume_takes_the_later_ones_back(tmp_path):
    path = tmp_path / "events.jsonl"
    write = events.EventWriter(path)
    write(events.Started(9, 0, {}))
    for step in (1, 2, 3):
        write(events.Step(step, {"loss": 0.0}))
        write(events.Samples(step, [group(f"q{step}", 2, 0), "no group"]))
    log = RunLog(path, GOALS).refresh()
    assert places(log.seen()) == [(1, 0), (2, 0), (3, 0)] and log.seen()[1][1] is None
    write(events.Started(9, 1, {}))
    assert places(log.refresh().seen()) == [(1, 0)]
    assert json.dumps(log.groups_at(1)[1][0]) == json.dumps(group("q1", 2, 0))


def test_what_differs_from_the_best_answer_is_marked_word_by_word():
    best = "12 + 5 = 17\n<answer>17</answer>"
    assert differences(best, best) == [(best, False)]
    other = "12 + 5 = 18\n<answer>18</answer>"
    assert differences(best, other) == [
        ("12 + 5 = ", False), ("18", True), ("\n<answer>", False), ("18", True),
        ("</answer>", False)]
    assert differences(best, "") == [] and differences("", "a b") == [("a b", True)]
    for text in (other, "a  b", "x" * 9, "é 🧪 17", " ".join(["word"] * 3 * MOST)):
        assert "".join(piece for piece, _ in differences(best, text)) == text
    assert differences("a b", "a  b") == [("a  b", False)]  # white space alone
