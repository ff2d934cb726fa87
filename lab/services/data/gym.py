"""Rows from the tasks of reasoning-gym, made as they are asked for; held out are those of a seed of
their own."""

import functools
import random

from lab.core.problems import BadData
from lab.core.rewards import gym
from lab.core.rewards.calling import CannotScore
from lab.core.settings import Data, listed
from lab.services.data.table import tell

DEFAULT_ROWS = 2000  # what "all there are" means: most tasks never run out
CHUNK = 50  # questions that are asked for at once, and
PATIENCE = 120.0  # seconds for them
HELD_OUT_SEED = 1_000_000_000  # a question's own seed is this plus its number: all others are below
LAST_SEED = 900_000_000
SPARE = 4  # times as many questions are made as are wanted, at most: some come again
FIELDS = "data.tasks", "data.difficulty"

Rows = tuple[dict, ...]


def rows(data: Data, seed: int) -> tuple[list[dict], list[dict], list[str]]:
    """(to train on, held out, what is to be told). The same arguments and version of the package
    give the same rows; those held out do not depend on `seed`. Raises BadData."""
    names = listed(data.tasks)
    refuse(names, data.difficulty)
    first = random.Random(f"reasoning-gym, seed {seed}").randrange(LAST_SEED)
    train, held_out, notes = [], [], []
    wanted = data.rows or DEFAULT_ROWS
    for place, name in enumerate(names):
        tell(place / len(names))
        aside, _, _ = _made(name, data.difficulty, HELD_OUT_SEED,
                            share(data.held_out, place, len(names)), frozenset())
        unseen = frozenset(row["question"] for row in aside)
        count = share(wanted, place, len(names))
        learnt, unfit, tried = _made(name, data.difficulty, first, count, unseen)
        if len(learnt) < count:
            notes.append(f"'{name}' has few different questions: {len(learnt):,} of the "
                         f"{count:,} that were asked for came in {tried:,} tries.")
        if unfit:
            notes.append(f"{unfit:,} questions of '{name}' were left out: its scorer does not give "
                         "their own answer its points.")
        train.append(learnt)
        held_out.append(aside)
    return _in_turn(train), _in_turn(held_out), notes


def refuse(names: list[str], difficulty: int) -> None:
    """Raise BadData for what cannot be asked of the package, and where it is not installed."""
    tasks_field, difficulty_field = FIELDS
    try:
        known = gym.tasks()
    except ImportError as error:
        raise BadData("reasoning-gym is not installed.", "The tasks are its own.",
                      f"Run `pip install {gym.PACKAGE}`, or take other data.",
                      "data.source") from error
    except CannotScore as error:
        raise BadData("reasoning-gym cannot be used here.", f"{error}", "Install it anew, or take "
                      "other data.", "data.source") from error
    if not names:
        raise BadData("No task of reasoning-gym is chosen.", f"There are {', '.join(known)}.",
                      "Name one or several.", tasks_field)
    for name in names:
        if name not in known:
            raise BadData(f"reasoning-gym has no task {name!r}.", f"There are {', '.join(known)}.",
                          "Name one of these.", tasks_field)
        if difficulty >= 0 and not known[name]:
            raise BadData(f"The task '{name}' has no levels of difficulty.", "It comes as it is.",
                          "Set 'Difficulty' to -1.", difficulty_field)
        if difficulty >= max(known[name], 0) > 0:
            raise BadData(f"The task '{name}' has no level {difficulty}.", "Its levels go from 0 "
                          f"to {known[name] - 1}.", "Lower 'Difficulty'.", difficulty_field)


def share(whole: int, place: int, of: int) -> int:
    """What the task at this place gets of a number of rows: together they are just the number."""
    return whole // of + (place < whole % of)


@functools.lru_cache(maxsize=32)
def _made(name: str, difficulty: int, seed: int, count: int,
          unwanted: frozenset[str]) -> tuple[Rows, int, int]:
    """(rows with different questions, none of them unwanted; how many were unfit, were tried)."""
    found: dict[str, dict] = {}
    unfit = tried = 0
    size = SPARE * count
    while len(found) < count and tried < size and (found or not unfit):
        try:
            made = gym.ask("make", PATIENCE, name, difficulty, seed, size, tried, CHUNK)
        except CannotScore as error:
            raise BadData(f"The task '{name}' gave no questions.", f"{error}", "Take another level "
                          "or task.", FIELDS[0]) from error
        tried += len(made)
        for one in made:
            if one is None:
                unfit += 1
            elif one["question"] not in found and one["question"] not in unwanted:
                found[one["question"]] = _row(name, one)
    return tuple(list(found.values())[:count]), unfit, tried


def _row(name: str, made: dict) -> dict:
    answer = {} if made["answer"] is None else {"answer": made["answer"]}
    return {"question": made["question"], **answer, "task": name, "entry": made["entry"]}


def _in_turn(lists: list[Rows]) -> list[dict]:
    """One row of each list after the other, as long as there are some."""
    longest = max(map(len, lists), default=0)
    return [one[place] for place in range(longest) for one in lists if place < len(one)]
