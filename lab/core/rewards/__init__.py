"""Rewards: pure functions that score one answer, and the registry that knows them all."""

# The order of these two imports is the order of `REWARDS`, and so of tables, charts and TRL's
# list: the classic notebook's, format first and correctness last.
from lab.core.rewards import shape  # noqa: F401

# isort: split
from lab.core.rewards import answers  # noqa: F401
