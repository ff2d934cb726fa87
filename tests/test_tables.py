"""Files of every kind through the reader: the same rows come out, or a person is told why not."""

import csv
import gzip
import io
import json
import os
import resource
import subprocess
import sys
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.core.problems import BadData
from lab.services.data import tables, text
from lab.services.data.table import watched
from lab.services.data.tables import read_lines, read_table

# What readers like to change: numbers that are text, names of nothing, dates, breaks of all kinds.
TEXTS = [{"question": 'Say "hi", then\r\n2;3|4\tor 5?', "answer": "007", "note": "NA"},
         {"question": "Größe von 北京 in 🎉?", "answer": "1.50", "note": "None"},
         {"question": " a\u2028b\x85c\x0cd ", "answer": "2024-01-31", "note": "null"},
         {"question": "long " * 300_000, "answer": "1e3", "note": ""},
         {"question": "Why?", "answer": "#### 72", "note": "=A1"}]
VALUES = [{"question": "a", "answer": 1, "messages": [{"role": "user", "content": "é\u2028"}]},
          {"question": "b", "answer": None, "messages": []},
          {"question": "c", "answer": 2**80, "messages": None},
          {"question": "d", "answer": 0.1, "messages": {"x": [1, "2", None, True]}},
          {"question": "\ud800", "answer": "007", "messages": "2024-01-31"}]
NAMES = list(TEXTS[0])


def as_csv(rows: list[dict], **look) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), **look)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def as_lines(rows: list[dict], **look) -> str:
    return "".join(json.dumps(row, **look) + "\n" for row in rows)


def as_parquet(rows: list[dict], **look) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, **look)
    return file.getvalue()


def as_excel(*sheets: list[list], titles: tuple = ()) -> bytes:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, rows in enumerate(sheets):
        sheet = book.create_sheet(titles[number] if titles else None)
        for row in rows:
            sheet.append(row)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def columnar(rows: list[dict]) -> dict[str, list]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else
                     content.encode("utf-8", "surrogatepass"))
    return path


def rows_of(path: Path, split: str = "") -> list[dict]:
    table = read_table(path, split)
    rows = table.take(range(len(table)))
    assert [table.column(name) for name in table.columns] == [
        [row[name] for row in rows] for name in table.columns]
    return rows


def refusal(path: Path, split: str = "") -> str:
    with pytest.raises(BadData) as caught:
        read_table(path, split)
    problem = caught.value.problem
    assert problem.what and problem.next and problem.field.startswith("data.")
    return str(caught.value)


# --- the same rows, from every kind -------------------------------------------------------------

