"""Rules about groups that teach nothing, and what has caused it."""

from lab.core.insight.doctor import cures, examples
from lab.core.insight.doctor.evidence import GOAL_CURVE, SHAPE_CURVE, Evidence
from lab.core.insight.doctor.learning import shape_only
from lab.core.insight.doctor.rules import INFO, WARNING, Finding, rule
from lab.core.insight.metrics import ALMOST
from lab.core.rewards.registry import GOAL

DEAD = 0.5  # of the groups
DEAD_OF_FEW = 0.2  # with small groups: more answers would bring most of those to life
MOSTLY = 0.8  # of the answers are cut, or of what the shapes can give is there
LOST = 0.1  # of the goal: a model that was right so often and is no more has lost it
SMALL = 4  # answers to a question; below it two like ones are likely


@rule(f"surely above {DEAD:.0%} of the groups; above {DEAD_OF_FEW:.0%} with fewer than {SMALL} "
      "answers to a question, where more of them would help",
      "0.30, 0.50 and 0.75 in rldoctor, 0.50 in rewardspy; dead groups are p^G + (1 - p)^G")
def dead_wrong(e: Evidence) -> Finding | None:
    """Most groups teach nothing: all their answers score alike, and below the highest score."""
    share, least = e.now("groups/dead_wrong"), e.surely("groups/dead_wrong")
    if share is None or least < (DEAD_OF_FEW if e.train.num_generations < SMALL else DEAD):
        return None
    why, next, set = _cause(e)
    many = "Most" if share >= DEAD else "Many"
    return Finding(WARNING, f"{many} groups teach nothing: their answers all score alike, and not "
                   "well.", f"{share:.0%} of the groups. {why}", next, set)


def _cause(e: Evidence) -> tuple[str, str, dict]:
    """(why, what next, changed settings) of groups that are all wrong, the plainest cause first."""
    cut = e.now("completions/clipped_ratio") or 0.0
    if cut > MOSTLY:
        return (f"Nearly all answers are cut ({cut:.0%}), so none can end well.",
                "Raise 'Longest answer'.", cures.longer_answers(e.settings))
    fell = e.change(GOAL_CURVE)
    if fell and fell.before > LOST and fell.after < 0.1 * fell.before:
        return (f"What the model could is lost: goal {fell.before:.0%} at the start, "
                f"{fell.after:.0%} now.", "Begin anew, or from a checkpoint from before, with a "
                "lower learning rate.", cures.slower(e.settings, 10))
    same = [one for one in e.counting() if _is_constant(e, one.name)]
    goals = e.counting(GOAL)
    for one in goals:
        if one not in same:
            continue
        label = one.reward.label
        example = examples.of_reward(one, e.groups)
        if example and example.cause == examples.HASHES:
            return (f"'{label}' cannot fire. {example.text}", "Take only what follows #### as the "
                    "reference.", {"data.answer_extraction": "after ####"})
        if example and example.cause == examples.SAME_NUMBER:
            return (f"'{label}' cannot fire. {example.text}", "Compare numbers, not letters.",
                    cures.instead(e.settings, one.name, ["number"]))
    if len(same) == len(e.counting()) and (e.now("reward/weighted") or 0.0) > ALMOST:
        return ("Every answer gets the same from each reward.", "Reward something that differs "
                "from answer to answer.", {})
    shape, goal = e.now(SHAPE_CURVE), e.now(GOAL_CURVE)
    if not e.counting(GOAL):
        return ("No goal is among the rewards, and the shapes no longer differ.", "Choose a goal "
                "reward: one that says whether an answer is right.", {})
    if None not in (shape, goal) and (shape > MOSTLY > goal or shape_only(e)):
        return (f"Every answer is in form ({shape:.0%}) and few are right ({goal:.0%}): only "
                "the goal could still tell them apart.", "Let the goals outweigh the shapes, and "
                "take easier questions.", cures.lighter_shapes(e.settings))
    if e.train.num_generations < SMALL:
        return (f"With {e.train.num_generations} answers to a question they are often alike.",
                "Take at least 4 answers to a question, better 8.",
                cures.more_answers(e.settings))
    if same and len(same) == len(goals) and all(one in goals for one in same):
        names = ", ".join(f"'{one.reward.label}'" for one in same)
        return (f"No answer earns {names}.", "Take easier questions, or see under Rewards whether "
                "it can be earned at all.", cures.other_level(e.settings, harder=False))
    right = "" if goal is None else f" (goal {goal:.0%})"
    return (f"The questions are too hard for this model{right}.", "Take easier questions, more "
            "answers to each, or a reward that gives partial credit.",
            cures.other_level(e.settings, harder=False) or cures.more_answers(e.settings))


def _is_constant(e: Evidence, name: str) -> bool:
    spread = e.now(f"rewards/{name}/std")
    return spread is not None and spread < ALMOST


@rule(f"surely above {DEAD:.0%} of the groups", "0.50 in rewardspy; only told, not warned of")
def dead_right(e: Evidence) -> Finding | None:
    """Most questions are solved: little is left to learn from them."""
    share = e.now("groups/dead_right")
    if share is None or e.surely("groups/dead_right") < DEAD:
        return None
    return Finding(INFO, "Most questions are solved: little is left to learn from them.",
                   f"{share:.0%} of the groups are all right.", "Take harder questions, or stop "
                   "here.", cures.other_level(e.settings, harder=True))
