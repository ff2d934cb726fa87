"""The five first rewards, against the classic notebook; how rewards are chosen and applied."""

import importlib.util
import itertools
import json
import pickle
import random
import re
import time
from typing import Annotated

import pytest

from lab.core.knobs import Knob
from lab.core.prompts import in_format
from lab.core.rewards.answers import correctness, int_
from lab.core.rewards.chosen import Chosen, check_chosen, format_chosen, parse_chosen
from lab.core.rewards.registry import REWARDS, reward
from lab.core.rewards.scoring import KEPT_ERRORS, BatchReward, score
from lab.core.rewards.shape import soft_format, strict_format, xmlcount

GOOD = in_format("6 * 7 = 42", "42")
ALL = tuple(Chosen(name) for name, one in REWARDS.items() if not one.remote)
NOTEBOOK = ("xmlcount", "soft_format", "strict_format", "int", "correctness")
FIVE = tuple(Chosen(name) for name in NOTEBOOK)
STRICT = r"^<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$"
SOFT = r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>"


# The classic notebook's five, written down again from their description.

def notebook_answer(text):
    return text.split("<answer>")[-1].split("</answer>")[0].strip()


def notebook_correctness(text, answer):
    return 2.0 if notebook_answer(text) == answer else 0.0


def notebook_int(text):
    return 0.5 if notebook_answer(text).isdigit() else 0.0


def notebook_format(pattern, text, flags=0):
    return 0.5 if re.match(pattern, text, flags) else 0.0


def notebook_xmlcount(text):
    count = 0.0
    if text.count("<reasoning>\n") == 1:
        count += 0.125
    if text.count("\n</reasoning>\n") == 1:
        count += 0.125
    if text.count("\n<answer>\n") == 1:
        count += 0.125
        count -= len(text.split("\n</answer>\n")[-1]) * 0.001
    if text.count("\n</answer>") == 1:
        count += 0.125
        count -= (len(text.split("\n</answer>")[-1]) - 1) * 0.001
    return count


def assert_same_as_notebook(text):
    """All five at once, then the two that may span lines. Returns the two formats' scores."""
    ours = (xmlcount(text), soft_format(text, multiline=False),
            strict_format(text, multiline=False), int_(text), correctness(text, "42"))
    theirs = (notebook_xmlcount(text), notebook_format(SOFT, text), notebook_format(STRICT, text),
              notebook_int(text), notebook_correctness(text, "42"))
    assert ours == theirs, repr(text)
    spanning = (soft_format(text), strict_format(text))
    theirs = (notebook_format(SOFT, text, re.DOTALL), notebook_format(STRICT, text, re.DOTALL))
    assert spanning == theirs, repr(text)
    return *ours[1:3], *spanning


@pytest.mark.parametrize(("name", "completion", "columns", "expected"), [
    pytest.param(name, *example, id=f"{name}-{number}")
    for name, known in REWARDS.items() for number, example in enumerate(known.examples)
])
def test_every_example_scores_what_it_says(name, completion, columns, expected, monkeypatch):
    monkeypatch.setenv("GRPO_LAB_ALLOW_CODE", "1")  # some run code
    package = REWARDS[name].package
    if package and importlib.util.find_spec(package.replace("-", "_")) is None:
        pytest.skip(f"{package} is not installed")
    scored = score(completion, columns, [Chosen(name)])
    assert scored.errors == {}
    assert scored.rewards[name] == pytest.approx(expected)
    assert scored.total == pytest.approx(expected)  # approx(None) is None


@pytest.mark.parametrize("known", REWARDS.values(), ids=REWARDS)
def test_every_reward_explains_itself_and_reaches_its_greatest_score(known):
    assert known.label and known.help and known.max_score > 0
    judged = [expected for _, _, expected in known.examples if expected is not None]
    if known.remote:
        assert not judged  # nobody can say what another machine would
    else:
        assert max(judged) == known.max_score and min(judged) <= 0
    for knob, default, kind in known.knobs.values():
        assert knob.label and knob.help and isinstance(default, kind)


def test_the_notebooks_rewards_stand_first_in_its_order():
    assert list(REWARDS)[:5] == [*NOTEBOOK]
    assert [REWARDS[name].columns for name in NOTEBOOK] == [(), (), (), (), ("answer",)]


