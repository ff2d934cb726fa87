"""Data in every format, good and damaged: what comes out as rows, and what a person is told."""

import csv
import datetime
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from lab.core.problems import BadData, explain
from lab.core.settings import Data
from lab.core.task import LEVELS
from lab.services.data.load import Split, columns_of, load, read_rows, write_split

ROOT = Path(__file__).resolve().parents[1]
GSM8K = ROOT.parent / "shared" / "data" / "gsm8k" / "train.jsonl"
needs_gsm8k = pytest.mark.skipif(not GSM8K.exists(), reason="there is no local copy of GSM8K")

ROWS = [{"question": f"What is {n} + {n}?", "answer": str(2 * n), "source": "sums"}
        for n in range(20)]


def file_data(path: Path, **changes) -> Data:
    return Data(**{"source": "file", "path": str(path), "rows": 0, "held_out": 4, **changes})


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def write_csv(path: Path, rows: list[dict], **look) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), **look)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_lines(path: Path, rows: list) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path: Path, rows: list[dict], **look) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **look)
    return path


def all_rows(split: Split) -> list[dict]:
    return split.train + split.held_out


def in_order(rows: list[dict]) -> list[dict]:
    return sorted(rows, key=lambda row: row["question"])


def refusal(path: Path, **changes) -> BadData:
    """The BadData that `load` raises for this file, with the promises that hold for every one."""
    with pytest.raises(BadData) as caught:
        load(file_data(path, **changes), seed=0)
    problem = caught.value.problem
    assert problem.field.startswith("data.")
    for part in (problem.what, problem.next):
        assert part[0].isupper() or part[0].isdigit() or path.name in part
        assert part.endswith(".")
    return caught.value


# --- files (tests/test_tables.py has every kind of them) ----------------------------------------


@pytest.mark.parametrize("write", [write_csv, write_lines, write_parquet])
def test_a_file_becomes_a_split(write, tmp_path):
    path = write(tmp_path / "rows", ROWS)
    split = load(file_data(path), seed=0)
    assert in_order(all_rows(split)) == in_order(ROWS)
    assert (len(split.train), len(split.held_out), split.notes) == (16, 4, [])
    assert split.columns == columns_of(file_data(path)) == ["question", "answer", "source"]


def test_which_table_of_a_file_is_read_and_how_is_said(tmp_path):
    path = write(tmp_path / "two.json", json.dumps({"train": ROWS, "test": ROWS[:9]}))
    split = load(file_data(path, split="test", held_out=0), seed=0)
    assert len(split.train) == 9
    assert split.notes == ["two.json holds train, test; test was read, as 'Split' asks."]
    assert "There are train, test." in str(refusal(path, split="dev"))
    western = write(tmp_path / "w.csv", "question,answer\nGr\xf6\xdfe?,2\n".encode("cp1252"))
    split = load(file_data(western, held_out=0), seed=0)
    assert split.train == [{"question": "Größe?", "answer": "2"}]
    assert "It was read as Windows-1252" in split.notes[0]


def test_half_a_character_does_not_reach_the_run(tmp_path):
    path = write(tmp_path / "half.jsonl",
                 '{"question": "a\\ud800b", "answer": "1", "x": "\\udc00"}')
    split = load(file_data(path, held_out=0), seed=0)
    write_split(split, tmp_path)
    assert read_rows(tmp_path / "data.jsonl") == split.train == [
        {"question": "a\ufffdb", "answer": "1", "x": "\ufffd"}]


def test_no_path_and_what_is_none_are_refused():
    for path in ("", "  "):
        with pytest.raises(BadData, match="No file was chosen"):
            load(Data(source="file", path=path), seed=0)
    for path in ("a\0b", "x" * 5000, "~nobody-of-that-name/rows.csv", "/dev/null"):
        with pytest.raises(BadData) as caught:
            load(Data(source="file", path=path), seed=0)
        assert caught.value.problem.field == "data.path"


def test_a_missing_column_is_refused_with_those_that_exist(tmp_path):
    path = write_csv(tmp_path / "rows.csv", ROWS)
    error = refusal(path, question_column="frage")
    assert error.problem.what == "There is no column 'frage'."
    assert error.problem.why == "The columns are 'question', 'answer', 'source'."
    assert error.problem.field == "data.question_column"
    assert refusal(path, answer_column="x").problem.field == "data.answer_column"
    assert refusal(path, question_column="").problem.field == "data.question_column"
    same = refusal(path, question_column="question", answer_column="question")
    assert "are the same column" in str(same) and same.problem.field == "data.answer_column"


