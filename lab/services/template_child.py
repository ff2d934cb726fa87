"""Serves chat templates in the limited child: one that never ends must not hold up who looks at it.

As transformers renders them: the same sandbox, the same names.
"""

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

LONGEST = 20_000  # characters that are told of one text


def serve(setup: dict, incoming: Iterator[dict], say: Callable[..., None]) -> None:
    """{"template", "tokens", "arguments", "conversations"} in; {"written": [{"text"} or {"error"}],
    "names": of variables that it asks for} out."""
    environment = _environment()
    say(ready=True)
    for request in incoming:
        say(**rendered(environment, request))


def rendered(environment, request: dict) -> dict[str, Any]:
    from jinja2 import TemplateError, meta

    try:
        template = environment.from_string(request["template"])
        names = sorted(meta.find_undeclared_variables(environment.parse(request["template"])))
    except (TemplateError, RecursionError, ValueError) as error:
        wrong = {"error": _told(error)}
        return {"written": [wrong for _ in request["conversations"]], "names": []}
    written = []
    for conversation in request["conversations"]:
        try:
            text = template.render(messages=conversation, tools=None, documents=None,
                                   add_generation_prompt=True, **request["tokens"],
                                   **request["arguments"])
            written.append({"text": text if len(text) < LONGEST else
                            text[:LONGEST // 2] + text[-LONGEST // 2:]})
        except MemoryError:
            raise  # it writes without end, and a quick machine meets that before its time is up
        except Exception as error:  # a template may do whatever Python's operators do
            written.append({"error": _told(error)})
    return {"written": written, "names": names}


def _told(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _environment():
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} marks what an assistant said; here it only passes it on."""

        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_say"), [], [], body).set_lineno(line)

        def _say(self, caller):
            return caller()

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment
