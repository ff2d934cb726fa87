"""Rules about what is learnt: does the goal rise, what feeds the advantages, is it still sound."""

import math
from dataclasses import replace

from lab.core.insight.doctor import cures, examples
from lab.core.insight.doctor.evidence import (
    FEWEST,
    GOAL_CURVE,
    NEWEST,
    REACHED,
    ROSE,
    SHAPE_CURVE,
    Evidence,
)
from lab.core.insight.doctor.rules import INFO, WARNING, Finding, rule, shown
from lab.core.insight.metrics import ALMOST
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.registry import GOAL, SHAPE

NEVER = 300  # answers without one hit: below 1 % with 95 % certainty (the rule of three, 3 / n)
MOSTLY_CUT = 0.5  # of the answers
SHAPES_ROSE = 0.1  # of the shapes' highest
PART_OF_SHAPES = 0.25  # of the shapes' rise: what the goal's stays below, at its most
DOMINATES = 0.8  # of the learning signal
FLAT = 0.25  # of the spread within a group: a reward that is learnt rises by more
# A curve is often flat before it rises: of ten healthy runs of 100 steps, one fell for 12. So much
# of a run has to be seen before a line through it is believed.
SEEN, SEEN_LEAST, SEEN_MOST = 0.2, 20, 60  # share of its steps; steps
GAP = 0.1  # of the goal's highest


@rule(f"after {NEVER} answers none of which it told apart",
      "the rule of three; 20 steps in axolotl's guide (training_stability)")
def never_fires(e: Evidence) -> Finding | None:
    """A reward gives every answer the same score, mostly 0: it teaches nothing. The commonest
    silent failure: a reference in another form, a tag that the template has opened, a newline that
    no chat model writes."""
    if e.count < 2 or e.count * e.answers < NEVER:
        return None
    silent = [(one, score) for one in sorted(e.chosen, key=lambda c: c.takes_as != GOAL)
              if (score := _only_score(e, one)) is not None]
    teaching = [(one, score) for one, score in silent
                if one.weight > 0 and score < one.best - ALMOST]
    if not silent or (not teaching and e.count < 2 * FEWEST):
        return None
    one, score = (teaching or silent)[0]
    label, also = one.reward.label, [other.name for other, _ in silent if other != one]
    if abs(score) < ALMOST:
        what = f"The reward '{label}' has never fired."
    elif score >= one.best - ALMOST:
        what = f"Every answer earns all of the reward '{label}', from the start."
    else:
        what = f"The reward '{label}' gives every answer the same."
    figure = f"{shown(score)} for each of {e.count * e.answers:,} answers."
    if also:
        figure += f" The same holds for {', '.join(also)}."
    if not teaching:
        return Finding(INFO, what, figure, "It does no harm, and teaches nothing: a weight of 0 "
                       "only watches it.", cures.without(e.settings, [one.name]))
    example = examples.of_reward(one, e.groups) if abs(score) < ALMOST else None
    return Finding(WARNING, what, f"{figure} {example.text if example else ''}".strip(),
                   *(_cure_of_silence(e, one, example) if abs(score) < ALMOST else
                     ("Reward something that differs from answer to answer.",
                      cures.without(e.settings, [one.name]))), rank=int(one.takes_as == SHAPE))


def _only_score(e: Evidence, one: Chosen) -> float | None:
    """The score that all answers of the run got from this reward; None where they differ."""
    means, spreads = (e.metrics.get(f"rewards/{one.name}/{name}") for name in ("mean", "std"))
    if means is None or spreads is None:
        return None
    score = means[e.count - 1]
    for point in range(e.count - 1, -1, -1):
        if not (spreads[point] < ALMOST and abs(means[point] - score) < ALMOST):  # NaN too
            return None
    return score


