"""Small pieces that several tabs use: a Problem as a panel or a toast, tables and bars of HTML."""

import asyncio
import contextlib
import functools
import inspect
import itertools
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from html import escape
from typing import Any

import gradio as gr

from lab.core.problems import LabError, Problem, explain
from lab.core.settings import ALL
from lab.services.runs import Run

QUIET = {"api_visibility": "private", "show_progress": "hidden"}  # for every handler of ours
LABELS = {setting.key: setting.knob.label for setting in ALL}
FRAME = 0.08  # seconds between two updates of a stream
FREE = QUIET | {"concurrency_limit": None}  # for those that are quick and share nothing
# For what shows news: some that come while it is being shown are not lost, and shown after it.
FOLLOWS = FREE | {"trigger_mode": "always_last"}


@contextlib.contextmanager
def _as_toast() -> Iterator[None]:
    """What fails inside becomes a toast with what happened, why and what to do."""
    try:
        yield
    except gr.Error:
        raise
    except Exception as error:
        problem = explain(error)
        more = "".join(f"<br>{escape(part)}" for part in (problem.why, problem.next) if part)
        raise gr.Error(f"<b>{escape(problem.what)}</b>{more}", duration=20,
                       print_exception=not isinstance(error, LabError)) from error


def explained(function: Callable) -> Callable:
    """A handler of any kind whose failures become a toast."""
    if inspect.isasyncgenfunction(function):
        @functools.wraps(function)
        async def wrapped(*args, **kwargs):
            with _as_toast():
                async for item in function(*args, **kwargs):
                    yield item
    elif inspect.isgeneratorfunction(function):
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            with _as_toast():
                yield from function(*args, **kwargs)
    elif inspect.iscoroutinefunction(function):
        @functools.wraps(function)
        async def wrapped(*args, **kwargs):
            with _as_toast():
                return await function(*args, **kwargs)
    else:
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            with _as_toast():
                return function(*args, **kwargs)
    return wrapped


def problem_html(problem: Problem) -> str:
    """One problem in its three parts."""
    why = f"<p>{escape(problem.why)}</p>" if problem.why else ""
    what_next = (f"<p class='next'>{escape(problem.next)}</p>"  # its cures say it as buttons
                 if problem.next and not problem.cures else "")
    field = f" data-field='{escape(problem.field)}'" if problem.field else ""
    return (f"<div role='listitem' class='problem {escape(problem.level)}'{field}>"
            f"<p class='what'>{escape(problem.what)}</p>{why}{what_next}{_ways(problem)}</div>")


# Of an HTML component that shows problems: a cure that is pressed becomes its `cure` event.
CURE_JS = """
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-cure]');
  if (button) trigger('cure', {set: JSON.parse(button.dataset.cure)});
});"""
TABS_OF = {"data": "data", "sampling": "compare"}  # where the fields of a group stand; else Model
IN_REWARDS = "train.multi_objective_aggregation"


def _ways(problem: Problem) -> str:
    """Buttons that cure a problem, and one that leads to the field it names."""
    made = [f"<button type='button' class='way' data-cure='{escape(json.dumps(dict(changes)))}'>"
            f"{escape(sentence)}</button>" for sentence, changes in problem.cures]
    group = problem.field.partition(".")[0]
    if group == "rewards" or problem.field == IN_REWARDS:
        tab, label = "rewards", "the rewards"
        place = "reward-editor" if group == "rewards" and problem.field.count(".") < 2 else (
            f"set-{problem.field.replace('.', '-')}")
    elif problem.field in LABELS:
        tab, label = TABS_OF.get(group, "model"), f"'{LABELS[problem.field]}'"
        place = f"set-{problem.field.replace('.', '-')}"
    else:
        return f"<p class='ways'>{''.join(made)}</p>" if made else ""
    made.append(f"<button type='button' class='way' data-field-id='{escape(place)}' "
                f"data-tab='{tab}'>Go to {escape(label)}</button>")
    return f"<p class='ways'>{''.join(made)}</p>"


