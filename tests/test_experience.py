"""Advice from experience: said where a setting goes against it, never in the way of a start."""

import pytest

from lab.core import experience
from lab.core.catalog import RECIPES
from lab.core.hardware.machine import Gpu, Machine
from lab.core.settings import Settings
from lab.services import machine
from lab.services.jobs import refuse, speaks_against

HERE = Machine("Linux x86_64", "3.11", 2, 16.0, 12.0, 50.0)
CARD = Machine("Linux x86_64", "3.11", 8, 64.0, 48.0, 50.0, (Gpu("T4", 16.0, 15.0, "580", 7.5),),
               {"torch": "2.11.0"})
CALM = {"train.max_steps": 400, "train.learning_rate": 3e-5, "rewards.chosen": [
    {"name": "correctness"}, {"name": "soft_format"}], "model.name": "a/b"}


def fields(changes: dict, parameters: float | None = 2000.0, on: Machine = HERE) -> list[str]:
    settings = Settings().with_values(CALM | changes)
    found = experience.warnings(settings, on, parameters)
    assert all(problem.level == "warning" and problem.next for problem in found)
    return [problem.field for problem in found]


def test_settings_that_follow_experience_are_left_alone():
    assert fields({}) == []


@pytest.mark.parametrize(("changes", "field"), [
    ({"train.max_steps": 299}, "train.max_steps"),
    ({"train.learning_rate": 5e-6}, "train.learning_rate"),
    ({"train.num_generations": 2}, "train.num_generations"),
    ({"train.num_generations": 3}, "train.num_generations"),
    ({"rewards.chosen": [{"name": "strict_format"}]}, "rewards.chosen"),
])
def test_what_goes_against_experience_is_said_at_its_field(changes, field):
    assert fields(changes) == [field]


def test_a_swift_run_may_be_short_and_a_watched_reward_may_want_a_newline():
    assert fields({"train.max_steps": 20, "train.learning_rate": 1e-4}) == []
    assert fields({"rewards.chosen": [{"name": "correctness"},
                                      {"name": "strict_format", "weight": 0}]}) == []


def test_a_rate_that_taught_a_small_model_is_said_to_be_high_for_a_large_one():
    assert fields({"train.learning_rate": 1e-3}, parameters=2000.0) == ["train.learning_rate"]
    assert fields({"train.learning_rate": 1e-3, "data.system_prompt": "Count."},
                  parameters=135.0) == []


def test_the_starter_with_other_data_is_told_that_it_will_learn_nothing():
    own = RECIPES["own"].settings()
    assert [p.field for p in experience.warnings(own, HERE, 1.88)] == ["model.name"]
    assert experience.warnings(RECIPES["starter"].settings(), HERE, 1.88) == []


def test_a_small_model_is_said_where_it_is_asked_to_reason():
    assert fields({}, parameters=494.0) == ["model.name"]
    assert fields({}, parameters=1544.0) == []
    assert fields({"data.system_prompt": "Answer with a number."}, parameters=494.0) == []


@pytest.mark.parametrize(("name", "in_4bit", "said"), [
    ("someone/Strange-7B-Chat", False, True), ("someone/Strange-7B-Chat", True, False),
    ("someone/strange-0.5b", False, False), ("someone/Strange-32b", True, True),
    ("someone/v2.17B", True, False), ("someone/Strange", False, False),
    ("someone/64bit", False, False)])
def test_a_model_that_only_has_a_name_is_measured_by_the_fields_rule(name, in_4bit, said):
    changes = {"model.name": name, "model.load_in_4bit": in_4bit}
    assert fields(changes, parameters=None, on=CARD) == (["model.name"] if said else [])
    assert fields(changes, parameters=7000.0, on=CARD) == []  # an estimate knows better


def test_the_starter_recipe_is_free_of_warnings(tmp_path):
    facts = machine.look(tmp_path)
    assert speaks_against(RECIPES["starter"].settings(), facts) == []


def test_a_warning_keeps_no_run_from_starting(tmp_path):
    facts = machine.look(tmp_path)
    settings = RECIPES["starter"].settings().with_values(
        {"train.num_generations": 2, "train.learning_rate": 5e-6, "train.max_steps": 10})
    found = speaks_against(settings, facts)
    assert {p.field for p in found} == {"train.num_generations", "train.learning_rate",
                                        "train.max_steps"}
    refuse(settings, facts)
