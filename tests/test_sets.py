"""Named reward sets: what they hold, what each reward counts, and that nothing bad is taken in."""

import json
import threading

import pytest

from lab.core.insight.advantages import NORMALIZE_FIRST
from lab.core.problems import BadSettings, RunError
from lab.core.rewards import sets
from lab.core.rewards.chosen import Chosen, check_chosen, parse_chosen
from lab.core.rewards.registry import GOAL, REWARDS, SHAPE
from lab.core.rewards.sets import FORMAT, RewardSet, built_in, from_json, shares, to_json
from lab.services.sets import Sets
from lab.services.workspace import Workspace

FIVE = parse_chosen("xmlcount,soft_format,strict_format,int,correctness")
MINE = RewardSet("mine", "Mostly the number.", parse_chosen(
    "correctness:weight=2,soft_format:multiline=false:weight=0.25,int:kind=goal"))


@pytest.fixture
def own(tmp_path):
    return Sets(Workspace(tmp_path / "runs"))


@pytest.mark.parametrize("one", built_in(), ids=lambda one: one.name)
def test_every_set_can_be_trained_on(one):
    assert check_chosen(one.chosen) == []
    assert one.sentence.endswith(".") and len(one.sentence) < sets.SENTENCE_LENGTH
    assert from_json(to_json([one])) == (one,)
    assert [part.name for part in one.chosen] == [part.name for name, _, parts in sets._SETS
                                                  for part in parts if name == one.name]


def test_the_notebooks_set_is_the_notebooks():
    assert built_in()[0].name == "notebook" and built_in()[0].chosen == FIVE


def test_goal_first_puts_the_goal_well_above_half():
    found = next(one for one in built_in() if one.name == "goal-first")
    assert {one.name for one in found.chosen} == {"number", "asked_format", "thinking"}
    assert sets.goal_share(found.chosen) > 0.6


def test_shares_are_parts_of_the_largest_sum():
    found = {part.name: part for part in shares(FIVE)}
    assert (found["correctness"].share, found["correctness"].most) == (0.5, 2.0)
    assert found["correctness"].kind == GOAL and found["int"].kind == SHAPE
    assert sum(part.share for part in found.values()) == pytest.approx(1)
    assert sets.goal_share(FIVE) == 0.5


def test_where_each_reward_is_normalised_first_the_weights_alone_count():
    assert {part.share for part in shares(FIVE, NORMALIZE_FIRST)} == {0.2}


def test_shares_of_nothing_are_nothing():
    assert shares(()) == () and sets.goal_share(()) == 0
    assert [part.share for part in shares(parse_chosen("int:weight=0"))] == [0]


@pytest.mark.parametrize(("chosen", "sentence"), [
    ("correctness", ""), ("int", "Nothing here says whether an answer is right."),
    ("int:kind=goal", ""), ("correctness:kind=shape", "Nothing here says"),
    ("int,correctness:weight=0", "has weight 0"),
])
def test_a_set_that_does_not_teach_to_be_right_is_told(chosen, sentence):
    assert sets.without_goal(parse_chosen(chosen)).startswith(sentence) or \
        sentence in sets.without_goal(parse_chosen(chosen))
    assert bool(sets.without_goal(parse_chosen(chosen))) == bool(sentence)


def test_gdpo_is_offered_only_where_one_reward_hides_another():
    assert sets.far_apart(FIVE) == ""
    told = sets.far_apart(parse_chosen("correctness:weight=4,int:weight=0.5,xmlcount:weight=0"))
    assert "by 8" in told and "by 0.25" in told and NORMALIZE_FIRST in told
    assert REWARDS["correctness"].label in told and REWARDS["int"].label in told


def test_own_sets_are_kept_replaced_and_deleted(own):
    assert own.own() == []
    own.save(" mine  ", MINE.sentence, MINE.chosen)
    again = Sets(own.workspace)  # another process
    assert again.own() == [MINE] and again.named("mine") == MINE
    assert [one.name for one in again.all()] == [*(one.name for one in built_in()), "mine"]
    again.save("Mine", "", FIVE)
    assert [one.name for one in own.own()] == ["Mine"] and own.own()[0].chosen == FIVE
    own.delete("Mine")
    assert own.own() == [] and not own.path.exists()
    with pytest.raises(RunError, match="no reward set 'Mine' of your own"):
        own.delete("Mine")


