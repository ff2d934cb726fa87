"""Answers one request in JSON lines: words on the way, the result, or why there is none."""

import json
from collections.abc import Callable
from typing import Any, BinaryIO

from lab.core.problems import explain


def serve_once(work: Callable[..., dict[str, Any]], request: dict, outgoing: BinaryIO) -> int:
    """`work(request, say)` gives the last line, and `say(**body)` writes one on the way. Where it
    fails, the last line is {"problem"} and the exit status 1."""
    def say(**body) -> None:
        outgoing.write(json.dumps(body).encode() + b"\n")

    try:
        say(**work(request, say))
        return 0
    except Exception as error:
        say(problem=explain(error).to_dict())
        return 1
