"""The library of rewards: what holds of every one, for any answer, reference and parameter."""

import importlib.util
import json
import math
import time
from fractions import Fraction
from typing import Annotated

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.core.knobs import Knob
from lab.core.prompts import SYSTEM_PROMPT, in_format
from lab.core.rewards.chosen import Chosen, check_chosen, format_chosen, parse_chosen
from lab.core.rewards.gym import SUM
from lab.core.rewards.numbers import Number, only_number
from lab.core.rewards.registry import GOAL, REWARDS, SHAPE
from lab.core.rewards.scoring import BatchReward, score
from lab.core.rewards.validators import GOAL_PAYS, SHAPE_PAYS, VALIDATORS, validator

NOTEBOOK = ("xmlcount", "soft_format", "strict_format", "int", "correctness")
# What runs code or asks another machine has tests of its own.
LIBRARY = [name for name, known in REWARDS.items()
           if name not in NOTEBOOK and not (known.runs_code or known.remote)]
HERE = [name for name in LIBRARY if not REWARDS[name].package
        or importlib.util.find_spec(REWARDS[name].package.replace("-", "_"))]
REPEATABLE = settings(max_examples=40)

PIECES = st.sampled_from([
    "<reasoning>", "</reasoning>", "<answer>", "</answer>", "<think>", "</think>", "\n", " ", "42",
    "1,000", "-7", "3/4", "25%", "$", ".", ",", "/", "^", "**", "\\boxed{", "\\frac", "{", "}", "(",
    ")", "A", "(B)", "the answer is", "one two three four five six", "```python\n", "```",
    '{"a": 1}', "[", "]", "\u00bd", "\u00b2", "\u221a", "\u2212", "\u516d", "\ud800", "\x00", "|"])
TEXTS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=12).map("".join))


def row(answer="42", question="How many apples has Ann, who had six boxes with seven in each?"):
    return {"answer": answer, "question": question, "entry": SUM}


# what a validator is

def test_a_validator_is_a_reward_that_pays_for_its_verdict():
    known = REWARDS["number"]
    assert VALIDATORS["number"].function("42", "42") is True
    assert (known.kind, known.max_score, known.columns) == (GOAL, GOAL_PAYS, ("answer",))
    assert score("42", row(), [Chosen("number")]).rewards == {"number": GOAL_PAYS}
    assert score("43", row(), [Chosen("number")]).rewards == {"number": 0.0}
    assert score("43", row("?"), [Chosen("number")]).rewards == {"number": None}
    assert REWARDS["asked_format"].max_score == SHAPE_PAYS
    assert REWARDS["asked_format"].help == " ".join(
        VALIDATORS["asked_format"].function.__doc__.split())


@pytest.fixture
def registered():
    before, validators = dict(REWARDS), dict(VALIDATORS)
    yield validator
    REWARDS.clear()
    REWARDS.update(before)
    VALIDATORS.clear()
    VALIDATORS.update(validators)


def test_a_verdict_is_true_false_or_none_and_all_else_an_error(registered):
    @registered("Odd", kind=SHAPE, name="odd")
    def odd_(completion: str, *, by: Annotated[int, Knob("By", "How much.", low=1)] = 1):
        return len(completion) * by

    scored = score("abc", {}, [Chosen("odd")])
    assert scored.errors == {
        "odd": "odd failed: TypeError: it decided 3, and must say True, False or None"}
    assert REWARDS["odd"].knobs["by"].default == 1


@pytest.mark.parametrize("name", LIBRARY)
def test_a_person_is_told_what_it_is_for(name):
    known = REWARDS[name]
    assert known.kind in (GOAL, SHAPE) and known.help.endswith(".") and known.label[0].isupper()
    assert known.max_score == (GOAL_PAYS if known.kind == GOAL else SHAPE_PAYS)
    for _, columns, _ in known.examples:
        assert set(columns) <= {"answer", "question", "entry", "completion_tokens"}


def test_four_shapes_do_not_outweigh_being_right():
    assert 4 * SHAPE_PAYS <= GOAL_PAYS


