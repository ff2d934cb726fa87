"""Is it right: rewards for what the answer says, wherever it stands in the text."""

from lab.core.prompts import final_answer, in_format
from lab.core.rewards.registry import GOAL, SHAPE, reward

_GOOD = in_format("6 * 7 = 42", "42")


@reward("Whole number", name="int", max_score=0.5, kind=SHAPE, examples=[
    (_GOOD, {}, 0.5),
    (in_format("I guess.", "7"), {}, 0.5),  # a wrong number is a number too
    ("42", {}, 0.5),
    (in_format("6 * 7 = 42", "$42"), {}, 0.0),
    (in_format("6 * 7 = 42", "-42"), {}, 0.0),  # digits only: no sign, point or comma
    (in_format("6 * 7 = 42", "forty-two"), {}, 0.0),
    ("The answer is 42", {}, 0.0),
    ("", {}, 0.0),
])
def int_(completion: str) -> float:
    """0.5 when the answer is made of digits only, right or wrong, else 0. The answer is the text
    between the last <answer> and the next </answer>, or the whole text where there is no tag."""
    return 0.5 if final_answer(completion).isdigit() else 0.0


@reward("Right answer", max_score=2.0, kind=GOAL, examples=[
    (_GOOD, {"answer": "42"}, 2.0),
    ("<answer>42</answer>", {"answer": "42"}, 2.0),
    ("42", {"answer": "42"}, 2.0),
    ("<answer>7</answer> no, <answer>42</answer>", {"answer": "42"}, 2.0),  # the last one counts
    (in_format("I guess.", "7"), {"answer": "42"}, 0.0),
    (in_format("6 * 7 = 42", "42.0"), {"answer": "42"}, 0.0),  # text is compared, not numbers
    ("The answer is 42", {"answer": "42"}, 0.0),
    ("", {"answer": "42"}, 0.0),
])
def correctness(completion: str, answer: str) -> float:
    """2 when the answer equals the reference to the letter, else 0. The answer is the text between
    the last <answer> and the next </answer>, or the whole text where there is no tag."""
    # A JSON file may hold the reference as a number.
    return 2.0 if final_answer(completion) == str(answer) else 0.0
