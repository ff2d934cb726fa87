"""Serves the package reasoning-gym in the limited child: its tasks, their questions, their scorers.

The package is imported here alone. Some of its scorers read an answer with sympy, which evaluates
it, and some of its tasks may look for a question for ever: so both are done behind the fence.
"""

import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

from lab.core.limited import fence

ALMOST = 0.99  # of the full score: what the task's own answer must get
COMPOSITE = "composite"  # made of other tasks, which are named themselves here
FEW = 10  # questions of a task that only scores: some make all they have at once


def serve(setup: dict, incoming: Iterator[dict], say: Callable[..., None]) -> None:
    """First {"tasks": {name: how many levels it has}} or {"error"}; then a reply to each request,
    which names a function of DOES and its arguments: {"result"} or {"error"}."""
    try:
        fence.more_time(setup["seconds"])
        say(tasks=levels())
    except BaseException as error:
        say(error=f"{type(error).__name__}: {error}")
        return
    for request in incoming:
        fence.more_time(request["seconds"])
        try:
            say(result=DOES[request["do"]](*request["given"]))
        except Exception as error:
            say(error=f"{type(error).__name__}: {error}"[:1000])


def levels() -> dict[str, int]:
    """{task: how many levels its curriculum has}; 0 for one without a curriculum."""
    from reasoning_gym.factory import DATASETS

    return {name: _levels_of(name) for name in sorted(DATASETS) if name != COMPOSITE}


def _levels_of(task: str) -> int:
    curriculum = _curriculum(task)
    if curriculum is None:
        return 0
    return max((len(one.levels) for one in curriculum.attributes.values()), default=0)


def _curriculum(task: str):
    from reasoning_gym import factory

    if task not in factory.CURRICULA:
        return None
    return factory.create_curriculum(task)


@functools.lru_cache(maxsize=64)
def _dataset(task: str, difficulty: int, seed: int, size: int):
    """A task at a level of its curriculum, or (below 0) as its own configuration has it."""
    from reasoning_gym import factory

    asked = {"seed": seed, "size": size}
    if difficulty < 0:
        return factory.create_dataset(task, **asked)
    curriculum = _curriculum(task)
    curriculum.set_global_level(difficulty)
    return factory.DATASETS[task][0](curriculum.generate_configuration(asked))


def make(task: str, difficulty: int, seed: int, size: int, start: int,
         count: int) -> list[dict | None]:
    """Questions `start` to `start + count` of `size`: {"question", "answer", "entry"}, where
    `entry` is the whole of it as JSON. None for one whose own answer does not get its points from
    the JSON."""
    return [_made(task, difficulty, _dataset(task, difficulty, seed, size), place)
            for place in range(start, min(start + count, size))]


def _made(task: str, difficulty: int, dataset: Any, place: int) -> dict | None:
    found = dataset[place]
    answer = found["answer"] if isinstance(found["answer"], str) else None
    entry = json.dumps({"task": task, "difficulty": difficulty, "question": found["question"],
                        "answer": found["answer"], "metadata": found["metadata"]},
                       ensure_ascii=False, default=str)
    if answer is not None and score(entry, answer) < ALMOST:
        return None
    return {"question": found["question"], "answer": answer, "entry": entry}


def score(entry: str, answer: str) -> float:
    """What the task's own scorer gives an answer. An entry of a file that the package wrote itself
    names its task in its metadata."""
    told = json.loads(entry)
    task = told.get("task") or told["metadata"]["source_dataset"]
    dataset = _dataset(task, told.get("difficulty", -1), 0, FEW)
    return float(dataset.score_answer(answer, told))


DOES = {"make": make, "score": score}
