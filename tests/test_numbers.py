"""Numbers as people and models write them: what is read, and what is no number."""

from fractions import Fraction

import pytest

from lab.core.rewards.answer_text import boxed
from lab.core.rewards.numbers import (
    LONGEST,
    Number,
    last_number,
    numbers_in,
    only_number,
    same,
)

SPELLINGS = {
    "72": ["72", "072", "72.0", "72.", "+72", "72 apples", "The answer is 72!", "x = 72", "(72)",
           "$72", "$72$", "US$ 72", "72 \u20ac", r"\$72", "**72**", "__72__", "*72*", "`72`",
           r"\(72\)", r"\boxed{72}", r"72^\circ", "72\u00b0", "72kg", "72nd", "72 m^2",
           "72 m\u00b2",
           r"72 \text{ cm}^2", "72/day", "#### 72", "route-72", "x_1 = 72", "H2O: 72", "Rs.72",
           "7.2e1", "\uff17\uff12", "\u0667\u0662", "144/2", "**The answer is 72"],
    "1000": ["1,000", "1,000.00", "1'000", "1_000", "1\u00a0000", "1\u202f000", r"1\,000",
             "1{,}000", r"1\!,\!000", "10^3", "10**3", "1e3", "1 x 10^3", r"1 \times 10^{3}",
             "1 \u00d7 10\u00b3", "$1,000"],
    "100000": ["1,00,000", "100,000"],
    "-5": ["-5", "\u22125", "\u20105", "-$5", "$-5", "-5.0", "(-5)", "**-5**", "x = -5", "-10/2"],
    "3/4": ["3/4", "0.75", ".75", r"\frac{3}{4}", r"\dfrac34", "\u00be", "3\u20444", "6/8"],
    "3/2": ["1 1/2", "1\u00bd", r"1\frac{1}{2}", "1.5", "3 / 2"],
    "1234.56": ["$1,234.56", "1234.560"],
}


@pytest.mark.parametrize(("text", "value"), [
    pytest.param(text, Fraction(value), id=text)
    for value, spellings in SPELLINGS.items() for text in spellings])
def test_one_number_is_read_whatever_its_spelling(text, value):
    assert only_number(text) == Number(value)


@pytest.mark.parametrize("text", [
    "", "none", "seventy-two", "72 or 73", "6 * 7 = 42", "10-5", "10 - 5", "10\u201320", "3:45",
    "12,5", "1.000,50", "0,123", "1 000", "1,0000", "1/2/3", "5/0", "1/2.5", "1 7/4", "[1, 2]",
    "1.2.3", "x2", "\u221a2", r"\sqrt{4}", "2\u03c0", r"2\pi", "2 pi", "3x", "2^3", "5\u00b2",
    "2**3", "1.5P + 25", r"\frac{\sqrt{2}}{2}", "3 + 4i", "1e999999999", "1e-999999999",
    "9" * 10_000, "0." + "1" * 10_000, "10^" + "9" * 400, "inf", "nan"])
def test_what_is_no_number_is_not_read(text):
    assert only_number(text) is None


@pytest.mark.parametrize(("text", "value"), [
    ("6 * 7 = 42.", "42"), ("between 10-5", "5"), ("first 72, then none", "72"), ("3 + -5", "-5"),
    ("from 1,000 to $2,000.50.", "2000.5"), ("48/2", "24")])
def test_the_last_number_of_a_text(text, value):
    assert last_number(text) == Number(Fraction(value))


def test_a_last_number_that_is_part_of_an_expression_is_none():
    assert last_number("so 42, or 2\u03c0") is None
    assert [number.value for number in numbers_in("so 42, or 2\u03c0")] == [42, None]


@pytest.mark.parametrize(("one", "reference", "equal"), [
    ("25%", "25", True), ("25%", "0.25", True), ("25", "25%", True), ("0.25", "25%", True),
    ("25%", "25 per cent", True), ("25%", "0.25%", False), ("25%", "2500", False),
    ("2 million", "2000000", True), ("2 million", "2", True), ("2 million", "2 thousand", False),
    ("2 thousand", "0.002 million", True), ("1/3", "0.3333", False)])
def test_a_scale_may_be_spelled_out_or_left_out(one, reference, equal):
    assert same(only_number(one), only_number(reference)) is equal


def test_the_tolerance_is_a_share_of_the_reference():
    assert same(Number(Fraction(101)), Number(Fraction(100)), 0.01)
    assert not same(Number(Fraction(102)), Number(Fraction(100)), 0.01)
    assert not same(Number(Fraction(1, 100)), Number(Fraction(0)), 0.5)


@pytest.mark.parametrize(("text", "inside"), [
    (r"so \boxed{72}.", "72"), (r"\boxed{7} no \boxed{\frac{1}{2}} apples", r"\frac{1}{2}"),
    (r"\fbox{72}", "72"), (r"\boxed{72", "72"), (r"\boxed 72", None), ("72", None)])
def test_what_stands_in_the_last_box(text, inside):
    assert boxed(text) == inside


def test_the_longest_number_is_read_and_one_more_digit_is_not():
    assert only_number("1" * LONGEST).value == int("1" * LONGEST)
    assert only_number("1" * (LONGEST + 1)) is None
