"""Serves a file of own rewards in the limited child: imports it, and scores what it is sent."""

import asyncio
import inspect
import linecache
import sys
import traceback
from collections.abc import Callable, Iterator
from numbers import Real
from types import ModuleType, SimpleNamespace
from typing import Any

from lab.core.limited import fence
from lab.core.rewards.registry import REWARDS

MODULE = "own_rewards"
HINT = "completions is a list of lists of messages, as in TRL: take completion[0]['content']."


def serve(setup: dict, incoming: Iterator[dict], say: Callable[..., None]) -> None:
    """First {"loaded"} or {"error", "lines"}; then for each call a reply for each answer, or, of a
    function for many, one with their list: {"score"} or {"error", "lines"} each."""
    file = setup["file"]
    try:
        functions = load(file, setup["text"], setup["functions"], setup["seconds"])
    except BaseException as error:
        say(**told(error, file))
        return
    say(loaded=True)
    for request in incoming:
        function, columns = functions[request["call"]], request["columns"]
        texts = [completion[-1]["content"] or "" for completion in columns["completions"]]
        if isinstance(columns.get("trainer_state"), dict):
            columns["trainer_state"] = SimpleNamespace(**columns["trainer_state"])
        if request["many"]:
            fence.more_time(request["seconds"])
            say(results=many(function, texts, columns, request["params"], file))
            continue
        for place, text in enumerate(texts):
            fence.more_time(request["seconds"])
            try:
                row = row_of(function, text, columns, place)
                say(**judged(function(**row, **request["params"])))
            except BaseException as error:
                say(**told(error, file))


def load(file: str, text: str, names: dict[str, str], seconds: float) -> dict[str, Callable]:
    """Import the text as a module: {name of a reward: its function}."""
    fence.more_time(seconds)
    module = ModuleType(MODULE)
    module.__file__ = file
    sys.modules[MODULE] = module
    # Tracebacks show the lines, though there is no such file here.
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile(text, file, "exec"), module.__dict__)
    return {name: REWARDS[name].function if name in REWARDS else getattr(module, function)
            for name, function in names.items()}


def row_of(function: Callable, text: str, columns: dict, place: int) -> dict[str, Any]:
    """What a function of one completion asks for."""
    row = {name: values[place] for name, values in columns.items() if isinstance(values, list)}
    return {p.name: ({**row, "completion": text})[p.name]
            for p in inspect.signature(function).parameters.values()
            if p.kind is not p.KEYWORD_ONLY}


def many(function: Callable, texts: list[str], columns: dict, params: dict,
         file: str) -> list[dict]:
    """The results of a function of lists, or of an async one for one completion."""
    try:
        if "completions" not in inspect.signature(function).parameters:
            return asyncio.run(_together(function, texts, columns, params, file))
        found = function(**asked(function, columns), **params)
        if inspect.isawaitable(found):
            found = asyncio.run(_awaited(found))
        if not isinstance(found, list | tuple):
            found = list(found) if hasattr(found, "__iter__") and not isinstance(
                found, str | dict) else found
        if not isinstance(found, list | tuple) or len(found) != len(texts):
            what = f"{len(found)} scores" if isinstance(found, list | tuple) \
                else type(found).__name__
            raise ValueError(f"it returned {what} for {len(texts)} completions")
        return [judged(score) for score in found]
    except BaseException as error:
        reply = told(error, file)
        if isinstance(error, TypeError | AttributeError) and "list" in str(error):
            reply["error"] += f" {HINT}"
        return [reply] * len(texts)


async def _together(function, texts, columns, params, file) -> list[dict]:
    async def one(place: int) -> dict:
        try:
            return judged(await function(**row_of(function, texts[place], columns, place),
                                         **params))
        except Exception as error:
            return told(error, file)

    return await asyncio.gather(*map(one, range(len(texts))))


async def _awaited(found):
    return await found


def asked(function: Callable, columns: dict) -> dict[str, Any]:
    """What a function of lists takes by name; all there is, where it ends with **kwargs."""
    given = {**columns, "log_extra": lambda *_: None, "log_metric": lambda *_: None}
    parameters = inspect.signature(function).parameters.values()
    lacks = [p.name for p in parameters if p.default is p.empty and p.name not in given
             and p.kind is not p.VAR_KEYWORD]
    if lacks:
        raise TypeError(f"it needs {lacks[0]!r}, which is not there outside of training")
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return given
    return {p.name: given[p.name] for p in parameters if p.name in given}


def judged(score: Any) -> dict:
    if score is None:
        return {"score": None}
    if isinstance(score, Real):
        return {"score": float(score)}
    return {"error": f"it returned {type(score).__name__}, not a number.", "lines": []}


def told(error: BaseException, file: str) -> dict:
    """An error in words, and the person's own lines that led to it, outermost first."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    lines = [f"line {frame.lineno}, in {frame.name}: {frame.line}" for frame in own]
    try:
        what = f"{type(error).__name__}: {error}"[:1000]
    except BaseException:  # an exception of theirs that cannot be told
        what = type(error).__name__
    if isinstance(error, MemoryError):
        what = "MemoryError: it needs more memory than it may have."
    where = f" (line {own[-1].lineno}: {own[-1].line})" if own else ""
    return {"error": f"{what.rstrip()}{where}", "lines": lines}
