"""The lab's rewards by name, and what a reward is.

A reward is a pure function for one completion. It asks for what it needs by name: its positional
parameters are `completion` and any column of the data (`answer`, ...), its keyword-only ones are a
person's knobs, its docstring is the help text. A column with a default is one that it can do
without; `completion_tokens` is the answer's length in tokens, where a tokenizer counted them:

    @reward("Short", max_score=1.0, kind=SHAPE, examples=[("yes", {}, 1.0), ("y" * 500, {}, 0.0)])
    def short(completion: str, *, limit: Annotated[int, Knob("Limit", "Characters.", 1)] = 200):
        '''1 when the answer is no longer than the limit, else 0.'''
        return float(len(completion) <= limit)

A number is a judgement, and 0 says "worthless". None says "cannot be judged". An exception or a
result that is no number is an error: it is recorded as text, and never becomes a score.

A reward that is quicker for many answers at once takes lists, as TRL's reward functions do: its
parameter is `completions`, it ends with `**columns`, and an entry that is a `CannotScore` is an
error of that answer.

Every reward is a goal (is it right) or a shape (is it well made). Goals say whether the model
learnt what was meant: the verdict, the best checkpoint and the doctor go by them. Shapes only help
on the way. A person can change the kind for a run.
"""

import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lab.core.knobs import Knob

KINDS = GOAL, SHAPE = "goal", "shape"
GIVEN = ("completion", "completion_tokens")  # not of the data: the answer, and its length in tokens
# What TRL hands to a function of lists beside the columns of the data.
FROM_TRL = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric",
            "environments")
BUILT_IN = "built in"

Value = bool | int | float | str
Example = tuple[str, dict[str, str], float | None]  # completion, columns, expected score


class Parameter(NamedTuple):
    """One keyword-only parameter of a reward: how it looks, what it is, and of which type."""

    knob: Knob
    default: Value
    kind: type


@dataclass(frozen=True)
class Reward:
    """One reward function and all that is known about it."""

    name: str
    label: str
    help: str
    function: Callable[..., float | None]
    needs: tuple[str, ...]  # its positional parameters, `completion` among them
    knobs: dict[str, Parameter]
    max_score: float
    examples: tuple[Example, ...]
    kind: str  # GOAL or SHAPE, unless a run says otherwise
    fallbacks: dict[str, Any] = field(default_factory=dict)  # of those that it can do without
    batch: bool = False  # takes lists, see above
    runs_code: bool = False  # runs code that is not the lab's, see permission.py
    remote: bool = False  # asks another machine: slow, and may cost
    source: str = BUILT_IN  # or the name of the file it comes from
    package: str = ""  # what must be installed for it, by the name that pip knows
    refuses: Callable[..., str | None] | None = None  # its parameters together -> what is wrong

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the data that it cannot do without."""
        return tuple(name for name in self.needs
                     if name not in (*GIVEN, *FROM_TRL) and name not in self.fallbacks)


REWARDS: dict[str, Reward] = {}


def reward(label: str, *, max_score: float, kind: str = GOAL, name: str = "",
           examples: Sequence[Example] = (), runs_code: bool = False, remote: bool = False,
           package: str = "", refuses: Callable[..., str | None] | None = None
           ) -> Callable[[Callable], Callable]:
    """Registers a function as a reward and returns it unchanged.

    `kind` is GOAL or SHAPE. `name` replaces the function's own where that would hide a builtin.
    `examples` serve the docs, the presets of the try-it box and the tests. `package` is what must
    be installed for it. `refuses` takes its parameters by name and gives half a sentence ("has a
    pattern that ...") where they cannot be used, or None. Raises TypeError for a
    signature that cannot be filled by name, ValueError for a name that is taken or another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"{label}: a reward is a {GOAL} or a {SHAPE}, not {kind!r}.")

    def register(function: Callable) -> Callable:
        key = name or function.__name__
        if key in REWARDS:
            raise ValueError(f"There is a reward {key!r} already.")
        needs, fallbacks, knobs = _read_signature(key, function)
        text = " ".join((function.__doc__ or "").split())
        REWARDS[key] = Reward(key, label, text, function, needs, knobs, max_score, tuple(examples),
                              kind, fallbacks, "completions" in needs, runs_code, remote,
                              package=package, refuses=refuses)
        return function

    return register


def _read_signature(key: str, function: Callable) -> tuple[
        tuple[str, ...], dict[str, Any], dict[str, Parameter]]:
    """(what it asks for, what to take where that is not there, its knobs)."""
    hints = typing.get_type_hints(function, include_extras=True)
    needs, fallbacks, knobs = [], {}, {}
    parameters = inspect.signature(function).parameters
    batch = "completions" in parameters
    if batch and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise TypeError(f"{key}: what takes `completions` ends with `**columns`, for what else "
                        "comes by name.")
    for parameter in parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            kind, *extras = typing.get_args(hints.get(parameter.name)) or (None,)
            look = next((extra for extra in extras if isinstance(extra, Knob)), None)
            if look is None or kind not in (bool, int, float, str):
                raise TypeError(f"{key}: the parameter {parameter.name!r} must be annotated "
                                "Annotated[bool|int|float|str, Knob(...)].")
            if parameter.default is parameter.empty or parameter.name in ("weight", "kind"):
                raise TypeError(f"{key}: the parameter {parameter.name!r} needs a default value, "
                                "and any name but 'weight' and 'kind', which every reward has.")
            knobs[parameter.name] = Parameter(look, parameter.default, kind)
        elif batch and parameter.kind is parameter.VAR_KEYWORD:
            pass
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{key}: a reward names what it needs; {parameter} does not.")
        else:
            needs.append(parameter.name)
            if parameter.default is not parameter.empty:
                fallbacks[parameter.name] = parameter.default
    return tuple(needs), fallbacks, knobs
