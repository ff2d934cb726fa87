"""Whether code that is not the lab's may run here: off, unless whoever starts the lab says so.

It is asked where code is about to run, so that no page and no command can pass it by.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar

VARIABLE = "GRPO_LAB_ALLOW_CODE"  # 1: allowed in this process and in those that it starts
HOW = f"Start it with --allow-code (or {VARIABLE}=1) if you trust the code."


class _Caller:
    """Who asks for it. The page sets `may`: on a Space only its owner may."""

    may: Callable[[], bool] = staticmethod(lambda: True)


caller = _Caller()
_vouched: ContextVar[bool] = ContextVar("vouched", default=False)


@contextlib.contextmanager
def vouched() -> Iterator[None]:
    """While this lasts, what runs was asked for before by somebody who might."""
    token = _vouched.set(True)
    try:
        yield
    finally:
        _vouched.reset(token)


def allow_code() -> None:
    os.environ[VARIABLE] = "1"


def code_allowed() -> bool:
    return os.environ.get(VARIABLE, "").strip().lower() in ("1", "true", "yes", "on")


def against_code() -> str:
    """Why no code may run now for who asks; empty if it may."""
    if not code_allowed():
        return f"Reward code is off here. {HOW}"
    return against_visitors()


def against_visitors() -> str:
    """Why who asks may not use what is the owner's: code, keys, the network; empty if they may."""
    return "" if _vouched.get() or caller.may() else "Only the owner may run this."
