"""Rewards by name, the lab's and those of a file of one's own."""

from collections.abc import Mapping

from lab.core.rewards import own
from lab.core.rewards.registry import REWARDS, Reward


def known_with(file: str) -> Mapping[str, Reward]:
    """The lab's rewards, and those of a file of one's own (none where it cannot be used)."""
    return REWARDS | own.known(file)[0] if file else REWARDS


def reward_named(name: str, file: str = "") -> Reward:
    """Raises ValueError, naming those that exist."""
    found = REWARDS.get(name) or known_with(file).get(name)
    if found is None:
        why = file and own.known(file)[1]
        raise ValueError(f"There is no reward {name!r}. " + (
            why or f"There are {', '.join(known_with(file))}."))
    return found
