"""The rewards of a run: which, with what weight, kind and parameters; as text and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from urllib.parse import quote, unquote

from lab.core.knobs import Knob, problem_with, read
from lab.core.rewards.known import known_with, reward_named
from lab.core.rewards.registry import GOAL, KINDS, REWARDS, SHAPE, Reward, Value

WEIGHT = Knob("Weight", "How much it counts in the sum. 0 watches it without training on it.",
              low=0, high=1e6, step=0.1)


@dataclass(frozen=True)
class Chosen:
    """A reward that is switched on, with its weight and those parameters that were set.

    `params` may be given as a mapping; it is kept as sorted pairs, so that a choice can be hashed.
    `kind` is empty where it is the reward's own. `file` is where a reward of one's own comes from:
    the `rewards.file` of the settings, which bind their choice to it.
    """

    name: str
    weight: float = 1.0
    params: Mapping[str, Value] | tuple[tuple[str, Value], ...] = ()
    kind: str = ""
    file: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", tuple(sorted(dict(self.params).items())))

    @cached_property
    def reward(self) -> Reward:
        """What is known about it. Raises ValueError where there is no such reward."""
        return reward_named(self.name, self.file)

    @property
    def takes_as(self) -> str:
        """GOAL or SHAPE, as this run takes it."""
        return self.kind or self.reward.kind

    @property
    def best(self) -> float:
        """The highest raw score that the reward gives."""
        return self.reward.max_score

    def bound_to(self, file: str) -> "Chosen":
        """The same choice, of this file's rewards where it is none of the lab's."""
        file = "" if self.name in REWARDS else file
        return self if self.file == file else replace(self, file=file)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it. The kind always stands there, so that a record keeps what a run meant
        by it when the reward's own changes."""
        kind = {"kind": self.takes_as} if self.kind or self.name in known_with(self.file) else {}
        return {"name": self.name, "weight": self.weight, "params": dict(self.params), **kind}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], file: str = "") -> "Chosen":
        """The inverse of `to_dict`; all but the name may be missing. Raises ValueError where the
        form is wrong; whether the values make sense is for `check_chosen` to say."""
        if not isinstance(stored, Mapping) or not isinstance(stored.get("name"), str):
            raise ValueError('A reward must be written {"name": ..., "weight": ..., "params": {}}, '
                             f"not {stored!r}.")
        unknown = sorted(set(stored) - {"name", "weight", "params", "kind"})
        if unknown:
            raise ValueError(f"The reward {stored['name']!r} has an entry {unknown[0]!r} too many. "
                             "There are name, weight, params and kind.")
        params = stored.get("params", {})
        if not isinstance(params, Mapping):
            raise ValueError(f"The params of {stored['name']!r} must be written "
                             f'{{"name": value}}, not {params!r}.')
        kind = stored.get("kind", "")
        known = known_with(file).get(stored["name"])
        own = known.kind if known else None
        return cls(stored["name"], stored.get("weight", 1.0), params, "" if kind == own else kind
                   ).bound_to(file)


def parse_chosen(text: str, file: str = "") -> tuple[Chosen, ...]:
    """Reads `NAME[:weight=W][:kind=goal|shape][:param=V],...`, of the rewards of a file too.

    Raises ValueError with a sentence that says what exists or is expected. Each entry is checked
    by itself; ask `check_chosen` whether they make sense together.
    """
    return tuple(_parse_one(entry, file) for entry in text.split(","))


def _parse_one(entry: str, file: str) -> Chosen:
    name, *assignments = (part.strip() for part in entry.split(":"))
    known = reward_named(name, file)
    knobs = known.knobs
    given: dict[str, Value] = {}
    for assignment in assignments:
        key, equals, value = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise ValueError(f"{assignment!r} after {name!r} must be written parameter=value.")
        if key in given:
            raise ValueError(f"{key!r} is given twice for {name!r}.")
        if key not in ("weight", "kind") and key not in knobs:
            raise ValueError(_unknown_parameter(known, key))
        kind = {"weight": float, "kind": str}.get(key) or knobs[key].kind
        try:
            given[key] = (unquote(value, errors="surrogatepass") if kind is str
                          else read(value, kind))
        except ValueError as error:
            raise ValueError(f"{key!r} of {name!r} {error}.") from None
    weight, kind = given.pop("weight", 1.0), given.pop("kind", "")
    chosen = Chosen(name, weight, given, "" if kind == known.kind else kind).bound_to(file)
    refuse_problems(chosen)
    return chosen


def format_chosen(chosen: Sequence[Chosen]) -> str:
    """The text that `parse_chosen` reads as the same choice."""
    entries = []
    for one in chosen:
        own = [("weight", one.weight)] if one.weight != 1 else []
        own += [("kind", one.kind)] if one.kind else []
        entries.append(":".join([one.name, *(f"{key}={_format_value(value)}"
                                             for key, value in [*own, *one.params])]))
    return ",".join(entries)


def _format_value(value: Value) -> str:
    if isinstance(value, str):
        # A comma or a colon would end the entry.
        return quote(value, safe="", errors="surrogatepass")
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
    try:
        known_knobs = chosen.reward.knobs
    except ValueError as error:
        return [str(error)]
    wrong = problem_with(chosen.weight, float, WEIGHT)
    problems = [f"'weight' of {name!r} {wrong}."] if wrong else []
    if chosen.kind not in ("", *KINDS):
        problems.append(f"'kind' of {name!r} must be {GOAL} or {SHAPE}, not {chosen.kind!r}.")
    for key, value in chosen.params:
        known = known_knobs.get(key)
        if known is None:
            problems.append(_unknown_parameter(chosen.reward, key))
        elif wrong := problem_with(value, known.kind, known.knob):
            problems.append(f"{key!r} of {name!r} {wrong}.")
    if not problems and chosen.reward.refuses:
        defaults = {key: known.default for key, known in known_knobs.items()}
        if wrong := chosen.reward.refuses(**defaults | dict(chosen.params)):
            problems.append(f"{name!r} {wrong}.")
    return problems


def refuse_problems(chosen: Chosen) -> None:
    """Raises ValueError with the first thing that keeps it from being used."""
    problems = _problems_of(chosen)
    if problems:
        raise ValueError(problems[0])


def _unknown_parameter(known: Reward, key: str) -> str:
    there = ["weight", "kind", *known.knobs]
    return f"{known.name!r} has no parameter {key!r}. It has {', '.join(there)}."
