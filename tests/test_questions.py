"""From rows to questions: conversations, templates, references and guesses, through real files."""

import csv
import json
from decimal import Decimal
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.cli import main
from lab.core.problems import BadData
from lab.core.prompts import in_one_line, prompt_of, with_its_turns
from lab.core.settings import Data
from lab.services.data.conversations import conversation_in, parted
from lab.services.data.load import load
from lab.services.data.mapping import mapped
from lab.services.data.references import kind_of, reference_of
from lab.services.data.template import columns_in, fill, letter_of, options_in
from tests.test_datasets import file_data, refusal, write, write_csv, write_lines, write_parquet

USER = {"role": "user", "content": "What is 1 + 1?"}
SAID = {"role": "assistant", "content": "2"}
THEN = {"role": "user", "content": "And 2 + 2?"}
SYSTEM = {"role": "system", "content": "Be brief."}
ARC = {"text": ["red", "blue"], "label": ["A", "B"]}


def asked(row: dict) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in prompt_of(row, "")]


def only(rows: list[dict], path: Path, **changes) -> tuple[dict, object]:
    """The first row of a file, as it is asked, and the split."""
    split = load(file_data(write_lines(path / "rows.jsonl", rows), **{
        "held_out": 0, "system_prompt": ""} | changes), seed=0)
    return split.train[0], split