# what holds for any answer

@pytest.mark.parametrize("name", HERE)
@REPEATABLE
@given(completion=TEXTS, answer=TEXTS)
def test_any_answer_is_scored_within_the_bounds_and_never_fails(name, completion, answer):
    scored = score(completion, row(answer), [Chosen(name)])
    if name == "pattern":  # the reference is one, and may be none that can be read
        assert all("ValueError" in text for text in scored.errors.values())
    else:
        assert scored.errors == {}
    value = scored.rewards[name]
    assert value is None or 0.0 <= value <= REWARDS[name].max_score
    if name in VALIDATORS:
        assert value in (None, 0.0, REWARDS[name].max_score)


@pytest.mark.parametrize("name", [name for name in HERE if name != "pattern"])
@REPEATABLE
@given(completions=st.lists(TEXTS, min_size=2, max_size=4), answer=TEXTS)
def test_no_answer_can_escape_its_judgement(name, completions, answer):
    """None depends on the row alone: an answer without a score is left out of its group."""
    judged = {score(text, row(answer), [Chosen(name)]).rewards[name] is None
              for text in completions}
    assert len(judged) == 1


# what holds for any parameter

def values_for(knob: Knob, kind: type) -> st.SearchStrategy:
    """Values that the form lets through."""
    if knob.choices:
        return st.sampled_from(knob.choices)
    if kind is bool:
        return st.booleans()
    if kind is str:
        return TEXTS
    low, high = knob.low, min(knob.high, 10**6)
    return st.integers(int(low), int(high)) if kind is int else st.floats(low, high)


def choices_of(name: str) -> st.SearchStrategy:
    knobs = REWARDS[name].knobs
    return st.builds(
        Chosen, st.just(name), st.floats(0.001, 1000),
        st.fixed_dictionaries({}, optional={key: values_for(p.knob, p.kind)
                                            for key, p in knobs.items()}))


@pytest.mark.parametrize("name", [name for name in HERE if REWARDS[name].knobs])
@REPEATABLE
@given(data=st.data(), completion=TEXTS)
def test_any_parameter_is_refused_in_a_sentence_or_works(name, data, completion):
    chosen = data.draw(choices_of(name))
    if wrong := check_chosen([chosen]):
        assert all(sentence.startswith(f"'{name}'") and sentence.endswith(".")
                   for sentence in wrong)
        with pytest.raises(ValueError):
            BatchReward(chosen)
        return
    scored = score(completion, row(), [chosen])
    # A pattern may still need more time than it has; a schema is read by its package only.
    assert all("TimeoutError" in text or name == "json_schema" for text in scored.errors.values())
    value = scored.rewards[name]
    assert value is None or 0.0 <= value <= REWARDS[name].max_score


@pytest.mark.parametrize("name", LIBRARY)
@REPEATABLE
@given(data=st.data())
def test_any_choice_is_written_and_read_back(name, data):
    chosen = data.draw(choices_of(name))
    assert Chosen.from_dict(json.loads(json.dumps(chosen.to_dict()))) == chosen
    if not check_chosen([chosen]) and "\ud800" not in str(chosen):
        assert parse_chosen(format_chosen([chosen])) == (chosen,)


@pytest.mark.parametrize(("text", "message"), [
    ("tags:names=", "'tags' names no tag."),
    ("tags:names=think%2Cthink", "'tags' names a tag twice."),
    ("tags:names=<think>", "'tags' has a tag that is no name: '<think>'; write them without"),
    ("pattern:pattern=(", "'pattern' has a pattern that cannot be read: missing ),"),
    ("json_schema:schema=object", "'json_schema' has a schema that is not JSON: Expecting value"),
    ("json_schema:schema=[]", "'json_schema' has a schema that is no JSON object."),
    ("length:at_least=10:at_most=9", "'length' asks for more words at least than at most."),
    ("overlong:longest=64", "'overlong' has a buffer that is not below the longest length."),
    ("number:untagged=maybe", "'untagged' of 'number' has no choice 'maybe'"),
    ("number:tolerance=2", "'tolerance' of 'number' must be at most 1, not 2."),
])
def test_parameters_that_make_no_sense_are_refused(text, message):
    with pytest.raises(ValueError) as refused:
        parse_chosen(text)
    assert str(refused.value).startswith(message)


