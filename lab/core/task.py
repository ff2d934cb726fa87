"""The built-in task: word problems in levels, each with its worked steps and its answer."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from dataclasses import dataclass, field

# Short on purpose: on a CPU, every token of the prompt is paid for in every step of training.
SYSTEM_PROMPT = "Answer as <reasoning> steps </reasoning> <answer> number </answer>."

LEVELS: dict[int, str] = {
    1: "One step with small numbers.",
    2: "Two steps with small numbers.",
    3: "Three steps with small numbers.",
    4: "Three or four steps with larger numbers.",
}
DEFAULT_LEVEL = 2

# Questions drawn with these seeds (the first RESERVED_COUNT of each level) were kept out of the
# starter model's own training, so lists with these seeds are new to it.
RESERVED_SEEDS = range(32)
RESERVED_COUNT = 1500


@dataclass(frozen=True)
class WordProblem:
    """A question in English, its steps ("12 + 5 = 17") and its answer, a non-negative integer."""

    question: str
    steps: tuple[str, ...]
    answer: str
    level: int


def problems(
    level: int, count: int, seed: int, exclude: frozenset[str] | set[str] = frozenset()
) -> list[WordProblem]:
    """Return `count` problems with distinct questions, none of them in `exclude`.

    The list depends on the arguments alone, and a shorter list is the beginning of a longer one.
    Raises ValueError if the level does not exist or has not that many distinct questions.
    """
    if level not in LEVELS:
        known = ", ".join(str(number) for number in LEVELS)
        raise ValueError(f"There is no level {level} of word problems. The levels are {known}.")
    if count < 0:
        raise ValueError(f"Cannot make {count} word problems. Ask for 0 or more.")
    generator = random.Random(f"word problems, level {level}, seed {seed}")
    found: dict[str, WordProblem] = {}
    misses = 0  # in a row; so many of them mean that the level is nearly used up
    while len(found) < count:
        problem = _write(generator, level)
        if problem.question in found or problem.question in exclude:
            misses += 1
            if misses > 2000:
                raise ValueError(
                    f"Level {level} has too few distinct questions for {count} more: "
                    f"only {len(found)} were found. Ask for fewer, or use another level."
                )
            continue
        misses = 0
        found[problem.question] = problem
    return list(found.values())


# --- the words ----------------------------------------------------------------------------------

_GIRLS = ["Ann", "Mia", "Eva", "Lily", "Sara", "Nora"]
_BOYS = ["Ben", "Tom", "Max", "Leo", "Sam", "Omar"]
# Every plural is the singular with an "s", so one list is enough.
_THINGS = [
    "apple", "pen", "book", "shell", "card", "stone",
    "stamp", "marble", "ball", "nut", "cake", "flower",
]  # fmt: skip
_CONTAINERS = ["bag", "jar", "basket", "crate"]
_COLOURS = ["red", "green", "blue", "white"]


@dataclass(frozen=True)
class _Sizes:
    """How many steps a level takes and how large its numbers grow."""

    steps: tuple[int, ...]
    start: int  # the largest number a story opens with
    change: int  # the largest number added or taken away
    factor: int  # the largest number multiplied or divided by
    limit: int  # the largest result of any step


_SIZES = {
    1: _Sizes(steps=(1,), start=20, change=12, factor=5, limit=60),
    2: _Sizes(steps=(2,), start=20, change=12, factor=5, limit=60),
    3: _Sizes(steps=(3,), start=20, change=12, factor=5, limit=60),
    4: _Sizes(steps=(3, 4), start=50, change=30, factor=6, limit=150),
}


_SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}


@dataclass
class _Story:
    """A story being written: its sentences, its steps, and how many things the hero has now."""

    generator: random.Random
    sizes: _Sizes
    hero: str
    pronoun: str
    friend: str
    thing: str
    sentences: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    value: int = 0

    def number(self, low: int, high: int) -> int:
        return self.generator.randint(low, high)

    def choice(self, options: list[str]) -> str:
        return self.generator.choice(options)

    def step(self, left: int, sign: str, right: int) -> None:
        """Add a step; its result becomes the value."""
        self.value = _SIGNS[sign](left, right)
        self.steps.append(f"{left} {sign} {right} = {self.value}")

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence[0].upper() + sentence[1:])

    def largest_gain(self) -> int:
        """The most that can be added without passing the limit."""
        return min(self.sizes.change, self.sizes.limit - self.value)

    def divisors(self) -> list[int]:
        """The numbers that share the value out evenly and leave more than one each."""
        numbers = range(2, min(self.sizes.factor, self.value - 1) + 1)
        return [number for number in numbers if self.value % number == 0]


def _write(generator: random.Random, level: int) -> WordProblem:
    """Write one problem: an opening, then as many events as are missing, then a question."""
    sizes = _SIZES[level]
    wanted = generator.choice(sizes.steps)
    hero, friend = generator.sample(_GIRLS + _BOYS, 2)
    pronoun = "she" if hero in _GIRLS else "he"
    story = _Story(generator, sizes, hero, pronoun, friend, generator.choice(_THINGS))
    if generator.random() < 0.45:
        generator.choice(_OPENINGS_WITH_A_STEP)(story)
    else:
        _plain_opening(story)
    with_a_step = generator.random() < 0.4
    while len(story.steps) < wanted - with_a_step:
        generator.choice(_possible_events(story))(story)
    if len(story.steps) < wanted:
        generator.choice(_possible_endings(story))(story)
    else:
        story.say(
            story.choice(
                [f"How many {story.thing}s does {story.pronoun} have now?",
                 f"How many {story.thing}s does {story.hero} have in the end?"]
            )
        )  # fmt: skip
    return WordProblem(" ".join(story.sentences), tuple(story.steps), str(story.value), level)


# --- openings: who has how many -----------------------------------------------------------------


def _plain_opening(story: _Story) -> None:
    story.value = story.number(3, story.sizes.start)
    verb = story.choice(["has", "finds", "buys", "gets"])
    story.say(f"{story.hero} {verb} {story.value} {story.thing}s.")


def _containers(story: _Story) -> None:
    many = story.number(2, story.sizes.factor)
    each = story.number(3, min(story.sizes.change, story.sizes.limit // many))
    box = story.choice(_CONTAINERS)
    story.say(f"{story.hero} has {many} {box}s with {each} {story.thing}s in each {box}.")
    story.step(many, "*", each)


def _two_colours(story: _Story) -> None:
    first, second = story.number(3, story.sizes.start), story.number(2, story.sizes.change)
    one, other = story.generator.sample(_COLOURS, 2)
    story.say(f"{story.hero} has {first} {one} {story.thing}s and {second} {other} {story.thing}s.")
    story.step(first, "+", second)


def _more_than_friend(story: _Story) -> None:
    theirs, more = story.number(3, story.sizes.start), story.number(2, story.sizes.change)
    story.say(f"{story.friend} has {theirs} {story.thing}s.")
    story.say(f"{story.hero} has {more} more than {story.friend}.")
    story.step(theirs, "+", more)


def _fewer_than_friend(story: _Story) -> None:
    fewer = story.number(2, story.sizes.change)
    theirs = fewer + story.number(2, story.sizes.start - 2)
    story.say(f"{story.friend} has {theirs} {story.thing}s.")
    story.say(f"{story.hero} has {fewer} fewer than {story.friend}.")
    story.step(theirs, "-", fewer)


_OPENINGS_WITH_A_STEP: list[Callable[[_Story], None]] = [
    _containers, _two_colours, _more_than_friend, _fewer_than_friend,
]  # fmt: skip


# --- events: the number changes -----------------------------------------------------------------


def _gain(story: _Story) -> None:
    more = story.number(2, story.largest_gain())
    story.say(
        story.choice(
            [f"{story.pronoun} buys {more} more.", f"{story.pronoun} finds {more} more.",
             f"{story.friend} gives {story.hero} {more} more."]
        )
    )  # fmt: skip
    story.step(story.value, "+", more)


def _lose(story: _Story) -> None:
    fewer = story.number(2, min(story.sizes.change, story.value - 1))
    story.say(
        story.choice(
            [f"{story.pronoun} loses {fewer}.", f"{story.pronoun} sells {fewer}.",
             f"{story.pronoun} gives {fewer} to {story.friend}."]
        )
    )  # fmt: skip
    story.step(story.value, "-", fewer)


def _multiply(story: _Story) -> None:
    times = story.number(2, min(story.sizes.factor, story.sizes.limit // story.value))
    story.say(f"A week later {story.pronoun} has {times} times as many.")
    story.step(story.value, "*", times)


def _share(story: _Story) -> None:
    shares = story.generator.choice(story.divisors())
    story.say(f"{story.pronoun} makes {shares} equal parts and keeps one part.")
    story.step(story.value, "/", shares)


def _possible_events(story: _Story) -> list[Callable[[_Story], None]]:
    """The events that keep the value between 1 and the limit."""
    events: list[Callable[[_Story], None]] = []
    if story.largest_gain() >= 2:
        events.append(_gain)
    if story.value > 2:
        events.append(_lose)
    if story.value * 2 <= story.sizes.limit:
        events.append(_multiply)
    if story.divisors():
        events.append(_share)
    return events


# --- endings: a question that takes a step itself -----------------------------------------------


def _together(story: _Story) -> None:
    theirs = story.number(2, story.largest_gain())
    owner = {"she": "her", "he": "his"}[story.pronoun]
    story.say(f"{owner} brother has {theirs} {story.thing}s.")
    story.say(f"How many {story.thing}s do they have together?")
    story.step(story.value, "+", theirs)


def _missing(story: _Story) -> None:
    wanted = story.value + story.number(2, story.largest_gain())
    story.say(f"{story.pronoun} wants {wanted} {story.thing}s.")
    story.say(f"How many more does {story.pronoun} need?")
    story.step(wanted, "-", story.value)


def _sell_all(story: _Story) -> None:
    price = story.number(2, min(story.sizes.factor, story.sizes.limit // story.value))
    story.say(f"{story.pronoun} sells them all for {price} coins each.")
    story.say(f"How many coins does {story.pronoun} get?")
    story.step(story.value, "*", price)


def _pack(story: _Story) -> None:
    each = story.generator.choice(story.divisors())
    box = story.choice(_CONTAINERS)
    story.say(f"{story.pronoun} packs {each} in each {box}.")
    story.say(f"How many {box}s does {story.pronoun} fill?")
    story.step(story.value, "/", each)


def _left(story: _Story) -> None:
    given = story.number(2, min(story.sizes.change, story.value - 1))
    story.say(f"If {story.pronoun} gives away {given}, how many {story.thing}s are left?")
    story.step(story.value, "-", given)


def _possible_endings(story: _Story) -> list[Callable[[_Story], None]]:
    """The questions whose step stays below the limit."""
    endings: list[Callable[[_Story], None]] = []
    if story.largest_gain() >= 2:
        endings += [_together, _missing]
    if story.value > 2:
        endings.append(_left)
    if story.value * 2 <= story.sizes.limit:
        endings.append(_sell_all)
    if story.divisors():
        endings.append(_pack)
    return endings