@pytest.mark.parametrize("name", ["", "   ", "x" * 61, "a\x00b", "\ud800", "Notebook"])
def test_a_name_that_cannot_be_is_refused(own, name):
    with pytest.raises(BadSettings):
        own.save(name, "", FIVE)
    assert own.own() == []


@pytest.mark.parametrize("chosen", [(), (Chosen("int", 0),), (Chosen("int", -1),),
                                    (Chosen("nothing"),), (Chosen("int"), Chosen("int"))])
def test_rewards_that_cannot_be_trained_on_are_not_saved(own, chosen):
    with pytest.raises(BadSettings):
        own.save("mine", "", chosen)


def test_what_was_exported_is_taken_in_the_same(own, tmp_path):
    other = Sets(Workspace(tmp_path / "other"))
    own.save(MINE.name, MINE.sentence, MINE.chosen)
    text = to_json(own.own())
    assert other.take_in(text) == (["mine"], [])
    assert other.take_in(text) == ([], ["mine"])
    assert other.own() == [MINE]


def one_set(**changed) -> str:
    made = {"name": "mine", "sentence": "", "rewards": [{"name": "int"}]} | changed
    return json.dumps({"format": FORMAT, "version": 1, "sets": [made]})


@pytest.mark.parametrize(("text", "word"), [
    ("", "not JSON"), ("[]", '"format"'), ("{}", '"format"'), ("[" * 100_000, "not JSON"),
    (json.dumps({"format": FORMAT, "version": 2, "sets": []}), "version"),
    (json.dumps({"format": FORMAT, "version": 1, "sets": []}), "list of 1"),
    (json.dumps({"format": FORMAT, "version": 1, "sets": [7]}), "Set 1"),
    (one_set(name=7), "needs a name"), (one_set(rewards={}), "Set 1 must be written"),
    (one_set(rewards=[{"name": "nothing"}]), "There is no reward 'nothing'"),
    (one_set(rewards=[{"name": "int", "weight": 10**400}]), "mine"),
    (one_set(rewards=[{"name": "int", "weight": "2"}]), "must be a number"),
    (one_set(rewards=[{"name": "int", "params": {"tolerance": 1}}]), "no parameter"),
    (one_set(rewards=[{"name": "int", "kind": ["goal"]}]), "must be goal or shape"),
    (one_set(rewards=[]), "No reward is chosen"), (one_set(sentence=None), "sentence"),
    (one_set(more=1), "Set 1 must be written"), (one_set(sentence="\ud800"), "half of a character"),
    (one_set(name="notebook"), "the lab's own sets"),
    (json.dumps({"format": FORMAT, "version": 1, "sets": [
        {"name": name, "rewards": [{"name": "int"}]} for name in ("a", "A")]}), "Two sets"),
    (" " * 1_000_001, "at most"),
])
def test_a_bad_file_is_refused_with_what_is_wrong_and_nothing_of_it_is_kept(own, text, word):
    with pytest.raises(BadSettings) as refused:
        own.take_in(text)
    assert word in str(refused.value)
    assert not own.path.exists()


def test_a_damaged_file_is_told_and_never_written_over(own):
    own.workspace.make()
    own.path.write_text('{"format": "grpo-lab reward sets", "version": 1, "sets": [')
    before = own.path.read_text()
    for attempt in (own.own, lambda: own.save("mine", "", FIVE), lambda: own.delete("mine")):
        with pytest.raises(RunError, match="cannot be read"):
            attempt()
    assert own.path.read_text() == before


def test_sets_that_are_saved_at_once_are_all_kept(own):
    threads = [threading.Thread(target=own.save, args=(f"set {n}", "", FIVE)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.name for one in own.own()} == {f"set {n}" for n in range(12)}