SHORT = [row for row in TEXTS if len(row["question"]) < 100]
WESTERN = [{"question": "Wie groß ist Ä?", "answer": "größer"}, {"question": "€ 5?", "answer": "5"}]
PLAIN = [{"question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(30)]
BARE = [{"question": f'{n}) Say "hi"', "answer": '"yes" or "no"'} for n in range(9)] + [
    {"question": '"Is" it?', "answer": '"'}]
FRAME = pandas.DataFrame(PLAIN)

FILES = {
    "comma.csv": (TEXTS, lambda rows: as_csv(rows)),
    "quoted.csv": (TEXTS, lambda rows: as_csv(rows, quoting=csv.QUOTE_ALL)),
    "tabs.tsv": (TEXTS, lambda rows: as_csv(rows, delimiter="\t")),
    **{f"separator-{ord(mark)}.csv": (TEXTS, lambda rows, mark=mark: as_csv(rows, delimiter=mark))
       for mark in ";|^~"},
    "bare.tsv": (BARE, lambda rows: "question\tanswer\n" + "".join(
        f"{row['question']}\t{row['answer']}\n" for row in rows)),
    "sep.csv": (PLAIN, lambda rows: "sep=;\r\n" + as_csv(rows, delimiter=";")),
    "sep-odd.csv": (PLAIN, lambda rows: '"sep=§"\n' + as_csv(rows, delimiter="§")),
    "old-mac.csv": (PLAIN, lambda rows: as_csv(rows, lineterminator="\r")),
    "spaced.csv": (PLAIN, lambda rows: "".join(
        f'{row[0]}, "{row[1]}"\n' for row in [("question", "answer"), *(
            tuple(one.values()) for one in rows)])),
    "UPPER.CSV": (PLAIN, lambda rows: as_csv(rows)),
    "bom.csv": (TEXTS, lambda rows: as_csv(rows).encode("utf-8-sig")),
    "wide.csv": (SHORT, lambda rows: as_csv(rows).encode("utf-16")),
    "wide-be.csv": (SHORT, lambda rows: b"\xfe\xff" + as_csv(rows).encode("utf-16-be")),
    "wide-no-mark.csv": (SHORT, lambda rows: as_csv(rows).encode("utf-16-le")),
    "wide-no-mark-be.csv": (SHORT, lambda rows: as_csv(rows).encode("utf-16-be")),
    "windows.csv": (WESTERN, lambda rows: as_csv(rows, delimiter=";").encode("cp1252")),
    "rows.csv.gz": (TEXTS, lambda rows: gzip.compress(as_csv(rows).encode())),
    "list.json": (VALUES, lambda rows: json.dumps(rows)),
    "pretty.json": (VALUES, lambda rows: json.dumps(rows, indent=2)),
    "list.JSON": (VALUES, lambda rows: json.dumps(rows)),
    "columns.json": (VALUES, lambda rows: json.dumps(columnar(rows))),
    "by-id.json": (VALUES, lambda rows: json.dumps({f"q-{n}": row for n, row in enumerate(rows)})),
    "data.json": (VALUES, lambda rows: json.dumps({"version": 1, "data": rows})),
    "one-split.json": (PLAIN, lambda rows: json.dumps({"train": rows, "test": []})),
    "two-splits.json": (PLAIN, lambda rows: json.dumps({"test": rows[:3], "train": rows})),
    "viewer.json": (VALUES, lambda rows: json.dumps({"features": [{"name": "question"}], "rows": [
        {"row_idx": n, "row": row, "truncated_cells": []} for n, row in enumerate(rows)],
        "num_rows_total": 5})),
    **{f"pandas-{orient}.json": (PLAIN, lambda rows, orient=orient: FRAME.to_json(orient=orient))
       for orient in ("records", "columns", "index", "split")},
    "bom.json": (TEXTS, lambda rows: json.dumps(rows).encode("utf-8-sig")),
    "wide.json": (SHORT, lambda rows: json.dumps(rows, ensure_ascii=False).encode("utf-16")),
    "list.json.gz": (VALUES, lambda rows: gzip.compress(json.dumps(rows).encode())),
    "rows.jsonl": (VALUES, lambda rows: as_lines(rows)),
    "rows.ndjson": (VALUES, lambda rows: as_lines(rows)),
    "raw.jsonl": (TEXTS, lambda rows: as_lines(rows, ensure_ascii=False).replace("\n", "\n\n")),
    "windows.jsonl": (WESTERN, lambda rows: as_lines(rows, ensure_ascii=False).encode("cp1252")),
    "crlf.jsonl": (VALUES, lambda rows: "\r\n".join(as_lines(rows).splitlines())),
    "rows.jsonl.gz": (VALUES, lambda rows: gzip.compress(as_lines(rows).encode())),
    "lines.json": (VALUES, lambda rows: as_lines(rows)),
    "lines.csv": (VALUES, lambda rows: as_lines(rows)),
    "one.jsonl": (VALUES[:1], lambda rows: as_lines(rows)),
    "one.json": (VALUES[:1], lambda rows: as_lines(rows)),
    "rows.parquet": (TEXTS, lambda rows: as_parquet(rows)),
    "pieces.parquet": (TEXTS, lambda rows: as_parquet(rows, row_group_size=2)),
    "chats.parquet": (VALUES[:2], lambda rows: as_parquet(rows)),
    "rows.parquet.gz": (TEXTS, lambda rows: gzip.compress(as_parquet(rows))),
    "book.xlsx": (PLAIN, lambda rows: as_excel([["question", "answer"], *(
        list(row.values()) for row in rows)])),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_rows(name, tmp_path):
    rows, write = FILES[name]
    path = written(tmp_path / name, write(rows))
    assert rows_of(path, "train") == rows
    first = read_table(path, "train", 1)
    assert (first.columns, first.take([0])) == (list(rows[0]), rows[:1])
    if ".jsonl" not in name and not name.startswith("bare"):  # one line of JSON needs its name
        assert rows_of(path.rename(tmp_path / "数据"), "train") == rows


def test_what_only_some_kinds_can_say_survives(tmp_path):
    values = [{"n": None, "day": date(2024, 2, 29), "price": Decimal("72.00"), "raw": b"\xff"},
              {"n": 2**60 + 1, "day": None, "price": None, "raw": None}]
    assert rows_of(written(tmp_path / "k.parquet", as_parquet(values))) == values
    FRAME.assign(n=pandas.array([None, *range(29)], "Int64")).to_parquet(tmp_path / "p.parquet")
    assert rows_of(tmp_path / "p.parquet")[1]["n"] == 0
    assert rows_of(written(tmp_path / "nan.jsonl", '{"a": 1e999, "b": -0.0}')) == [
        {"a": float("inf"), "b": 0.0}]
    assert rows_of(written(tmp_path / "few.jsonl", '{"a": 1}\n{}\n{"b": 2}\n')) == [
        {"a": 1, "b": None}, {"a": None, "b": None}, {"a": None, "b": 2}]
    book = as_excel([["question", "answer", None, "day"], ["007", 72, None, datetime(2024, 1, 31)],
                     [None, None, None, None], ["x", 0.5]])
    assert rows_of(written(tmp_path / "b.xlsx", book)) == [
        {"question": "007", "answer": 72, "day": "2024-01-31 00:00:00"},
        {"question": "x", "answer": 0.5, "day": None}]
    assert rows_of(written(tmp_path / "i.csv", ",a\n0,x\n")) == [{"column 1": "0", "a": "x"}]
    assert rows_of(written(tmp_path / "v.json", "[[1, 2], [3]]")) == [
        {"column 1": 1, "column 2": 2}, {"column 1": 3, "column 2": None}]
    assert rows_of(written(tmp_path / "table.json", FRAME.to_json(orient="table")))[1] == {
        "index": 1, **PLAIN[1]}
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    assert rows_of(written(tmp_path / "chat.json", json.dumps(chat))) == [chat]


@pytest.mark.parametrize("name, content", [
    ("two.json", json.dumps({"train": PLAIN, "test": PLAIN[:2]})),
    ("book.xlsx", lambda: as_excel([["a"], [1]], [["a"], [2]], titles=("train", "test"))),
])
def test_a_file_with_several_tables_asks_which(name, content, tmp_path):
    path = written(tmp_path / name, content() if callable(content) else content)
    for split in ("", "validation"):
        assert "There are train, test. Write one of them under 'Split'." in refusal(path, split)
    assert len(rows_of(path, "test")) < 3
    assert read_table(path, "test").notes == [
        f"{name} holds train, test; test was read, as 'Split' asks."]


def test_windows_text_is_read_with_a_word(tmp_path):
    table = read_table(written(tmp_path / "w.csv", as_csv(WESTERN).encode("cp1252")))
    assert "It was read as Windows-1252" in table.notes[0]
    assert read_table(written(tmp_path / "u.csv", as_csv(WESTERN))).notes == []


# --- refusals -----------------------------------------------------------------------------------

SOUND = as_parquet(PLAIN)
FOOTER = len(SOUND) - 8 - int.from_bytes(SOUND[-8:-4], "little")
CHINESE = as_csv([{"question": "北京有多大", "answer": "很大"}])

REFUSED = [
    ("a.csv", "", "is empty"), ("a.csv", " \n\n", "is empty"), ("a", b"\xef\xbb\xbf", "is empty"),
    ("a.csv", "question,answer\n", "has no rows"), ("a.csv", "sep=;\n", "has no rows"),
    ("a.json", "[]", "has no rows"), ("a.json", "{}", "has no rows"),
    ("a.json", '{"data": []}', "has no rows"),
    ("a.json", '{"question": [], "answer": []}', "has no rows"),
    ("a.csv", "question,answer\na,1\n\nTake 3, then 4,7\n",
     "uneven in line 4. There are 3 values, and 2 columns"),
    ("a.csv", 'question,answer\n"a,1\nb,2\n', "damaged near line"),
    ("a.tsv", 'question\tanswer\n"a"\t"1"\n"b"x\t"2"\n', "damaged near line 3"),
    ("a.csv", "question,answer,answer\na,1,2\n", "has the column 'answer' twice"),
    ("a.csv", ",".join(map(str, range(100_000))) + "\n", "has more than 1,000 columns"),
    ("a.jsonl", json.dumps(dict.fromkeys(map(str, range(100_000)))), "has more than 1,000 columns"),
    ("a.csv", "a," * 5_000_000, "has more than 1,000 columns"),
    ("a.csv", CHINESE.encode("gbk"), "is not UTF-8 text. Byte 17 (0xb1, in line 2)"),
    ("a.csv", CHINESE.encode()[:-3] + b"\n", "is not UTF-8 text."),
    ("a.csv", as_csv(PLAIN).encode("utf-16")[:-1], "is not UTF-16 text"),
    ("a.csv", b"a,b\n1,\0\0\0", "is not a text file"),
    ("a.pdf", b"%PDF-1.7", "is a PDF"), ("a", b"SQLite format 3\0rest", "is an SQLite database"),
    ("a.xls", b"\xd0\xcf\x11\xe0rest", "is an old Excel workbook"),
    ("a.zip", b"PK\x03\x04rest", "is a damaged Excel workbook or ZIP archive"),
    ("a.gz", b"\x1f\x8b\x08rest", "cannot be read"),
    ("a.gz", gzip.compress(as_csv(PLAIN).encode())[:-9], "cannot be read"),
    ("a.json", "5", "is not JSON"), ("a.json", "<!doctype html>", "is not JSON"),
    ("a.json", "[1, 2]", "Entry 1 of its list is a number, not an object"),
    ("a.json", '[{"a": 1}, null]', "Entry 2 of its list is null"),
    ("a.json", '[[1], {"a": 1}]', "Entry 2 of its list is an object, not a list"),
    ("a.json", '{"q": ["a", "b"], "a": ["1"]}', "'q' has 2, 'a' has 1"),
    ("a.json", '{"columns": ["a"], "data": [[1, 2]]}', "Row 1 is not a list of 1 values"),
    ("a.json", '[{"a": 1},\n {"b"', "damaged in line 2"),
    ("a.json", '[{"a": 1}\n {"b": 1}]', "A comma or the closing bracket is missing"),
    ("a.json", '[{"a": 1}] x', "Something follows its end"),
    ("a.json", '[{"a": 1},]', "Expecting value"),
    ("a.json", "[" * 100_000, "damaged in line 1"),
    ("a.json", '{"a":' * 100_000, "damaged in line 1"),
    ("a.json", f'[{{"a": {"9" * 5000}}}]', "damaged in line 1"),
    ("a.jsonl", '{"a": 1}\n{"b": ', "damaged in line 2"),
    ("a.jsonl", '{"a": \n{"b": 1}', "damaged in line 1"),
    ("a.jsonl", '{"a": 1}\n\n[1]', "Line 3 is a list, not an object"),
    ("a.jsonl", '{"a": 1}\nnull', "Line 2 is null"),
    ("a.jsonl", '\n[1]\n{"a": 1}', "Line 2 is a list"),
    ("a.jsonl", "12", "is not JSON"),
    ("a.parquet", "question,answer\na,1\n", "is not a Parquet file"),
    ("a.parquet", SOUND[:len(SOUND) // 2], "is a damaged Parquet file"),
    ("a.parquet", b"PAR1", "is a damaged Parquet file"),
    ("a.parquet", SOUND[:FOOTER] + bytes(30) + SOUND[FOOTER + 30:], "is a damaged Parquet file"),
    ("a.parquet", SOUND[:4] + bytes(60) + SOUND[64:], "is a damaged Parquet file"),
]


@pytest.mark.parametrize("name, content, words", REFUSED)
def test_what_is_no_table_is_refused_with_the_place(name, content, words, tmp_path):
    assert words in refusal(written(tmp_path / name, content))


def test_a_workbook_names_the_package_that_it_needs(tmp_path, monkeypatch):
    path = written(tmp_path / "b.xlsx", as_excel([["a"], [1]]))
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert "pip install openpyxl" in refusal(path)


@pytest.mark.parametrize("name, content", [
    ("zeros.csv.gz", lambda: gzip.compress(b"a,b\n" + b"1,2\n" * 600_000)),
    ("list.json", lambda: json.dumps([{"a": "x" * 1000}] * 2100)),
    ("repeated.parquet", lambda: as_parquet([{"a": "x" * 1000}] * 2100)),
    ("whole.parquet", lambda: as_parquet([{"a": os.urandom(1000)} for _ in range(2100)])),
    ("book.xlsx", lambda: as_excel([["a"], *([str(n)] for n in range(30_000))])),
])
def test_what_unpacks_to_too_much_is_refused(name, content, tmp_path, monkeypatch):
    path = written(tmp_path / name, content())
    for module in (text, tables):
        monkeypatch.setattr(module, "LARGEST", 2_000_000)
    monkeypatch.setattr(text.check_size, "__defaults__", (2_000_000,))
    assert "is too large. Unpacked it has" in refusal(path)


def test_one_large_object_is_refused_and_a_list_is_not(tmp_path, monkeypatch):
    from lab.services.data import json_rows

    monkeypatch.setattr(json_rows, "LARGEST_VALUE", 1000)
    monkeypatch.setattr(json_rows, "PIECE", 100)
    rows = [{"a": str(n), "b": "x" * 300} for n in range(100)]
    assert rows_of(written(tmp_path / "list.json", json.dumps(rows))) == rows
    assert "Write it as JSONL" in refusal(written(tmp_path / "o.json", json.dumps(columnar(rows))))


def test_lines_are_read_alike_in_one_go_and_one_by_one(tmp_path):
    rows = [{"a": n, "b": "x\u2028" * (n % 50)} for n in range(60_000)]  # several pieces
    lines = as_lines(rows, ensure_ascii=False)
    assert rows_of(written(tmp_path / "a.jsonl", lines)) == rows
    blank = lines.replace("\n", "\n\n", 40_000)
    assert rows_of(written(tmp_path / "blank.jsonl", blank)) == rows
    assert "damaged in line 50001." in refusal(written(
        tmp_path / "b.jsonl", lines.replace('{"a": 50000', '{"a": \t', 1)))
    assert "Line 25001 is a list" in refusal(written(
        tmp_path / "c.jsonl", lines.replace('{"a": 25000, ', '[1]\n{"a": 25000, ', 1)))


def test_whoever_waits_is_told_and_can_stop(tmp_path):
    path = written(tmp_path / "rows.csv", as_csv(PLAIN * 200))
    told = []
    with watched(told.append):
        assert len(read_table(path)) == 6000
    assert len(told) >= 6 and told == sorted(told) and told[0] > 0 and told[-1] == 1

    def stop(share):
        raise BadData("Stopped.")

    with watched(stop), pytest.raises(BadData, match="Stopped"):
        read_table(path)
    assert len(read_table(path)) == 6000


def test_no_such_file_and_what_is_none(tmp_path):
    assert "is a folder" in refusal(tmp_path)
    for path in ("missing.csv", "a\0b", "x" * 5000, "/dev/null"):
        refusal(tmp_path / path)
    with pytest.raises(FileNotFoundError):
        read_lines(tmp_path / "missing.jsonl")
    assert read_lines(written(tmp_path / "none.jsonl", "")) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0,
                    reason="the superuser may read everything")
def test_a_file_without_permission_is_refused(tmp_path):
    path = written(tmp_path / "secret.csv", as_csv(PLAIN))
    path.chmod(0)
    assert "Permission denied" in refusal(path)


# --- any rows, any bytes ------------------------------------------------------------------------

QUICKLY = settings(max_examples=60,
                   suppress_health_check=[HealthCheck.function_scoped_fixture])
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
CELLS = st.fixed_dictionaries({"question": st.one_of(ANY_TEXT, st.text('",;\t\r\n |ä', max_size=9)),
                               "answer": ANY_TEXT})
ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner,
                                                                max_size=3), max_leaves=9)
ANY_ROW = st.fixed_dictionaries({"question": ANY_VALUE, "answer": ANY_VALUE})


@QUICKLY
@given(rows=st.lists(CELLS, min_size=1, max_size=9), mark=st.sampled_from(",;\t|"),
       look=st.sampled_from([(csv.QUOTE_ALL, "\n"), (csv.QUOTE_ALL, "\r\n"),
                             (csv.QUOTE_MINIMAL, "\r\n")]))  # with "\n" it would write \r bare
def test_any_csv_is_read_as_it_was_written(rows, mark, look, tmp_path):
    quoting, ending = look
    path = written(tmp_path / "a.csv", as_csv(rows, delimiter=mark, quoting=quoting,
                                              lineterminator=ending))
    assert rows_of(path) == rows


@QUICKLY
@given(rows=st.lists(ANY_ROW, min_size=1, max_size=9),
       write=st.sampled_from([as_lines, lambda rows: as_lines(rows, ensure_ascii=False),
                              json.dumps, lambda rows: json.dumps(rows, indent=1)]))
def test_any_json_is_read_as_it_was_written(rows, write, tmp_path):
    try:
        path = written(tmp_path / "a.jsonl", write(rows).encode())
    except UnicodeEncodeError:  # half a character, which no file can hold
        path = written(tmp_path / "a.jsonl", as_lines(rows))
    path = path if path.read_text().startswith("{") else path.rename(tmp_path / "a.json")
    assert rows_of(path) == rows


@QUICKLY
@given(rows=st.lists(CELLS, min_size=1, max_size=9), packed=st.booleans())
def test_any_parquet_is_read_as_it_was_written(rows, packed, tmp_path):
    content = as_parquet(rows)
    assert rows_of(written(tmp_path / "a", gzip.compress(content) if packed else content)) == rows


@settings(QUICKLY, max_examples=300)
@given(start=st.sampled_from([b"", b"PAR1", b"PK\x03\x04", b"\x1f\x8b\x08\0", b"[{", b'{"a":',
                              b"\xff\xfe", b"\xef\xbb\xbf", b"a,b\n", SOUND, b"sep=;\n",
                              as_csv(PLAIN).encode(), as_lines(PLAIN).encode()]),
       more=st.one_of(st.binary(max_size=200), ANY_TEXT.map(str.encode)),
       suffix=st.sampled_from(["", ".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx", ".gz"]),
       cut=st.none() | st.integers(0, 400))
def test_any_bytes_are_rows_or_a_sentence(start, more, suffix, cut, tmp_path):
    path = written(tmp_path / f"any{suffix}", (start + more)[:cut])
    for work in (rows_of, lambda path: rows_of(path, "train"),
                 lambda path: read_table(path, limit=1)):
        try:
            work(path)
        except BadData as error:
            assert error.problem.what and error.problem.next


# --- much of it ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("told", [True, False])  # whether the file says that it repeats itself
def test_a_small_parquet_that_unpacks_to_four_gigabytes_is_refused_within_memory(told, tmp_path):
    path = tmp_path / "bomb.parquet"
    strings = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([0] * 40_000, pyarrow.int32()), ["x" * 100_000])
    pyarrow.parquet.write_table(pyarrow.table({"question": strings}), path, store_schema=told)
    assert path.stat().st_size < 400_000
    done = subprocess.run(
        [sys.executable, "-c", "import sys\nfrom pathlib import Path\n"
         "from lab.services.data.tables import read_table\nread_table(Path(sys.argv[1]))",
         str(path)], capture_output=True, text=True, cwd=Path(__file__).parents[1],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (3 * 1024**3,) * 2))
    assert "is too large" in done.stderr, done.stderr
