"""One setting's facts (label, help, range, choices), and how its values are checked and read."""

import math
import typing
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from typing import Any

LARGEST = 2**1000  # a whole number beyond it is no float, and nothing that a knob allows


@dataclass(frozen=True)
class Knob:
    """How one setting looks and what it may be.

    `low` and `high` are inclusive; `above` is an exclusive lower bound. `choices` lists what is
    allowed, or what is offered where the list is `open`. `refuses` says of text or of a list what
    is wrong with it. `advanced` settings are folded away in the form.
    """

    label: str
    help: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple | None = None
    advanced: bool = False
    above: float | None = None
    lines: int = 1  # height of a text field
    open: bool = False
    refuses: Callable[[Any], str | None] | None = None  # -> half a sentence, or None


def knob(default: Any, label: str, help: str, **look: Any) -> Any:
    """A dataclass field that carries its `Knob`."""
    return field(default=default, metadata={"knob": Knob(label, help, **look)})


@dataclass(frozen=True)
class Setting:
    """One field of a settings group, with everything that derives from it."""

    group: str
    name: str
    kind: type
    default: Any
    knob: Knob

    @property
    def key(self) -> str:
        return f"{self.group}.{self.name}"


def settings_of(group: str, cls: type) -> list[Setting]:
    """The settings of one group, in the order in which they are written."""
    hints = typing.get_type_hints(cls)
    return [
        Setting(group, f.name, hints[f.name], f.default, knob_of(f))
        for f in fields(cls)
        if "knob" in f.metadata
    ]


def knob_of(f: Field) -> Knob:
    return f.metadata["knob"]


def is_list(kind: Any) -> bool:
    return typing.get_origin(kind) is tuple


def problem_with(value: Any, kind: Any, look: Knob) -> str | None:
    """Why `value` cannot be this setting, as half a sentence ("must be ..."), or None."""
    if kind is bool:
        return None if isinstance(value, bool) else "must be true or false"
    if kind is str:
        if not isinstance(value, str):
            return "must be text"
        return _problem_with_choice(value, look) or (look.refuses and look.refuses(value))
    if is_list(kind):
        if not isinstance(value, tuple | list) or not all(isinstance(v, str) for v in value):
            return "must be a list of names"
        bad = [v for v in value if look.choices and v not in look.choices and not look.open]
        if bad:
            return f"has no choice {bad[0]!r}; there are {', '.join(look.choices)}"
        if not value:
            return "needs at least one entry"
        return look.refuses(value) if look.refuses else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "must be a number"
    if isinstance(value, float) and not math.isfinite(value):
        return f"must be a finite number, not {value}"
    if kind is int and value != int(value):
        return f"must be a whole number, not {value}"
    if look.choices:
        return _problem_with_choice(value, look)
    if look.above is not None and value <= look.above:
        return f"must be above {plain(look.above)}, not {plain(value)}"
    if look.low is not None and value < look.low:
        return f"must be at least {plain(look.low)}, not {plain(value)}"
    if look.high is not None and value > look.high:
        return f"must be at most {plain(look.high)}, not {plain(value)}"
    return None


def _problem_with_choice(value: Any, look: Knob) -> str | None:
    if look.choices is None or value in look.choices:
        return None
    return f"has no choice {value!r}; there are {', '.join(map(str, look.choices))}"


def read(text: str, kind: Any) -> Any:
    """A value from text typed on a command line. Raises ValueError with half a sentence."""
    text = text.strip() if kind is not str else text
    if kind is str:
        return text
    if kind is bool:
        words = {"true": True, "yes": True, "on": True, "1": True,
                 "false": False, "no": False, "off": False, "0": False}
        if text.lower() not in words:
            raise ValueError(f"must be true or false, not {text!r}")
        return words[text.lower()]
    if is_list(kind):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        return int(text) if kind is int else float(text)
    except ValueError:
        kind_name = "a whole number" if kind is int else "a number"
        raise ValueError(f"must be {kind_name}, not {text!r}") from None


def settle(value: Any, kind: Any) -> Any:
    """The same value in the setting's own type: 8.0 from a slider is 8, a JSON list is a tuple."""
    if is_list(kind) and isinstance(value, list):
        return tuple(value)
    if kind in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, int):
            return float(value) if kind is float and abs(value) < LARGEST else value
        return int(value) if kind is int and math.isfinite(value) and value == int(value) else value
    return value


def plain(number: float) -> str:
    """A number as people write it: 8, 0.5, 5e-06."""
    if isinstance(number, int) and abs(number) >= LARGEST:
        return f"a number of {len(str(abs(number)))} digits"
    return str(int(number)) if float(number).is_integer() and abs(number) < 1e15 else f"{number:g}"