# A row as it is published -> the question, the reference, how many turns come before it.
ROWS = {
    "prompt-only": ({"prompt": [USER], "answer": 2}, "What is 1 + 1?", "2", 0),
    "prompt and completion": ({"prompt": [USER], "completion": [SAID]}, "What is 1 + 1?", "2", 0),
    "messages": ({"messages": [USER, SAID]}, "What is 1 + 1?", "2", 0),
    "messages of several turns": ({"messages": [SYSTEM, USER, SAID, THEN, SAID | {
        "content": "4"}]}, "And 2 + 2?", "4", 3),
    "few-shot": ({"prompt": [SYSTEM, USER, SAID, THEN], "answer": "4"}, "And 2 + 2?", "4", 3),
    "sharegpt": ({"conversations": [{"from": "human", "value": "What is 1 + 1?"},
                                    {"from": "gpt", "value": "2"}]}, "What is 1 + 1?", "2", 0),
    "sharegpt, system beside it": ({"system": "Be brief.", "conversations": [
        {"from": "human", "value": "What is 1 + 1?"}, {"from": "gpt", "value": "2"}]},
        "What is 1 + 1?", "2", 1),
    "parts": ({"prompt": [{"role": "user", "content": [{"type": "text", "text": "What is "},
                                                       {"type": "text", "text": "1 + 1?"}]}],
               "answer": "2"}, "What is 1 + 1?", "2", 0),
    "one message": ({"prompt": USER, "completion": SAID}, "What is 1 + 1?", "2", 0),
    "another last word": ({"messages": [USER, SAID], "answer": "two"}, "What is 1 + 1?", "two", 0),
    "verl": ({"data_source": "x", "prompt": [USER], "reward_model": {
        "style": "rule", "ground_truth": "2"}, "extra_info": {"answer": "1 + 1 = 2"}},
        "What is 1 + 1?", "2", 0),
    "alpaca": ({"instruction": "Add.", "input": "1 and 1", "output": "2"}, "Add.\n\n1 and 1", "2",
               0),
    "alpaca without input": ({"instruction": "Add 1 and 1.", "input": "", "output": "2"},
                             "Add 1 and 1.", "2", 0),
    "squad": ({"id": "a", "title": "t", "context": "It is 2.", "question": "What is it?",
               "answers": {"text": ["2", "two", "2"], "answer_start": [6, 6, 6]}},
              "It is 2.\n\nWhat is it?", '["2", "two"]', 0),
    "arc": ({"id": "a", "question": "Which?", "choices": ARC, "answerKey": "B"},
            "Which?\n\nA. red\nB. blue", "B", 0),
    "arc with numbers": ({"question": "Which?", "choices": ARC | {"label": ["1", "2"]},
                          "answerKey": "2"}, "Which?\n\nA. red\nB. blue", "B", 0),
    "mmlu": ({"question": "Which?", "subject": "s", "choices": ["red", "blue"], "answer": 0},
             "Which?\n\nA. red\nB. blue", "A", 0),
    "medqa": ({"question": "Which?", "answer": "blue", "options": {"A": "red", "B": "blue"}},
              "Which?\n\nA. red\nB. blue", "B", 0),
    "a column for each option": ({"question": "Which?", "A": "red", "B": "blue", "answer": "B"},
                                 "Which?\n\nA. red\nB. blue", "B", 0),
    "Gold": ({"Frage": "Was?", "Gold": "das"}, "Was?", "das", 0),
    "gsm8k": ({"question": "q", "answer": "1 + 1 = 2\n#### 2\nThe answer is: 2"}, "q", "2", 0),
    "math": ({"problem": "q", "solution": "So it is $\\boxed{\\frac{1}{2}}$."}, "q",
             "\\frac{1}{2}", 0),
    "nq": ({"question": "q", "answer": ["a", "b"]}, "q", '["a", "b"]', 0),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_as_it_is_published_is_understood(name, tmp_path):
    row, question, answer, turns = ROWS[name]
    found, split = only([row], tmp_path)
    assert (found["question"], found["answer"]) == (question, answer), split.mapping
    assert len(asked(found)) == turns + 1
    assert asked(found)[-1] == ("user", question)
    if "role" in json.dumps(row):  # the answer never stands in what is asked
        assert asked(found)[-1][0] == "user"


def test_a_conversation_in_a_cell_of_a_csv_is_read_however_it_is_written(tmp_path):
    rows = [{"prompt": json.dumps([SYSTEM, USER]), "answer": "2"},
            {"prompt": repr([USER, SAID, THEN]), "answer": "4"},
            {"prompt": "[1, 2] is a list. Is it?", "answer": "yes"}]
    split = load(file_data(write_csv(tmp_path / "talk.csv", rows), held_out=0, system_prompt=""), 0)
    assert [len(asked(row)) for row in split.train] == [2, 3, 1]
    assert split.train[2]["question"] == "[1, 2] is a list. Is it?"
    assert split.train[2]["history"] == []  # one kind of row for all
    assert pyarrow.Table.from_pylist(split.train).num_rows == 3


def test_the_system_prompt_goes_before_the_rows_own_and_says_so(tmp_path):
    rows = [{"prompt": [SYSTEM, USER], "answer": "2"}]
    found, split = only(rows, tmp_path, system_prompt="Count.")
    assert "history" not in found and prompt_of(found, "Count.")[0]["content"] == "Count."
    assert "has a system message of their own, which is not used" in split.notes[0]
    found, split = only(rows, tmp_path)
    assert asked(found)[0] == ("system", "Be brief.") and split.notes == []
    # One that is set later goes first too, and only one of them is asked.
    assert [turn["role"] for turn in prompt_of(found, "Count.")] == ["system", "user"]


def test_rows_differ_if_what_the_model_sees_differs(tmp_path):
    rows = [{"prompt": [USER, SAID, THEN], "answer": "4"}, {"prompt": [THEN], "answer": "4"},
            {"prompt": [USER, SAID, THEN], "answer": "5"}, {"prompt": [THEN], "answer": "4"}]
    _, split = only(rows, tmp_path)
    assert len(split.train) == 2
    assert split.left_out == {"repeated": [4], "contradicting": [3]}
    left = load(file_data(tmp_path / "rows.jsonl", held_out=0,
                          leave_out=in_one_line(split.train[0])), 0)
    assert [row["history"] for row in left.train] == [[]] and left.numbers == [2]
    assert with_its_turns(split.train[0]) == (
        "user: What is 1 + 1?\nassistant: 2\nAnd 2 + 2?")
    alpaca = [{"instruction": "Add.", "input": f"{n} and 1", "output": "2"} for n in range(3)]
    assert len(only(alpaca, tmp_path)[1].train) == 3
    _, hidden = only(alpaca, tmp_path, template="", question_column="instruction")
    assert len(hidden.train) == 1 and any("'input' looks as if" in note for note in hidden.notes)


@pytest.mark.parametrize("turns", [
    [USER, {"role": "tool", "content": "2"}, THEN],
    [USER, SYSTEM, THEN],
    [{"role": "user", "content": [{"type": "image", "url": "x"}]}],
])
def test_conversations_that_cannot_be_asked_are_left_out_and_counted(turns, tmp_path):
    _, split = only([{"prompt": [USER], "answer": "2"}, {"prompt": turns, "answer": "2"}],
                    tmp_path)
    assert split.left_out == {"conversation": [2]} and "1 of 2 rows holds" in split.notes[0]


@given(st.lists(st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant",
                                                               "tool", "human"]),
                                       "content": st.text(max_size=5) | st.none()}), max_size=6))
