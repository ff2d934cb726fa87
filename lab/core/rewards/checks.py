"""What of the chosen rewards cannot work, found before the start; `lab/core/checks.py` asks."""

from lab.core.hardware.machine import Machine
from lab.core.problems import Problem
from lab.core.rewards.known import known_with
from lab.core.rewards.sets import without_goal
from lab.core.settings import Settings


def rewards_have_their_packages(settings: Settings, machine: Machine) -> list[Problem]:
    wanted = {c.name: package for c in settings.rewards.chosen
              if (package := getattr(known_with(c.file).get(c.name), "package", ""))}
    return [Problem(f"The reward '{name}' needs {package}.", "It is not installed.",
                    f"Run `pip install {package}`, or switch the reward off.",
                    field="rewards.chosen")
            for name, package in wanted.items() if package not in machine.packages]


def overlong_can_be_reached(settings: Settings, machine: Machine) -> list[Problem]:
    """DAPO's penalty begins somewhere; an answer that is cut before that never meets it."""
    most = settings.train.max_completion_length
    found = []
    for chosen in settings.rewards.chosen:
        if chosen.name == "overlong":
            values = {name: p.default for name, p in chosen.reward.knobs.items()}
            values |= dict(chosen.params)
            begins = values["longest"] - values["buffer"]
            if most <= begins:
                found.append(Problem(
                    "The reward 'overlong' pays every answer alike.",
                    f"It falls from {begins:g} tokens on, and answers are cut at {most}.",
                    f"Set its 'Longest answer' to {most}.", field="rewards.chosen",
                    level="warning"))
    return found


def rewards_have_a_goal(settings: Settings, machine: Machine) -> list[Problem]:
    what = without_goal([c for c in settings.rewards.chosen
                         if c.kind or c.name in known_with(c.file)])
    if not what:
        return []
    return [Problem(what, "A rise of the reward then says nothing about it: the model learns how "
                    "an answer looks.", "Add a goal under Rewards, or take a set that has one.",
                    field="rewards.chosen", level="warning")]
