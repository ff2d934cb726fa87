"""Rules about the answers: how long they are, whether they end, and whether they differ."""

from lab.core.insight.doctor import cures
from lab.core.insight.doctor.evidence import GOAL_CURVE, REACHED, Evidence
from lab.core.insight.doctor.rules import INFO, WARNING, Finding, rule, shown

LENGTH, CLIPPED = "completions/mean_length", "completions/clipped_ratio"
COLLAPSED = 0.5  # of the first length
GREW = 1.3  # times the first length
CUT = 0.2  # of the answers
ALIKE = 0.3  # of a group's answers differ
ENTROPY_FELL = 0.1  # of the first entropy


@rule(f"surely below {COLLAPSED:.0%} of the first length, while the goal has not risen",
      "our run of a 0.5 B model on GSM8K: 209 to 22 tokens, and no thought left")
def length_collapse(e: Evidence) -> Finding | None:
    """The answers shrink and are not more often right: what is rewarded can be had without
    thinking."""
    length = e.change(LENGTH)
    if not length or not e.goal_stands() or not length.is_sure() \
            or length.after > COLLAPSED * length.before:
        return None
    return Finding(WARNING, "The answers shrink, and are not more often right.",
                   f"{shown(length.before)} tokens at the start, {shown(length.after)} now; goal "
                   f"{e.goal_stands().before:.1%} to {e.goal_stands().after:.1%}.",
                   "Let the goals outweigh the shapes, and reward thinking out loud.",
                   cures.think_aloud(e.settings), go_back=True)


@rule(f"surely above {GREW:g} times the first length, while the goal has not risen",
      "a reward that pays for length, on the starter; 50 % in rldoctor, and growth up to the limit "
      "is called hacking in axolotl's guide")
def length_growth(e: Evidence) -> Finding | None:
    """The answers grow and are not more often right: something pays for length."""
    length = e.change(LENGTH)
    if not length or not e.goal_stands() or not length.is_sure() \
            or length.after < GREW * length.before:
        return None
    return Finding(WARNING, "The answers grow, and are not more often right.",
                   f"{shown(length.before)} tokens at the start, {shown(length.after)} now; goal "
                   f"{e.goal_stands().before:.1%} to {e.goal_stands().after:.1%}.",
                   "Look under Rewards which one pays for length, and give it less weight.",
                   cures.lighter_shapes(e.settings), go_back=True)


@rule(f"surely above {CUT:.0%}",
      "0.05 and 0.15 in rldoctor, below 0.30 healthy in axolotl's guide")
def cut(e: Evidence) -> Finding | None:
    """Answers hit the longest length and are cut before they end: they cannot earn what stands at
    the end of an answer."""
    share = e.now(CLIPPED)
    if share is None or e.surely(CLIPPED) < CUT:
        return None
    return Finding(WARNING, "Many answers are cut off before they end.",
                   f"{share:.0%} hit the limit of {e.train.max_completion_length} tokens.",
                   "Raise 'Longest answer', or reward shorter ones.",
                   cures.longer_answers(e.settings))


@rule(f"surely above {CUT:.0%} at the start, and less than half of it now, while the goal has "
      "surely risen", "our run of SmolLM2 on sums: 3 to 40 % right within 16 tokens, where its "
      "base is right on 33 % with 96; only told, not warned of")
def cut_before(e: Evidence) -> Finding | None:
    """Answers were cut at the start and end now: a part of the rise may be only that, which a
    longer limit would have given too."""
    share, goal = e.change(CLIPPED), e.change(GOAL_CURVE)
    if not share or not goal or goal.least <= 0 or not share.is_sure() \
            or share.before - 2 * share.error < CUT or share.after > share.before / 2:
        return None
    return Finding(INFO, "Answers were cut at the start and end now: that may be part of the rise.",
                   f"{share.before:.0%} hit the limit of {e.train.max_completion_length} tokens at "
                   f"the start, {share.after:.0%} now; goal {goal.before:.1%} to "
                   f"{goal.after:.1%}.",
                   "Ask for a held-out verdict with a larger 'Longest answer' (eval --longest), or "
                   "train with longer ones.", cures.longer_answers(e.settings))


@rule(f"fewer than {ALIKE:.0%} of a group's answers differ, or the entropy is below "
      f"{ENTROPY_FELL:.0%} of its first, while the goal is below {REACHED:.0%} and has not risen",
      "rldoctor: 10 % of the first entropy, where the reward is flat; distinct answers: our rule")
def diversity_collapse(e: Evidence) -> Finding | None:
    """The answers of a group have become alike before the goal was reached: nothing better can be
    found by drawing more of them."""
    goal, distinct = e.goal_stands(), e.now("answers/distinct")
    if not goal:
        return None
    entropy = e.change("entropy") or e.change("entropy/sampled")
    if distinct is not None and distinct < ALIKE:
        figure = f"{distinct:.0%} of a group's answers differ"
    elif entropy and entropy.is_sure() and entropy.after < ENTROPY_FELL * entropy.before:
        figure = f"The entropy fell from {shown(entropy.before)} to {shown(entropy.after)}"
    else:
        return None
    return Finding(WARNING, "The answers to a question have become alike, and are mostly wrong.",
                   f"{figure}; goal {goal.after:.1%}.",
                   "Go back to a checkpoint from before, with a lower learning rate or more "
                   "variety.", cures.more_varied(e.settings), go_back=True)
