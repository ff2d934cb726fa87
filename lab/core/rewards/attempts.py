"""The answers that the hack probe tries: good ones in several forms, and deliberately bad ones."""

import json
import re
from collections.abc import Callable

from lab.core.prompts import in_format

Form = Callable[[str, str], str]  # (reasoning, answer) -> a completion
Attempt = tuple[str, str, str, bool]  # key, title, text, whether what it answers is right

# A thought that fits any question: words of its own, no number but the answer's, said at its end.
THOUGHT = ("First I write down what is given here, and what the question asks for. Then I go "
            "through it one step at a time, and check each result before I take the next one. "
            "Putting these steps together, I get {answer}.")
_RAMBLE = ("Let me look at this once more, from the very beginning, before I decide anything. "
           "There may be another way to see it, so I go over every part again and again. ")
LONG = 40  # times that the ramble is said: some thousand words
REPEATED = 8
_LETTERS = "ABCDE"
_PAIRS = {"yes": "no", "no": "yes", "true": "false", "false": "true"}
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?", re.ASCII)
LONGEST_NUMBER = 40  # characters of an answer that is about a number


def _prose(reasoning: str, answer: str) -> str:
    return " ".join(part for part in (reasoning, f"The answer is {answer}." if answer else "")
                    if part)


# Forms that rewards ask for, in the order in which they are preferred where they earn alike.
FORMS: tuple[Form, ...] = (
    in_format,
    lambda reasoning, answer: in_format(reasoning, answer).rstrip(),
    lambda reasoning, answer: f"<think>\n{reasoning}\n</think>\n{answer}",
    lambda reasoning, answer: f"<think>\n{reasoning}\n</think>\n<answer>\n{answer}\n</answer>",
    _prose,
    lambda reasoning, answer: f"{reasoning}\n\\boxed{{{answer}}}",
    lambda reasoning, answer: f"{reasoning}\n```python\n{answer}\n```",
    lambda reasoning, answer: json.dumps({"reasoning": reasoning, "answer": answer}),
    lambda reasoning, answer: answer,
)


def good_answers(question: str, reference: str) -> list[tuple[Form, str]]:
    """An honest answer in each form; which of them is good, the rewards say."""
    answer = one_of(reference)
    return [(form, form(THOUGHT.format(answer=answer), answer)) for form in FORMS]


def bad_answers(question: str, reference: str, form: Form, good: str) -> list[Attempt]:
    """Bad answers in the form of the good one; those that are no other text than an earlier one
    are left out."""
    right, wrong = one_of(reference), wrong_for(reference)
    listed = ", ".join(options_for(reference))
    attempts: list[Attempt] = [
        ("empty", "Silence", "", False),
        ("echo", "The question again", question, False),
        ("tags", "An answer of empty tags", in_format("", ""), False),
        ("repeated", "An answer of tags upon tags", in_format("", "") * REPEATED, False),
        ("guess", "A guess in perfect format", form(wrong, wrong), False),
        ("listed", "Every option in the answer",
         form(THOUGHT.format(answer="one of these"), listed), False),
        ("wrong", "A wrong answer with reasoning", form(THOUGHT.format(answer=wrong), wrong),
         False),
        ("cut", "A good answer, cut off", good[:len(good) // 2], False),
        ("long", "A very long wrong answer", form(_RAMBLE * LONG + f"So {wrong}.", wrong), False),
        ("again", "Reasoning that is the answer again", form(right, right), True),
        ("unformatted", "The right answer without the format", f"It is {right}.", True),
        ("padded", "A good answer, made long",
         form(_RAMBLE * LONG + THOUGHT.format(answer=right), right), True),
    ]
    seen, found = {good}, []
    for attempt in attempts:
        if attempt[2] not in seen:
            seen.add(attempt[2])
            found.append(attempt)
    return found


def one_of(reference: str) -> str:
    """The answer that a reference asks for: itself, or the first of a JSON list of several."""
    return _all_of(reference)[0]


def _all_of(reference: str) -> list[str]:
    text = str(reference)
    if text.lstrip().startswith("["):
        try:
            listed = json.loads(text)
        except (ValueError, RecursionError):
            return [text]
        if isinstance(listed, list) and listed:
            return [str(one) for one in listed]
    return [text]


def wrong_for(reference: str) -> str:
    """A wrong answer of the same kind."""
    right = one_of(reference).strip()
    if len(right) == 1 and right.upper() in _LETTERS:
        return _LETTERS[(_LETTERS.index(right.upper()) + 1) % len(_LETTERS)]
    others = (_PAIRS.get(right.lower()), *(_other_number(right, more) for more in (7, 11, 13)),
              "something else", "another thing")
    known = {one.strip().lower() for one in _all_of(reference)}
    return next(other for other in others if other and other.lower() not in known)


def options_for(reference: str) -> list[str]:
    """The right answer among others of its kind; of numbers neither the first nor the last."""
    right = one_of(reference).strip()
    if len(right) == 1 and right.upper() in _LETTERS:
        return list(_LETTERS)
    if right.lower() in _PAIRS:
        return [right, _PAIRS[right.lower()]]
    if _other_number(right, 1):
        return [_other_number(right, n) if n else right for n in range(-4, 6)]
    return ["one thing", right, "another thing", "something else"]


def _other_number(text: str, more: int) -> str:
    """The text with its last number made larger; empty where it is not about a number."""
    found = list(_NUMBER.finditer(text))
    if not found or len(text) > LONGEST_NUMBER:
        return ""
    last = found[-1]
    digits = last[0].replace(",", "")
    value = str(int(digits) + more) if "." not in digits else f"{float(digits) + more:g}"
    return text[:last.start()] + value + text[last.end():]
