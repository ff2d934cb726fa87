"""What is told of the data before a start: what can be earned, how long it is; and a run on it."""

import json

import pytest

from lab.cli import main
from lab.core.rewards.chosen import parse_chosen
from lab.core.rewards.reach import reach
from lab.core.settings import Settings
from lab.services import machine
from lab.services.data import lengths
from lab.services.data.load import load, read_rows
from lab.services.data.report import describe, report
from lab.services.jobs import speaks_against
from lab.ui.compare.sides import examples_of
from lab.ui.talk import Talk
from tests.test_datasets import write_csv, write_lines

KEYS = {"columns", "mapping", "rows", "usable", "train", "held_out", "left_out", "references",
        "unreachable", "prompt_tokens", "notes", "first"}


def of_file(path, **changes) -> Settings:
    return Settings().with_values({
        "data.source": "file", "data.path": str(path), "data.rows": 0,
        **{key.replace("__", "."): value for key, value in changes.items()}})


def talks(count: int) -> list[dict]:
    return [{"messages": [
        {"role": "user", "content": f"Add {n} and 1."},
        {"role": "assistant", "content": str(n + 1)},
        {"role": "user", "content": "And one more?"}, {"role": "assistant", "content": str(n + 2)}]}
        for n in range(count)]


@pytest.mark.parametrize("rewards, references, missed", [
    ("int,correctness", ["72", "1,000"], {"int": 1, "correctness": 0}),
    ("correctness", ["72", '["a", "b"]'], {"correctness": 1}),
    ("any_of", ["72", '["a", "b"]'], {"any_of": 0}),
    ("number", ["72", "1,000", "$5.50", "Paris"], {"number": 1}),
    ("number,exact", ["72", "Paris"], {"number": 1, "exact": 0}),
    ("choice", ["B", "2"], {"choice": 1}),
    ("xmlcount,soft_format,thinking", ["72"], {}),
])
def test_references_that_no_reward_can_reach_are_counted(rewards, references, missed):
    rows = [{"question": "q", "answer": answer} for answer in references]
    found = reach(rows, parse_chosen(rewards))
    assert {name: len(places) for name, places in found.missed.items()} == missed
    assert found.looked_at == len(rows)
    assert found.never == ([] if rewards in ("int,correctness", "any_of", "number,exact",
                                             "xmlcount,soft_format,thinking")
                           else [len(rows) - 1])


def test_a_report_counts_each_reason_with_its_rows(tmp_path):
    rows = [{"question": "a", "answer": "1"}, {"question": "", "answer": "1"},
            {"question": "c", "answer": ""}, {"question": "a", "answer": "1"},
            {"question": "a", "answer": "2"}, {"question": "f", "answer": "one\ntwo"},
            {"question": "g", "answer": "1,000"}]
    settings = of_file(write_csv(tmp_path / "rows.csv", rows), data__held_out=0,
                       rewards__chosen=parse_chosen("number"))
    found = report(settings, None)
    told = found.to_dict()
    assert told["left_out"] == {"empty": 1, "no_reference": 1, "repeated": 1, "contradicting": 1}
    assert told["left_out_rows"] == {"empty": [2], "no_reference": [3], "repeated": [4],
                                     "contradicting": [5], "unreachable": [6]}
    assert told["references"] == {"integer": 1, "number": 1, "text": 0, "list": 0, "long": 1}
    assert told["unreachable"] == {"number": 1} and told["unreachable_rows"] == 1
    assert (told["rows"], told["usable"], told["train"], told["held_out"]) == (7, 3, 3, 0)
    assert told["prompt_tokens"] is None and told["first"]["prompt"] is None
    assert found.table().splitlines() == [
        "row,reason", "2,empty", "3,no_reference", "4,repeated", "5,contradicting",
        "6,unreachable"]
    assert any("cannot give its 1 to the right answer of 1 of 3 rows, such as 'one\\ntwo'" in note
               for note in told["notes"])


def test_the_command_tells_what_the_tab_tells_and_a_run_learns_from_it(lab, quick, tmp_path,
                                                                       capsys):
    """One worker counts the prompts, one trains on conversations with their history."""
    path = write_lines(tmp_path / "talks.jsonl", talks(24))
    sets = {"data.source": "file", "data.path": str(path), "data.system_prompt": "",
            "data.held_out": 4, "data.rows": 0, "train.max_prompt_length": 56,
            "train.max_steps": 2, "train.prompts_per_step": 2, "train.num_generations": 2,
            "train.max_completion_length": 8, "train.eval_steps": 2}
    options = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    table = tmp_path / "left-out.csv"
    assert main(["data", "--root", str(lab.workspace.root), "--json", "--left-out", str(table),
                 *options]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(told) >= KEYS
    assert told["columns"] == ["messages"]
    assert told["mapping"] == {"question": "messages", "answer": "messages", "template": "",
                               "extraction": "column"}
    assert (told["train"], told["held_out"], told["references"]["integer"]) == (20, 4, 24)
    assert told["prompt_tokens"]["too_long"] == 0 and told["prompt_tokens"]["measured"] == 20
    prompt = told["first"]["prompt"]
    assert prompt.index("Add ") < prompt.index("assistant") < prompt.index("And one more?")
    assert told["first"]["answer"] not in prompt.split("And one more?")[1]
    assert table.read_text().splitlines() == ["row,reason"]

    settings = quick.with_values(sets)
    shorter = settings.with_values({"train.max_prompt_length": 8})
    problem, = lengths.problems_of(shorter)
    assert problem.what == "Too few questions are left." and problem in speaks_against(
        shorter, machine.look(lab.workspace.root))
    assert lengths.problems_of(settings) == []

    folder = lab.jobs.start(settings, "talks")
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished", folder.log.read_text()
    assert json.loads(folder.settings.read_text())["mapping"] == told["mapping"]
    log = lab.runs.log(folder.id)
    assert list(log.held_out) == [0, 2]
    _, groups = log.groups_at(2)
    shown = groups[0]["prompt"]
    assert shown.index("Add ") < shown.index("And one more?") and groups[0]["columns"]["history"]

    rows = examples_of(lab, run)
    assert rows == read_rows(folder.held_out)
    talk = Talk(lab, settings, "And one more?", "", 0, "[]", (("base", ""), (run.id, "")), "2")
    assert talk.prompt(0)[:-1] == rows[2]["history"]  # all ask the same last; the picked one counts
    assert talk.conversation(1)[0]["content"] == rows[2]["history"][0]["content"]


def test_a_report_of_the_labs_own_problems_has_nothing_to_mend():
    settings = Settings().with_values({"data.rows": 20, "data.held_out": 5})
    told = describe(settings, load(settings.data, 1)).to_dict()
    assert told["left_out"] == {} and told["notes"] == []
    assert told["unreachable"] == {"correctness": 0}
    assert (told["rows"], told["train"], told["held_out"]) == (25, 20, 5)
