"""The child that answers what could hang or crash: patterns, algebra, schemas, syntax.

Started by `limited.py` as a script of its own, with the standard library and the optional packages
and nothing of the lab. A request is one JSON line {"check", "seconds", "arguments"}, the answer one
JSON line {"verdict"} or {"error", "kind"}. Where it can, the operating system ends this process
when a request has used up its seconds, also when the lab is gone.
"""

import functools
import json
import re
import signal
import sys
import warnings

MOST_MEMORY = 4 * 2**30  # bytes of address space, where the system keeps to it (Linux)


def pattern(expression: str, text: str, whole: bool, ignore_case: bool) -> bool:
    """Whether a regular expression of Python matches the text, or is found in it."""
    compiled = re.compile(expression, re.DOTALL | (re.IGNORECASE if ignore_case else 0))
    return bool(compiled.fullmatch(text) if whole else compiled.search(text))


def maths(reference: str, attempts: list[str]) -> bool | None:
    """Whether one of the attempts is equal to the reference; None where that cannot be parsed.

    Without math-verify's own time limits: they turn what took too long into False.
    """
    from math_verify import verify

    wanted = _parsed(f"\\boxed{{{reference}}}")
    if not wanted:
        return None
    return any(verify(list(wanted), _parse(attempt), timeout_seconds=None, raise_on_error=False)
               for attempt in attempts)


@functools.lru_cache(maxsize=1024)  # one reference meets a whole group of answers
def _parsed(text: str) -> tuple:
    return tuple(_parse(text))


def _parse(text: str) -> list:
    from math_verify import parse

    return parse(text, parsing_timeout=None)


def schema(rules: str, text: str) -> bool:
    """Whether a text is JSON that a JSON schema allows. Raises ValueError for a bad schema."""
    judge = _judge(rules)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return judge.is_valid(value)


@functools.lru_cache(maxsize=64)
def _judge(rules: str):
    import jsonschema
    import referencing

    rules = json.loads(rules)
    kind = jsonschema.validators.validator_for(rules, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(rules)
    except jsonschema.SchemaError as error:
        raise ValueError(f"the schema is not valid: {error.message}") from None
    return kind(rules, registry=referencing.Registry())  # nothing is ever fetched


def python(source: str) -> bool:
    """Whether a text is a Python program, as far as the parser can say. "Yes" would be one too:
    more than names and constants must stand there."""
    import ast

    try:
        return any(not (isinstance(statement, ast.Expr)
                        and isinstance(statement.value, ast.Name | ast.Constant))
                   for statement in ast.parse(source).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


CHECKS = {"pattern": pattern, "maths": maths, "schema": schema, "python": python}
NEEDS = {"maths": ("math_verify",), "schema": ("jsonschema", "referencing")}


def main() -> None:
    _limit_memory()
    warnings.simplefilter("ignore")  # a program's own, such as an invalid escape
    answers, sys.stdout = sys.stdout, sys.stderr  # what a package prints is no answer
    for line in sys.stdin:
        request = json.loads(line)
        _be_done_in(request["seconds"])
        try:
            if request["arguments"] is None:  # only get ready
                for package in NEEDS.get(request["check"], ()):
                    __import__(package)
                answer = {"verdict": None}
            else:
                answer = {"verdict": CHECKS[request["check"]](*request["arguments"])}
        except Exception as error:  # is told, and the next request may be a better one
            answer = {"error": str(error), "kind": type(error).__name__}
        _be_done_in(0)
        print(json.dumps(answer), file=answers, flush=True)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = MOST_MEMORY if most == resource.RLIM_INFINITY else min(MOST_MEMORY, most)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (wanted, most))
    except (ValueError, OSError):  # macOS refuses
        return


def _be_done_in(seconds: float) -> None:
    if hasattr(signal, "setitimer"):  # without a handler the signal ends the process
        signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    main()