def _cure_of_silence(e: Evidence, one: Chosen, example: examples.Example | None):
    cause = example.cause if example else ""
    if cause == examples.HASHES:
        return ("Take only what follows #### as the reference.",
                {"data.answer_extraction": "after ####"})
    if cause == examples.SAME_NUMBER:
        return ("Compare numbers instead of letters, or give the references in the form that is "
                "asked for.", cures.instead(e.settings, one.name, ["number"]))
    if cause == examples.NEWLINE:
        return ("Take a reward that does not ask for the newline, or only watch this one.",
                cures.instead(e.settings, one.name, ["asked_format"]))
    if (e.now("completions/clipped_ratio") or 0) > MOSTLY_CUT or (
            e.train.max_completion_length < cures.ROOM):
        return ("Answers are cut before they could earn it: raise 'Longest answer'.",
                cures.longer_answers(e.settings))
    if one.takes_as == SHAPE:
        return ("Ask for the form in the system prompt, take a laxer reward, or only watch this "
                "one.", cures.without(e.settings, [one.name]))
    return ("Try the reward on these answers under Rewards; take easier questions, or a reward "
            "that gives partial credit.", cures.other_level(e.settings, harder=False))


@rule(f"shapes surely rose by {SHAPES_ROSE:.0%}; the goal at its most by {PART_OF_SHAPES:.0%} of "
      f"that, and is below {REACHED:.0%}",
      "our run of a 0.5 B model on GSM8K: format 0 to 97 %, right answers 0.7 to 3.7 %")
def shape_only(e: Evidence) -> Finding | None:
    """The rewards for the form rise and those for the goal do not: the answers are better made,
    not better. The weighted reward rises all the same."""
    shape, goal = e.change(SHAPE_CURVE), e.change(GOAL_CURVE)
    if not shape or not goal or not shape.is_sure() or shape.rise < SHAPES_ROSE \
            or goal.after >= REACHED or goal.most > PART_OF_SHAPES * shape.least:
        return None
    return Finding(WARNING, "The answers are better made, not better: only the shape rewards rise.",
                   f"Shapes {shape.before:.0%} to {shape.after:.0%} of what they can give, goal "
                   f"{goal.before:.1%} to {goal.after:.1%}.",
                   "Let the goals outweigh the shapes, and see that the goal can be earned: "
                   "compare numbers, take easier questions, let the model reason.",
                   cures.lighter_shapes(e.settings), go_back=True)


@rule(f"one shape surely makes {DOMINATES:.0%} of the spread that advantages are made of",
      "0.75 and 0.90 in rewardspy, 0.70 and 0.90 in rldoctor")
def one_reward_dominates(e: Evidence) -> Finding | None:
    """One shape reward decides alone which answers count as better: what else is rewarded is not
    learnt. A goal may dominate."""
    parts = _signal(e)
    if len(e.counting()) < 2 or not parts:
        return None
    name = max(parts, key=parts.get)
    one = next(c for c in e.chosen if c.name == name)
    least = e.surely(f"signal/{name}")
    if one.takes_as == GOAL or (parts[name] if least is None else least) < DOMINATES:
        return None
    rest = ", ".join(f"{other} {part:.0%}" for other, part in parts.items() if other != name)
    return Finding(WARNING, f"'{one.reward.label}' makes nearly all of the learning signal.",
                   f"{name} {parts[name]:.0%}, {rest}.",
                   "Give it less weight, or the goals more.",
                   cures.lighter_shapes(e.settings) or cures.rewards(
                       e.settings, lambda c: replace(c, weight=c.weight / 4)
                       if c.name == name else c))


def _signal(e: Evidence) -> dict[str, float]:
    """Each reward's part of the signal now. Runs from before `signal/NAME` was there have it from
    the spread over the batch, which is nearly the same."""
    found = {c.name: part for c in e.counting() if (part := e.now(f"signal/{c.name}")) is not None}
    if found or any(name.startswith("signal/") for name in e.metrics) or e.count < NEWEST:
        return found
    squares = {c.name: (c.weight * (e.now(f"rewards/{c.name}/std") or 0.0)) ** 2
               for c in e.counting()}
    whole = sum(squares.values())
    return {name: square / whole for name, square in squares.items()} if whole > ALMOST else {}


