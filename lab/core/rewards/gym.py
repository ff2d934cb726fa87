"""The tasks of the package reasoning-gym: their questions, and a goal that asks their own scorer.

Both come from a limited child (gym_child.py), for an answer may be read as a formula or a program
by a scorer.
"""

import atexit
import os
import threading
from typing import Annotated, Any

from lab.core.knobs import Knob
from lab.core.limited.run import Child, Ended, Limits
from lab.core.rewards.answer_text import answer_of
from lab.core.rewards.calling import CannotScore
from lab.core.rewards.registry import GOAL, reward

NAME, PACKAGE = "reasoning_gym", "reasoning-gym"
STARTING = 60.0  # seconds that its import may take on a busy machine
SCORING = 10.0  # seconds for one answer
LIMITS = Limits(seconds=SCORING, memory_mb=4000)

_lock = threading.Lock()
_child: Child | None = None
_owner = 0  # the process that the child answers; after a fork it is the parent's
_tasks: dict[str, int] = {}


def tasks() -> dict[str, int]:
    """{name of a task: how many levels of difficulty it has, 0 for none}. Raises ImportError where
    the package is not installed, CannotScore where it cannot be used."""
    with _lock:
        _living()
        return dict(_tasks)


def ask(do: str, seconds: float, *given: Any) -> Any:
    """What the function `do` of gym_child.DOES returns. Raises as `tasks`, and CannotScore where it
    fails or is not done in so many seconds: the next call gets a new child."""
    with _lock:
        child = _living()
        child.send(do=do, given=given, seconds=seconds)
        try:
            told = child.receive(seconds)
        except Ended as error:
            raise CannotScore(f"reasoning-gym gave no answer. {error}") from None
    if "error" in told:
        raise CannotScore(f"reasoning-gym failed: {told['error']}")
    return told["result"]


def _living() -> Child:
    global _child, _owner, _tasks
    if _child is not None and _owner == os.getpid() and _child.alive:
        return _child
    try:
        _child, _owner = Child("lab.core.rewards.gym_child", {"seconds": STARTING},
                               LIMITS), os.getpid()
        told = _child.receive(STARTING)
    except (Ended, OSError) as error:
        raise CannotScore(f"reasoning-gym did not start. {error}") from None
    if "error" in told:
        _child.close()
        if "No module named 'reasoning_gym'" in told["error"]:
            raise ImportError(f"{PACKAGE} is not installed; run `pip install {PACKAGE}`")
        raise CannotScore(f"reasoning-gym cannot be used: {told['error']}")
    _tasks = told["tasks"]
    return _child


@atexit.register
def _end() -> None:
    if _child is not None and _owner == os.getpid():
        _child.close()


SUM = ('{"task": "chain_sum", "difficulty": -1, "question": "State the final answer to the '
       'following arithmetic problem: 4 + 3 =", "answer": "7", "metadata": {}}')


@reward("Task of reasoning-gym", name=NAME, max_score=1.0, kind=GOAL, package=PACKAGE, examples=[
    ("<answer>7</answer>", {"entry": SUM}, 1.0),
    ("<answer>7.0</answer>", {"entry": SUM}, 1.0),
    (r"4 and 3 make \boxed{7}.", {"entry": SUM}, 1.0),
    ("7", {"entry": SUM}, 1.0),
    ("<answer>7 apples</answer>", {"entry": SUM}, 0.125),  # its scorer's share for a near miss
    ("<answer>8</answer>", {"entry": SUM}, 0.0),
    ("", {"entry": SUM}, 0.0),
])
def reasoning_gym(completion: str, entry: str, *, all_or_nothing: Annotated[bool, Knob(
        "All or nothing", "On: 1 for the full score, else 0. Off: the scorer's own points; many "
        "tasks give a few hundredths for any answer, and a share for a near miss.")] = False,
) -> float:
    r"""What the task's own scorer gives, from 0 to 1: for data of reasoning-gym (`pip install
    reasoning-gym`), whose rows carry the `entry` that it needs. The answer is the text after the
    last <answer>, or the whole text where there is no tag; of either, what stands in the last
    \boxed{} where there is one. Asked in a limited process, which is ended after ten seconds."""
    score = ask("score", SCORING, entry, answer_of(completion))
    return float(score >= 1) if all_or_nothing else max(0.0, min(1.0, score))
