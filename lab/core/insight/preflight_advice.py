"""Advice from a preflight: rules with the figure behind each, and the settings that follow it.

Thresholds name their source: [RD] is rldoctor 0.2.0, [VF] the docs of verifiers. Those without one
are ours.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from lab.core.insight.metrics import ALMOST
from lab.core.insight.preflight import (
    Group,
    best_total,
    comparable,
    scores_of,
)
from lab.core.prompts import final_answer, in_format, in_one_line
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.registry import GOAL, REWARDS
from lab.core.settings import Settings, setting_named
from lab.core.task import LEVELS

# Another form of a reward, for the same thing said in another way. Those that the registry lacks
# are left out.
FORMS: Mapping[str, tuple[str, ...]] = {
    "correctness": ("number", "last_number"), "number": ("last_number",),
    "strict_format": ("asked_format",)}

MANY_DEAD = 0.3  # of the groups [RD]
WORTH = 0.1  # so many fewer dead groups are worth larger ones
FEW_CUT = 0.05  # of the answers [RD]
ROOM = 2.0  # times the 95th percentile: answers may grow while reasoning is learnt
LONG = 0.6  # an answer's room is worth cutting to this share of it or less
MANY_ALIKE = 0.2  # of the questions: from there on it pays to leave them out
EASY = 0.8  # of the answers right: a question is too easy [VF]
VARIED = 0.5  # of a question's answers are distinct
OTHER_FORM = 0.1  # of the answers earn the other form and not this one
FEW_IN_FORM = 0.1  # of the answers are in the asked form
LOUD = 0.9  # of the signal from shape rewards [RD: one component, critical]
EXAMPLE = "For example, when asked \"{question}\", answer:\n"


@dataclass(frozen=True)
class Advice:
    """One thing to change: why, with its figure, and {setting: value} in plain JSON values."""

    rule: str
    what: str
    figure: str
    set: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Found:
    """What the rules look at: the groups, the settings, and the summary's figures.

    `longest` is the most tokens that the model was made for, `rows` the questions to train on;
    None where they are not known.
    """

    groups: Sequence[Group]
    settings: Settings
    figures: Mapping[str, Any]
    longest: int | None = None
    rows: int | None = None


def other_forms(chosen: Sequence[Chosen]) -> list[Chosen]:
    """The forms to score besides, for `reward_form`: those that are not chosen already."""
    names = {one.name for one in chosen}
    return [Chosen(form) for one in chosen for form in FORMS.get(one.name, ())
            if form in REWARDS and form not in names]


def advice(found: Found) -> list[Advice]:
    """Every rule that has something to say, most important first."""
    return [one for rule in RULES for one in rule(found)]


def reward_form(found: Found) -> Iterator[Advice]:
    """Answers that earn another form of a chosen reward, and not this one."""
    chosen = found.settings.rewards.chosen
    answers = [answer for group in found.groups for answer in group.answers]
    instead: dict[Chosen, Chosen] = {}
    figures = []
    for one in chosen:
        for form in FORMS.get(one.name, ()):
            judged = [answer for answer in answers if answer.other.get(form) is not None]
            missed = [a for a in judged if a.other[form] > 0 and not (a.rewards[one.name] or 0) > 0]
            if not judged or len(missed) < OTHER_FORM * len(judged):
                continue
            instead[one] = Chosen(form, _round(one.weight * one.best / REWARDS[form].max_score),
                                  kind=one.kind)
            figures.append(f"{len(missed) / len(judged):.0%} of the answers earn '{form}' and "
                           f"nothing of '{one.name}', such as "
                           f"{final_answer(missed[0].text)[-60:]!r}.")
            break
    if instead:
        names = [f"'{new.name}' instead of '{old.name}'" for old, new in instead.items()]
        yield Advice("reward_form", f"Reward {' and '.join(names)}.", " ".join(figures),
                     _rewards([instead.get(one, one) for one in chosen]))


def worked_example(found: Found) -> Iterator[Advice]:
    """Few answers are in the asked form, and the system prompt shows none."""
    settings, prompt = found.settings, found.settings.data.system_prompt
    shapes = [c for c in settings.rewards.chosen if c.takes_as != GOAL and "format" in c.name]
    fired = [fmean(score > 0 for score in scores) for c in shapes
             if (scores := scores_of(found.groups, c.name))]
    if not prompt.strip() or not fired or max(fired) >= FEW_IN_FORM or "example" in prompt.lower():
        return
    words = EXAMPLE.format(question="What is 12 + 30?") + in_format("12 + 30 = 42", "42")
    longer = len(words) // 3  # tokens at most: that of most words has four characters or more
    changes: dict[str, Any] = {"data.system_prompt": f"{prompt.rstrip()}\n\n{words}"}
    needed = _up(found.figures["prompt_tokens"]["p95"] + longer)
    if needed > settings.train.max_prompt_length:
        changes |= _with_room(found, {"train.max_prompt_length": needed})
    yield Advice("worked_example", "Show one worked example in the system prompt.",
                 f"{max(fired):.0%} of the answers are in the asked form.", changes)


def goal_signal(found: Found) -> Iterator[Advice]:
    """Shape rewards are nearly all that the answers differ in, though the goal fires."""
    chosen, table = found.settings.rewards.chosen, found.figures["rewards"]
    goals = [c for c in chosen if c.takes_as == GOAL and c.weight > 0
             and table[c.name]["signal_share"] is not None]
    share = sum(table[c.name]["signal_share"] for c in goals)
    if (not goals or share > 1 - LOUD or not any(table[c.name]["fired"] for c in goals)
            or any(reward_form(found))):  # with another form it may be another share
        return
    yield Advice(
        "goal_signal", "Weigh what is meant more.",
        f"{1 - share:.0%} of what the answers differ in comes from rewards for their shape.",
        _rewards([Chosen(c.name, _round(4 * c.weight), dict(c.params), c.kind) if c in goals else c
                  for c in chosen]))


def group_size(found: Found) -> Iterator[Advice]:
    """Larger groups, where so many fewer would be dead; the answers of a step stay as many."""
    train = found.settings.train
    dead = {int(size): share for size, share in found.figures["dead"].items() if share is not None}
    now = dead.get(train.num_generations)
    larger = [size for size in dead if size > train.num_generations]
    if now is None or now < MANY_DEAD or not larger:
        return
    best = next((size for size in larger if dead[size] < MANY_DEAD), larger[-1])
    if now - dead[best] < WORTH:
        return
    questions = max(1, round(train.answers_per_step() / best))
    processes = found.settings.hardware.processes()
    questions = max(processes, questions // processes * processes)
    yield Advice("group_size", f"Draw {best} answers per question.",
                 f"{now:.0%} of groups of {train.num_generations} teach nothing, {dead[best]:.0%} "
                 f"of groups of {best}.",
                 {"train.num_generations": best, "train.prompts_per_step": questions})


def longest_answer(found: Found) -> Iterator[Advice]:
    """Room for the answers by their 95th percentile: more where they are cut, less where it is
    never used."""
    train, tokens, cut = found.settings.train, found.figures["tokens"], found.figures["cut"]
    now = train.max_completion_length
    if cut > FEW_CUT:
        changes = _with_room(found, {"train.max_completion_length": _up(2 * now)})
        if changes:
            yield Advice("longest_answer", "Let answers be longer.",
                         f"{cut:.0%} are cut at {now} tokens.", changes)
        return
    wanted = max(_up(ROOM * tokens["p95"]), _up(tokens["max"]))
    if cut == 0 and wanted <= LONG * now:
        yield Advice("longest_answer", "Plan for shorter answers: less memory.",
                     f"95 % of the answers end within {tokens['p95']:.0f} tokens, all within "
                     f"{tokens['max']:.0f}, of {now}.", {"train.max_completion_length": wanted})


def longest_prompt(found: Found) -> Iterator[Advice]:
    """Room for the prompts by their 95th percentile, where questions are left out for length."""
    told = found.figures["prompt_tokens"]
    if told["too_long"] <= FEW_CUT * told["of"] or any(worked_example(found)):
        return  # an example makes them longer yet, and brings the room that it needs
    changes = _with_room(found, {"train.max_prompt_length": _up(told["p95"])})
    if changes:
        yield Advice("longest_prompt", "Let prompts be longer.",
                     f"{told['too_long']} of {told['of']} questions have prompts of more than "
                     f"{found.settings.train.max_prompt_length} tokens and are left out; 95 % end "
                     f"within {told['p95']:.0f}.", changes)


def difficulty(found: Found) -> Iterator[Advice]:
    """Questions whose answers all score alike teach nothing: they are left out by their text, or
    the lab's own word problems are taken from another level."""
    data, chosen = found.settings.data, found.settings.rewards.chosen
    best = best_total(chosen)
    easy, hard = [], []
    for group in found.groups:
        known = [total for total in comparable(group, chosen) if total is not None]
        if known and max(known) - min(known) < ALMOST:
            (easy if known[0] >= best - ALMOST else hard).append(in_one_line(group.columns))
    rates = [rate for rate in found.figures["pass_rates"] if rate is not None]
    of = len(found.groups)
    if data.source == "word-problems":
        mean = fmean(rates) if rates else None
        if mean is not None and mean >= EASY and data.level + 1 in LEVELS:
            yield Advice("too_easy", f"Take level {data.level + 1} of the word problems.",
                         f"{mean:.0%} of the answers are right already.",
                         {"data.level": data.level + 1})
        elif len(hard) > of / 2 and data.level - 1 in LEVELS:
            yield Advice("too_hard", f"Take level {data.level - 1} of the word problems.",
                         f"All answers score alike, and low, to {len(hard)} of {of} questions.",
                         {"data.level": data.level - 1})
        return
    for rule, questions, words in (("too_easy", easy, "too easy"), ("too_hard", hard, "too hard")):
        rest = (found.rows or of) - len(questions)
        if len(questions) < MANY_ALIKE * of or rest < found.settings.train.prompts_per_step:
            continue
        listed = [line for line in data.leave_out.splitlines() if line.strip()]
        more = ("" if not found.rows or found.rows <= of else " Of the "
                f"{found.rows:,} questions only {of} were tried: with more of them (--n) more are "
                "found.")
        yield Advice(rule, f"Leave out the {len(questions)} questions that are {words} now.",
                     f"All {len(found.groups[0].answers)} answers score alike to {len(questions)} "
                     f"of {of} questions.{more}",
                     {"data.leave_out": "\n".join([*listed, *questions])})


