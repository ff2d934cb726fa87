"""`preflight`: what the base model's answers tell of a run, before it is started."""

import argparse
import shlex
from typing import Any

from lab.commands.settings import add_rewards_file, add_settings, chosen_settings
from lab.commands.shown import DONE, FAILED, Line, bar, complain, print_json
from lab.core.problems import BadSettings
from lab.core.rewards.chosen import Chosen, format_chosen
from lab.core.settings import Settings
from lab.services.lab import Lab
from lab.services.one_job import Cancelled
from lab.services.preflight import LEAST, MOST, PATIENCE, WHAT, preflight


def add(command) -> None:
    sub = command("preflight", run, "Let the base model answer some questions, and tell what that "
                  "means for a run: dead groups, each reward's signal, time, memory, advice.")
    add_settings(sub)
    add_rewards_file(sub)
    sub.add_argument("--n", type=int, metavar="N", help="questions (default: "
                     f"{LEAST}, and up to {MOST} while that takes less than {PATIENCE:.0f} s)")
    sub.add_argument("--seed", type=int, default=0, help="another one draws other answers")


def run(options: argparse.Namespace) -> int:
    if options.n is not None and options.n < 1:
        raise BadSettings("--n must be at least 1.")
    settings, line = chosen_settings(options), Line(options.json)
    try:
        result = preflight(
            Lab.at(options.root, options.allow_code), settings, options.n, options.seed,
            progress=lambda now: line.show(
                f"{bar(now.done, now.of)} answers" if now.of else f"{now.phase} ..."))
    except KeyboardInterrupt:
        line.say("")
        return complain(Cancelled(WHAT), FAILED)
    if options.json:
        print_json(result)
    else:
        line.say("")
        print("\n".join(told(result, settings)))
    return DONE


def told(found: dict[str, Any], settings: Settings) -> list[str]:
    """The result in lines for a terminal."""
    rates = [rate for rate in found["pass_rates"] if rate is not None]
    lines = [f"{found['prompts']} questions, {found['answers']} answers of the base model, "
             f"{found['seconds']:.0f} s"]
    if rates:
        lines.append(f"right            {sum(rates) / len(rates):.0%} of the answers; "
                     f"{sum(rate == 0 for rate in rates)} questions never, "
                     f"{sum(rate == 1 for rate in rates)} always")
    dead = ", ".join(f"{share:.0%} of {size}" + (" (yours)" if int(size) == found["group_size"]
                                                else "")
                     for size, share in found["dead"].items() if share is not None)
    lines.append(f"dead groups      {dead}")
    if found["dead_right"] is not None:
        lines.append(f"                 {found['dead_right']:.0%} all right, "
                     f"{found['dead_wrong']:.0%} all wrong")
    tokens = found["tokens"]
    lines += [f"answers          {tokens['mean']:.0f} tokens, 95 % within {tokens['p95']:.0f}; "
              f"{found['cut']:.0%} cut at {settings.train.max_completion_length}; "
              f"{found['distinct']:.0%} distinct within a question"]
    lines += [f"  {name:14} mean {_plain(row['mean'])}, fired {_percent(row['fired'])}, "
              f"{_percent(row['signal_share'])} of the signal"
              for name, row in found["rewards"].items()]
    for one in found["never_fired"]:
        lines += [f"{one['reward']} never fired.",
                  f"  answered: {' '.join(one['answered'].split())[:200]!r}",
                  f"  wanted:   {' '.join(one['wanted'].split())[:200]!r}"]
    lines += [f"error: {name}: {text}" for name, text in found["errors"].items()]
    minutes = found["run_seconds"] / 60
    memory = "" if found["memory_gb"] is None else f", {found['memory_gb']:.1f} GB"
    lines.append(f"a run            {found['seconds_per_step']:.2f} s a step, "
                 f"{minutes:.1f} minutes for {settings.train.max_steps} steps{memory}")
    for one in found["advice"]:
        options = [f"--set {shlex.quote(assignment(key, value))}"
                   for key, value in one["set"].items()]
        lines += [f"advice           {one['what']} {one['figure']}", f"  {' '.join(options)}"]
    return lines


def assignment(key: str, value: Any) -> str:
    """A setting as `--set` reads it."""
    if key == "rewards.chosen":
        value = format_chosen([Chosen.from_dict(one) for one in value])
    return f"{key}={str(value).lower() if isinstance(value, bool) else value}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
