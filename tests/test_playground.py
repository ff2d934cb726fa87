"""The playground's parts: where answers come from, how they are marked, what a group shows."""

import base64
import json
import re

import pytest

from lab.core.insight.advantages import NORMALIZE_FIRST, SUM_FIRST
from lab.core.problems import BadSettings, Problem, RunError
from lab.core.prompts import answer_span, final_answer, in_format, reasoning_span, split_reasoning
from lab.core.rewards.chosen import Chosen, parse_chosen
from lab.core.rewards.registry import REWARDS, reward
from lab.core.rewards.sets import RewardSet, checked, from_json
from lab.core.rewards.timed import is_costly
from lab.services import playground as service
from lab.ui.rewards import cards, library, playground, sets_view
from lab.ui.rewards.scored import answers_html, scored_answers, text_html

FIVE = parse_chosen("xmlcount,soft_format,strict_format,int,correctness")
ROW = {"question": "6 * 7?", "answer": "42"}
EVIL = "<script>alert('1')</script>"


def shown(*texts: str, chosen=FIVE, aggregation=SUM_FIRST) -> str:
    answers = scored_answers(texts, [ROW] * len(texts), chosen)
    return answers_html(answers, chosen, "group", aggregation)


@pytest.mark.parametrize("text", [
    in_format("6 * 7", "42"), "42", "", "  ", "<think>a</think> 42", "a</think><answer> 4",
    "<answer>1</answer><answer>2", "<reasoning>x", "</answer><answer></answer>",
    "<reasoning>a<answer>1</answer></reasoning>", "<answer>\n\n</answer>",
])
def test_what_is_marked_is_what_is_judged(text):
    begin, end = answer_span(text)
    assert text[begin:end] == final_answer(text)
    span = reasoning_span(text)
    assert (span and text[slice(*span)].strip()) == split_reasoning(text)[0]
    plain = re.sub(r"<[^>]+>", "", text_html(text).split("</pre>")[0])
    assert plain == (text.replace("<", "&lt;").replace(">", "&gt;") or "(empty)")


def test_every_part_of_one_answer_is_told():
    table = shown(in_format("6 * 7 = 42", "42"))
    assert all(f"data-reward='{one.name}'" in table for one in FIVE)
    assert "<mark class='reasoning'>" in table and "<mark class='answer'>42</mark>" in table
    assert "4</b> of at most 4" in table and "Right</b>" in table


def test_a_group_shows_mean_spread_and_the_trainers_advantages():
    table = shown("42", "7", in_format("6 * 7", "42"))
    gains = [float(gain) for gain in re.findall(r"data-advantage='([^']+)'", table)]
    assert gains[2] > 0 > gains[1] and sum(gains) == pytest.approx(0, abs=1e-3)
    assert "3 answers</b>: mean" in table
    assert "All score alike" in shown("7", "8") and "All score alike" not in table
    assert "scaled over the whole" in shown("42", "x", aggregation=NORMALIZE_FIRST)


def test_an_answer_that_a_reward_failed_on_is_left_out_and_said():
    @reward("Fails", max_score=1.0)
    def fails_on_seven(completion):
        return 1.0 if completion != "7" else 1 / 0

    try:
        table = shown("7", "42", "8", chosen=(*FIVE, Chosen("fails_on_seven")))
    finally:
        del REWARDS["fails_on_seven"]
    assert "left out" in table and "1 answer left out" in table
    assert "ZeroDivisionError" in table


def test_text_of_others_never_becomes_markup():
    assert "<script>" not in shown(EVIL) + shown(EVIL, "42")
    evil = RewardSet("mine", EVIL, FIVE)
    assert "<script>" not in sets_view.about_html(evil, FIVE)
    assert "'" not in re.search(r"download='([^']*)'", sets_view.links_html(
        RewardSet("it's", "", FIVE), [], FIVE))[1].replace("&#x27;", "")


