"""Validators: one pure function that says of one answer true, false or cannot be judged.

    @validator("Short", kind=SHAPE, examples=[("yes", {}, True), ("y" * 500, {}, False)])
    def short(completion: str, *, limit: Annotated[int, Knob("Limit", "Characters.", 1)] = 200):
        '''The answer is no longer than the limit.'''
        return len(completion) <= limit

It asks for what it needs by name, just as a reward does, and each is a reward of the same name too:
one that is right earns 1, one that is well made a quarter of it, so that four shapes together do
not outweigh being right as long as nobody changes a weight.

None stays None: no score. It says that this row cannot be judged (a reference that is no number),
whatever the answer: an answer without a score is left out of its group, so a model that learnt to
answer what cannot be judged would escape being judged.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lab.core.rewards.registry import GOAL, REWARDS, Reward, reward

GOAL_PAYS, SHAPE_PAYS = 1.0, 0.25  # the highest score of what is right, of what is well made

Case = tuple[str, dict[str, str], bool | None]  # completion, columns, verdict


@dataclass(frozen=True)
class Validator:
    """A function that decides, and the reward that pays for it."""

    function: Callable[..., bool | None]
    reward: Reward
    examples: tuple[Case, ...]

    @property
    def name(self) -> str:
        return self.reward.name


VALIDATORS: dict[str, Validator] = {}


def validator(label: str, *, kind: str = GOAL, name: str = "", examples: Sequence[Case] = (),
              **more: Any) -> Callable[[Callable], Callable]:
    """Registers a function as a validator and as a reward, and returns it unchanged.

    The reward pays `GOAL_PAYS` or `SHAPE_PAYS` for True and 0 for False. Its help is the
    docstring, its parameters are the function's; `more` is `package` and `refuses`, which `reward`
    takes. Raises as `reward` does.
    """
    pays = GOAL_PAYS if kind == GOAL else SHAPE_PAYS

    def register(function: Callable) -> Callable:
        @functools.wraps(function)  # the reward is registered by the function's own signature
        def paid(*needs, **knobs) -> float | None:
            verdict = function(*needs, **knobs)
            if verdict is None:
                return None
            if not isinstance(verdict, bool):
                raise TypeError(f"it decided {verdict!r}, and must say True, False or None")
            return pays if verdict else 0.0

        reward(label, max_score=pays, kind=kind, name=name, examples=[
            (completion, columns, None if verdict is None else pays * verdict)
            for completion, columns, verdict in examples], **more)(paid)
        key = name or function.__name__
        VALIDATORS[key] = Validator(function, REWARDS[key], tuple(examples))
        return function

    return register
