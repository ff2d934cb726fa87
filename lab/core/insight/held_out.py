"""What held-out answers tell while a run learns: the metrics, the best step, its error.

`HeldOut` is {step: metrics} as `events.HeldOut` has them, step 0 being the base model. The best
step is derived from it wherever it is needed; it is written down nowhere.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from lab.core import events
from lab.core.rewards.scoring import Scored
from lab.core.settings import Train

HeldOut = Mapping[int, Mapping[str, float | None]]

MOST = 20  # evaluations of a run, where their number is left to the lab
FEWEST = 20  # questions: with fewer, chance alone moves the share by more than ten points
_ROUND = (1, 2, 5)  # an interval is one of these times a power of ten


def metrics_of(scored: Sequence[Scored], lengths: Sequence[int],
               cut: Sequence[bool]) -> dict[str, float | None]:
    """The metrics of one evaluation, in the order of its questions; see `events.HeldOut`."""
    names = scored[0].rewards if scored else ()
    return {
        "n": len(scored), "goal": _mean(s.goal for s in scored),
        "reached": _mean(s.reached for s in scored), "reward": _mean(s.total for s in scored),
        "tokens": _mean(lengths), "cut": _mean(cut),
        **{f"rewards/{name}": _mean(s.rewards[name] for s in scored) for name in names}}


def _mean(values) -> float | None:
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else None


def bearable_questions(train: Train) -> int:
    """How many questions may be answered twice, first and last, for at most `train.eval_share`
    of the run. 0 where those would be too few to tell anything.

    A step's answers cost their drawing and about as much again for learning from them.
    """
    bearable = int(train.eval_share * train.max_steps * train.answers_per_step())
    return bearable if bearable >= FEWEST else 0


def grid(steps: int) -> int:
    """The steps between which an evaluation may come: a round number, at most `MOST` in a run."""
    least, power = steps / MOST, 1
    while True:
        for part in _ROUND:
            if part * power >= least:
                return part * power
        power *= 10


def told_before(path: Path, step: int) -> dict[int, dict[str, float | None]]:
    """The evaluations in events.jsonl that a run which goes on after `step` keeps."""
    found: dict[int, dict[str, float | None]] = {}
    if not path.exists():
        return found
    with path.open("rb") as lines:
        for line in lines:
            if not line.startswith((b'{"event": "held_out"', b'{"event": "started"')):
                continue
            _, event = events.read_line(line.decode("utf-8", errors="replace")) or (0, None)
            if isinstance(event, events.Started):
                found = {s: told for s, told in found.items() if s <= event.resumed_from}
            elif isinstance(event, events.HeldOut):
                found[event.step] = event.metrics
    return {s: told for s, told in found.items() if s <= step}


def measure(held_out: HeldOut) -> str:
    """By what the steps of a run are compared: "goal", or "reward" where no goal is chosen."""
    return "goal" if any(told.get("goal") is not None for told in held_out.values()) else "reward"


def best_step(held_out: HeldOut, among: Collection[int] | None = None) -> int | None:
    """The step that did best on the held-out questions, the earliest of those that did alike.

    Only steps of `among` are taken, where it is given; but none that does no better than the base
    model, if that was asked.
    """
    by = measure(held_out)
    values = {step: told[by] for step, told in held_out.items() if told.get(by) is not None}
    bar = values.pop(0, -math.inf)
    better = {step: value for step, value in values.items()
              if value > bar and (among is None or step in among)}
    return min(better, key=lambda step: (-better[step], step), default=None)


def picked_from(held_out: HeldOut, step: int | None) -> int:
    """Of how many steps this one did best on the held-out questions; 1 where another did better,
    where there is no other, or where it was not asked."""
    by = measure(held_out)
    values = {at: told[by] for at, told in held_out.items() if at and told.get(by) is not None}
    return len(values) if step in values and values[step] == max(values.values()) else 1


@dataclass(frozen=True)
class Best:
    """The checkpoint that did best on held-out questions, and how well. `title` says it."""

    step: int
    title: str


def best_of(held_out: HeldOut, among: Collection[int]) -> Best | None:
    """The checkpoint to offer, the latest of those that did alike. Held-out answers are greedy:
    they turn right at once, when the right way has become the likeliest, while drawn answers are
    still wrong in a third. Keeping and patience go by the earliest (`best_step`)."""
    step, by = best_step(held_out, among), measure(held_out)
    if step is None:
        return None
    step = max(at for at in among if at and held_out.get(at, {}).get(by) == held_out[step][by])
    return Best(step, f"step {step} · held-out {figure(held_out[step], by)}")


def figure(told: Mapping[str, float | None], by: str) -> str:
    """"62 % ± 5" of a goal, its standard error beside it; "reward 1.93" where none is chosen."""
    value = told.get(by)
    if value is None:
        return "–"
    if by == "reward":
        return f"reward {value:.3g}"
    error = standard_error(told)
    return f"{100 * value:.0f} %" + ("" if error is None else f" ± {100 * error:.0f}")


def moved(held_out: HeldOut) -> str:
    """From the first evaluation to the newest: "held-out 41 % -> 55 % ± 5". Empty before any."""
    if not held_out:
        return ""
    by, first, last = measure(held_out), min(held_out), max(held_out)
    ends = [figure(held_out[last], by)]
    if first != last and held_out[first].get(by) is not None:
        ends.insert(0, figure(held_out[first], by).partition(" ±")[0])
    return f"held-out {' -> '.join(ends).replace('-> reward ', '-> ')}"


def reason_to_stop(held_out: HeldOut, train: Train, resumed_from: int = 0) -> str:
    """Why a run ends itself after its newest evaluation, in a sentence; empty to go on.

    A run that was resumed has heard that its target is reached, and gets new patience.
    """
    if not held_out or max(held_out) == 0:
        return ""
    step, by = max(held_out), measure(held_out)

    def reached(at: int) -> bool:
        return (held_out[at].get("goal") or 0.0) >= train.stop_at

    if train.stop_at and reached(step) and not any(
            reached(at) for at in held_out if 0 < at <= resumed_from):
        return (f"The held-out goal is at {figure(held_out[step], 'goal')}, and the run was to "
                f"end at {100 * train.stop_at:g} %.")
    best = best_step(held_out)
    since = [at for at in held_out if at > max(best or 0, resumed_from)]
    if train.patience and len(since) >= train.patience:
        told = (f"The best was {figure(held_out[best], by)} at step {best}." if best else
                "None beat the base model.")
        return f"The last {len(since)} evaluations brought no new best. {told}"
    return ""


def standard_error(told: Mapping[str, float | None]) -> float | None:
    """Of the goal's mean, at most: a share of n answers varies most when each of them has all of
    it or nothing. Two right and two wrong ones are added (Agresti and Coull 1998): 100 of 100 are
    not sure to the last digit."""
    share, n = told.get("goal"), told.get("n")
    if share is None or not n:
        return None
    share = (share * n + 2) / (n + 4)
    return math.sqrt(share * (1 - share) / (n + 4))