def test_whatever_a_conversation_is_its_answer_is_not_asked(turns):
    found = conversation_in(turns)
    one = parted(found) if found else None
    if one and one.question:
        last = max(place for place, turn in enumerate(found) if turn["role"] == "user")
        assert len(one.history) <= last
        assert one.question == found[last]["content"].strip()
        assert {turn["role"] for turn in one.history} <= {"system", "user", "assistant"}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "text",
                                                       "label", "x"]), inner, max_size=3),
                    max_leaves=8))
def test_no_cell_breaks_a_reader(value):
    for cell in (value, json.dumps(value), repr(value)):
        conversation_in(cell)
        options_in(cell, "choices")
        for extraction in ("column", "after ####", "boxed", "last number"):
            found = reference_of(cell, extraction)
            assert found is None or found and kind_of(found)


# --- templates ----------------------------------------------------------------------------------


@pytest.mark.parametrize("template, values, text", [
    ("{a}\n\n{b}", {"a": "x", "b": "y"}, "x\n\ny"),
    ("{a}\n\n{b}", {"a": "x", "b": " "}, "x"),
    ("{a}\n\nContext: {b}\n\nSo?", {"a": "x", "b": ""}, "x\n\nSo?"),
    ("{a}", {"a": "x\n\n\n\ny {b}"}, "x\n\n\n\ny {b}"),
    ("In \\boxed{}: { a } {{a}}", {"a": "x"}, "In \\boxed{}: x {a}"),
    ("{a.b} {a.b}", {"a.b": "x"}, "x x"),
])
def test_a_template_is_filled(template, values, text):
    assert fill(template, values.get) == text
    assert columns_in(template) == list(values)


@given(st.text(alphabet="ab{}\n \\", max_size=30), st.text(alphabet="{}ab\n", max_size=10))
def test_any_template_is_filled_with_what_columns_hold_unchanged(template, value):
    filled = fill(template, lambda name: value)
    if columns_in(template) and value.strip():
        assert value.strip() in filled
    if not {"{", "}", "\n"} & set(template):
        assert filled == template.strip()


def test_a_template_is_refused_with_what_is_wrong(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"a": "x", "b": "y", "answer": "1"}])
    for template, words in (("{c}", "There is no column 'c'. The columns are 'a', 'b', 'answer'"),
                            ("Add.", "names no column"),
                            ("{a} {answer}", "The prompt template shows the reference, 'answer'")):
        error = refusal(path, template=template, answer_column="answer")
        assert words in str(error) and error.problem.field == "data.template"
    split = load(file_data(path, template="{a}: {b}", held_out=0), 0)
    assert split.train == [{"question": "x: y", "answer": "1", "a": "x", "b": "y"}]


def test_a_template_around_a_conversation_shows_its_last_turn(tmp_path):
    found, _ = only([{"messages": [USER, SAID, THEN, SAID | {"content": "4"}]}], tmp_path,
                    template="{messages}\nShow your work.")
    assert asked(found) == [("user", "What is 1 + 1?"), ("assistant", "2"),
                            ("user", "And 2 + 2?\nShow your work.")]
    assert found["answer"] == "4"


def test_options_have_the_letters_that_their_references_get():
    options = options_in({"text": ["a", "b", "c"], "label": ["1", "2", "3"]}, "choices")
    assert [letter_of(said, options, 0) for said in ("2", "B", "(c)", "b", "9", "x")] == [
        "B", "B", "C", "B", None, None]
    assert letter_of("0", options_in(["a", "b"], "options"), 0) == "A"
    assert letter_of("2", options_in(["a", "b"], "options"), 1) == "B"
    assert options_in(["a", "b"], "tags") is None and options_in([["a"], "b"], "choices") is None


# --- references ---------------------------------------------------------------------------------


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-10**9,
                   max_value=10**9))
def test_one_number_is_one_reference_whatever_it_came_from(number):
    plain = reference_of(str(number))
    assert plain == reference_of(number) == reference_of(float(number)) == reference_of([number])
    assert "." not in plain or not plain.endswith("0")
    assert Decimal(plain) == number
    if number == int(number):
        assert plain == reference_of(int(number))


