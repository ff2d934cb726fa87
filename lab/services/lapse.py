"""Time-lapse: one question answered by the base model and by each checkpoint of a run, in turn."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lab.core.adapters import Adapter
from lab.core.problems import BadModel, Problem, RunError
from lab.core.settings import Sampling
from lab.core.weights import check_sound
from lab.services.chat import Chat, Pace, Side, Update
from lab.services.runs import Run

MOST = 20  # moments that are asked, the base model among them


@dataclass(frozen=True)
class Frame:
    """One moment's answer. `adapter` is None for the base model. `effect` is the largest change
    that the adapter makes to a logit, None where it was not looked at; `rate` is in tokens a
    second. `problem`: why there is no answer; the others go on."""

    adapter: Adapter | None
    text: str = ""
    tokens: int = 0
    cut: bool = False
    rate: float | None = None
    effect: float | None = None
    problem: Problem | None = None


def moments(run: Run) -> tuple[list[Adapter | None], int]:
    """(the base model and the adapters that are asked, how many there are). Raises RunError where
    the run has no adapter yet."""
    saved = run.folder.saved()
    if not saved:
        run.folder.saved_at(None)  # says why
    return thinned([None, *saved], MOST), 1 + len(saved)


def thinned(items: Sequence, most: int) -> list:
    """At most so many of them, evenly spread; the first and the last always."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def answer(chat: Chat, run: Run, wanted: Sequence[Adapter | None], messages: list[dict],
           sampling: Sampling, seed: int, stop: threading.Event,
           say: Callable[[str], None] = lambda text: None) -> Iterator[Frame]:
    """The frames of these moments, one after another. Once `stop` is set, no more come: one that
    was being answered is left out. Raises a LabError where no moment can be answered at all."""
    if not wanted:
        raise RunError("There is no checkpoint to ask.")
    for adapter in wanted:
        try:
            frame = _one(chat, run, adapter, messages, sampling, seed, stop, say)
        except BadModel as error:
            if adapter is None:
                raise  # the model itself, or the question: no other moment would do better
            frame = Frame(adapter, problem=error.problem)
        if stop.is_set():
            return
        yield frame


def _one(chat: Chat, run: Run, adapter: Adapter | None, messages: list[dict], sampling: Sampling,
         seed: int, stop: threading.Event, say: Callable[[str], None]) -> Frame:
    folder = adapter and adapter.path
    if folder:
        check_sound(folder)
    pace, last = Pace(), Update(0, "")
    side = Side(messages, folder and str(folder))
    for update in chat.stream(run.settings, [side], sampling, seed, stop, say):
        pace.hear(update)
        last = update
    effect = None
    if folder and not stop.is_set():
        effect = chat.adapter_effect(run.settings, folder, messages)
    return Frame(adapter, last.text, last.tokens, last.cut, pace.rate, effect)
