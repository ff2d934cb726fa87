"""Rules about the work itself: numbers that are none, gradients, distance, errors and time."""

import math

from lab.core.insight.doctor import cures
from lab.core.insight.doctor.evidence import Evidence
from lab.core.insight.doctor.rules import ERROR, INFO, WARNING, Finding, rule, shown

NON_FINITE = "non_finite"  # also the kind of the problem with which the worker stops
GRADIENT = 10.0
FELL = 0.5  # of the spread within a group at the start
KL_HIGH, KL_EXTREME = 0.5, 2.0
FAILED = 0.01  # of the answers
SLOW = 0.2  # of a step
SLOW_SECONDS = 0.1


@rule("at the first one", "a sum with NaN in it stays NaN: nothing later can be sound")
def non_finite(e: Evidence) -> Finding | None:
    """The loss, the gradient or a weight of the adapter is not a number any more. The worker stops
    there and saves nothing over what is sound."""
    failed = e.failure is not None and e.failure[1] == NON_FINITE and e.count == len(e.steps)
    missing = [name for name in ("loss", "grad_norm") if e.count and name in e.metrics
               and math.isnan(e.metrics[name][e.count - 1])]
    if not failed and not missing:
        return None
    what = "The numbers of this run are damaged: a weight or gradient is not a number any more."
    at = max(e.failure[0], e.step) if failed else e.step
    told = f"At step {at}"
    figure = f"{told}: {' and '.join(missing)} without a value." if missing else f"{told}."
    return Finding(ERROR, what, figure, "Resume from the last sound checkpoint; if it comes again, "
                   "take a lower learning rate.", cures.slower(e.settings, 5), go_back=True,
                   since=at)


@rule(f"gradients above {GRADIENT:g} before they are clipped, or a reward that surely fell by "
      f"{FELL:.0%} of the spread within a group",
      "above 10 unstable in axolotl's guide; the fall: the starter at 100 times its rate",
      explains=("shape_only", "length_collapse", "length_growth", "dead_wrong", "cut",
                "one_reward_dominates", "diversity_collapse", "flat"))
def exploding(e: Evidence) -> Finding | None:
    """The updates are too large: the model falls apart instead of learning."""
    gradient, moved = e.now("grad_norm"), e.change("reward/weighted")
    spread = e.first("reward/within_group_std")
    scale = sum(spread) / len(spread) if spread else 0.0
    if moved and scale and moved.is_sure() and moved.rise < -FELL * scale:
        return Finding(WARNING, "The model falls apart: the reward is far below its start.",
                       f"{shown(moved.before)} at the start, {shown(moved.after)} now, at a "
                       f"learning rate of {e.train.learning_rate:g}.",
                       "Begin anew, or from a checkpoint from before, with a lower learning rate.",
                       cures.slower(e.settings, 10), go_back=True)
    if gradient is not None and gradient > GRADIENT:
        return Finding(WARNING, "The gradients are very large.",
                       f"Norm {shown(gradient)}, which is clipped to "
                       f"{e.train.max_grad_norm:g}.", "Take a lower learning rate, or see whether "
                       "a reward gives huge values.", cures.slower(e.settings, 5))
    return None


@rule(f"above {KL_HIGH:g}; {KL_EXTREME:g} is extreme. Only where beta is above 0",
      "0.5 and 2.0 in rldoctor and in axolotl's guide")
def kl_high(e: Evidence) -> Finding | None:
    """The model has moved far from the base: what it could besides the task may be lost."""
    distance = e.now("kl")
    if e.train.beta <= 0 or distance is None or distance < KL_HIGH:
        return None
    far = "extremely far" if distance > KL_EXTREME else "far"
    return Finding(WARNING, f"The model has moved {far} from the base.",
                   f"KL {shown(distance)} at beta {e.train.beta:g}.",
                   "Take a lower learning rate, or a higher beta.", cures.slower(e.settings, 2))


@rule(f"a warning above {FAILED:.0%} of the answers, else only told", "our rule")
def reward_errors(e: Evidence) -> Finding | None:
    """A reward fails on some answers. Those are left out of their groups, and never count as 0."""
    worst, share = None, 0.0
    for one in e.chosen:
        failed = sum(e.newest(f"reward_errors/{one.name}"))
        points = min(e.window, e.count)
        if failed and failed / (points * e.answers) > share:
            worst, share = one, failed / (points * e.answers)
    if worst is None:
        return None
    message = _message(e, worst.name)
    return Finding(WARNING if share >= FAILED else INFO,
                   f"The reward '{worst.reward.label}' fails on some answers.",
                   f"{share:.1%} of the newest answers. {message}".strip(),
                   "Mend it: see the answers below for where it fails. They are left out of their "
                   "groups.", cures.without(e.settings, [worst.name]))


def _message(e: Evidence, name: str) -> str:
    for group in e.groups:
        for answer in group.get("answers") or ():
            errors = answer.get("errors") if isinstance(answer, dict) else None
            if isinstance(errors, dict) and errors.get(name):
                return str(errors[name])[:200]
    return ""


@rule(f"longer than the answers take, and above {SLOW:.0%} of a step",
      "our rule: a machine that draws answers is not to wait for their scores")
def slow_reward(e: Evidence) -> Finding | None:
    """The rewards take longer than the answers: the machine waits for them."""
    spent, step, drawn = (e.now(f"seconds/{name}") for name in ("reward", "step", "generation"))
    if None in (spent, step, drawn) or spent < SLOW_SECONDS or spent < SLOW * step \
            or spent < drawn:
        return None
    each = {one.reward.label: seconds for one in e.chosen
            if (seconds := e.now(f"seconds/reward/{one.name}")) is not None}
    slowest = max(each, key=each.get) if each else ""
    what = (f"The reward '{slowest}' is slow." if slowest
            else "The rewards are slow.")
    return Finding(WARNING, what, f"Rewards take {shown(spent)} s of a step of {shown(step)} s; "
                   f"the answers take {shown(drawn)} s.",
                   "Make it quicker, or run it on fewer answers.")
