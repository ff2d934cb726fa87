"""The reference answer in a cell: which part of it, and one spelling for one number."""

import json
import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

from lab.core.prompts import hash_answer
from lab.core.rewards.answer_text import boxed
from lab.core.rewards.numbers import last_number, reference_number
from lab.core.settings import AFTER_HASHES, BOXED, LAST_NUMBER
from lab.services.data.conversations import conversation_in

LONG = 200  # characters from which on a reference is a solution, and no answer
KINDS = ("integer", "number", "text", "list", "long")
_DECIMAL = re.compile(r"[+-]?\d+\.\d+")
_WORD = re.compile(r"[^\W\d_]{2,}")


def text_of(value: Any) -> str | None:
    """Any value as text; None for null and not-a-number. 5.0 becomes "5": columns of whole numbers
    with a gap in them are stored as floats."""
    if value is None or isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, bytes):  # text that Parquet was not told is text, or else a picture
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return f"({len(value):,} bytes)"
    if isinstance(value, float | Decimal):
        return _plain(Decimal(repr(value)) if isinstance(value, float) else value, value)
    if isinstance(value, list | dict):
        value = json.dumps(value, ensure_ascii=False, default=text_of)
    # JSON can hold halves of a character (\ud800), which neither files nor tokenizers can.
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def reference_of(value: Any, extraction: str = "") -> str | None:
    """The reference of a cell, None where it has none. `extraction` is one of EXTRACTIONS.

    A list means any of its entries, and becomes a JSON list; a list of one is that one. The
    assistant's last turn speaks for a conversation. 1, 1.0 and "1.0" are one reference.
    """
    if turns := conversation_in(value):
        said = [turn["content"] for turn in turns if turn["role"] == "assistant"] or [
            turn["content"] for turn in turns[-1:]]
        value = said[-1]
    if isinstance(value, list):
        found = dict.fromkeys(one for part in value if (one := reference_of(part, extraction)))
        if len(found) < 2:
            return next(iter(found), None)
        return json.dumps(list(found), ensure_ascii=False)
    text = (text_of(value) or "").strip()
    if extraction == AFTER_HASHES:
        text = hash_answer(text) or ""
    elif extraction == BOXED:
        text = (boxed(text) or "").strip()
    elif extraction == LAST_NUMBER:
        text = _last_number(text)
    return _plain(Decimal(text), text) if _DECIMAL.fullmatch(text) else text or None


def kind_of(reference: str) -> str:
    """One of KINDS. A number may be written as people do: $1,000.00, 3/4, 25 %."""
    if reference.startswith("["):
        try:
            if isinstance(json.loads(reference), list):
                return "list"
        except (ValueError, RecursionError):
            pass
    if re.fullmatch(r"[+-]?\d+", reference):
        return "integer"
    if len(reference) > LONG or "\n" in reference:
        return "long"
    if not _WORD.search(reference) and reference_number(reference) is not None:
        return "number"
    return "text"


def _last_number(text: str) -> str:
    found = last_number(text)
    if found is None:
        return ""
    # 25 % stays 25, as rewards take either; 2 million is what it says.
    value = found.value * (found.scale if found.scale > 1 else 1)
    return _written(value)


def _written(value: Fraction) -> str:
    """3/4 as 0.75, a third as 1/3."""
    places = next((n for n in range(30) if 10**n % value.denominator == 0), None)
    if places is None:
        return str(value)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    cut = len(digits) - places
    text = digits[:cut] + (f".{digits[cut:]}" if places else "")
    return f"-{text}" if value < 0 else text


def _plain(number: Decimal, as_it_was: Any) -> str:
    """A number without zeros at its end; one that is not finite, or very large, as it was."""
    if not number.is_finite() or abs(number.adjusted()) > 300:
        return str(as_it_was)
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "+0") else text
