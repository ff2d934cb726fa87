"""A file's bytes as text: unpacked, and in whichever encoding it was saved."""

import codecs
import gzip
import io
import re
from pathlib import Path
from typing import BinaryIO

from lab.core.problems import BadData
from lab.services.data.json_rows import FIELD

LARGEST = 1024**3  # bytes of a file, unpacked: rows of Python take several times that in memory
PIECE = 1024**2
SAVE_AS = "Save it as CSV, JSON, JSONL or Parquet, text in UTF-8."
BEGINNINGS = {b"%PDF": "a PDF", b"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls)",
              b"SQLi": "an SQLite database", b"7z\xbc\xaf": "a 7z archive",
              b"\x28\xb5\x2f\xfd": "compressed (zstd)", b"BZh9": "compressed (bzip2)",
              b"\xfd7zX": "compressed (xz)"}
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16",
         codecs.BOM_UTF16_BE: "utf-16"}
NOT_ASCII = re.compile(rb"[\x80-\xff]+")


def opened(path: Path) -> tuple[BinaryIO, BinaryIO]:
    """(the file as it lies there, its unpacked bytes): both are the same where it is no gzip.

    Raises BadData for what is no file or too large; lets OSError through.
    """
    if path.is_dir():
        raise BadData(f"{path} is a folder, not a file.", "", "Choose one CSV, JSON, JSONL or "
                      "Parquet file in it.", FIELD)
    if not path.exists():
        raise BadData(f"There is no file {path}.", "", "Check the path.", FIELD)
    if not path.is_file():
        raise BadData(f"{path} is not a regular file.", "", "Choose another one.", FIELD)
    if path.stat().st_size == 0:
        raise BadData(f"{path.name} is empty.", "It has no bytes at all.",
                      "Choose a file with rows.", FIELD)
    check_size(path.stat().st_size, path.name)
    file = path.open("rb")
    if file.peek(2)[:2] != b"\x1f\x8b":
        return file, file
    return file, gzip.GzipFile(fileobj=file)


def check_size(size: int, name: str, most: int = LARGEST) -> None:
    """Raises BadData for more bytes, unpacked, than are read."""
    if size > most:
        raise BadData(f"{name} is too large.", f"Unpacked it has {size / 1e6:,.0f} MB or more; "
                      f"{most / 1e6:,.0f} MB are read.",
                      "Keep fewer rows, and only the columns that you need.", FIELD)


def as_text(file: BinaryIO, name: str, notes: list[str]) -> io.TextIOWrapper:
    """The text in a file. Raises BadData for what is none, and for no text."""
    head = file.read(65_536)
    if what := BEGINNINGS.get(head[:4]):
        raise BadData(f"{name} is {what}.", "That is not read here.", SAVE_AS, FIELD)
    encoding = next((MARKS[mark] for mark in MARKS if head.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in head:
        encoding = _wide(head)
        if not encoding:
            raise BadData(f"{name} is not a text file.", "It contains NUL characters.", SAVE_AS,
                          FIELD)
    place, broken = _first_broken(file, encoding, name)
    if broken and encoding == "utf-8" and _is_western(file):
        encoding = "cp1252"
        notes.append(f"{name} is not UTF-8. It was read as Windows-1252, as Excel saves CSV in "
                     "Western Europe; look whether ä, é and the like are right.")
    elif broken:
        file.seek(0)
        before = file.read(place + 1)
        line = before.count(b"\n") + 1
        raise BadData(f"{name} is not {encoding.removesuffix('-sig').upper()} text.",
                      f"Byte {place} (0x{before[-1]:02x}, in line {line}) cannot be read.",
                      SAVE_AS, FIELD)
    file.seek(0)
    # "\n" alone ends a line; what else breaks lines may stand inside a JSON text.
    text = io.TextIOWrapper(file, encoding, newline="\n")
    if not text.read(65_536).strip():
        raise BadData(f"{name} is empty.", "It has only white space.", "Choose a file with rows.",
                      FIELD)
    text.seek(0)
    return text


def _wide(head: bytes) -> str:
    """UTF-16 without a mark: of most characters one half is 0, always the same one. "" if not."""
    low, high = head[::2].count(0), head[1::2].count(0)
    encoding = "utf-16-le" if high > low else "utf-16-be"
    even = head[:len(head) // 2 * 2]
    text = even.decode(encoding, "replace")
    fits = max(low, high) > 3 * min(low, high) and "\0" not in text
    return encoding if fits and text.count("\ufffd") <= 1 else ""


def _first_broken(file: BinaryIO, encoding: str, name: str) -> tuple[int, bool]:
    """(where a byte cannot be read, whether there is one). Raises BadData for too many bytes."""
    decoder = codecs.getincrementaldecoder(encoding)()
    file.seek(0)
    size = 0
    while True:
        piece = file.read(PIECE)
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            return size - pending + error.start, True
        if not piece:
            return size, False
        size += len(piece)
        check_size(size, name)


def _is_western(file: BinaryIO) -> bool:
    """Whether text that is not UTF-8 may be Windows-1252.

    Letters of Western Europe stand among plain ones. Where they make whole words it is another
    encoding; where most of them are sound UTF-8 it is that, and damaged.
    """
    file.seek(0)
    runs = sound = length = 0
    while piece := file.read(PIECE):
        try:
            piece.decode("cp1252")  # five of its bytes are nothing
        except UnicodeDecodeError:
            return False
        for found in NOT_ASCII.finditer(piece):
            runs, length = runs + 1, length + len(found[0])
            try:
                found[0].decode("utf-8")
                sound += 1
            except UnicodeDecodeError:
                pass
    return length <= 2 * runs and 2 * sound < runs
