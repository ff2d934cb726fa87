"""The limited child itself: limits this process, then serves one module. Started by run.py.

JSON lines: the first one that comes in says the limits and which module to serve, the first one
that goes out which fences stand. The module's `serve(setup, incoming, say)` does the rest.
"""

import contextlib
import importlib
import json
import os
import sys

from lab.core.limited import fence


def main() -> None:
    incoming, outgoing = claim()

    def say(**body) -> None:
        with contextlib.suppress(Exception):  # foreign code may have put anything there
            sys.stdout.flush()
        outgoing.write(json.dumps(body).encode() + b"\n")

    setup = json.loads(incoming.readline())
    say(fences=fence.put_up(setup["limits"], os.getcwd(), setup["reads"]))
    importlib.import_module(setup["module"]).serve(setup, map(json.loads, incoming), say)
    os._exit(0)  # threads of foreign code must not keep it


def claim() -> tuple:
    """Our own channels on stdin and stdout. What foreign code prints goes to stderr, and it finds
    nothing to read."""
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return incoming, outgoing

