"""What commands share: exit statuses, the progress line, and how a run is told in words."""

import argparse
import json
import math
import shlex
import sys
from contextlib import AbstractContextManager
from typing import Any

from lab.core.insight import held_out
from lab.core.insight.doctor import Finding
from lab.core.insight.goal import HELD_OUT
from lab.core.problems import LabError
from lab.core.rewards.chosen import Chosen, format_chosen
from lab.services.data.table import watched
from lab.services.runs import BEST, NEWEST, Run

DONE, FAILED, WRONG_USE = 0, 1, 2


def print_json(body: Any) -> None:
    """The last line of `--json`: NaN and infinity, which JSON does not have, are null."""
    print(json.dumps(_finite(body), allow_nan=False))


def _finite(body: Any) -> Any:
    if isinstance(body, float):
        return body if math.isfinite(body) else None
    if isinstance(body, dict):
        return {key: _finite(value) for key, value in body.items()}
    return [_finite(value) for value in body] if isinstance(body, list | tuple) else body


def complain(error: LabError, code: int) -> int:
    print(f"error: {error.problem}", file=sys.stderr)
    return code


def add_checkpoint(sub: argparse.ArgumentParser) -> None:
    """The option that `Run.step_at` reads."""
    sub.add_argument("--checkpoint", metavar="STEP", help=f"a step, or '{BEST}' on the held-out "
                     f"questions that were asked while it trained (default: '{NEWEST}')")


def better_one(run: Run, asked: str | None, step: int | None) -> str:
    """What to say where nobody named a checkpoint, and that of this step, which was the newest one
    then, is not the best; or ""."""
    if asked or run.best is None or step == run.best.step:
        return ""
    return (f"This is the newest checkpoint. While it trained, another did better on held-out "
            f"questions: {run.best.title}. Take it with --checkpoint {BEST}.")


def progress(run: Run, log) -> str:
    if not run.step:
        return f"{run.status.capitalize() if run.is_paused else run.phase or 'Starting'} ..."
    reward = log.newest("reward/weighted")
    right = log.newest("goal/reached")
    per_step = log.mean("seconds/step", -10)
    left = run.seconds_left()
    parts = [bar(run.step, run.steps)]
    parts += [f"right {right:.0%}"] if right is not None else []
    parts += [f"reward {reward:.3f}"] if reward is not None else []
    parts += [told] if (told := held_out.moved(dict(log.held_out))) else []
    parts += [f"{per_step:.2f} s a step"] if per_step is not None else []
    parts += [f"{int(left // 60)}:{int(left % 60):02d} left"] if left is not None else []
    parts += [run.status] if run.is_paused else []
    return "  ".join(parts)


def bar(done: int, of: int) -> str:
    full = int(24 * done / of)
    return f"[{'#' * full}{'.' * (24 - full)}] {done}/{of}"


def reading_told() -> AbstractContextManager[None]:
    """While this lasts, a terminal shows how far a file of rows is read."""
    def told(share: float) -> None:
        if sys.stderr.isatty():
            text = f"Reading rows: {share:.0%}" if share < 1 else " " * 20 + "\r"
            print(f"\r{text}", end="", file=sys.stderr, flush=True)

    return watched(told)


class Line:
    """One line on a terminal that is written over; on a pipe, a line whenever a tenth is done."""

    def __init__(self, quiet: bool) -> None:
        self.out = None if quiet else sys.stderr
        self.fancy = self.out is not None and self.out.isatty()
        self.text = ""

    def show(self, text: str) -> None:
        if self.out is None or text == self.text:
            return
        if self.fancy:
            self.out.write(f"\r\033[K{text}")
        elif self._tenth(text) != self._tenth(self.text):
            self.out.write(text + "\n")
        self.out.flush()
        self.text = text

    def say(self, text: str) -> None:
        end = "\r\033[K" if self.fancy else ""
        sys.stderr.write(f"{end}{text}\n")
        self.text = ""

    @staticmethod
    def _tenth(text: str) -> str:
        return text[:text.find("]")].rstrip(".")[: 1 + 24 * 10 // 10:3] if "]" in text else text


def told(found: Finding, whole: bool = False) -> str:
    """A finding of the run doctor as a line; `whole` says also what is to be done, and set."""
    text = f"{found.level}: since step {found.since}, {found.rule}: {found.what} {found.figure}"
    if not whole:
        return text
    changed = " ".join(f"--set {shlex.quote(f'{key}={_written(value)}')}"
                       for key, value in found.set.items())
    back = "" if found.back_to is None else f" Step {found.back_to} was saved before."
    return f"{text} {found.next}{back}" + (f"\n  cure: python -m lab train ... {changed}"
                                     if changed else "")


def _written(value: Any) -> Any:
    """A setting's value as `--set` reads it."""
    return format_chosen([Chosen.from_dict(one) for one in value]) \
        if isinstance(value, list) else value


def goal_line(run: Run) -> str:
    """How the goal moved, as a sentence."""
    if run.settings is None or run.goal is None:
        return "Goal: nothing is known yet." if run.has_goal or run.settings is None else (
            "No goal reward is chosen, so nothing says whether answers are right.")
    what = "answers right" if run.goal.whole else "the goals' points"
    at = "" if run.goal.step is None else f" (after step {run.goal.step})"
    hint = "" if run.goal.source == HELD_OUT else (
        f" These are questions it trained on: python -m lab eval {run.id}")
    return f"Goal: {what} {run.goal}{at}.{hint}"


def summary(run: Run) -> str:
    first, last = run.reward_first, run.reward_last
    change = f" reward {first:.3f} -> {last:.3f}," if None not in (first, last) else ""
    text = f"{goal_line(run)}\n{run.status.capitalize()} after {run.step} of {run.steps} steps," \
           f"{change} {run.seconds:.0f} s."
    if run.reason:
        text += f"\n{run.reason}"
    if run.best:
        text += f"\nThe best checkpoint: {run.best.title}"
    if newest := run.folder.newest():
        place = run.folder.adapter if run.status == "finished" else newest.path
        text += f"\nThe newest adapter, of {newest.title}, is in {place}"
    if run.status == "stopped":
        text += f"\nGo on with: python -m lab train --resume {run.id}"
    return text


def tell(options: argparse.Namespace, text: str) -> None:
    if not options.json:
        print(text, file=sys.stderr)