def test_a_small_table_holds_out_no_more_than_its_share(tmp_path):
    path = write_csv(tmp_path / "rows.csv", ROWS)
    for wanted, share, kept in ((11, 0.5, 10), (10, 0.5, 10), (50, 0.2, 4), (4, 0.2, 4)):
        split = load(file_data(path, held_out=wanted, held_out_share=share), seed=0)
        assert (len(split.train), len(split.held_out)) == (20 - kept, kept)
        assert split.notes == ([] if kept == wanted else [
            f"{kept} of 20 usable rows are held out, and not {wanted}: at most {share:.0%} of "
            "them are ('Held-out share')."])


# --- what is left out is counted ----------------------------------------------------------------


def test_rows_without_question_or_reference_are_left_out_and_counted(tmp_path):
    rows = [{"question": "a", "answer": "1"}, {"question": None, "answer": "2"},
            {"question": " \n", "answer": "3"}, {"answer": "4"}, {"question": "e", "answer": None},
            {"question": "f", "answer": ""}, {"question": "g", "answer": float("nan")}]
    path = write_lines(tmp_path / "gaps.jsonl", rows)
    split = load(file_data(path, held_out=0), seed=0)
    assert split.train == [{"question": "a", "answer": "1"}]
    assert split.notes == ["3 of 7 rows have an empty question and were left out.",
                           "3 of 7 rows have no reference answer in 'answer' and were left out."]
    without = load(file_data(path, held_out=0, answer_column=""), seed=0)
    assert [row["question"] for row in without.train] == ["a", "e", "f", "g"]
    assert "Left out, because the lab or the trainer uses the name: answer." in without.notes
    assert not any("answer" in row for row in without.train)


def test_null_questions_in_parquet_are_counted(tmp_path):
    path = write_parquet(tmp_path / "nulls.parquet", [
        {"question": "a", "answer": 1}, {"question": None, "answer": 2},
        {"question": "c", "answer": None}])
    split = load(file_data(path, held_out=0), seed=0)
    assert split.train == [{"question": "a", "answer": "1"}]
    assert split.notes == ["1 of 3 rows has an empty question and was left out.",
                           "1 of 3 rows has no reference answer in 'answer' and was left out."]


def test_no_usable_row_is_refused_with_the_reasons(tmp_path):
    path = write_csv(tmp_path / "rows.csv", ROWS)
    error = refusal(path, answer_extraction="after ####")
    assert "20 of 20 rows have no #### with an answer after it in 'answer'" in str(error)
    assert error.problem.field == "data.answer_column"
    blank = write(tmp_path / "blank.csv", "question,answer\n,1\n ,2\n")
    assert refusal(blank).problem.field == "data.question_column"


def test_the_reference_after_hashes(tmp_path):
    path = write_lines(tmp_path / "hash.jsonl", [
        {"question": "a", "answer": "2 + 2 = 4\n#### 4"}, {"question": "b", "answer": "just 5"},
        {"question": "c", "answer": "nothing after #### "}])
    split = load(file_data(path, held_out=0, answer_extraction="after ####"), seed=0)
    assert split.train == [{"question": "a", "answer": "4"}]
    assert split.notes == [
        "2 of 3 rows have no #### with an answer after it in 'answer' and were left out."]


def test_repeated_questions_are_left_out_and_counted(tmp_path):
    path = write_lines(tmp_path / "twice.jsonl", [
        {"question": "How  many?", "answer": "1"}, {"question": "How many? ", "answer": "1"},
        {"question": "How\nmany?", "answer": "2"}, {"question": "how many?", "answer": "3"}])
    split = load(file_data(path, held_out=0), seed=0)
    assert [row["answer"] for row in split.train] == ["1", "3"]
    assert split.notes == [
        "2 of 4 rows repeat an earlier question and were left out.",
        "1 of the repeated questions came with another answer; the first one was kept."]


def test_rows_beyond_the_limit_are_counted(tmp_path):
    split = load(file_data(write_csv(tmp_path / "rows.csv", ROWS), rows=5), seed=0)
    assert (len(split.train), len(split.held_out)) == (5, 4)
    assert split.notes == ["11 more rows were not used, because 'Rows' is 5."]


# --- mapping ------------------------------------------------------------------------------------


def test_mapped_columns_replace_those_of_the_same_name(tmp_path):
    path = write_lines(tmp_path / "own.jsonl", [
        {"prompt": "2 + 2?", "solution": 4, "answer": "see solution", "completion": "x", "n": 1}])
    split = load(file_data(path, held_out=0, question_column="prompt", answer_column="solution"),
                 seed=0)
    assert split.train == [{"question": "2 + 2?", "answer": "4", "n": 1}]
    assert split.notes == [
        "Left out, because the lab or the trainer uses the name: answer, completion."]


