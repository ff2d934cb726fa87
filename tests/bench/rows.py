"""How long 200 MB of rows take, and how much memory: python -m tests.bench.rows [KIND...]"""

import csv
import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

MEGABYTES = 200
READ = """
import re, sys, time
from pathlib import Path
from lab.core.settings import Data
from lab.services.data.load import load
from lab.services.data.tables import read_table
def peak():  # not ru_maxrss, which a process has from the one that began it
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
began = time.monotonic()
table = read_table(Path(sys.argv[1]))
print(f"{len(table):>9,} rows   read {time.monotonic() - began:5.1f} s, {peak():6,.0f} MB", end="")
del table
began = time.monotonic()
load(Data(source="file", path=sys.argv[1]), 0)
print(f"   whole split {time.monotonic() - began:5.1f} s, {peak():6,.0f} MB", flush=True)
"""


def rows(text: str) -> Iterator[dict]:
    """Rows of this question, with a number that makes each another one, up to MEGABYTES."""
    size = number = 0
    while size < MEGABYTES * 1e6:
        row = {"question": f"{number}. {text}", "answer": str(number), "level": number % 5}
        size += len(json.dumps(row, ensure_ascii=False).encode()) + 1
        number += 1
        yield row


SHORT = "How much is 2 + 2? 🙂"
LONG = "Ann has 3 apples and buys some more of them every day, for a week. " * 10


def write_csv(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("question", "answer", "level"))
        writer.writeheader()
        writer.writerows(rows(text))


def write_lines(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(text))


def write_chat(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"prompt": [{"role": "user", "content": row["question"]}],
                                    "answer": row["answer"]}, ensure_ascii=False) + "\n"
                        for row in rows(text))


def write_packed(path: Path, text: str) -> None:
    with gzip.open(path, "wt", 1, encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(text))


def write_list(path: Path, text: str) -> None:
    path.write_text(json.dumps(list(rows(text)), ensure_ascii=False), encoding="utf-8")


def write_columns(path: Path, text: str) -> None:
    columns: dict[str, dict] = {"question": {}, "answer": {}, "level": {}}
    for number, row in enumerate(rows(text)):
        for name, cells in columns.items():
            cells[str(number)] = row[name]
    path.write_text(json.dumps(columns, ensure_ascii=False), encoding="utf-8")


def write_parquet(path: Path, text: str) -> None:
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(list(rows(text)))
    pyarrow.parquet.write_table(table, path, compression="none", use_dictionary=False)


KINDS = {"csv": ("rows.csv", write_csv), "jsonl": ("rows.jsonl", write_lines),
         "chat": ("chat.jsonl", write_chat), "gzip": ("rows.jsonl.gz", write_packed),
         "list": ("list.json", write_list), "columns": ("columns.json", write_columns),
         "parquet": ("rows.parquet", write_parquet)}


def main() -> None:
    for kind in sys.argv[1:] or KINDS:
        name, write = KINDS[kind]
        for length, text in (("short", SHORT), ("long", LONG)):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / name
                write(path, text)
                print(f"{name:15} {length:5}", end=" ", flush=True)
                subprocess.run([sys.executable, "-c", READ, str(path)], check=True)


if __name__ == "__main__":
    main()