@rule(f"even if it goes on at the most that the noise allows, the reward rises by less than "
      f"{FLAT:.0%} of the spread within a group until the end of the run; not before "
      f"{SEEN_LEAST} steps, nor before {SEEN:.0%} of the run or {SEEN_MOST} steps",
      "our rule; our run at 5e-6, which 60 steps moved nearly not")
def flat(e: Evidence) -> Finding | None:
    """The reward does not rise: mostly the learning rate is too low, or too little is told apart.
    """
    spread, moved = e.first("reward/within_group_std"), e.change("reward/weighted")
    slope = e.slope("reward/weighted")
    enough = max(SEEN_LEAST, min(SEEN_MOST, SEEN * e.train.max_steps), 2 * _warm_up(e))
    if not moved or not spread or not slope or e.step <= enough:
        return None
    scale = sum(spread) / len(spread)
    left = max(0, e.train.max_steps - e.step)
    at_best = max(0.0, moved.rise) + max(0.0, slope[0] + 2 * slope[1]) * left
    most = max(moved.most, at_best)
    best = sum(c.weight * c.best for c in e.chosen)
    if scale < ALMOST or most > FLAT * scale or moved.most < 0 or moved.after > REACHED * best:
        return None
    return Finding(WARNING, "The reward does not rise.",
                   f"{shown(moved.before)} at the start, {shown(moved.after)} now; at the most "
                   f"{shown(most)} more by step {e.train.max_steps}, with a spread of "
                   f"{shown(scale)} within a group.", "Raise the learning rate; then look under "
                   "Rewards whether better answers score higher.", cures.faster(e.settings))


def _warm_up(e: Evidence) -> float:
    """The steps in which the learning rate rises."""
    return e.train.warmup_ratio * e.train.max_steps


@rule("the held-out goal is surely below the best of its evaluations; or, once the questions come "
      f"again, surely {GAP:.0%} below the goal in training",
      "0.05 to 0.10 warn, above 0.10 stop in Azure's reward-hacking guide; 0.15 and 0.30 in "
      "rldoctor")
def held_out_gap(e: Evidence) -> Finding | None:
    """On questions that are not trained on it gets worse, or stays behind: it learns by heart, or
    unlearns. Before each question was seen once there is nothing to learn by heart; and greedy
    answers follow drawn ones with a delay, which is no gap."""
    told = [(step, float(m["goal"]), int(m.get("n") or 0)) for step, m in sorted(e.held_out.items())
            if isinstance(m.get("goal"), int | float)]
    if len(told) < 2:
        return None
    step, now, n = told[-1]
    best_step, best, _ = max(told, key=lambda one: one[1])
    error = math.sqrt(max(now * (1 - now), best * (1 - best), 0.01) / max(1, n))
    # The best of several is too good by chance: by about sqrt(2 ln k) errors.
    if best - now > max(ROSE, (2.3 + math.sqrt(2 * math.log(len(told)))) * error):
        what, next = ((
            "On questions that it does not train on it gets worse again.",
            f"Stop, and take the checkpoint of step {best_step}.") if best_step else (
            "On questions that it does not train on it is worse than the base model.",
            "Stop, and look at the other findings: as it goes on, it unlearns."))
        return Finding(WARNING, what, f"The held-out goal was {best:.1%} at step {best_step}, and "
                       f"is {now:.1%} at step {step}.", next, cures.slower(e.settings, 2),
                       go_back=True)
    goal, passes = e.surely(GOAL_CURVE), e.now("epoch")
    if goal is None or passes is None or passes <= 1 or goal - now - 2 * error < GAP:
        return None
    return Finding(WARNING, "It is better on the questions that it trains on than on others.",
                   f"Goal {e.now(GOAL_CURVE):.1%} in training, {now:.1%} on {n} held-out "
                   f"questions, after {passes:.1f} passes over the questions.",
                   "Train on more questions, or stop here.", cures.more_rows(e.settings))