# numbers

@REPEATABLE
@given(st.integers(-10**12, 10**12), st.sampled_from([
    "{0}", "{0:,}", "**{0}**", "\\boxed{{{0}}}", "${0}$", "{0}.", "{0}.00", "{0} apples", "x = {0}",
    "{0:,}.0", "{0}%", "{0}/1", "({0})", "`{0}`", "\\text{{about }} {0}", "{0}e0"]))
def test_any_whole_number_is_read_in_any_spelling(value, spelling):
    read = only_number(spelling.format(value))
    assert read is not None and read.value == value
    assert score(in_format("", spelling.format(value)), row(str(value)),
                 [Chosen("number")]).reached is True


@REPEATABLE
@given(st.fractions(-1000, 1000, max_denominator=999))
def test_any_fraction_is_read_in_either_notation(value):
    sign, above, below = "-" * (value < 0), abs(value.numerator), value.denominator
    for text in (f"{sign}{above}/{below}", rf"{sign}\frac{{{above}}}{{{below}}}"):
        assert only_number(text) == Number(value)


@REPEATABLE
@given(st.decimals(-10**6, 10**6, places=4))
def test_any_decimal_is_read_exactly(value):
    assert only_number(f"{value:f}").value == Fraction(value)


@REPEATABLE
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_two_numbers_are_no_number(one, other):
    for between in (" ", " or ", "; ", " - ", " + ", ": "):
        assert score(in_format("", f"{one}{between}{other}"), row(str(one)),
                     [Chosen("number")]).reached is False


@pytest.mark.parametrize(("untagged", "right"), [("last", True), ("only", False), ("never", False)])
def test_a_person_says_what_an_answer_without_the_tag_is_worth(untagged, right):
    chosen = [Chosen("number", params={"untagged": untagged})]
    assert score("6 * 7 = 42", row(), chosen).reached is right
    assert score("<answer>42</answer>", row(), chosen).reached is True
    assert score("It is 42.", row(), chosen).reached is (untagged != "never")


# what the format and the thought are

@pytest.mark.parametrize("ends", ["", "\n", "\n\n", " "])
def test_the_asked_format_is_that_of_the_system_prompt(ends):
    asked = SYSTEM_PROMPT[SYSTEM_PROMPT.index("<"):].rstrip() + ends
    assert score(asked, {}, [Chosen("asked_format")]).total == SHAPE_PAYS
    assert (score(asked, {}, [Chosen("strict_format")]).total == 0.5) is (ends in ("\n", "\n\n"))


def test_what_a_gamed_model_wrote_earns_nothing_for_thinking():
    """The end of the run in docs/rewards.md: the answer, a second time, in the reasoning."""
    gamed = "<reasoning>\n26\n</reasoning>\n<answer>\n26\n</answer>\n```"
    scored = score(gamed, row("82"), [Chosen(n) for n in ("number", "asked_format", "thinking")])
    assert scored.total == 0.0


def test_the_prompt_may_have_opened_the_first_tag():
    text = "6 * 7\n</think>\n<answer>42</answer>"
    assert score(text, {}, parse_chosen("tags")).total == 0.0
    assert score(text, {}, parse_chosen("tags:opened=true")).total == SHAPE_PAYS


