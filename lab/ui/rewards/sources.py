"""Where the playground takes answers from: a row of the data, the base model, a run."""

import asyncio
import json
import random
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import gradio as gr

from lab.core.prompts import prompt_of
from lab.core.settings import Sampling, Settings
from lab.services.chat import Side
from lab.services.lab import Lab
from lab.services.playground import Recorded, groups_of, row_of, runs_of, steps_of, titles
from lab.ui.access import owner_only
from lab.ui.forms import Form
from lab.ui.rewards.playground import Playground, columns_in, join_answers
from lab.ui.widgets import FREE, QUIET, explained, streamed

WHOLE = -1  # in the list of answers: the group
DRAWN = 8  # answers of the base model at most


def wire(play: Playground, lab: Lab, form: Form) -> None:
    @play.source.input(inputs=play.source, outputs=[*play.ways.values(), play.run], **FREE)
    @explained
    def turn_to(source: str) -> list:
        runs = runs_of(lab) if source == "run" else []
        return [*(gr.update(visible=key == source) for key in play.ways),
                gr.update(choices=runs, value=None, info=None if runs else
                          "No run yet: what it recorded can be looked at here.")]

    @play.take.click(inputs=play.row, inputs_kwargs=form.inputs(),
                     outputs=[*play.filled[:3], play.row], concurrency_id="preview",
                     concurrency_limit=2, **QUIET)
    @explained
    @owner_only
    async def take(number: float | None, **values) -> tuple:
        settings = form.read(values)
        row, number, _ = await asyncio.to_thread(row_of, settings, int(number or 1))
        return row.question, row.reference, _json(row.columns), number

    _wire_base(play, lab, form)
    _wire_run(play, lab)


def _wire_base(play: Playground, lab: Lab, form: Form) -> None:
    going: dict[str, threading.Event] = {}  # what ends the drawing of each open page

    @play.ask.click(inputs=[play.question, play.columns, play.count], inputs_kwargs=form.inputs(),
                    outputs=[play.answers, play.tokens, play.said, play.ask, play.stop],
                    concurrency_id="chat", concurrency_limit=1, trigger_mode="once", **QUIET)
    @explained
    @owner_only
    async def ask(question: str, columns: str, count: float | None, request: gr.Request,
                  **values):
        stop = going[request.session_hash] = threading.Event()
        drawn: list[tuple[str, int]] = []
        try:
            settings = form.read(values)
            wanted = max(1, min(DRAWN, int(count or 1)))
            yield (gr.skip(), gr.skip(), _busy("The model is being loaded"),
                   gr.update(interactive=False), gr.update(interactive=True))
            row = {**columns_in(columns or ""), "question": question}
            begin = partial(_drawing, lab, settings, row, wanted, stop)
            async for now in streamed(begin, stop):
                whole = len(now) > len(drawn) > 0  # the one before is finished
                drawn = now
                yield (*(_shown(drawn[:-1]) if whole else (gr.skip(), gr.skip())), _busy(
                    f"Answer {len(drawn)} of {wanted}: {drawn[-1][1]} tokens"), gr.skip(),
                    gr.skip())
            if drawn:
                yield *_shown(drawn), gr.skip(), gr.skip(), gr.skip()
        except Exception:
            yield (gr.skip(), gr.skip(), "", gr.update(interactive=True),
                   gr.update(interactive=False))
            raise
        finally:
            going.pop(request.session_hash, None)
        yield (gr.skip(), gr.skip(), "", gr.update(interactive=True),
               gr.update(interactive=False))

    @play.stop.click(**FREE)
    def stop(request: gr.Request) -> None:
        if event := going.get(request.session_hash):
            event.set()


def _drawing(lab: Lab, settings: Settings, row: dict[str, Any], wanted: int,
             stop: threading.Event) -> Iterator[list[tuple[str, int]]]:
    """[(text, tokens)] of the base model's answers so far, drawn one after the other as a rollout
    of training would draw them."""
    train = settings.train
    sampling = Sampling(train.temperature, train.top_p, train.max_completion_length)
    sides = [Side(prompt_of(row, settings.data.system_prompt))]
    drawn: list[tuple[str, int]] = []
    for _ in range(wanted):
        if stop.is_set():
            return
        before = list(drawn)
        for update in lab.chat.stream(settings, sides, sampling, random.randrange(2**31), stop):
            drawn = [*before, (update.text, update.tokens)]
            yield drawn


def _shown(drawn: list[tuple[str, int]]) -> tuple[str, str]:
    return join_answers([text for text, _ in drawn]), _json(dict(drawn))


def _wire_run(play: Playground, lab: Lab) -> None:
    @play.run.input(inputs=play.run, **FREE,
                    outputs=[play.step, play.group, play.answer, *play.filled])
    @explained
    def pick_run(run: str) -> list:
        steps = steps_of(lab, run)
        picked = gr.update(choices=[(f"Step {step}", step) for step in steps],
                           value=steps[0] if steps else None,
                           info=None if steps else "It recorded no answers yet.")
        return [picked, *(_of_step(lab, run, steps[0]) if steps else
                          [gr.update(choices=[], value=None)] * 2 + [gr.skip()] * len(play.filled))]

    @play.step.input(inputs=[play.run, play.step], outputs=[play.group, play.answer, *play.filled],
                     **FREE)
    @explained
    def pick_step(run: str, step: int) -> list:
        return _of_step(lab, run, step)

    @play.group.input(inputs=[play.run, play.step, play.group], outputs=[play.answer, *play.filled],
                      **FREE)
    @explained
    def pick_group(run: str, step: int, group: int) -> list:
        return _of_group(groups_of(lab, run, step)[group])

    @play.answer.input(inputs=[play.run, play.step, play.group, play.answer],
                       outputs=play.answers, **FREE)
    @explained
    def pick_answer(run: str, step: int, group: int, answer: int) -> str:
        texts = [one["text"] for one in groups_of(lab, run, step)[group].answers]
        return join_answers(texts) if answer == WHOLE else texts[answer]


def _of_step(lab: Lab, run: str, step: int) -> list:
    groups = groups_of(lab, run, step)
    names = titles([group.row.question for group in groups])
    choices = [(name, place) for place, name in enumerate(names)]
    return [gr.update(choices=choices, value=0 if groups else None),
            *(_of_group(groups[0]) if groups else [gr.skip()] * 6)]


def _of_group(group: Recorded) -> list:
    """Updates of the list of answers, and of what is scored: the whole group."""
    texts = [one["text"] for one in group.answers]
    names = [("The whole group", WHOLE),
             *((name, place) for place, name in enumerate(titles(texts)))]
    counted = {one["text"]: one["tokens"] for one in group.answers
               if isinstance(one.get("tokens"), int)}
    return [gr.update(choices=names, value=WHOLE), group.row.question, group.row.reference,
            _json(group.row.columns), join_answers(texts), _json(counted)]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if value else ""


def _busy(text: str) -> str:
    return f"<p class='busy' role='status'>{text} …</p>"
