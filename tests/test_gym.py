"""Tasks of reasoning-gym: their rows, and their own scorers as a goal; what is said without it."""

import importlib.util
import json

import pytest

from lab.core.checks import Machine, problems_of
from lab.core.problems import BadData
from lab.core.rewards import gym
from lab.core.rewards.calling import CannotScore
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.scoring import score
from lab.core.settings import REASONING_GYM, Data
from lab.services.data.load import columns_of, load

IS_HERE = importlib.util.find_spec("reasoning_gym") is not None
needed = pytest.mark.skipif(not IS_HERE, reason="reasoning-gym is not installed")
GYM = {"data.source": REASONING_GYM, "data.tasks": "chain_sum",
       "rewards.chosen": [Chosen("soft_format", 0.2), Chosen("reasoning_gym", 2.0)]}


def told(quick, packages=(), **changes) -> list[str]:
    machine = Machine("Linux", "3.11", 2, 8.0, 8.0, 100.0,
                      packages=dict.fromkeys(packages, "1.0"))
    return [str(p) for p in problems_of(quick.with_values(GYM | changes), machine)
            if p.field in ("data.source", "data.tasks", "rewards.chosen")]


def test_what_it_lacks_is_said_before_the_start(quick):
    lacks = told(quick)
    assert any("not installed" in one and "`pip install reasoning-gym`, or take other data" in one
               for one in lacks)
    there = ["reasoning-gym"]
    assert told(quick, there) == []
    assert "No task of reasoning-gym is chosen" in told(quick, there, **{"data.tasks": " , "})[0]
    assert "own scorers are not asked" in told(
        quick, there, **{"rewards.chosen": [Chosen("correctness")]})[0]
    assert columns_of(Data(source=REASONING_GYM)) == ["question", "answer", "task", "entry"]


@pytest.mark.skipif(IS_HERE, reason="reasoning-gym is installed")
def test_without_the_package_loading_and_scoring_say_how_to_get_it():
    with pytest.raises(BadData, match="pip install reasoning-gym"):
        load(Data(source=REASONING_GYM), 1)
    found = score("7", {"entry": gym.SUM}, [Chosen("reasoning_gym")])
    assert found.rewards == {"reasoning_gym": None}
    assert found.errors["reasoning_gym"].endswith("run `pip install reasoning-gym`")


def made(tasks: str = "chain_sum, countdown,leg_counting", seed: int = 5, **changes):
    return load(Data(source=REASONING_GYM, tasks=tasks,
                     **{"rows": 40, "held_out": 11} | changes), seed)


def pays(row: dict, answer: str) -> float:
    found = score(f"<answer>{answer}</answer>", row, [Chosen("reasoning_gym")])
    assert not found.errors
    return found.rewards["reasoning_gym"]


@needed
def test_rows_are_of_every_task_and_held_out_ones_are_the_same_for_each_seed():
    split, again, other = made(), made(), made(seed=6)
    assert split == again and split.held_out == other.held_out
    train, aside = ({row["question"] for row in rows} for rows in (split.train, split.held_out))
    assert len(train) == 40 and len(aside) == 11 and not train & aside
    assert not train & {row["question"] for row in other.train}
    assert [row["task"] for row in split.train[:4]] == [
        "chain_sum", "countdown", "leg_counting", "chain_sum"]
    assert split.numbers == list(range(12, 52)) and split.total == 51
    longer = made(rows=60, held_out=4)
    assert longer.train[:40] == split.train and longer.held_out == split.held_out[:4]


@needed
def test_the_tasks_own_scorer_judges():
    split = made()
    for row in split.train[:12]:
        assert pays(row, row["answer"]) == 1 and pays(row, "no idea") < 0.1
    row = split.train[1]
    other = f"({row['answer']})"  # another way to the target
    assert row["task"] == "countdown" and pays(row, other) == 1
    assert score(f"<answer>{other}</answer>", row, [Chosen("correctness")]).rewards == {
        "correctness": 0.0}
    strict = Chosen("reasoning_gym", params=(("all_or_nothing", True),))
    assert score("<answer>1 + 1</answer>", row, [strict]).rewards == {"reasoning_gym": 0.0}


@needed
def test_an_answer_that_is_a_program_reaches_nothing_and_one_that_never_ends_is_ended(
        tmp_path, monkeypatch):
    row = made().train[1]
    mark = tmp_path / "mark"
    assert pays(row, f"__import__('pathlib').Path('{mark}').touch()") < 0.1
    assert not mark.exists()
    monkeypatch.setattr(gym, "SCORING", 2.0)
    found = score("<answer>9**9**9**9</answer>", row, [Chosen("reasoning_gym")])
    assert "gave no answer" in found.errors["reasoning_gym"]
    assert pays(row, row["answer"]) == 1  # in a new child


@needed
def test_difficulty_is_a_level_of_the_tasks_curriculum():
    def terms(difficulty: int) -> set[int]:
        return {json.loads(row["entry"])["metadata"]["num_terms"]
                for row in made("chain_sum", difficulty=difficulty).train}

    assert terms(0) == {2} and terms(3) == {2, 3, 4, 5}


@needed
@pytest.mark.parametrize("changes, words, field", [
    ({"tasks": "chain_sums"}, "has no task 'chain_sums'", "data.tasks"),
    ({"tasks": ""}, "No task of reasoning-gym is chosen", "data.tasks"),
    ({"tasks": "chain_sum", "difficulty": 900}, "has no level 900", "data.difficulty"),
])
def test_what_cannot_be_made_is_refused_with_what_can(changes, words, field):
    with pytest.raises(BadData, match=words) as refused:
        made(**changes)
    assert refused.value.problem.field == field
    assert "chain_sum" in str(refused.value)


@needed
def test_a_task_with_few_questions_says_so():
    split = made("chain_sum", difficulty=0, rows=400, held_out=20)
    assert 0 < len(split.train) < 400
    assert any("has few different questions" in note for note in split.notes)


@needed
def test_a_run_learns_from_it(lab, quick):
    folder = lab.jobs.start(quick.with_values(GYM | {
        "data.difficulty": 0, "data.rows": 30, "data.held_out": 6, "train.max_steps": 2,
        "train.eval_steps": 1}))
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished", folder.log.read_text()
    log = lab.runs.log(folder.id)
    assert list(log.metrics["reward_errors/reasoning_gym"]) == [0, 0]
    assert "goal/mean" in log.metrics and log.held_out
    assert json.loads(folder.data.read_text().splitlines()[0])["task"] == "chain_sum"


def test_a_scorer_that_fails_is_an_error_and_no_score(monkeypatch):
    def fails(*_):
        raise CannotScore("reasoning-gym failed: KeyError: 'numbers'")

    monkeypatch.setattr(gym, "ask", fails)
    found = score("7", {"entry": gym.SUM}, [Chosen("reasoning_gym")])
    assert found.total is None and "KeyError" in found.errors["reasoning_gym"]
