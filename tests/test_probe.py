"""The hack probe says what a policy would find: which bad answers earn as much as a good one."""

import time

import pytest

from lab.core.prompts import in_format
from lab.core.rewards.attempts import bad_answers, options_for, wrong_for
from lab.core.rewards.chosen import Chosen, parse_chosen
from lab.core.rewards.probe import NEARLY, QUESTION, REFERENCE, probe
from lab.core.rewards.registry import REWARDS, SHAPE, reward
from lab.core.rewards.sets import built_in

SETS = {one.name: one for one in built_in()}
FIVE = SETS["notebook"].chosen


@pytest.fixture
def registered():
    """Registers a reward for one test."""
    made = []

    def register(function, **look):
        reward(function.__name__, **{"max_score": 1.0} | look)(function)
        made.append(function.__name__)
        return Chosen(function.__name__)

    yield register
    for name in made:
        del REWARDS[name]


def said(found) -> str:
    return "\n".join(finding.sentence for finding in found.findings)


def test_on_the_notebooks_five_a_guess_in_perfect_format_earns_half_without_a_thought():
    found = probe(QUESTION, REFERENCE, FIVE)
    assert (found.good.scored.total, found.best) == (4.0, 4.0)
    assert "A guess in perfect format earns 2 of 4 without a thought." in said(found)
    assert ("Reasoning that is the answer again earns 4 of 4, as much as a good answer: no reward "
            "asks for a thought.") in said(found)


def test_what_a_gamed_policy_wrote_is_among_the_tries():
    """Its answers were a number as the reasoning, and the same number as the answer."""
    texts = {one.key: one.text for one in probe(QUESTION, REFERENCE, FIVE).bad}
    assert texts["guess"] == in_format("49", "49")
    assert texts["again"] == in_format("42", "42")


@pytest.mark.parametrize("reference", ["42", "-3", "1,234", "0.5"])
def test_goal_first_pays_no_bad_answer_as_much_as_the_good_one(reference):
    found = probe(QUESTION, reference, SETS["goal-first"].chosen)
    assert found.good.scored.total == pytest.approx(found.best)
    assert max(one.share for one in found.bad if one.key != "padded") < NEARLY
    assert {one.key: one.share for one in found.bad}["guess"] < 0.4
    assert found.findings == () and found.notes == ()


@pytest.mark.parametrize("name", SETS)
def test_a_usual_set_is_probed_in_a_blink(name):
    probe(QUESTION, REFERENCE, SETS[name].chosen)  # what is made once is made
    fastest = []
    for _ in range(5):  # other work on this machine must not count
        begun = time.perf_counter()
        probe(QUESTION, REFERENCE, SETS[name].chosen)
        fastest.append(time.perf_counter() - begun)
    assert min(fastest) < 0.05


def test_a_reward_that_pays_for_length_is_found(registered):
    def lengthy(completion, answer):
        return float(answer in completion) * min(1.0, len(completion) / 5000)

    found = probe(QUESTION, REFERENCE, [registered(lengthy)])
    assert any(f.keys[0] == "padded" and f.level == "error" for f in found.findings)
    assert "more than the" in said(found) and "length itself is paid for" in said(found)


def test_a_reward_that_looks_for_the_answer_anywhere_pays_for_naming_every_option(registered):
    def anywhere(completion, answer):
        return float(answer in completion)

    found = probe(QUESTION, REFERENCE, [registered(anywhere)])
    assert "Every option in the answer earns 1 of 1, as much as a good answer" in said(found)
    echo = probe("Is it 42?", "42", [Chosen("anywhere")])
    assert "The question again" in said(echo) or "the question again" in said(echo)


def test_a_reward_that_takes_long_is_left_out_and_named(registered):
    def slow(completion):
        time.sleep(0.03)
        return 1.0

    found = probe(QUESTION, REFERENCE, [*FIVE, registered(slow)])
    assert "slow" not in found.good.scored.rewards and found.best == 4
    assert any("not probed at each change" in note for note in found.notes)
    patient = probe(QUESTION, REFERENCE, [Chosen("slow"), *FIVE], patience=None)
    assert patient.best == 5 and patient.good.scored.rewards["slow"] == 1


def test_a_reward_that_fails_or_cannot_judge_is_said_and_is_no_zero(registered):
    def brittle(completion, tests):
        return 1.0

    def unsure(completion):
        return None

    found = probe(QUESTION, REFERENCE, [*FIVE, registered(brittle), registered(unsure)])
    assert found.findings == () and found.good.share is None
    assert any("needs the column 'tests'" in note for note in found.notes)
    assert any("cannot judge this question" in note for note in found.notes)
    assert any("cannot be compared" in note for note in found.notes)
    filled = probe(QUESTION, REFERENCE, [*FIVE, Chosen("brittle")], {"tests": "assert True"})
    assert filled.good.scored.total == 5


def test_a_good_answer_of_ones_own_is_what_bad_ones_are_compared_with(registered):
    def poem(completion):
        return 1.0 if "rose" in completion else 0.1

    chosen = [registered(poem, kind=SHAPE)]
    blind = probe(QUESTION, REFERENCE, chosen)
    assert any("earns 0.1 of 1" in note for note in blind.notes)
    told = probe(QUESTION, REFERENCE, chosen, good="It smells like a rose.")
    assert (told.good.text, told.good.scored.total) == ("It smells like a rose.", 1.0)
    assert told.findings == ()


def test_the_form_that_the_rewards_ask_for_is_taken(registered):
    def bare(completion, answer):
        return float(completion == answer)

    assert probe(QUESTION, "Paris", [registered(bare)]).good.text == "Paris"


def test_a_set_without_a_goal_pays_every_wrong_answer():
    found = probe(QUESTION, REFERENCE, parse_chosen("soft_format,strict_format"))
    assert found.findings[0].level == "error"
    assert {"tags", "guess", "wrong", "long"} <= set(found.findings[0].keys)


@pytest.mark.parametrize(("reference", "wrong"), [
    ("42", "49"), ("-5", "2"), ("$29.00", "$36"), ("B", "C"), ("yes", "no"),
    ("Paris", "something else"), ("", "something else"), ("[1, 8, 12]", "14"),
    ("9" * 5000, "something else"), ("72%", "79%"), ("[" * 9000, "something else"),
])
def test_a_wrong_answer_is_of_the_kind_of_the_right_one(reference, wrong):
    assert wrong_for(reference) == wrong
    assert options_for(reference)


@pytest.mark.parametrize("reference", ["42", "B", "Paris", "", "[\"red\", \"blue\"]", "x" * 9000])
def test_no_bad_answer_is_the_good_one_or_there_twice(reference):
    texts = [text for _, _, text, _ in bad_answers("?", reference, in_format, "good")]
    assert "good" not in texts and len(texts) == len(set(texts))


def test_a_choice_that_nothing_could_be_scored_with_is_refused():
    with pytest.raises(ValueError, match="There is no reward 'nothing'"):
        probe(QUESTION, REFERENCE, [Chosen("nothing")])
