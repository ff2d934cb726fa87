"""Serves one trial in the limited child: run some code, then the tests that it must pass."""

import ast
from collections.abc import Callable, Iterator

WHERE = "<answer>"


def serve(setup: dict, incoming: Iterator[dict], say: Callable[..., None]) -> None:
    """{"code"} in, {"ran"} out; then {"tests", "token"} in, {"passed", "of", "wrong", "token"}
    out.

    The tests come only after the code has run, and the token only with them: code that ends the
    process, or prints a result of its own, has not passed. `wrong` says what kept it from passing.
    """
    names: dict = {"__name__": "answer"}
    for request in incoming:
        if "code" in request:
            say(ran=_run(compile_of(request["code"]), names))
        else:
            passed, of, wrong = _test(request["tests"], names)
            say(passed=passed, of=of, wrong=wrong, token=request["token"])


def compile_of(text: str):
    try:
        return compile(text, WHERE, "exec")
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte
        return error


def _run(code, names: dict) -> str:
    """Empty, or what went wrong."""
    if isinstance(code, Exception):
        return told(code)
    try:
        exec(code, names)  # this is what the child is limited for
    except BaseException as error:  # SystemExit too: code that ends itself has not run
        return told(error)
    return ""


def told(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "MemoryError: it needs more memory than it may have"
    try:
        return f"{type(error).__name__}: {error}"[:500]
    except BaseException:  # an exception of theirs that cannot be told
        return type(error).__name__


def _test(text: str, names: dict) -> tuple[int, int, str]:
    """(passed, of, what was wrong first). Each `assert` of the tests' own lines counts for itself;
    everything else must run, and where there is no assert it is one test itself."""
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError) as error:
        return 0, 0, f"The tests are no Python: {told(error)}"
    asserts = sum(isinstance(one, ast.Assert) for one in statements)
    passed, failed = 0, ""
    for one in statements:
        error = _run(compile(ast.Module([one], []), "<tests>", "exec"), names)
        if isinstance(one, ast.Assert):
            passed += not error
            source = ast.unparse(one)[:200]
            error = error and f"{source}: {error}" if error != "AssertionError: " else source
        elif error:
            return 0, max(1, asserts), failed or error
        failed = failed or error
    if not asserts:
        return 1, 1, ""
    return passed, asserts, failed