def more_variety(found: Found) -> Iterator[Advice]:
    """The answers to a question are nearly all the same, drawn below temperature 1."""
    temperature = found.settings.train.temperature
    if found.figures["distinct"] < VARIED and temperature < 1:
        yield Advice("temperature", "Draw the answers at temperature 1.",
                     f"{found.figures['distinct']:.0%} of the answers to a question are distinct "
                     f"at {temperature:g}.", {"train.temperature": 1.0})


RULES: tuple[Callable[[Found], Iterator[Advice]], ...] = (
    reward_form, worked_example, goal_signal, group_size, longest_answer, longest_prompt,
    difficulty, more_variety)


def follow(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Settings with a piece of advice taken, and a longest sequence that still holds prompt and
    answer, also after other advice. Raises BadSettings for what is no setting."""
    changed = settings.with_values(changes)
    together = changed.train.max_prompt_length + changed.train.max_completion_length
    if together > changed.model.max_seq_length:
        return changed.with_values({"model.max_seq_length": _whole_steps(together)})
    return changed


def taken(advised: Sequence[Mapping[str, Any]], settings: Settings) -> list[bool]:
    """Which pieces of advice these settings follow, by a button or by hand."""
    plain = settings.to_dict()

    def is_set(key: str, value: Any) -> bool:
        group, name = key.split(".")
        return plain[group][name] == value

    return [all(is_set(key, value) for key, value in one["set"].items()) for one in advised]


def _with_room(found: Found, changes: dict[str, Any]) -> dict[str, Any]:
    """These lengths with a longest sequence that holds both; none where the model ends before."""
    settings = found.settings.with_values(changes)
    together = settings.train.max_prompt_length + settings.train.max_completion_length
    if together <= settings.model.max_seq_length:
        return changes
    wanted = _whole_steps(together)
    if found.longest is None or wanted > found.longest:
        return {}
    return changes | {"model.max_seq_length": wanted}


def _whole_steps(tokens: int) -> int:
    step = int(setting_named("model.max_seq_length").knob.step)
    return -(-tokens // step) * step


def _up(tokens: float) -> int:
    """The next multiple of 8, as the fields of lengths count."""
    return max(8, -(-int(-(-tokens // 1)) // 8) * 8)


def _round(weight: float) -> float:
    return float(f"{weight:.4g}")


def _rewards(chosen: Sequence[Chosen]) -> dict[str, Any]:
    return {"rewards.chosen": [one.to_dict() for one in chosen]}


