"""The words around an answer."""

import pytest

from lab.core.prompts import (
    SYSTEM_PROMPT,
    final_answer,
    hash_answer,
    in_format,
    messages,
    split_reasoning,
)


def test_system_prompt_is_the_notebooks_to_the_letter():
    lines = ["", "Respond in the following format:",
             "<reasoning>", "...", "</reasoning>", "<answer>", "...", "</answer>", ""]
    assert SYSTEM_PROMPT.split("\n") == lines


def test_the_format_that_is_asked_for_is_the_format_that_is_built():
    assert SYSTEM_PROMPT.endswith(in_format("...", "..."))


def test_messages_are_system_then_user():
    assert messages("How many?", "Be brief.") == [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many?"}]


@pytest.mark.parametrize("blank", ["", "  ", "\n\t\n"])
def test_a_blank_system_prompt_gives_no_system_message(blank):
    assert messages("How many?", blank) == [{"role": "user", "content": "How many?"}]


@pytest.mark.parametrize(("text", "answer"), [
    (in_format("6 * 7", "42"), "42"),
    ("<answer> 42 </answer>", "42"),
    ("<answer>7</answer><answer>42</answer>", "42"),  # the last opening tag
    ("<answer>42</answer> or </answer>", "42"),  # the next closing tag
    ("<answer>42", "42"),  # cut off
    ("42</answer> rest", "42"),  # no opening tag: from the start
    (" 42\n", "42"),  # no tag at all: the whole text
    ("</answer>42<answer>", ""),
    ("<answer></answer>", ""),
    ("", ""),
    ("<ANSWER>42</ANSWER>", "<ANSWER>42</ANSWER>"),  # tags are matched by case
    ("<answer><answer>42</answer></answer>", "42"),
])
def test_final_answer_is_between_the_last_opening_and_the_next_closing_tag(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(("text", "answer"), [
    ("He has 2 + 2 = 4.\n#### 4", "4"),
    ("#### 1,000 \n", "1,000"),
    ("#### 4 #### 5", "5"),
    ("#### Step\nAdd.\n#### 4\nThe answer is: 4", "4"),
    ("####4", "4"),
    ("no mark, 4", None),
    ("### 4", None),
    ("cut off ####", None),
    ("", None),
])
def test_hash_answer_is_what_follows_the_mark(text, answer):
    assert hash_answer(text) == answer


@pytest.mark.parametrize(("text", "reasoning", "rest"), [
    (in_format("6 * 7", "42"), "6 * 7", "<answer>\n42\n</answer>"),
    ("<think>Hm.</think>42", "Hm.", "42"),
    ("Sure.<reasoning>a</reasoning> b", "a", "Sure. b"),
    ("<reasoning></reasoning>42", "", "42"),  # an empty block is a block
    ("<reasoning>still wri", "still wri", ""),
    ("<reasoning>", "", ""),
    ("opened in the prompt</think>42", "opened in the prompt", "42"),
    ("<think>a</reasoning>b", "a</reasoning>b", ""),  # another tag does not close it
    ("<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),  # the first block folds
    ("<answer>42</answer>", None, "<answer>42</answer>"),
    ("a < b", None, "a < b"),
    ("", None, ""),
])
def test_split_reasoning_folds_the_first_block(text, reasoning, rest):
    assert split_reasoning(text) == (reasoning, rest)


def test_split_reasoning_of_a_growing_text_only_ever_moves_forward():
    whole = in_format("6 * 7 = 42", "42")
    states = [split_reasoning(whole[:end]) for end in range(len(whole) + 1)]
    folded = [reasoning is not None for reasoning, _ in states]
    assert folded == sorted(folded)  # once folded, it stays folded
    assert states[-1] == ("6 * 7 = 42", "<answer>\n42\n</answer>")
