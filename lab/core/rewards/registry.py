"""All rewards by name, the choice of some of them, and the one function that scores an answer.

A reward is a pure function for one completion. It asks for what it needs by name: its positional
parameters are `completion` and any column of the data (`answer`, ...), its keyword-only ones are a
person's knobs, its docstring is the help text:

    @reward("Short", max_score=1.0, examples=[("yes", {}, 1.0), ("y" * 500, {}, 0.0)])
    def short(completion: str, *, limit: Annotated[int, Knob("Limit", "Characters.", 1)] = 200):
        '''1 when the answer is no longer than the limit, else 0.'''
        return float(len(completion) <= limit)

A number is a judgement, and 0 says "worthless". None says "cannot be judged". An exception or a
result that is no number is an error: it is recorded as text, and never becomes a score.
"""

import inspect
import math
import typing
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from lab.core.knobs import Knob, problem_with, read, settle

WEIGHT = Knob("Weight", "How much it counts in the sum. 0 watches it without training on it.",
              low=0, step=0.1)
KEPT_ERRORS = 100  # rows with their text; completions are long and a broken reward fails on each

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

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the data that it cannot do without."""
        return tuple(name for name in self.needs if name != "completion")


REWARDS: dict[str, Reward] = {}


def reward(label: str, *, max_score: float, name: str = "",
           examples: Sequence[Example] = ()) -> Callable[[Callable], Callable]:
    """Registers a function as a reward and returns it unchanged.

    `name` replaces the function's own where that would hide a builtin. `examples` serve the docs,
    the presets of the try-it box and the tests. Raises TypeError for a signature that cannot be
    filled by name, ValueError for a name that is taken.
    """

    def register(function: Callable) -> Callable:
        key = name or function.__name__
        if key in REWARDS:
            raise ValueError(f"There is a reward {key!r} already.")
        needs, knobs = _read_signature(key, function)
        text = " ".join((function.__doc__ or "").split())
        REWARDS[key] = Reward(key, label, text, function, needs, knobs, max_score, tuple(examples))
        return function

    return register


def _read_signature(key: str, function: Callable) -> tuple[tuple[str, ...], dict[str, Parameter]]:
    hints = typing.get_type_hints(function, include_extras=True)
    needs, knobs = [], {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            kind, *extras = typing.get_args(hints.get(parameter.name)) or (None,)
            look = next((extra for extra in extras if isinstance(extra, Knob)), None)
            if look is None or kind not in (bool, int, float, str):
                raise TypeError(f"{key}: the parameter {parameter.name!r} must be annotated "
                                "Annotated[bool|int|float|str, Knob(...)].")
            if parameter.default is parameter.empty or parameter.name == "weight":
                raise TypeError(f"{key}: the parameter {parameter.name!r} needs a default value, "
                                "and any name but 'weight', which every reward has.")
            knobs[parameter.name] = Parameter(look, parameter.default, kind)
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{key}: a reward names what it needs; {parameter} does not.")
        else:
            needs.append(parameter.name)
    return tuple(needs), knobs


def reward_named(name: str) -> Reward:
    """Raises ValueError, naming those that exist."""
    if name not in REWARDS:
        raise ValueError(_unknown_reward(name))
    return REWARDS[name]


def _unknown_reward(name: str) -> str:
    return f"There is no reward {name!r}. There are {', '.join(REWARDS)}."


@dataclass(frozen=True)
class Chosen:
    """A reward that is switched on, with its weight and those parameters that were set.

    `params` may be given as a mapping; it is kept as sorted pairs, so that a choice can be hashed.
    """

    name: str
    weight: float = 1.0
    params: Mapping[str, Value] | tuple[tuple[str, Value], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", tuple(sorted(dict(self.params).items())))

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"name": self.name, "weight": self.weight, "params": dict(self.params)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Chosen":
        """The inverse of `to_dict`; weight and params may be missing. Raises ValueError where the
        form is wrong; whether the values make sense is for `check_chosen` to say."""
        if not isinstance(stored, Mapping) or not isinstance(stored.get("name"), str):
            raise ValueError('A reward must be written {"name": ..., "weight": ..., "params": {}}, '
                             f"not {stored!r}.")
        unknown = sorted(set(stored) - {"name", "weight", "params"})
        if unknown:
            raise ValueError(f"The reward {stored['name']!r} has an entry {unknown[0]!r} too many. "
                             "There are name, weight and params.")
        params = stored.get("params", {})
        if not isinstance(params, Mapping):
            raise ValueError(f"The params of {stored['name']!r} must be written "
                             f'{{"name": value}}, not {params!r}.')
        return cls(stored["name"], stored.get("weight", 1.0), params)


def parse_chosen(text: str) -> tuple[Chosen, ...]:
    """Reads `NAME[:weight=W][:param=V],...`.

    Raises ValueError with a sentence that says what exists or is expected. Each entry is checked
    by itself; ask `check_chosen` whether they make sense together.
    """
    return tuple(_parse_one(entry) for entry in text.split(","))


def _parse_one(entry: str) -> Chosen:
    name, *assignments = (part.strip() for part in entry.split(":"))
    knobs = reward_named(name).knobs
    given: dict[str, Value] = {}
    for assignment in assignments:
        key, equals, value = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise ValueError(f"{assignment!r} after {name!r} must be written parameter=value.")
        if key in given:
            raise ValueError(f"{key!r} is given twice for {name!r}.")
        if key != "weight" and key not in knobs:
            raise ValueError(_unknown_parameter(name, key))
        kind = float if key == "weight" else knobs[key].kind
        try:
            given[key] = unquote(value) if kind is str else read(value, kind)
        except ValueError as error:
            raise ValueError(f"{key!r} of {name!r} {error}.") from None
    chosen = Chosen(name, given.pop("weight", 1.0), given)
    _refuse_problems(chosen)
    return chosen


def format_chosen(chosen: Sequence[Chosen]) -> str:
    """The text that `parse_chosen` reads as the same choice."""
    entries = []
    for one in chosen:
        weight = [("weight", one.weight)] if one.weight != 1 else []
        entries.append(":".join([one.name, *(f"{key}={_format_value(value)}"
                                             for key, value in [*weight, *one.params])]))
    return ",".join(entries)


def _format_value(value: Value) -> str:
    if isinstance(value, str):
        return quote(value, safe="")  # a comma or a colon would end the entry
    return str(value).lower()


def check_chosen(chosen: Sequence[Chosen]) -> list[str]:
    """What keeps these rewards from being trained on, a sentence each; empty when nothing does."""
    if not chosen:
        return [f"No reward is chosen. There are {', '.join(REWARDS)}."]
    problems = [problem for one in chosen for problem in _problems_of(one)]
    names = [one.name for one in chosen]
    problems += [f"{name!r} is chosen {names.count(name)} times. Choose it once, with more weight."
                 for name in dict.fromkeys(names) if names.count(name) > 1]
    if all(one.weight == 0 for one in chosen):
        problems.append("All weights are 0, so there is nothing to learn from. "
                        "Give one reward a weight above 0.")
    return problems


def _problems_of(chosen: Chosen) -> list[str]:
    name = chosen.name
    if name not in REWARDS:
        return [_unknown_reward(name)]
    wrong = problem_with(chosen.weight, float, WEIGHT)
    problems = [f"'weight' of {name!r} {wrong}."] if wrong else []
    for key, value in chosen.params:
        known = REWARDS[name].knobs.get(key)
        if known is None:
            problems.append(_unknown_parameter(name, key))
        elif wrong := problem_with(value, known.kind, known.knob):
            problems.append(f"{key!r} of {name!r} {wrong}.")
    return problems


def _refuse_problems(chosen: Chosen) -> None:
    problems = _problems_of(chosen)
    if problems:
        raise ValueError(problems[0])


def _unknown_parameter(name: str, key: str) -> str:
    there = ["weight", *REWARDS[name].knobs]
    return f"{name!r} has no parameter {key!r}. It has {', '.join(there)}."


@dataclass(frozen=True)
class Scored:
    """One completion under several rewards.

    `rewards` holds each raw score, before its weight, None where there is none; `errors` says why,
    for those that failed. `total` is the weighted sum of the scores there are, None if there are
    none: just what the trainer learns from.
    """

    rewards: dict[str, float | None]
    errors: dict[str, str]
    total: float | None


def score(completion: str, columns: Mapping[str, Any], chosen: Sequence[Chosen]) -> Scored:
    """Scores one completion: in training, on the command line, in the try-it box, in comparisons.

    `columns` is the completion's row of the data. What goes wrong with this row is in `errors`;
    a choice that no row could be scored with (an unknown name, a bad parameter) is a ValueError.
    """
    rewards: dict[str, float | None] = {}
    errors: dict[str, str] = {}
    for one in chosen:
        _refuse_problems(one)
        rewards[one.name], error = _judge(completion, columns, one)
        if error:
            errors[one.name] = error
    return Scored(rewards, errors, total_of(rewards, chosen))


def total_of(rewards: Mapping[str, float | None], chosen: Sequence[Chosen]) -> float | None:
    """The weighted sum of the scores there are; None if there are none."""
    judged = [one.weight * rewards[one.name] for one in chosen if rewards[one.name] is not None]
    return sum(judged) if judged else None


def _judge(completion: str, columns: Mapping[str, Any],
           chosen: Chosen) -> tuple[float | None, str | None]:
    """(score, error). Both are None where the reward says so, and where a column it needs is empty
    in this row."""
    known = REWARDS[chosen.name]
    for column in known.columns:
        if column not in columns:
            there = ", ".join(columns) or "none"
            return None, f"{known.name} needs the column {column!r}; this row has: {there}."
        if columns[column] is None:
            return None, None
    available = {**columns, "completion": completion}
    params = {key: settle(value, known.knobs[key].kind) for key, value in chosen.params}
    try:
        result = known.function(*(available[name] for name in known.needs), **params)
        if result is None:
            return None, None
        if not isinstance(result, Real):
            return None, f"{known.name} returned {type(result).__name__}, not a number."
        number = float(result)
    except Exception as error:  # whatever a reward raises is data about this row, not our crash
        return None, f"{known.name} failed: {type(error).__name__}: {error}"
    if not math.isfinite(number):
        return None, f"{known.name} returned {number}, not a finite number."
    return number, None


class RowError(NamedTuple):
    """What went wrong with one completion."""

    error: str
    completion: str


class BatchReward:
    """One chosen reward in the shape that TRL calls: lists in, a list out.

    A class and not a closure, so that it can be pickled into a child process. `__name__` is the
    reward's, since TRL makes its metric keys from it. The weight is not applied: TRL has it from
    its `reward_weights`. A row that fails gets None, which TRL leaves out of the sum;
    `error_count` counts such rows, `errors` keeps the last ones.
    """

    def __init__(self, chosen: Chosen) -> None:
        _refuse_problems(chosen)  # now, and not at the first step
        self.chosen = chosen
        self.__name__ = chosen.name
        self.error_count = 0
        self.errors: deque[RowError] = deque(maxlen=KEPT_ERRORS)

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[str | Sequence[Mapping[str, Any]]],
        completion_ids: Sequence[Sequence[int]] | None = None,
        trainer_state: Any = None,
        log_extra: Callable[[str, list], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One score or None for each of the N completions: text, or a list of messages that ends
        with the answer. Those of `columns` that are lists hold N values each."""
        # Not all that comes by name is a column: TRL adds helpers of its own, version by version.
        columns = {key: values for key, values in columns.items() if isinstance(values, list)}
        scores = []
        failed = 0
        for row, completion in enumerate(completions):
            text = _text_of(completion)
            scored = score(text, {key: values[row] for key, values in columns.items()},
                           [self.chosen])
            scores.append(scored.rewards[self.chosen.name])
            for error in scored.errors.values():
                failed += 1
                self.errors.append(RowError(error, text))
        self.error_count += failed
        if log_metric is not None:
            log_metric(f"reward_errors/{self.__name__}", failed)
        return scores


def _text_of(completion: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(completion, str):
        return completion
    return completion[-1]["content"] or ""  # a message that only calls a tool has no content
