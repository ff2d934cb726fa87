"""What the documents say is what the code has."""

import re
import shlex

import pytest

from lab.cli import parser
from lab.core import events
from lab.services.workspace import PROJECT
from tests.docs import PAGES, README, filled


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_are_those_of_the_code(page):
    text = page.read_text(encoding="utf-8")
    assert all(f"<!-- {name} -->" in text for name in PAGES[page])
    assert filled(text) == text, "run: python -m tests.docs"


def test_every_file_that_a_document_points_to_exists():
    for page in (README, PROJECT / "CONTRIBUTING.md", *(PROJECT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_every_folder_of_the_code_has_its_sentence_in_contributing():
    text = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for folder in ("lab/core", "lab/services", "lab/backends", "lab/ui", "assets", "tests", "docs"):
        assert f"`{folder}/`" in text


@pytest.mark.parametrize("kind", events.KINDS)
def test_every_event_is_described(kind):
    assert f"| `{kind}` |" in (PROJECT / "docs" / "run-folder.md").read_text(encoding="utf-8")


WORDS = re.compile(r"python -m lab (\w[^`\n]*)")  # a command line, in a block or in a sentence


def test_every_command_line_of_the_documents_is_taken_by_its_parser():
    """What shows alternatives or options in brackets is no command to type."""
    found = [(page, line) for page in (README, *(PROJECT / "docs").glob("*.md"))
             for line in WORDS.findall(page.read_text(encoding="utf-8"))
             if not any(sign in line for sign in "[]|…<>") and "..." not in line]
    assert len(found) > 15
    filled_in = {"N": "3", "STEP": "3", "KIND": "adapter"}  # other placeholders are any text
    for page, line in found:
        typed = shlex.split(line.split(" #")[0].rstrip(".,;:"))
        words = [filled_in.get(word, word) for word in typed]
        try:
            parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"{page.name}: python -m lab {line}")


def test_every_command_is_in_the_readme():
    commands = next(a for a in parser()._actions if a.choices and "train" in a.choices).choices
    text = README.read_text(encoding="utf-8")
    for name in commands:
        assert f"python -m lab {name}" in text