@pytest.mark.parametrize("text", [
    GOOD,
    GOOD.rstrip("\n"),  # strict wants the newline, the rest do not
    GOOD + "\n",  # `$` also matches before a newline at the end
    GOOD + "\n\n",  # but only before one
    GOOD + "Done!",
    "\n" + GOOD,  # match starts at the first character
    " " + GOOD,
    GOOD + GOOD,
    GOOD.replace("\n", "\r\n"),
    GOOD.replace("6 * 7", "6 *\n7"),  # two lines of reasoning
    GOOD.replace("42\n</answer>", "42\n43\n</answer>"),
    GOOD.replace("</reasoning>\n", "</reasoning>\n\n \t\n"),
    GOOD.replace("</reasoning>\n", "</reasoning>\u00a0\u2003"),  # Unicode spaces are spaces
    GOOD.replace("</reasoning>\n", "</reasoning>\u200b"),  # this one is none
    in_format("", ""),
    "<reasoning>\n</reasoning>\n<answer>\n</answer>\n",  # strict wants two newlines in each block
    "<reasoning></reasoning><answer></answer>",
    "<reasoning>a</reasoning><answer>b\nc</answer>",
    # Only the last place where an answer can begin leads on, over whitespace to a new line:
    "<reasoning></reasoning><answer></reasoning>\n<answer></answer>",
    "<reasoning>a</reasoning><answer>\nb</answer></reasoning><answer>c</answer>",
    "<reasoning>\n\n</reasoning>\n<answer>\n\n</reasoning>\n<answer>\n\n</answer>\n",
    in_format("a", "42\n</answer>\n<answer>\n43"),
    "<reasoning>\na\n</reasoning>\n<answer>\n42\n</answer>\n</answer>\n",  # they share a newline
    "<answer>\n42\n</answer>",
    "x\n<answer>\n42" + "x" * 1000,
    "42",
    " 42 ",
    "-42",
    "4 2",
    "\u00b2",  # superscript two: a digit to isdigit, though int() refuses it
    "\u0664\u0662",  # Arabic-Indic 42
    "<answer>42",
    "42</answer>43",
    "<answer>41</answer><answer>42</answer>",
    "<answer>\u00a042\u2003</answer>",
    "<answer>042</answer>",
    "<answer>42</answer",
    "<Answer>42</Answer>",
    "< answer>42</answer>",
    "",
    "\n",
    "\x00",
])
def test_tricky_texts_score_as_in_the_notebook(text):
    assert_same_as_notebook(text)


def test_all_short_tag_soups_score_as_in_the_notebook():
    """Exhaustive: each way to string up to six of these after the opening tag, with and without
    newlines around tags."""
    for parts in (["</reasoning>", "<answer>", "</answer>", "\n", "4"],
                  ["\n</reasoning>\n", "<answer>\n", "\n</answer>", "\n", "42"]):
        for length in range(7):
            for soup in itertools.product(parts, repeat=length):
                text = "".join(soup)
                assert_same_as_notebook("<reasoning>" + text)
                if length < 5:
                    assert_same_as_notebook("<reasoning>\n" + text)
                    assert_same_as_notebook(text)


def test_damaged_answers_score_as_in_the_notebook():
    """Random edits of a good answer, which stay close enough to it to pass now and then."""
    draw = random.Random(3407)
    pieces = ["<reasoning>", "</reasoning>", "<answer>", "</answer>", "\n", "\n", " ", "\r", "\x0b",
              "\u2028", "42", "x", "\u00b2", "<", ">", "/"]
    start = [GOOD, "<reasoning>6 * 7 = 42</reasoning> <answer>42</answer>"]
    passed = [0, 0, 0, 0]
    for number in range(20_000):
        parts = [part for part in re.split(r"(\n|<[^>]*>)", start[number % 2]) if part]
        for _ in range(draw.randint(1, 5)):
            where = draw.randrange(len(parts))
            match draw.randrange(3):
                case 0:
                    parts[where] = draw.choice(pieces)
                case 1:
                    parts.insert(where, draw.choice(pieces))
                case 2:
                    other = draw.randrange(len(parts))
                    parts[where], parts[other] = parts[other], parts[where]
        scores = assert_same_as_notebook("".join(parts))
        passed = [count + (score > 0) for count, score in zip(passed, scores, strict=True)]
    assert all(200 < count < 19_800 for count in passed), passed  # both outcomes are met often


