"""Rewards: pure functions that score one answer, and the registry that knows them all."""

# The order of these imports is the order of `REWARDS`, and so of tables, charts and TRL's list:
# the classic notebook's five, format first and correctness last; then the library, first what is
# right and then what is well made.
from lab.core.rewards import shape  # noqa: F401

# isort: split
from lab.core.rewards import answers  # noqa: F401

# isort: split
from lab.core.rewards import numeric  # noqa: F401

# isort: split
from lab.core.rewards import code, gym, judge, maths, texts  # noqa: F401

# isort: split
from lab.core.rewards import formats, prose  # noqa: F401

# isort: split
from lab.core.rewards import language, lengths, syntax  # noqa: F401

# What a file of one's own imports from here: see docs/own-rewards.md.
# isort: split
from lab.core.knobs import Knob  # noqa: F401
from lab.core.prompts import final_answer, in_format  # noqa: F401
from lab.core.rewards.registry import reward  # noqa: F401
