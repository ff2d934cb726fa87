"""Named sets of rewards: those of the lab, how they are written as JSON, and what each counts."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lab.core.insight.advantages import NORMALIZE_FIRST, SUM_FIRST
from lab.core.knobs import plain
from lab.core.problems import BadSettings
from lab.core.rewards.chosen import Chosen, check_chosen
from lab.core.rewards.registry import GOAL, REWARDS

FORMAT = "grpo-lab reward sets"
VERSION = 1
MOST_SETS = 200
MOST_CHARACTERS = 1_000_000  # of a file
NAME_LENGTH, SENTENCE_LENGTH = 60, 400
FAR_APART = 4.0  # a reward that moves the sum more than so many times as far as another hides it


@dataclass(frozen=True)
class RewardSet:
    """Rewards with their weights under a name, and one sentence that says when to take them."""

    name: str
    sentence: str
    chosen: tuple[Chosen, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "sentence": self.sentence,
                "rewards": [one.to_dict() for one in self.chosen]}


class _Part(NamedTuple):
    """A reward of a set, by the most that it adds to the sum: weights follow from it."""

    name: str
    points: float | None = None  # None: weight 1, whatever the reward's highest score
    params: dict = {}

    def chosen(self) -> Chosen:
        weight = 1.0 if self.points is None else self.points / REWARDS[self.name].max_score
        return Chosen(self.name, round(weight, 6), self.params)


_SETS = (
    ("notebook", "The classic notebook's five, each with weight 1. Half of the sum is for the "
     "form: a model can get that without being right.",
     (_Part("xmlcount"), _Part("soft_format"), _Part("strict_format"), _Part("int"),
      _Part("correctness"))),
    ("goal-first", "For questions whose answer is a number: being right counts twice as much as "
     "all the rest, and the rest asks for the format and for a thought.",
     (_Part("asked_format", 0.25), _Part("thinking", 0.25), _Part("number", 1.0))),
    ("code", "For questions whose answer is Python code, with tests in a column of the data: the "
     "tests decide, and code that can be read at all is a first step.",
     (_Part("python", 0.25), _Part("passes_tests", 1.0))),
    ("short answers", "For answers of a word or a few: the reference to the letter, but for case "
     "and marks around it, and nothing long.",
     (_Part("length", 0.25, {"at_least": 1, "at_most": 20}), _Part("exact", 1.0))),
    ("format only", "Only how an answer is made. To see a model learn a form; it says nothing of "
     "whether an answer is right.",
     (_Part("soft_format", 0.25), _Part("asked_format", 0.25), _Part("thinking", 0.25))),
)


def built_in() -> tuple[RewardSet, ...]:
    """The lab's own sets, of the rewards that there are; one that has none left is no set."""
    found = (RewardSet(name, sentence, tuple(part.chosen() for part in parts
                                             if part.name in REWARDS))
             for name, sentence, parts in _SETS)
    return tuple(one for one in found if one.chosen)


# --- what counts how much -----------------------------------------------------------------------


class Share(NamedTuple):
    """One reward's part of the largest sum that an answer can get."""

    name: str
    kind: str
    most: float  # weight times highest score
    share: float  # 0..1


def shares(chosen: Sequence[Chosen], aggregation: str = SUM_FIRST) -> tuple[Share, ...]:
    """The part of each reward in the largest possible sum; the shares add up to 1, or are all 0.

    Where each reward is normalised first (GDPO), highest scores do not matter and weights alone
    say how much each counts.
    """
    most = [one.weight * one.best for one in chosen]
    counts = [one.weight for one in chosen] if aggregation == NORMALIZE_FIRST else most
    total = sum(counts)
    return tuple(Share(one.name, one.takes_as, points, count / total if total > 0 else 0.0)
                 for one, points, count in zip(chosen, most, counts, strict=True))


def goal_share(chosen: Sequence[Chosen], aggregation: str = SUM_FIRST) -> float:
    """Which part of the largest sum is for being right."""
    return sum(part.share for part in shares(chosen, aggregation) if part.kind == GOAL)


def without_goal(chosen: Sequence[Chosen]) -> str:
    """A sentence where these rewards do not teach a model to be right, else empty."""
    goals = [one for one in chosen if one.takes_as == GOAL]
    if not goals:
        return "Nothing here says whether an answer is right."
    if all(one.weight == 0 for one in goals):
        return ("What says whether an answer is right has weight 0: it is watched, and the model "
                "does not learn from it.")
    return ""