@pytest.mark.parametrize(("of", "text"), [
    ("german", "Es sind sechs Kisten mit sieben \u00c4pfeln in jeder, und das macht zusammen 42."),
    ("french", "Il y a six bo\u00eetes avec sept pommes dans chaque bo\u00eete, donc 42."),
    ("spanish", "Hay seis cajas con siete manzanas en cada una, entonces son 42 en total."),
    ("italian", "Ci sono sei scatole con sette mele in ogni scatola, quindi sono 42."),
    ("portuguese", "S\u00e3o seis caixas com sete ma\u00e7\u00e3s em cada uma, ent\u00e3o 42."),
    ("dutch", "Er zijn zes dozen met zeven appels in elke doos, dus dat is 42."),
    ("chinese", "\u516d\u4e2a\u76d2\u5b50\uff0c\u6bcf\u4e2a\u6709\u4e03\u4e2a\u82f9\u679c\u3002"),
    ("japanese", "\u7bb1\u304c\u516d\u3064\u3042\u308a\u307e\u3059\u3002"),
    ("korean", "\uc0c1\uc790\uac00 \uc5ec\uc12f \uac1c \uc788\uc2b5\ub2c8\ub2e4."),
    ("cyrillic", "\u0428\u0435\u0441\u0442\u044c \u043a\u043e\u0440\u043e\u0431\u043e\u043a."),
    ("greek", "\u0388\u03be\u03b9 \u03ba\u03bf\u03c5\u03c4\u03b9\u03ac \u03bc\u03b5."),
    ("arabic", "\u0633\u062a\u0629 \u0635\u0646\u0627\u062f\u064a\u0642."),
    ("hebrew", "\u05e9\u05e9 \u05e7\u05d5\u05e4\u05e1\u05d0\u05d5\u05ea."),
    ("devanagari", "\u091b\u0939 \u0921\u093f\u092c\u094d\u092c\u0947 \u0939\u0948\u0902."),
    ("thai", "\u0e21\u0e35\u0e01\u0e25\u0e48\u0e2d\u0e07\u0e2b\u0e01\u0e43\u0e1a"),
    ("english", "There are six boxes with seven apples in each of them, so that makes 42."),
])
def test_each_language_is_told_from_all_the_others(of, text):
    passed = [name for name in REWARDS["language"].knobs["of"].knob.choices
              if score(text, {}, [Chosen("language", params={"of": name})]).total]
    assert passed == [of]


# what a reward can do without

def test_tokens_are_counted_where_ids_are_and_estimated_where_none_are():
    batch = BatchReward(Chosen("overlong"))
    texts = ["word"] * 2
    assert batch(["?"] * 2, texts, completion_ids=[[1] * 100, [1] * 300]) == [SHAPE_PAYS, 0.0]
    assert batch(["?"] * 2, ["word", "word " * 500]) == [SHAPE_PAYS, 0.0]


def test_a_column_with_a_default_is_one_that_it_can_do_without():
    assert REWARDS["thinking"].columns == () and REWARDS["thinking"].needs[1] == "question"
    assert score("one two three", {"question": None}, [Chosen("thinking")]).errors == {}
    assert REWARDS["overlong"].columns == ()


# time

HOSTILE = {
    "digits": "1", "thousands": "1,111,", "thousands that never end": ",111",
    "lakhs that never end": "1,11,", "fractions": "1/2 ", "powers": "2^", "boxes": "\\boxed{",
    "fractions in LaTeX": "\\frac{1", "bold": "**1", "braces": "{", "money": "$1 ", "minus": "-",
    "fences": "```\n", "code": "```x", "words": "so ", "choices": "A) ", "answers": "answer is ",
    "subscripts": "a_{", "signs": "\u00bd", "brackets": "[", "tags": "<answer>",
    "blocks": "</reasoning>\n<answer>\n", "whitespace": " ", "half a tag": "<a",
}


@pytest.mark.parametrize("repeated", HOSTILE.values(), ids=HOSTILE)
def test_time_grows_with_the_length_and_not_with_its_square(repeated):
    everything = [Chosen(name) for name in HERE]

    def seconds(length):
        text = ("<answer>" + repeated * length)[:length]
        best = math.inf
        for _ in range(2):
            start = time.process_time()
            score(text, row(), everything)
            best = min(best, time.process_time() - start)
        return best

    # 16 times the length: about 16 times the time if linear, 256 times if quadratic.
    assert seconds(64_000) < 80 * (seconds(4_000) + 0.001)