@pytest.mark.parametrize("value, text", [
    (5, "5"), (5.0, "5"), (0.5, "0.5"), (-3.0, "-3"), (True, "True"), (" 7\n", "7"),
    ([1, "ü"], '["1", "ü"]'), ({"value": 2}, "2"), ({"a": 2, "b": 3}, '{"a": 2, "b": 3}'),
    (2**70, str(2**70)),
])
def test_references_of_any_kind_become_text(value, text, tmp_path):
    path = write_lines(tmp_path / "kinds.jsonl", [{"question": "a", "answer": value}])
    assert load(file_data(path, held_out=0), seed=0).train[0]["answer"] == text


def test_other_columns_keep_one_kind_and_can_be_made_a_table(tmp_path):
    path = write_lines(tmp_path / "kinds.jsonl", [
        {"question": "a", "answer": "1", "number": 1, "mixed": 1, "flag": True,
         "nested": {"x": [1]}, "gap": None, "big": 2**80, "odd": float("nan"),
         "rounded": 2**60 + 1},
        {"question": "b", "answer": "2", "number": 2.5, "mixed": "two", "flag": None,
         "nested": None, "big": 1, "odd": 0.5, "rounded": 0.5}])
    rows = load(file_data(path, held_out=0), seed=0).train
    assert rows[0] | {"question": "", "answer": ""} == {
        "question": "", "answer": "", "number": 1, "mixed": "1", "flag": True,
        "nested": '{"x": [1]}', "gap": None, "big": str(2**80), "odd": None,
        "rounded": str(2**60 + 1)}
    assert list(rows[1]) == list(rows[0]) and rows[1]["mixed"] == "two" and rows[1]["gap"] is None
    assert pyarrow.Table.from_pylist(rows).num_rows == 2


def test_parquet_kinds_that_json_lacks_become_text(tmp_path):
    path = write_parquet(tmp_path / "kinds.parquet", [
        {"question": b"as bytes", "answer": "1", "day": datetime.date(2024, 2, 29),
         "picture": b"\xff\xd8\xff", "list": [b"\xff", b"x"]}])
    split = load(file_data(path, held_out=0), seed=0)
    write_split(split, tmp_path)
    assert read_rows(tmp_path / "data.jsonl") == [
        {"question": "as bytes", "answer": "1", "day": "2024-02-29", "picture": "(3 bytes)",
         "list": '["(1 bytes)", "x"]'}]


# --- splitting ----------------------------------------------------------------------------------


def test_training_and_held_out_never_share_a_question(tmp_path):
    rows = [{"question": f"What{' ' * (1 + n % 3)}is {n % 60}?", "answer": str(n)}
            for n in range(180)]
    path = write_lines(tmp_path / "many.jsonl", rows)
    for seed in range(5):
        for held_out, limit in ((0, 0), (1, 7), (30, 0), (20, 40)):
            split = load(file_data(path, held_out=held_out, rows=limit,
                                   held_out_share=0.5), seed=seed)
            train = {" ".join(row["question"].split()) for row in split.train}
            aside = {" ".join(row["question"].split()) for row in split.held_out}
            assert not train & aside
            assert len(aside) == len(split.held_out) == held_out
            assert len(train) == len(split.train) == (limit or 60 - held_out)