def far_apart(chosen: Sequence[Chosen]) -> str:
    """A sentence that offers GDPO, where one reward can move the sum so much further than another
    that the smaller one hardly counts; else empty."""
    moving = [(one.weight * one.best, one.reward.label) for one in chosen if one.weight > 0]
    if len(moving) < 2:
        return ""
    (small, less), (large, more) = min(moving), max(moving)
    if large <= FAR_APART * small * (1 + 1e-9):
        return ""
    return (f"{more} can move the sum by {plain(round(large, 3))}, {less} by "
            f"{plain(round(small, 3))}: where they disagree, the smaller one hardly counts. "
            f"{NORMALIZE_FIRST} (GDPO) brings each to one scale in its group before they are "
            "summed, so that only the weights say how much each counts.")


# --- as JSON ------------------------------------------------------------------------------------


def to_json(sets: Iterable[RewardSet]) -> str:
    """What `from_json` reads back the same."""
    return json.dumps({"format": FORMAT, "version": VERSION,
                       "sets": [one.to_dict() for one in sets]}, indent=2)


def from_json(text: str) -> tuple[RewardSet, ...]:
    """Sets from JSON. Raises BadSettings: the first thing that is wrong, and in which set."""
    if len(text) > MOST_CHARACTERS:
        raise _bad(f"It has {len(text):,} characters, and at most {MOST_CHARACTERS:,} are read.")
    try:
        tree = json.loads(text)
        json.dumps(tree, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _bad("It holds half of a character.") from error
    except (ValueError, RecursionError) as error:
        raise _bad(f"It is not JSON: {error}.") from error
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise _bad(f'It does not say "format": "{FORMAT}".')
    if tree.get("version") != VERSION:
        raise _bad(f'This lab reads "version": {VERSION}, not {tree.get("version")!r}.')
    listed = tree.get("sets")
    if not isinstance(listed, list) or not listed or len(listed) > MOST_SETS:
        raise _bad(f'"sets" must be a list of 1 to {MOST_SETS} sets.')
    found = tuple(_read(number, one) for number, one in enumerate(listed, 1))
    names = [one.name.casefold() for one in found]
    if twice := next((one.name for one in found if names.count(one.name.casefold()) > 1), None):
        raise _bad(f"Two sets are named {twice!r}.")
    return found


def _read(number: int, stored: Any) -> RewardSet:
    if not isinstance(stored, dict) or set(stored) - {"name", "sentence", "rewards"} \
            or not isinstance(stored.get("rewards"), list):
        raise _bad(f"Set {number} must be written "
                   '{"name": ..., "sentence": ..., "rewards": [...]}.')
    try:
        return checked(stored.get("name"), stored.get("sentence", ""),
                       [Chosen.from_dict(one) for one in stored["rewards"]])
    except (TypeError, ValueError, ArithmeticError, BadSettings) as error:
        raise _bad(f"In set {number} ({stored.get('name')!r}): {error}") from error


def checked(name: Any, sentence: Any, chosen: Sequence[Chosen]) -> RewardSet:
    """A set that can be trained on as it is. Raises BadSettings, saying what cannot be."""
    if not isinstance(name, str) or not name.strip():
        raise BadSettings("The set needs a name.")
    name, sentence = " ".join(name.split()), sentence if isinstance(sentence, str) else None
    if len(name) > NAME_LENGTH or not name.isprintable():
        raise BadSettings("The name of a set cannot be so.", f"It has {len(name)} characters; at "
                          f"most {NAME_LENGTH}, all of them printable, can be shown.")
    if sentence is None or len(sentence) > SENTENCE_LENGTH:
        raise BadSettings("The sentence of a set cannot be so.",
                          f"It must be text of at most {SENTENCE_LENGTH} characters.")
    if own := [one.name for one in chosen if one.file]:
        raise BadSettings(f"{own[0]!r} is none of the lab's rewards.", "A set holds no rewards of "
                          "a file of your own: they stay with their file.",
                          f"There are {', '.join(REWARDS)}.")
    if wrong := check_chosen(chosen):
        raise BadSettings(f"The rewards of the set {name!r} cannot be used.", " ".join(wrong))
    return RewardSet(name, " ".join(sentence.split()), tuple(chosen))


def _bad(why: str) -> BadSettings:
    return BadSettings("These reward sets cannot be read.", why,
                       "Take a file that this page exported.")
