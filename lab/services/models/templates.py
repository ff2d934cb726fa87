"""Tries a model's chat template in a limited child: what it does with a system turn, and its end.
"""

import json
from functools import lru_cache

from lab.core.limited.run import Child, Ended, Limits
from lab.core.models.template import Template, conversations, seen, template_arguments

SERVES = "lab.services.template_child"
PATIENCE = 30.0  # seconds for the child to import jinja on a busy machine
LIMITS = Limits(seconds=3.0, memory_mb=1000, output_kb=4)


def tried(template: str, tokens: dict[str, str], arguments: str = "") -> Template | None:
    """What this template does; None where no child could try it."""
    return _tried(template, json.dumps(tokens, sort_keys=True), arguments)


@lru_cache(maxsize=64)
def _tried(template: str, tokens: str, arguments: str) -> Template | None:
    try:
        child = Child(SERVES, {}, LIMITS)
    except Ended:
        return None
    with child:
        try:
            child.receive(PATIENCE)
        except Ended:
            return None
        child.send(template=template, tokens=json.loads(tokens),
                   arguments=template_arguments(arguments), conversations=conversations())
        try:
            told = child.receive()
        except Ended as error:
            return Template(wrong=str(error), hangs=True)
    return seen(told["written"], told["names"])