def test_the_seed_draws_training_rows_and_leaves_the_held_out_rows(tmp_path):
    path = write_csv(tmp_path / "rows.csv", ROWS)
    first, again, other = (load(file_data(path, rows=8), seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.train != other.train and first.held_out == other.held_out
    turned = write_csv(tmp_path / "turned.csv", ROWS[::-1])
    assert load(file_data(turned, rows=8), seed=5).held_out == first.held_out


def test_rows_keep_the_order_of_the_source(tmp_path):
    split = load(file_data(write_csv(tmp_path / "rows.csv", ROWS), rows=8), seed=3)
    places = [ROWS.index(row) for row in split.train]
    assert places == sorted(places)


def test_a_relative_path_is_looked_for_in_the_folder_first(tmp_path):
    write_csv(tmp_path / "only-here.csv", ROWS)
    data = file_data(Path("only-here.csv"))
    assert len(load(data, seed=0, folder=tmp_path).train) == 16
    assert columns_of(data, folder=tmp_path) == ["question", "answer", "source"]
    with pytest.raises(BadData, match="There is no file only-here.csv"):
        load(data, seed=0)


# --- built-in sources ---------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_word_problems_hold_out_the_same_questions_for_every_seed(level):
    splits = [load(Data(level=level, rows=300, held_out=100), seed) for seed in (0, 31, 3407)]
    aside = {row["question"] for row in splits[0].held_out}
    for split in splits:
        assert split.held_out == splits[0].held_out
        assert (len(split.train), len(split.held_out), split.notes) == (300, 100, [])
        assert not aside & {row["question"] for row in split.train}
        assert set(split.train[0]) == {"question", "answer", "level"}
    assert splits[0].train != splits[1].train
    assert splits[0] == load(Data(level=level, rows=300, held_out=100), 0)


def test_how_many_word_problems_there_are():
    few, more = (load(Data(rows=0, held_out=count), 7) for count in (0, 50))
    assert len(few.train) == 2000 and few.held_out == []
    assert few.train == more.train  # the number held out leaves the training rows as they are
    assert columns_of(Data()) == more.columns == list(more.train[0])
    assert "The starter model may know 100 of the held-out rows" in load(
        Data(rows=10, held_out=1600), 0).notes[0]


@needs_gsm8k
def test_gsm8k_from_a_local_copy():
    # The mapping of another source, left in the form, does no harm.
    data = Data(source="gsm8k", path=str(GSM8K), rows=0, held_out=200, question_column="prompt",
                answer_column="", answer_extraction="column")
    split = load(data, seed=3407)
    assert len(split.train) + len(split.held_out) == 7473 and split.notes == []
    assert split.train[0]["question"].startswith("Natalia sold clips")
    assert split.train[0]["answer"] == "72"
    assert not any("#" in row["answer"] for row in all_rows(split))
    assert columns_of(data) == ["question", "answer"]


def test_gsm8k_needs_no_hub_to_know_its_columns():
    assert columns_of(Data(source="gsm8k")) == ["question", "answer"]


# --- written and read back ----------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path):
    rows = [{"question": "Größe\u2028\r\n北京 🎉?", "answer": "1", "n": 1, "x": 0.5, "none": None}]
    write_split(Split(rows, ROWS, [], []), tmp_path)
    assert read_rows(tmp_path / "data.jsonl") == rows
    assert read_rows(tmp_path / "held_out.jsonl") == ROWS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl", "held_out.jsonl"]
    assert "北京".encode() in (tmp_path / "data.jsonl").read_bytes()
    write_split(Split(ROWS, [], [], []), tmp_path)
    assert read_rows(tmp_path / "data.jsonl") == ROWS
    assert read_rows(tmp_path / "held_out.jsonl") == []


def test_damaged_rows_of_a_run_are_refused_with_the_line(tmp_path):
    write_split(Split(ROWS, [], [], []), tmp_path)
    path = tmp_path / "data.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BadData, match=r"data\.jsonl is damaged in line 20\."):
        read_rows(path)
    write(path, b'{"question": "\xff"}\n')
    for unread in (path, tmp_path / "missing.jsonl"):
        with pytest.raises(BadData, match="cannot be read"):
            read_rows(unread)


# --- the Hub ------------------------------------------------------------------------------------


def in_a_child(program: str, tmp_path: Path, **env: str) -> list[str]:
    """Lines that a fresh Python prints, with a Hub cache of its own and torch left alone."""
    opening = ("import sys\nfrom lab.core.problems import BadData\n"
               "from lab.core.settings import Data\n"
               "from lab.services.data.load import columns_of, load\n"
               "def refused(source='hub', **values):\n"
               "    for work in (columns_of, lambda data: load(data, 0)):\n"
               "        try:\n"
               "            work(Data(source=source, **values))\n"
               "            print('went well')\n"
               "        except BadData as error:\n"
               "            print(error.problem.field, error)\n")
    closing = "\nassert 'torch' not in sys.modules, 'torch was imported'\n"
    done = subprocess.run([sys.executable, "-c", opening + program + closing], cwd=ROOT, text=True,
                          capture_output=True, timeout=120,
                          env={**os.environ, "HF_HOME": str(tmp_path / "hf"), **env})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_hub_dataset_without_a_network_is_explained(tmp_path):
    lines = in_a_child("refused(path='openai/gsm8k', subset='main')\n"
                       "refused(source='gsm8k')\n"
                       "refused(path='not an id')\nrefused(path='')\n",
                       tmp_path, HF_HUB_OFFLINE="1")
    sentence = ("data.path openai/gsm8k could not be loaded. The Hub could not be reached, and "
                "there is no copy in the local cache. Check the network, or choose a file on this "
                "machine.")
    assert lines[:4] == [sentence, sentence, "went well", sentence]
    assert "'not an id' is not a Hub dataset" in lines[4]
    assert "No Hub dataset was chosen" in lines[6]


def test_a_hub_that_does_not_answer_is_explained(tmp_path):
    # Port 9 of this machine: nothing listens there, so the connection is refused at once.
    lines = in_a_child("refused(path='openai/gsm8k')\n", tmp_path, HF_HUB_OFFLINE="0",
                       HF_ENDPOINT="http://127.0.0.1:9", NO_PROXY="127.0.0.1")
    assert len(lines) == 2
    for line in lines:
        assert "The Hub could not be reached, and there is no copy in the local cache." in line


@pytest.mark.parametrize("kind, text, words", [
    ("DatasetNotFoundError", "Dataset 'a/b' is a gated dataset on the Hub.", "dataset is gated"),
    ("DatasetNotFoundError", "Dataset 'a/b' doesn't exist on the Hub or cannot be accessed.",
     "no such dataset"),
    ("DataFilesNotFoundError", "No (supported) data files found in a/b", "no files that can be"),
])
def test_what_the_hub_refuses_is_said_in_our_words(kind, text, words):
    import datasets

    problem = explain(getattr(datasets.exceptions, kind)(text))
    assert words in problem.what and problem.next


def test_a_copy_of_a_hub_dataset_is_read_and_its_parts_are_listed(tmp_path):
    folder = tmp_path / "copy"
    for name in ("algebra", "sums"):
        (folder / name).mkdir(parents=True)
        write_parquet(folder / name / "train.parquet", ROWS)
    write(folder / "README.md", "---\nconfigs:\n" + "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train.parquet\n"
        for name in ("algebra", "sums")) + "---\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    program = (
        f"folder = {str(folder)!r}\n"
        "data = Data(source='hub', path=folder, subset='sums', held_out=4, rows=0)\n"
        "split = load(data, 0)\n"
        "print(len(split.train), len(split.held_out), split.columns, columns_of(data))\n"
        "print(len(load(Data(source='hub', path=folder, subset='sums', split='train[:10]',"
        " held_out=0), 0).train))\n"
        "refused(path=folder)\nrefused(path=folder, subset='geometry')\n"
        "refused(path=folder, subset='sums', split='test')\n"
        "refused(path=folder, subset='sums', split='train[')\n"
        f"refused(path={str(empty)!r})\n")
    lines = in_a_child(program, tmp_path, HF_HUB_OFFLINE="1")
    columns = ["question", "answer", "source"]
    assert lines[:2] == [f"16 4 {columns} {columns}", "10"]
    assert lines[2].startswith("data.subset") and lines[2] == lines[3]
    assert "has several configurations. There are algebra, sums." in lines[2]
    assert "has no configuration 'geometry'. There are algebra, sums." in lines[4]
    assert lines[7].startswith("data.split")
    assert "has no split 'test'. There are train." in lines[7]
    assert lines[9].startswith("data.split 'train[' is not a split.")
    assert "This dataset has no files that can be read." in lines[11]


@pytest.mark.parametrize("name", ["train.csv", "data/train-00000.jsonl", "train.json"])
def test_a_folder_of_text_files_is_read_by_the_lab_itself(name, tmp_path):
    rows = [{"question": "007", "answer": "NA", "day": "2024-01-31"},
            {"question": "8?", "answer": "None", "day": "null"}]
    path = tmp_path / "own" / name
    path.parent.mkdir(parents=True)
    {"csv": write_csv, "jsonl": write_lines, "json": write_lines}[name.split(".")[-1]](path, rows)
    other = path.with_name(path.name.replace("train", "test"))
    other.write_bytes(path.read_bytes())
    data = Data(source="hub", path=str(tmp_path / "own"), held_out=0)
    assert load(data, 0).train == rows and columns_of(data) == list(rows[0])
    assert load(replace(data, split="test"), 0).train == rows
    with pytest.raises(BadData, match="There are train, test"):
        load(replace(data, split="dev"), 0)


def test_a_dataset_that_was_saved_to_disk_is_read(tmp_path):
    import datasets

    saved = datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})
    saved.save_to_disk(str(tmp_path / "saved"))
    data = Data(source="hub", path=str(tmp_path / "saved"), rows=0, held_out=4)
    assert in_order(all_rows(load(data, 0))) == in_order(ROWS)
    with pytest.raises(BadData, match="no split 'test'. There are train."):
        load(replace(data, split="test"), 0)
