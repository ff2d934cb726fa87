"""Reads numbers out of text as people and models write them, exactly: 1,000 is $1,000.00."""

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

LONGEST = 300  # characters of one number, and the largest power of ten; beyond is unreadable

# Digits in groups (1,000  1,00,000  1'000), or plain, or a decimal without its zero. A comma
# that does not stand before three digits separates two numbers: nobody can say what 12,5 means.
_DIGITS = (r"(?:[1-9]\d{0,2}(?:,\d{3})+(?!\d)|[1-9]\d?(?:,\d\d(?!\d)){1,8},\d{3}(?!\d)"
           r"|[1-9]\d{0,2}(?:[\u00a0\u2007\u2009\u202f'_]\d{3})+(?!\d)|\d+)(?:\.\d+)?"
           r"|(?<!\w)\.\d+")
# A minus between two numbers is a difference or a range, one in front of a number is its sign.
# Digits right after a letter are part of a name (H2O), and no number.
_NUMBER = re.compile(
    rf"(?=[\d.+\-\u221a\\])(?P<root>(?:\u221a|\\sqrt)\s?\{{?)?(?:(?<![\w)\]}}%])(?P<sign>[+-]))?(?<![^\W_])"
    rf"(?P<value>{_DIGITS})"
    r"(?:[eE](?P<e>[+-]?\d+)(?![\w.])"
    r"|\s?(?:\*|x|\u00d7)\s?10\s?(?:\^|\*\*)\s?\{?(?P<ten>[+-]?\d+)\}?"
    r"|(?P<power>\s?(?:\^|\*\*(?=[\d+-]))\s?\{?(?P<exponent>[+-]?\d*)\}?)"
    r"|\s?(?P<over>/)\s?(?P<below>\d+)(?![\d,]|\.\d|\s?/\s?\d)"
    r"|[ \u2009](?P<part>\d+)/(?P<of>\d+)(?![\d,]|\.\d|/\d))?"
    r"(?P<symbol>\s?(?:\\pi\b|\u03c0|\\sqrt|\u221a)|\s?pi\b|[xyzi]\b)?"
    r"(?:\s?(?P<percent>%|per ?cent\b)"
    r"|\s?(?P<word>hundred|thousand|million|billion|trillion)\b)?", re.IGNORECASE)
_WORDS = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9,
          "trillion": 10**12}


class Number(NamedTuple):
    """One number of a text. Its value is None where it is part of an expression (2\u03c0, \u221a2,
    5/0) or too long. `scale` is 1/100 after a per cent sign, 10**6 after 'million', else 1."""

    value: Fraction | None
    scale: Fraction = Fraction(1)


def only_number(text: str) -> Number | None:
    """The number that the text is, whatever words and marks stand around it.

    None where there is none, where there are two, and where it cannot be read.
    """
    found = _NUMBER.finditer(_plain(text))
    first = next(found, None)
    if first is None or next(found, None) is not None:
        return None
    return _readable(first)


def last_number(text: str) -> Number | None:
    """The last number of a text; None where there is none, and where it cannot be read."""
    end = next((i for i in range(len(text) - 1, -1, -1) if text[i].isnumeric()), -1)
    last = None
    # Only what stands around it is looked at, and further back where it may begin before that. A
    # number that is longer still could not be read anyway.
    for before, well_inside in ((100, 50), (2 * LONGEST, 0)):
        for last in _NUMBER.finditer(_plain(text[max(0, end - before):end + LONGEST])):  # noqa: B007
            pass
        if last is None or last.start() >= well_inside:
            break
    return None if last is None else _readable(last)


@lru_cache(maxsize=4096)  # one reference meets a whole group of answers
def reference_number(text: str) -> Number | None:
    """`only_number`, for the reference."""
    return only_number(text)


def numbers_in(text: str) -> Iterator[Number]:
    """Every number of a text, those that cannot be read among them."""
    return map(_number, _NUMBER.finditer(_plain(text)))


def same(one: Number, reference: Number, tolerance: float = 0.0) -> bool:
    """Whether two readable numbers are equal, within a share of the reference.

    A scale that only one of them has may be spelled out or left out by the other: 25% is 25 and
    0.25, and 2 million is 2 where millions were asked for.
    """
    if one.scale == reference.scale:
        return _near(one.value, reference.value, tolerance)
    return (_near(one.value * one.scale, reference.value * reference.scale, tolerance)
            or (1 in (one.scale, reference.scale)
                and _near(one.value, reference.value, tolerance)))


def _near(one: Fraction, reference: Fraction, tolerance: float) -> bool:
    return one == reference or abs(one - reference) <= Fraction(tolerance) * abs(reference)


def _readable(found: re.Match) -> Number | None:
    number = _number(found)
    return None if number.value is None else number


def _number(found: re.Match) -> Number:
    scale = Fraction(1, 100) if found["percent"] else Fraction(
        _WORDS[found["word"].lower()] if found["word"] else 1)
    if len(found[0]) > LONGEST or found["symbol"] or found["root"]:
        return Number(None, scale)
    value = Fraction(re.sub(r"[^\d.]", "", found["value"]))
    if found["power"]:
        if value != 10 or not found["exponent"] or len(found["exponent"].lstrip("+-")) > 3:
            return Number(None, scale)  # 2^3 is an expression; 10^6 is how a number is written
        value = _times_ten(Fraction(1), int(found["exponent"]))
    elif tens := found["e"] or found["ten"]:
        value = _times_ten(value, int(tens))
    elif found["over"]:
        value = value / int(found["below"]) if int(found["below"]) else None
    elif found["part"]:
        whole, part, of = value, int(found["part"]), int(found["of"])
        # 1 3/4 is one number, and 1 7/4 are two.
        value = whole + Fraction(part, of) if part < of and whole.denominator == 1 else None
    if value is None:
        return Number(None, scale)
    return Number(-value if found["sign"] == "-" else value, scale)


def _times_ten(value: Fraction, power: int) -> Fraction | None:
    return value * Fraction(10) ** power if abs(power) <= LONGEST else None


# What a text is before its numbers are looked for.

_LATEX = [(re.compile(pattern), put) for pattern, put in (
    (r"\{,\}", ","),
    (r"\^\s?\{?\s?\\circ\b\s?\}?", "\u00b0"),
    (r"\\!", ""),
    (r"\\[,;: ]|~", "\u2009"),
    (r"\\([$%])", r"\1"),
    (r"\\(?:left|right)\b", ""),
    (r"\\(?:times|cdot)\b", "\u00d7"),
    (r"(?<=\d)\s?\\[dt]?frac\b", r" \\frac"),  # 1\frac{3}{4}
    (r"\\[dt]?frac\s?\{\s?(\d[\d,.]*)\s?\}\s?\{\s?(\d+)\s?\}", r"\1/\2"),
    (r"\\[dt]?frac\s?(\d)\s?(\d)", r"\1/\2"),
    (r"\\(?:text|textbf|mathrm|mathbf|mbox)\s?\{([^{}]*)\}", r" \1 "),
)]
_NAMED = re.compile(r"(?<=[A-Za-z])\s?\^\s?(?:\{[^{}]*\}|-?\d+)|(?<=[A-Za-z])_(?:\{[^{}]*\}|\d+)")
_BOLD = re.compile(r"\*\*([^*\s][^*]*)\*\*")
_SIGNED_MONEY = re.compile(r"([+-])\s?[$\u00a3\u00a5\u20ac\u20b9]\s?(?=[\d.])")
_OTHER = re.compile(r"(?P<raised>\u207b?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+)|[^\x00-\x7f]")
_LIKE = (dict.fromkeys("\u2212\u2010\u2011\uff0d\ufe63\u207b", "-")
         | {"\u2044": "/", "\u2215": "/", "\uff05": "%", "\uff0c": ",", "\uff0e": "."})


def _plain(text: str) -> str:
    """The text without its marks: LaTeX, bold, Unicode's other digits, minus signs, fractions."""
    if not text.isascii():
        text = _OTHER.sub(_in_ascii, text)
    if "\\" in text or "{" in text or "~" in text:
        for pattern, put in _LATEX:
            text = pattern.sub(put, text)
    if "^" in text or "_" in text:
        text = _NAMED.sub(" ", text)  # the 2 of m^2 and of x_2
    if "**" in text:
        text = _BOLD.sub(r" \1 ", text)
    return _SIGNED_MONEY.sub(r"\1", text)


def _in_ascii(found: re.Match) -> str:
    mark = found[0]
    if found["raised"]:
        return f"^{{{''.join(_LIKE.get(c) or str(unicodedata.digit(c)) for c in mark)}}}"
    if mark in _LIKE:
        return _LIKE[mark]
    if mark.isdecimal():
        return str(unicodedata.decimal(mark))
    if unicodedata.decomposition(mark).startswith("<fraction>"):
        return f" {unicodedata.normalize('NFKC', mark)} ".replace("\u2044", "/")
    return mark