HOSTILE = {
    "opening tags": "<reasoning>",
    "closing tags": "</reasoning>",
    "places to answer": "</reasoning><answer>",
    "places to answer, on lines": "\n</reasoning>\n<answer>\n",
    "places to answer, far apart": "</reasoning>" + " " * 200 + "<answer>",
    "whitespace": " ",
    "newlines": "\n",
    "closing tags and whitespace": "</reasoning>" + " " * 50,
    "closed answers": "\n</answer>\n",
    "all tags": "<reasoning>\n</reasoning>\n<answer>\n</answer>\n",
}


@pytest.mark.parametrize("opening", ["<reasoning>", "<reasoning>\n", "<reasoning>a</reasoning>"])
@pytest.mark.parametrize("repeated", HOSTILE.values(), ids=HOSTILE)
def test_time_grows_with_the_length_and_not_with_its_square(repeated, opening):
    def seconds(length):
        text = (opening + repeated * (length // len(repeated)))[:length]
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            for chosen in (FIVE, (Chosen("soft_format", params={"multiline": False}),
                                 Chosen("strict_format", params={"multiline": False}))):
                score(text, {"answer": "42"}, chosen)
            best = min(best, time.process_time() - start)
        return best

    # 32 times the length: about 32 times the time if linear, 1024 times if quadratic. Both are
    # measured in this run; a millisecond on top keeps the clock's grain out of the short one.
    assert seconds(128_000) < 200 * (seconds(4_000) + 0.001)


def test_the_total_is_the_weighted_sum():
    chosen = parse_chosen("correctness:weight=0.5,int:weight=2,xmlcount:weight=0")
    scored = score(GOOD, {"answer": "42"}, chosen)
    assert scored.rewards == {"correctness": 2.0, "int": 0.5, "xmlcount": 0.5}
    assert scored.total == 2.0


def test_parameters_reach_the_reward():
    text = in_format("6 * 7\n= 42", "42")
    assert score(text, {}, parse_chosen("strict_format")).total == 0.5
    assert score(text, {}, parse_chosen("strict_format:multiline=false")).total == 0.0


def test_a_reference_that_is_a_number_in_the_file_is_compared_as_text():
    assert score("42", {"answer": 42}, [Chosen("correctness")]).total == 2.0


def test_a_missing_column_is_an_error_that_names_the_columns_there_are():
    scored = score(GOOD, {"question": "?", "level": "1"}, [Chosen("int"), Chosen("correctness")])
    assert scored.rewards == {"int": 0.5, "correctness": None}
    assert scored.errors == {
        "correctness": "correctness needs the column 'answer'; this row has: question, level."}
    assert scored.total is None  # without its points it would rank as if it had scored 0
    watched = score(GOOD, {}, [Chosen("int"), Chosen("correctness", weight=0)])
    assert watched.total == 0.5  # one that does not count may fail
    assert score("", {}, [Chosen("correctness")]).errors["correctness"].endswith("has: none.")


def test_an_empty_column_cannot_be_judged_and_is_no_error():
    scored = score(GOOD, {"answer": None}, [Chosen("correctness")])
    assert (scored.rewards, scored.errors, scored.total) == ({"correctness": None}, {}, None)


@pytest.mark.parametrize(("text", "message"), [
    ("nonsense", "There is no reward 'nonsense'"),
    ("soft_format", "has no parameter 'tabs'"),
])
def test_score_refuses_a_choice_that_no_row_could_be_scored_with(text, message):
    with pytest.raises(ValueError, match=message):
        score(GOOD, {}, [Chosen(text, params={"tabs": True})])


@pytest.fixture
def registered():
    """Registers rewards for one test only."""
    before = dict(REWARDS)
    yield reward
    REWARDS.clear()
    REWARDS.update(before)


def test_the_signature_says_what_a_reward_needs_and_what_a_person_may_set(registered):
    @registered("Close", max_score=1.0)
    def close(completion: str, answer: str, level: str, *,
              near: Annotated[float, Knob("Tolerance", "How far.", low=0, high=1)] = 0.1,
              digits: Annotated[int, Knob("Digits", "How many.", low=1)] = 2,
              unit: Annotated[str, Knob("Unit", "Of what.")] = "km") -> float:
        """How close,
        and no closer."""
        return float(level) + near + (10 ** digits) + len(unit)

    known = REWARDS["close"]
    assert known.needs == ("completion", "answer", "level")
    assert known.columns == ("answer", "level")
    assert [(key, p.default, p.kind) for key, p in known.knobs.items()] == [
        ("near", 0.1, float), ("digits", 2, int), ("unit", "km", str)]
    assert known.help == "How close, and no closer."
    # A slider hands over 3.0 for a whole number; the function gets 3.
    chosen = Chosen("close", params={"digits": 3.0, "near": 0.5, "unit": ""})
    assert check_chosen([chosen]) == []
    assert score("", {"answer": "", "level": "1"}, [chosen]).total == 1001.5


def test_a_signature_that_cannot_be_filled_by_name_is_refused(registered):
    def no_knob(completion: str, *, strict: bool = True): ...
    def no_default(completion: str, *, strict: Annotated[bool, Knob("a", "b")]): ...
    def reserved(completion: str, *, weight: Annotated[float, Knob("a", "b")] = 1.0): ...
    def a_list(completion: str, *, tags: Annotated[list, Knob("a", "b")] = ()): ...
    def anything(**columns): ...

    for function in (no_knob, no_default, reserved, a_list, anything):
        with pytest.raises(TypeError, match=function.__name__):
            registered("Bad", max_score=1.0)(function)
    with pytest.raises(ValueError, match="already"):
        registered("Taken", max_score=1.0)(correctness)


@pytest.mark.parametrize(("result", "message"), [
    (float("nan"), "broken returned nan, not a finite number."),
    (float("inf"), "broken returned inf, not a finite number."),
    ("1.0", "broken returned str, not a number."),
    ([1.0], "broken returned list, not a number."),
    (10 ** 400, "broken failed: OverflowError: int too large to convert to float"),
    (ZeroDivisionError("by zero"), "broken failed: ZeroDivisionError: by zero"),
])
def test_what_is_no_score_is_an_error_and_never_a_zero(registered, result, message):
    @registered("Broken", max_score=1.0)
    def broken(completion: str) -> float:
        if isinstance(result, Exception):
            raise result
        return result

    scored = score(GOOD, {}, [Chosen("broken")])
    assert scored.rewards == {"broken": None}
    assert scored.errors == {"broken": message}
    assert scored.total is None


@pytest.mark.parametrize(("result", "expected"), [
    (True, 1.0), (3, 3.0), (-0.5, -0.5), (None, None)])
def test_numbers_of_all_kinds_and_none_are_results(registered, result, expected):
    @registered("Plain", max_score=1.0)
    def plain(completion: str) -> float | None:
        return result

    scored = score(GOOD, {}, [Chosen("plain")])
    assert (scored.rewards["plain"], scored.errors, scored.total) == (expected, {}, expected)


def test_a_batch_is_scored_row_by_row_from_texts_or_messages():
    batch = BatchReward(Chosen("correctness", weight=3.0))
    texts = [GOOD, "<answer>7</answer>", "7"]
    messages = [[{"role": "assistant", "content": text}] for text in texts]
    for completions in (texts, messages):
        assert batch(prompts=["?"] * 3, completions=completions, answer=["42", "42", "7"],
                     question=["?"] * 3) == [2.0, 0.0, 2.0]  # without the weight: TRL applies that
    assert batch.__name__ == "correctness"
    assert batch([["?"]], [[{"role": "assistant", "content": None}]], answer=["42"]) == [0.0]


def test_a_batch_takes_all_that_trl_passes():
    logged = {}
    scores = BatchReward(Chosen("int"))(
        prompts=["?"], completions=["42"], completion_ids=[[1, 2]], trainer_state=object(),
        log_extra=lambda column, values: None, log_metric=logged.__setitem__,
        answer=["42"], log_something_newer=lambda name: None)
    assert scores == [0.5]
    assert logged == {"reward_errors/int": 0}


def test_a_batch_counts_errors_with_their_text_and_scores_them_none():
    logged = {}
    batch = BatchReward(Chosen("correctness"))
    completions = [f"<answer>{number}</answer>" for number in range(KEPT_ERRORS + 1)]
    scores = batch(prompts=completions, completions=completions, question=completions,
                   log_metric=logged.__setitem__)
    assert scores == [None] * len(completions)
    assert logged == {"reward_errors/correctness": KEPT_ERRORS + 1}
    assert batch.error_count == KEPT_ERRORS + 1
    assert len(batch.errors) == KEPT_ERRORS  # the last ones
    assert batch.errors[-1].completion == completions[-1]
    assert "needs the column 'answer'" in batch.errors[-1].error


def test_one_failing_row_leaves_the_others_their_scores(registered):
    @registered("Fragile", max_score=1.0)
    def fragile(completion: str) -> float:
        return float(completion)

    batch = BatchReward(Chosen("fragile"))
    assert batch(["?"] * 3, ["1", "one", "0"]) == [1.0, None, 0.0]
    assert [error.completion for error in batch.errors] == ["one"]


@pytest.mark.parametrize("chosen", parse_chosen("correctness:weight=2,soft_format:multiline=false"))
def test_a_batch_reward_survives_pickling(chosen):
    completions = [in_format("6 * 7\n= 42", "42")]
    batch = BatchReward(chosen)
    again = pickle.loads(pickle.dumps(batch))
    assert again.__name__ == batch.__name__ == chosen.name
    assert again.chosen == chosen
    assert again(["?"], completions, answer=["42"]) == batch(["?"], completions, answer=["42"])


def test_a_batch_reward_is_refused_before_the_first_step():
    with pytest.raises(ValueError, match="There is no reward 'nonsense'"):
        BatchReward(Chosen("nonsense"))


@pytest.mark.parametrize(("text", "chosen"), [
    ("correctness", (Chosen("correctness"),)),
    ("int,xmlcount", (Chosen("int"), Chosen("xmlcount"))),
    ("correctness:weight=0.5", (Chosen("correctness", 0.5),)),
    ("xmlcount:weight=0", (Chosen("xmlcount", 0.0),)),
    ("soft_format:weight=2:multiline=no", (Chosen("soft_format", 2.0, {"multiline": False}),)),
    (" soft_format : multiline = On , int ",
     (Chosen("soft_format", 1.0, {"multiline": True}), Chosen("int"))),
    ("int:weight=1e-3", (Chosen("int", 0.001),)),
])
def test_the_command_line_syntax_is_read_and_written_back(text, chosen):
    assert parse_chosen(text) == chosen
    assert parse_chosen(format_chosen(chosen)) == chosen


def test_what_is_written_is_short():
    text = "correctness,soft_format:weight=0.5:multiline=false"
    assert format_chosen(parse_chosen(text)) == text


def test_text_parameters_may_hold_what_the_syntax_uses(registered):
    @registered("Ends", max_score=1.0)
    def ends(completion: str, *, mark: Annotated[str, Knob("Mark", "At the end.")] = ".") -> float:
        return float(completion.endswith(mark))

    chosen = (Chosen("ends", params={"mark": " a,b:c=d%20 "}), Chosen("int"))
    assert parse_chosen(format_chosen(chosen)) == chosen
    assert parse_chosen("ends:mark=!") == (Chosen("ends", params={"mark": "!"}),)


@pytest.mark.parametrize(("text", "message"), [
    ("corectness", "There is no reward 'corectness'. There are xmlcount, soft_format, "
                   "strict_format, int, correctness, "),
    ("", "There is no reward ''. There are xmlcount"),
    ("int,", "There is no reward ''. There are xmlcount"),
    ("soft_format:lines=true",
     "'soft_format' has no parameter 'lines'. It has weight, kind, multiline."),
    ("int:multiline=true", "'int' has no parameter 'multiline'. It has weight, kind."),
    ("soft_format:multiline=maybe",
     "'multiline' of 'soft_format' must be true or false, not 'maybe'."),
    ("soft_format:multiline", "'multiline' after 'soft_format' must be written parameter=value."),
    ("int:weight=2:weight=3", "'weight' is given twice for 'int'."),
    ("int:weight=much", "'weight' of 'int' must be a number, not 'much'."),
    ("int:weight=", "'weight' of 'int' must be a number, not ''."),
    ("int:weight=nan", "'weight' of 'int' must be a finite number, not nan."),
    ("int:weight=inf", "'weight' of 'int' must be a finite number, not inf."),
    ("int:weight=-1", "'weight' of 'int' must be at least 0, not -1."),
])
def test_what_cannot_be_read_is_refused_with_what_exists_or_is_expected(text, message):
    with pytest.raises(ValueError) as refused:
        parse_chosen(text)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(("chosen", "problems"), [
    (ALL, []),
    (parse_chosen("correctness,xmlcount:weight=0"), []),
    ((), ["No reward is chosen."]),
    (parse_chosen("int:weight=0,xmlcount:weight=0"), ["All weights are 0"]),
    ([Chosen("int", float("nan"))], ["'weight' of 'int' must be a finite number"]),
    ([Chosen("int", float("-inf"))], ["'weight' of 'int' must be a finite number"]),
    ([Chosen("int", -0.5)], ["'weight' of 'int' must be at least 0, not -0.5."]),
    ([Chosen("int", "2")], ["'weight' of 'int' must be a number"]),
    ([Chosen("int", None)], ["'weight' of 'int' must be a number"]),
    ([Chosen("int"), Chosen("nonsense")], ["There is no reward 'nonsense'."]),
    ([Chosen("int"), Chosen("int", 2.0)], ["'int' is chosen 2 times."]),
    ([Chosen("soft_format", params={"multiline": 1})], ["'multiline' of 'soft_format' must be"]),
    ([Chosen("int", params={"multiline": True})], ["'int' has no parameter 'multiline'."]),
    ([Chosen("int", -1.0), Chosen("xmlcount", -1.0)], ["'weight' of 'int'", "'weight' of 'xml"]),
])
def test_check_chosen_says_all_that_is_wrong(chosen, problems):
    found = check_chosen(chosen)
    assert len(found) == len(problems)
    for sentence, beginning in zip(found, problems, strict=True):
        assert sentence.startswith(beginning) and sentence.endswith(".")


def test_a_choice_is_a_value():
    one = Chosen("soft_format", 2.0, {"multiline": False})
    assert one == Chosen("soft_format", 2.0, (("multiline", False),))
    assert len({one, pickle.loads(pickle.dumps(one))}) == 1
    assert Chosen.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    assert Chosen.from_dict({"name": "int"}) == Chosen("int")


@pytest.mark.parametrize("stored", [
    "int", {}, {"name": 3}, {"name": "int", "wieght": 2.0}, {"name": "int", "params": [1]}])
def test_a_stored_choice_of_another_form_is_refused(stored):
    with pytest.raises(ValueError, match=r"must be written|too many"):
        Chosen.from_dict(stored)


def test_goals_tell_whether_an_answer_is_right_and_shapes_do_not():
    chosen = parse_chosen("correctness,int,strict_format")
    right, guess = (score(in_format("6 * 7", text), {"answer": "42"}, chosen)
                    for text in ("42", "7"))
    assert (right.goal, right.reached) == (1.0, True)
    assert (guess.goal, guess.reached) == (0.0, False)
    assert score("42", {}, parse_chosen("int,strict_format")).reached is None  # no goal is chosen
    assert score("42", {"answer": None}, chosen).reached is None  # it could not be judged


def test_the_kind_of_a_reward_can_be_changed_for_a_run_and_is_kept():
    int_as_goal, = parse_chosen("int:kind=goal")
    assert int_as_goal.takes_as == "goal" and score("7", {}, [int_as_goal]).reached is True
    assert parse_chosen(format_chosen([int_as_goal])) == (int_as_goal,)
    assert Chosen.from_dict(int_as_goal.to_dict()) == int_as_goal
    assert Chosen("int").to_dict()["kind"] == "shape"  # a record keeps what was meant
    assert parse_chosen("int:kind=shape") == (Chosen("int"),)
    with pytest.raises(ValueError, match="must be goal or shape, not 'both'"):
        parse_chosen("int:kind=both")
