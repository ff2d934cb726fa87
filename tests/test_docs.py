"""What the documents say is what the code has."""

import re

import pytest

from lab.cli import parser
from lab.core import events
from lab.services.workspace import PROJECT
from tests.docs import README, TABLES, filled


def test_the_tables_of_the_readme_are_those_of_the_code():
    text = README.read_text(encoding="utf-8")
    assert all(f"<!-- {name} -->" in text for name in TABLES)
    assert filled(text) == text, "run: python -m tests.docs"


def test_every_file_that_a_document_points_to_exists():
    for page in (README, PROJECT / "CONTRIBUTING.md", *(PROJECT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_every_folder_of_the_code_has_its_sentence_in_the_readme():
    text = README.read_text(encoding="utf-8")
    for folder in ("lab/core", "lab/services", "lab/backends", "lab/ui", "assets", "tests", "docs"):
        assert f"`{folder}/`" in text


@pytest.mark.parametrize("kind", events.KINDS)
def test_every_event_is_described(kind):
    assert f"| `{kind}` |" in (PROJECT / "docs" / "run-folder.md").read_text(encoding="utf-8")


def test_every_command_is_in_the_readme():
    commands = next(a for a in parser()._actions if a.choices and "train" in a.choices).choices
    text = README.read_text(encoding="utf-8")
    for name in commands:
        assert f"python -m lab {name}" in text
