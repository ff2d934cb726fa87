"""Is it well formed: JSON and Python, as far as a parser can say."""

import json
from typing import Annotated

from lab.core.knobs import Knob
from lab.core.prompts import final_answer, in_format
from lab.core.rewards.answer_text import in_fence
from lab.core.rewards.limited import ask
from lab.core.rewards.registry import SHAPE
from lab.core.rewards.validators import validator

SECONDS = 1.0  # of the processor, for one answer
KINDS = {"object": dict, "array": list, "any": object}


@validator("JSON", name="json", kind=SHAPE, examples=[
    (in_format("Two facts.", '{"city": "Paris", "people": 2}'), {}, True),
    ('Here it is:\n```json\n{"city": "Paris"}\n```\nDone.', {}, True),
    ('{"city": "Paris"}', {}, True),
    ('["Paris"]', {}, False),
    ('{"city": "Paris",}', {}, False),
    ("{'city': 'Paris'}", {}, False),
    ('Here it is: {"city": "Paris"}', {}, False),
    ('{"people": NaN}', {}, False),  # Python's own addition
    ("", {}, False),
])
def json_(completion: str, *, must_be: Annotated[str, Knob(
        "Must be", "'object' is {...}, 'array' is [...].", choices=tuple(KINDS))] = "object",
) -> bool:
    """The answer is JSON: the last fenced block in it, or all of it. What it says does not
    matter."""
    try:
        value = json.loads(in_fence(final_answer(completion)), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, KINDS[must_be])


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _bad_schema(schema: str) -> str | None:
    try:
        rules = json.loads(schema)
    except (ValueError, RecursionError) as error:
        return f"has a schema that is not JSON: {error}"
    return None if isinstance(rules, dict | bool) else "has a schema that is no JSON object"


@validator("JSON of a schema", kind=SHAPE, package="jsonschema", refuses=_bad_schema, examples=[
    (in_format("Two facts.", '{"city": "Paris"}'), {}, True),
    ('```json\n{"city": "Paris"}\n```', {}, True),
    ('["Paris"]', {}, False),
    ("{'city': 'Paris'}", {}, False),
    ("", {}, False),
])
def json_schema(completion: str, *, schema: Annotated[str, Knob(
        "Schema", "A JSON schema, such as {\"type\": \"object\", \"required\": [\"city\"]}.",
        lines=4)] = '{"type": "object"}') -> bool:
    """The answer is JSON that a JSON schema allows: the last fenced block in it, or all of it.
    Checked by jsonschema (`pip install jsonschema`); nothing that a schema points to is fetched."""
    return ask("schema", SECONDS, schema, in_fence(final_answer(completion)))


@validator("Python", name="python", kind=SHAPE, examples=[
    ("```python\ndef double(x):\n    return 2 * x\n```", {}, True),
    (in_format("Twice.", "print(2 * 21)"), {}, True),
    ("```python\ndef double(x)\n    return 2 * x\n```", {}, False),
    ("The answer is 42.", {}, False),
    ("42", {}, False),  # a bare number or name is no program
    ("", {}, False),
])
def python_(completion: str) -> bool:
    """The answer is a Python program without a syntax error: the last fenced block in it, or all of
    it. It is parsed, never run, so it may do nothing of what was asked."""
    return ask("python", SECONDS, in_fence(final_answer(completion)))
