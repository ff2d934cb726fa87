"""`rewards`: every reward there is, and those of a file of one's own, which is never run for it."""

import argparse

from lab.commands.settings import add_rewards_file, rewards_file
from lab.commands.shown import DONE, print_json
from lab.core.knobs import plain
from lab.core.rewards.known import known_with
from lab.core.rewards.registry import Parameter, Reward


def add(command) -> None:
    sub = command("rewards", run, "List the rewards, and those of a file of your own.")
    add_rewards_file(sub)


def run(options: argparse.Namespace) -> int:
    known = known_with(rewards_file(options))
    if options.json:
        print_json({"rewards": [described(one) for one in known.values()]})
        return DONE
    for one in known.values():
        about = [one.kind, f"at most {plain(one.max_score)}"]
        about += [f"needs {', '.join(one.columns)}"] if one.columns else []
        about += [f"from {one.source}"]
        print(f"{one.name}  ({', '.join(about)})\n    {one.label}. {one.help}".rstrip())
        for name, parameter in one.knobs.items():
            print(f"    {name}={_text(parameter.default)}  {parameter.knob.label}. "
                  f"{parameter.knob.help}".rstrip())
    return DONE


def described(one: Reward) -> dict:
    """One reward as JSON. `needs` is what it takes by name: `completion` and columns of the data;
    `params` are the person's, each with its type, default and what it may be."""
    return {"name": one.name, "label": one.label, "kind": one.kind, "max_score": one.max_score,
            "needs": list(one.needs),
            "params": {name: _parameter(p) for name, p in one.knobs.items()},
            "help": one.help, "source": one.source}


def _parameter(parameter: Parameter) -> dict:
    look = parameter.knob
    bounds = {"low": look.low, "above": look.above, "high": look.high,
              "choices": look.choices and list(look.choices)}
    return {"type": parameter.kind.__name__, "default": parameter.default, "label": look.label,
            "help": look.help, **{key: value for key, value in bounds.items() if value is not None}}


def _text(value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