def problems_html(problems: Iterable[Problem], none: str = "") -> str:
    """A list of problems, or the sentence that says there are none."""
    rows = "".join(problem_html(problem) for problem in problems)
    if rows:
        return f"<div role='list' class='problems'>{rows}</div>"
    return f"<p class='fine'>{escape(none)}</p>" if none else ""


def problem_in_place(problem: Problem | None) -> dict:
    """An update that shows a problem in place, or (None) takes the place away."""
    if problem is None:
        return gr.update(value="", visible=False)
    return gr.update(value=f"<div role='alert'>{problems_html([problem])}</div>", visible=True)


def table_html(head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "",
               numbers: Iterable[int] = (), classes: Sequence[str] = ()) -> str:
    """A table of text that scrolls inside itself; the columns in `numbers` are set to the right.
    `classes` has one for each row, or is empty."""
    right = set(numbers)

    def cells(tag: str, values: Sequence[Any]) -> str:
        return "".join(
            f"<{tag}{' class=number' if i in right else ''}"
            + (f" data-label='{escape(str(head[i]))}'" if tag == "td" and i < len(head) else "")
            + f">{escape(str(value))}</{tag}>" for i, value in enumerate(values))

    body = "".join(f"<tr class='{kind}'>{cells('td', row)}</tr>" for row, kind in
                   itertools.zip_longest(rows, classes, fillvalue=""))
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (f"<div class='table' tabindex='0'><table>{title}<thead><tr>{cells('th', head)}</tr>"
            f"</thead><tbody>{body}</tbody></table></div>")


def moved(run: Run) -> str:
    """The reward at a run's begin and end."""
    if run.reward_first is None:
        return "–"
    return f"{number(run.reward_first)} → {number(run.reward_last)}"


def when(created: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(created)) if created else "–"


def title_of(run: Run) -> str:
    """A run in a list of runs: by its name and when it was started, or by its id, which tells."""
    return run.id if run.name == run.id else f"{run.name} · {when(run.created)}"


def one_line(text: str, longest: int) -> str:
    """At most so many characters, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[:longest - 1]}…"


def counted(count: int, what: str) -> str:
    """1 question, 2 questions."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def number(value: float | None) -> str:
    """A score as people write it, to three places; a dash where there is none."""
    return "–" if value is None else f"{round(value, 3):g}"


def percent(share: float) -> str:
    """A share of a sum as people write it: 50 %, 12.5 %."""
    return f"{100 * share:.3g} %"


def focus_js(then: str, hold: str = "") -> str:
    """Moves the focus on when a press switches its own button off, or opens another tab; passes the
    inputs through. See labFocus in assets/page.js."""
    held = f", 600000, '#{hold}'" if hold else ""
    return f"(...given) => {{ window.labFocus('#{then}'{held}); return given; }}"


async def streamed(start: Callable[[], Iterable[Any]],
                   stop: threading.Event) -> AsyncIterator[Any]:
    """The newest item, again and again, of a blocking iterator that runs in a thread.

    `stop` is set when the reader goes away; the iterator must end then. Whatever it raises is
    raised here.
    """
    loop, items = asyncio.get_running_loop(), asyncio.Queue()

    def put(item: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the app is going down
            loop.call_soon_threadsafe(items.put_nowait, item)

    def work() -> None:
        try:
            for item in start():
                put((item, None))
        except Exception as error:
            put((None, error))
        finally:
            put(None)

    threading.Thread(target=work, daemon=True, name="stream").start()
    try:
        while True:
            batch = [await items.get()]
            while not items.empty():
                batch.append(items.get_nowait())
            for item in batch:
                if item is not None and item[1] is not None:
                    raise item[1]
            news = [item for item in batch if item is not None]
            if news:
                yield news[-1][0]
            if batch[-1] is None:
                return
            await asyncio.sleep(FRAME)
    finally:
        stop.set()