def test_the_same_number_in_every_file_is_the_same_row(tmp_path):
    question = "What?"
    with (tmp_path / "n.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("question", "answer"), (question, "72.0"), ("b", "")])
    paths = [tmp_path / "n.csv", *(write_lines(tmp_path / f"{place}.jsonl", [
        {"question": question, "answer": value}]) for place, value in enumerate(
            (72, 72.0, "72.0", " 72 ", ["72"], ["72", 72.0])))]
    paths.append(write_parquet(tmp_path / "n.parquet", [
        {"question": question, "answer": Decimal("72.00")}]))
    for path in paths:
        assert load(file_data(path, held_out=0), 0).train == [{"question": question,
                                                               "answer": "72"}]


def test_score_reads_a_reference_as_training_does(tmp_path, capsys):
    path = write_lines(tmp_path / "answers.jsonl", [
        {"completion": "<answer>72</answer>", "answer": value}
        for value in (72, 72.0, "72.0", " 72 ", ["72"])])
    assert main(["score", str(path), "--rewards", "correctness", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert [row["total"] for row in rows] == [2.0] * 5


@pytest.mark.parametrize("extraction, cell, reference", [
    ("after ####", "#### Step 1\nAdd.\n#### 1,000\nThe answer is: 1,000", "1,000"),
    ("after ####", "none", None),
    ("boxed", "first \\boxed{1}, then \\boxed{\\frac{1}{2}} it is", "\\frac{1}{2}"),
    ("boxed", "1", None),
    ("last number", "3 of 4 are $1,250.50 in all.", "1250.5"),
    ("last number", "That is 25 %.", "25"),
    ("last number", "no", None),
    ("column", "007", "007"),
    ("column", " 1.50 ", "1.5"),
    ("column", ["New York", None, "NYC"], '["New York", "NYC"]'),
    ("column", [], None),
])
def test_what_of_a_cell_is_the_reference(extraction, cell, reference):
    assert reference_of(cell, extraction) == reference


@pytest.mark.parametrize("reference, kind", [
    ("72", "integer"), ("-5", "integer"), ("$1,000.00", "number"), ("3/4", "number"),
    ("0.5", "number"), ("B", "text"), ("New York", "text"), ('["a", "b"]', "list"),
    ("[0, 1)", "text"), ("a\nb", "long"), ("word " * 60, "long"),
])
def test_references_are_of_a_kind(reference, kind):
    assert kind_of(reference) == kind


# --- guesses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns, question, answer", [
    (["question", "answer"], "question", "answer"),
    (["id", "Question", "Answer"], "Question", "Answer"),
    (["instruction", "input", "output"], "instruction", "output"),
    (["problem", "solution", "answer"], "problem", "answer"),
    (["prompt", "response"], "prompt", "response"),
    (["Question Text", "Correct Answer", "id"], "Question Text", "Correct Answer"),
    (["question", "answerKey", "id"], "question", "answerKey"),
    (["text", "label"], "text", "label"),
    (["satz", "loesung"], "satz", ""),
    (["satz", "Gold"], "satz", "Gold"),
    (["answer"], "answer", ""),
])
def test_columns_are_guessed_from_their_names(columns, question, answer):
    found = mapped(Data(source="file"), columns, [])
    assert (found.question, found.answer) == (question, answer)


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5, unique=True),
       st.lists(st.text(max_size=12), min_size=5, max_size=5))
def test_any_columns_give_a_mapping_or_a_reason(columns, cells):
    row = dict(zip(columns, cells, strict=False))
    try:
        found = mapped(Data(source="file"), columns, [row])
    except BadData as error:
        assert error.problem.field.startswith("data.")
        return
    assert found.question in columns and found.answer in (*columns, "")


def test_a_field_of_a_column_is_chosen_by_its_path(tmp_path):
    path = write(tmp_path / "rows.jsonl", json.dumps({
        "q": {"text": "Why?"}, "a.b": "dotted", "a": {"b": "nested"}}))
    data = file_data(path, held_out=0, question_column="q.text", answer_column="a.b")
    assert load(data, 0).train[0] | {"q": ""} == {
        "question": "Why?", "answer": "dotted", "q": "", "a": '{"b": "nested"}'}
    text = write_csv(tmp_path / "rows.csv", [{"q": "Why?", "rm": '{"ground_truth": "4"}'}])
    assert load(file_data(text, held_out=0, question_column="q",
                          answer_column="rm.ground_truth"), 0).train[0]["answer"] == "4"
