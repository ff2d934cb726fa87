"""The built-in word problems: distinct, repeatable, and right."""

from __future__ import annotations

import operator
from itertools import pairwise

import pytest

from lab.core.task import DEFAULT_LEVEL, LEVELS, SYSTEM_PROMPT, problems

SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def test_every_level_says_in_one_sentence_what_it_is():
    assert DEFAULT_LEVEL in LEVELS
    for sentence in LEVELS.values():
        assert sentence.endswith(".") and sentence.count(".") == 1


@pytest.mark.parametrize("level", LEVELS)
def test_questions_are_distinct(level):
    found = problems(level, 2000, seed=1)
    assert len(found) == len({problem.question for problem in found}) == 2000
    assert {problem.level for problem in found} == {level}


@pytest.mark.parametrize("level", LEVELS)
def test_the_same_arguments_give_the_same_problems(level):
    assert problems(level, 50, seed=3) == problems(level, 50, seed=3)
    assert problems(level, 20, seed=3) == problems(level, 50, seed=3)[:20]
    assert problems(level, 50, seed=3) != problems(level, 50, seed=4)


def test_a_seed_means_the_same_problem_on_every_machine():
    # Written down: the starter's card quotes figures for these very lists.
    first = problems(2, 1, seed=0)[0]
    assert first.question == (
        "Eva has 20 marbles. Ben has 5 fewer than Eva. A week later he has 4 times as many. "
        "How many marbles does he have now?"
    )
    assert first.steps == ("20 - 5 = 15", "15 * 4 = 60")


@pytest.mark.parametrize("level", LEVELS)
def test_every_step_is_right_uses_known_numbers_and_leads_to_the_answer(level):
    for problem in problems(level, 1000, seed=2):
        known = {word.strip(".,?") for word in problem.question.split()}
        for step in problem.steps:
            left, sign, right, equals, result = step.split()
            assert equals == "="
            assert SIGNS[sign](int(left), int(right)) == int(result)
            assert {left, right} <= known, (problem, step)
            known.add(result)
        for before, after in pairwise(problem.steps):
            assert before.split()[-1] in after.split()[:3]
        assert problem.answer == problem.steps[-1].split()[-1]
        assert problem.answer.isdigit()


def test_levels_grow_in_steps():
    def steps(level: int) -> set[int]:
        return {len(problem.steps) for problem in problems(level, 300, seed=0)}

    assert [steps(level) for level in LEVELS] == [{1}, {2}, {3}, {3, 4}]


def test_excluded_questions_never_come_back():
    seen = {problem.question for problem in problems(1, 500, seed=0)}
    fresh = problems(1, 500, seed=0, exclude=seen)
    assert len(fresh) == 500
    assert not seen & {problem.question for problem in fresh}


def test_an_unknown_level_is_refused_with_the_levels_there_are():
    with pytest.raises(ValueError, match="no level 9 .* The levels are 1, 2, 3, 4"):
        problems(9, 1, seed=0)


def test_a_negative_count_is_refused():
    with pytest.raises(ValueError, match="Ask for 0 or more"):
        problems(1, -1, seed=0)


def test_running_out_of_questions_is_said(monkeypatch):
    from lab.core import task

    monkeypatch.setattr(task, "_write", lambda generator, level: made[0])
    made = [task.WordProblem("The only question?", ("1 + 1 = 2",), "2", 1)]
    assert len(problems(1, 1, seed=0)) == 1
    with pytest.raises(ValueError, match="too few distinct questions"):
        problems(1, 2, seed=0)


def test_the_system_prompt_is_short_and_names_the_tags():
    assert len(SYSTEM_PROMPT) < 120
    for tag in ("<reasoning>", "</reasoning>", "<answer>", "</answer>"):
        assert tag in SYSTEM_PROMPT
