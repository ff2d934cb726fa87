"""A rule of the doctor, the finding it makes, and the list of all rules."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lab.core.insight.doctor.evidence import Evidence

ERROR, WARNING, INFO = "error", "warning", "info"
LEVELS = (ERROR, WARNING, INFO)  # the worst first


@dataclass(frozen=True)
class Finding:
    """One thing a person should know, with the figure behind it and what to do.

    `since` is the step at which it was first seen. `set` are changed settings that would cure it,
    as plain JSON values ({"train.beta": 0.04}); empty where only a person can. With `go_back` the
    run is spoilt from `since` on: what is to be kept is a checkpoint from before, and `back_to` is
    the step of the newest that there is.
    """

    level: str
    what: str
    figure: str
    next: str
    set: dict[str, Any] = field(default_factory=dict)
    go_back: bool = False
    back_to: int | None = None
    rule: str = ""
    since: int = 0
    rank: int = 0  # among those of its level: 0 before 1

    def to_dict(self) -> dict[str, Any]:
        order = ("rule", "level", "since", "what", "figure", "next", "set", "back_to")
        told = asdict(self)
        return {name: told[name] for name in order}


@dataclass(frozen=True)
class Rule:
    """One rule: its id, its function, what it means (the function's docstring), when it fires, and
    where its threshold comes from."""

    id: str
    look: Callable[[Evidence], Finding | None]
    means: str
    fires: str
    source: str
    explains: tuple[str, ...] = ()  # rules whose findings are only consequences of this one's

    def __call__(self, evidence: Evidence) -> Finding | None:
        found = self.look(evidence)
        return replace(found, rule=self.id) if found else None


# In which they are told: what spoils a run first, and what is only a pity last.
ORDER = ("non_finite", "exploding", "never_fires", "reward_errors", "shape_only", "length_collapse",
         "length_growth", "held_out_gap", "dead_wrong", "cut", "one_reward_dominates",
         "diversity_collapse", "kl_high", "flat", "slow_reward", "dead_right",
         "cut_before")
RULES: dict[str, Rule] = {}  # filled by the files beside this one


def rule(fires: str, source: str,
         explains: tuple[str, ...] = ()) -> Callable[[Callable], Callable]:
    """Registers a function under its own name; `fires` is the threshold in words."""

    def register(function: Callable) -> Callable:
        means = " ".join(function.__doc__.split())
        RULES[function.__name__] = Rule(function.__name__, function, means, fires, source, explains)
        return function

    return register


def shown(value: float) -> str:
    """A figure in few digits, as the page and the terminal show it."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
