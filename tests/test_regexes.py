"""No pattern that reads what a model or a visitor wrote is slow on a text that was made for it."""

import importlib
import itertools
import pkgutil
import re
import time

import pytest

import lab.core
from lab.core import prompts
from lab.core.rewards.texts import _SAID
from lab.ui.compare.scores import bold_answers

LENGTH = 2000
SEEDS = ("<answer>", "</reasoning>", "answer", " ", "a", "A", "0", ",", "000,", "[", "{", "**", "`",
         "\"", "\u00b2")


def patterns() -> dict[str, re.Pattern]:
    """Every compiled pattern that a module of the core holds by a name."""
    found = {}

    def look(name: str, held) -> None:
        if isinstance(held, re.Pattern):
            found[name] = held
        elif isinstance(held, dict | list | tuple):
            parts = held.items() if isinstance(held, dict) else enumerate(held)
            for key, part in parts:
                look(f"{name}.{key}", part)

    for module in pkgutil.walk_packages(lab.core.__path__, "lab.core."):
        if not module.name.startswith("lab.core.limited"):  # child processes
            for name, held in vars(importlib.import_module(module.name)).items():
                if not name.startswith("__"):
                    look(f"{module.name}.{name}", held)
    return found


READERS = {name: (lambda text, one=one: sum(1 for _ in one.finditer(text)))
           for name, one in patterns().items()} | {
    "bold answers": bold_answers, "final answer": prompts.final_answer,
    "reasoning": prompts.split_reasoning}


def seconds(read, text: str) -> float:
    begun = time.process_time()
    read(text)
    return time.process_time() - begun


@pytest.mark.parametrize("name", READERS)
def test_what_reads_foreign_text_grows_with_it_and_no_faster(name):
    read = READERS[name]
    for first, again in itertools.product(SEEDS, SEEDS):
        for write in (lambda n, a=first, b=again: a + b * (n // len(b)),
                      lambda n, a=first, b=again: (a + b) * (n // len(a + b))):
            long = seconds(read, write(4 * LENGTH))
            if long > 0.03:  # 16 times as long where it is quadratic; a linear one takes a tenth
                short = min(seconds(read, write(LENGTH)) for _ in range(3))
                assert min(long, seconds(read, write(4 * LENGTH))) < 8 * short + 0.02, \
                    (first, again)


@pytest.mark.parametrize(("text", "letters"), [
    ("The answer is B.", "B"), ("answer: **(C)**", "C"), ("option = [d]", "d"), ("choice A", "A"),
    ("answer is it", ""), ("The answer isn't B", ""), ("answer I", "I"), ("answer (is) B", ""),
])
def test_the_letter_that_is_said(text, letters):
    assert "".join(_SAID.findall(text)) == letters


@pytest.mark.parametrize(("text", "shown"), [
    ("<answer>\n42\n</answer>", "**42**"), ("a <answer>1</answer> b", "a **1** b"),
    ("<answer> </answer>", "<answer> </answer>"), ("<answer>4", "<answer>4"),
    ("<answer>a\nb</answer>", "<answer>a\nb</answer>"), ("no", "no"),
    ("<answer>1</answer><answer>2</answer>", "**1****2**"),
])
def test_an_answer_of_one_line_is_bold(text, shown):
    assert bold_answers(text) == shown