def test_a_reward_that_is_costly_is_shown_as_not_asked_and_the_sum_says_what_it_is_of():
    chosen = (*FIVE, Chosen("passes_tests"))
    asked = [one for one in chosen if not is_costly(one)]
    table = answers_html(scored_answers(["42"], [ROW], asked), chosen, "group", SUM_FIRST)
    assert "is not asked while you type" in table and "of at most 4" in table
    assert playground.ask_all(FIVE)["visible"] is False
    told = playground.ask_all((*chosen, Chosen("judge")))
    assert told["visible"] and "Passes the tests and Judge model" in told["value"]


def test_rewards_of_ones_own_file_are_in_no_set(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def mine(completions, **kwargs):\n    return [0.0 for _ in completions]\n")
    (own,) = parse_chosen("mine", str(file))
    assert "stay with their file" in sets_view.links_html(None, [], [own, *FIVE])
    with pytest.raises(BadSettings, match="none of the lab's rewards"):
        checked("mine", "", [own])


def test_the_link_holds_the_file():
    text = base64.b64decode(re.search("base64,([^']+)", sets_view.links_html(None, [], FIVE))[1])
    assert from_json(text.decode()) == (RewardSet("my rewards", "", FIVE),)


def test_several_answers_are_put_together_and_taken_apart_unchanged():
    texts = [in_format("a", "1"), "", "2\n", "\n\n"]
    assert playground.split_answers(playground.join_answers(texts)) == texts


@pytest.mark.parametrize("text", ["[1]", "{", "7", "[" * 100_000])
def test_columns_that_are_no_object_are_refused(text):
    with pytest.raises(BadSettings, match="other columns cannot be read"):
        playground.columns_in(text)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": "b"}'])
def test_token_counts_of_a_page_that_are_none_do_no_harm(text):
    assert playground.counts_in(text) == {}


def test_every_reward_has_a_card_and_is_in_the_library_once_and_none_of_it_is_a_template():
    html = cards.as_template(cards.editor_html())
    names = [r.name for kind in library.HEADS for r in REWARDS.values() if r.kind == kind]
    assert re.findall(r"<section [^>]*data-name='([^']+)'", html) == names
    assert re.findall(r"<button [^>]*data-name='([^']+)'", html) == names
    assert not set("\\`${}") & set(html)


def test_cards_are_told_their_part_and_what_is_wrong():
    chosen = parse_chosen("correctness,int:weight=4")
    doubt = Problem("Hm.", field="rewards.int.weight", level="warning")
    wrong = [Problem("No.", field="rewards.int.weight"), Problem("Bad.", field="lora.rank")]
    told = json.loads(cards.update(chosen, SUM_FIRST, [doubt, *wrong])["told"])
    assert told["stands"]["correctness"] == {"text": "50 % of the largest sum", "share": 0.5}
    assert told["marks"] == {"rewards.int.weight": ["wrong-field", "No."]}
    alone = json.loads(cards.update(chosen, NORMALIZE_FIRST, [])["told"])
    assert alone["stands"]["correctness"]["share"] == 0.2 and alone["marks"] == {}


def test_the_bar_tells_goals_from_shapes_in_words_too():
    bar = cards.bar_html(parse_chosen("correctness:weight=2,int"))
    assert bar.index("Right answer (goal) 88.9 %") < bar.index("Whole number (shape) 11.1 %")
    assert "88.9 % for being right" in bar
    assert cards.bar_html(()) == ""


def test_a_row_of_the_data_is_taken_by_its_number(quick):
    row, number, count = service.row_of(quick, 2)
    assert (number, count) == (2, 600) and row.columns.keys() == {"level"}
    assert service.row_of(quick, 10**9)[1] == 600 and service.row_of(quick, -5)[1] == 1
    assert service.row_of(quick, 600)[0].question != row.question


def test_what_a_run_recorded_can_be_picked(finished):
    lab, run = finished
    assert run in [key for _, key in service.runs_of(lab)]
    steps = service.steps_of(lab, run)
    assert steps == sorted(steps, reverse=True) and steps[0] == 6
    groups = service.groups_of(lab, run, steps[0])
    assert len(groups[0].answers) == 4 and groups[0].row.question and groups[0].row.reference
    with pytest.raises(RunError, match="recorded no answers at step 99"):
        service.groups_of(lab, run, 99)
    with pytest.raises(RunError, match="There is no run"):
        service.steps_of(lab, "../finished")
