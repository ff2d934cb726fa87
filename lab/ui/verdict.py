"""The held-out verdict in the Compare tab: asked for, watched, cancelled, and read again later."""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from html import escape

import gradio as gr

from lab.core.problems import LabError, RunError, explain
from lab.services import verdicts
from lab.services.against import BASE, Against, base_of, find
from lab.services.evaluate import MOST_SEEDS, evaluate, held_out_count
from lab.services.lab import Lab
from lab.services.one_job import Cancelled
from lab.services.runs import NEWEST, Run
from lab.ui.access import owner_only
from lab.ui.talk import checkpoints_of, has_adapter
from lab.ui.verdict_page import CSS, progress_html, verdict_html
from lab.ui.widgets import FOLLOWS, FREE, QUIET, problem_in_place, title_of

BASE_MODEL = ("Base model", BASE)
# The value is one that every run offers: the page may still send it when a run has been picked.
NO_CHECKPOINT = [("None", NEWEST)]
CHOSEN = "chosen"  # by a person: the newest run is not followed any more
MANY = 200  # questions, where a run kept so many aside
ABOUT = ("Both sides answer the same questions, on which neither was trained. The goal rewards of "
         "the judged run decide which is better.")
NOTHING = "No adapter to judge yet. Train a model: its first checkpoint is enough."
NONE_YET = "No verdict on this adapter yet. Press Held-out verdict."
NONE_AGAINST = "These two were not compared yet. Press Held-out verdict."
SAME = "Both sides are the same adapter: choose another checkpoint, or another run."


@dataclass
class VerdictPanel:
    run: gr.Dropdown
    checkpoint: gr.Dropdown
    other: gr.Dropdown
    other_at: gr.Dropdown
    count: gr.Number
    seeds: gr.Number
    longest: gr.Number
    ask: gr.Button
    cancel: gr.Button
    said: gr.HTML
    result: gr.HTML
    followed: gr.Textbox


@dataclass(frozen=True)
class Picked:
    """The two sides as a person picked them: runs by id, checkpoints by step, best or newest."""

    run: str | None = None
    at: str | None = None
    other: str | None = BASE
    other_at: str | None = None


def build_panel() -> VerdictPanel:
    with gr.Column(elem_id="verdict"):
        gr.HTML(f"<h2>Held-out verdict</h2><p class='help'>{ABOUT}</p>")
        with gr.Row(equal_height=True):
            run = gr.Dropdown([], label="Judged run", elem_id="verdict-run", scale=3, min_width=220)
            checkpoint = gr.Dropdown(NO_CHECKPOINT, value=NEWEST, label="Checkpoint",
                                     elem_id="verdict-checkpoint", scale=2, min_width=150)
            other = gr.Dropdown([BASE_MODEL], value=BASE, label="Against",
                                elem_id="verdict-against", scale=3, min_width=220)
            other_at = gr.Dropdown(NO_CHECKPOINT, value=NEWEST, label="Its checkpoint",
                                   elem_id="verdict-against-checkpoint", scale=2, min_width=150,
                                   visible="hidden")
        with gr.Row(equal_height=True):
            count = gr.Number(MANY, label="Questions", minimum=1, precision=0, min_width=150,
                              elem_id="verdict-count",
                              info="The first so many that are new to both sides.")
            seeds = gr.Number(1, label="Answers to each, a side", minimum=1, maximum=MOST_SEEDS,
                              precision=0, min_width=150, elem_id="verdict-seeds",
                              info="1 is greedy. More are drawn as in training.")
            # 0 and not empty: gradio makes 0 of a number that is empty.
            longest = gr.Number(0, label="Longest answer, tokens", minimum=0, precision=0,
                                min_width=150, elem_id="verdict-longest",
                                info="0: as in training. Take more where answers are cut.")
        with gr.Row(elem_id="verdict-actions"):
            ask = gr.Button("Held-out verdict", variant="primary", elem_id="verdict-ask", scale=0,
                            min_width=190)
            cancel = gr.Button("Cancel", elem_id="verdict-cancel", interactive=False, scale=0,
                               min_width=100)
        said = gr.HTML(elem_id="verdict-said", visible=False, css_template=CSS)
        result = gr.HTML(elem_id="verdict-result", css_template=CSS)
        followed = gr.Textbox("", visible="hidden", elem_id="verdict-followed", label="Followed")
    return VerdictPanel(run, checkpoint, other, other_at, count, seeds, longest, ask, cancel, said,
                        result, followed)


def _filled(panel: VerdictPanel) -> list[gr.components.Component]:
    """What `_look` fills."""
    return [panel.run, panel.checkpoint, panel.other, panel.other_at, panel.count, panel.result]


def shown(panel: VerdictPanel) -> list[gr.components.Component]:
    """What `show` fills."""
    return [*_filled(panel), panel.followed, panel.said]


def show(panel: VerdictPanel, lab: Lab, run_id: str) -> dict:
    """Updates that pick this run, with its best adapter or the newest, against its base model."""
    return _picked(panel, lab, Picked(run_id))


def _picked(panel: VerdictPanel, lab: Lab, picked: Picked) -> dict:
    """What a person's choice shows."""
    return _look(lab, panel, picked) | {panel.followed: CHOSEN, panel.said: _shown("")}


def wire(panel: VerdictPanel, lab: Lab, triggers: Sequence[Callable]) -> None:
    """Events. `triggers` are the moments at which there may be new runs and verdicts."""
    pickers = [panel.run, panel.checkpoint, panel.other, panel.other_at]
    filled = _filled(panel)
    stops: dict[str, threading.Event] = {}  # by browser tab, while a verdict is being made

    def newest(chosen: str, run: str, at: str, other: str, other_at: str, request: gr.Request
               ) -> dict:
        """The newest run and its best adapter, until a person has chosen."""
        if (request.session_hash or "") in stops:
            return gr.skip()  # a verdict on this one is being made
        return _look(lab, panel, Picked(run, at, other, other_at), follow=not chosen)

    gr.on(triggers, newest, [panel.followed, *pickers], filled, **FOLLOWS)
    # Another run is taken with its best adapter, or the newest; another checkpoint keeps the run.
    panel.run.input(lambda run, at, *other: _picked(panel, lab, Picked(run, None, *other)),
                    pickers, shown(panel), **FREE)
    panel.other.input(lambda run, at, other, _: _picked(panel, lab, Picked(run, at, other)),
                      pickers, shown(panel), **FREE)
    gr.on([panel.checkpoint.input, panel.other_at.input],
          lambda *now: _picked(panel, lab, Picked(*now)), pickers, shown(panel), **FREE)

    @panel.cancel.click(**FREE)
    def cancel(request: gr.Request) -> None:
        if event := stops.get(request.session_hash or ""):
            event.set()

    @panel.ask.click(inputs=[*pickers, panel.count, panel.seeds, panel.longest],
                     outputs=[*filled, panel.ask, panel.cancel, panel.said], trigger_mode="once",
                     concurrency_id="verdict", concurrency_limit=1, **QUIET)
    @owner_only
    async def ask(run_id: str, at: str, other: str, other_at: str, count: float | None,
                  seeds: float | None, longest: float | None, request: gr.Request
                  ) -> AsyncIterator[dict]:
        event, key = threading.Event(), request.session_hash or ""
        stops[key] = event
        picked = Picked(run_id, at, other, other_at)
        ready = {panel.ask: gr.update(interactive=True), panel.cancel: gr.update(interactive=False)}
        try:
            asked = _asked(lab, picked, count, seeds, longest)
            yield {panel.ask: gr.update(interactive=False), panel.result: "",
                   panel.cancel: gr.update(interactive=True),
                   panel.said: _shown(progress_html(0, 0, 0.0, _beside(lab)))}
            begun = time.monotonic()
            async for done, of in _progress(lab, asked, event):
                yield {panel.said: _shown(progress_html(
                    done, of, time.monotonic() - begun, _beside(lab)))}
            yield _look(lab, panel, picked) | ready | {panel.said: _shown("")}
        except LabError as error:
            cancelled = isinstance(error, Cancelled)
            yield _look(lab, panel, picked) | ready | {
                panel.said: _shown("<p class='note' role='status'>Cancelled: nothing was kept.</p>")
                if cancelled else problem_in_place(error.problem)}
        except Exception as error:  # an unforeseen one must not leave the buttons as they are
            traceback.print_exception(error, file=sys.stderr)
            yield ready | {panel.said: problem_in_place(explain(error))}
        finally:
            event.set()  # on Cancel, at the end, and when the page was closed: the child ends
            if stops.get(key) is event:
                del stops[key]


def _asked(lab: Lab, picked: Picked, count: float | None, seeds: float | None,
           longest: float | None) -> dict:
    """What `evaluate` is asked for. Raises a LabError."""
    run = _run_of(lab, picked.run)
    n = _whole(count, "So many questions cannot be asked.", MANY)
    many = _whole(seeds, "So many answers to a question cannot be drawn.", 1, MOST_SEEDS)
    return {"run": run, "checkpoint": run.step_at(picked.at), "n": n, "seeds": many,
            "other": _other_of(lab, picked), "longest": int(longest or 0) or None}


async def _progress(lab: Lab, asked: dict, stop: threading.Event
                    ) -> AsyncIterator[tuple[int, int]]:
    """(answers done, of so many), until the verdict is kept. Raises what `evaluate` raises."""
    loop, told = asyncio.get_running_loop(), asyncio.Queue()
    work = asyncio.create_task(asyncio.to_thread(
        evaluate, **asked, stop=stop, free_gpu=lab.chat.close,
        progress=lambda done, of: loop.call_soon_threadsafe(told.put_nowait, (done, of))))
    while not work.done():
        news = asyncio.create_task(told.get())
        await asyncio.wait({work, news}, return_when=asyncio.FIRST_COMPLETED)
        if news.done():
            yield news.result()
        else:
            news.cancel()
    work.result()


def _look(lab: Lab, panel: VerdictPanel, picked: Picked, follow: bool = False) -> dict:
    """What the panel offers, and the verdict there is on what is picked."""
    runs = [run for run in lab.runs.all() if run.settings and has_adapter(run)]
    newest = runs[0] if runs else None
    run = newest if follow else next((one for one in runs if one.id == picked.run), newest)
    if run is None:
        return {panel.run: gr.update(choices=[], value=None),
                panel.checkpoint: gr.update(choices=NO_CHECKPOINT, value=NEWEST,
                                            interactive=False),
                panel.other: gr.update(choices=[BASE_MODEL], value=BASE),
                panel.other_at: gr.update(visible="hidden"),
                panel.result: _empty(NOTHING)}
    # A run that nobody picked is judged by its best adapter as soon as it has one.
    saved, at = _checkpoint(run, picked.at if picked.run == run.id and not follow else None)
    fit = [one for one in runs if base_of(one) == base_of(run)]
    other = None if follow else next((one for one in fit if one.id == picked.other), None)
    theirs, other_at = _checkpoint(other, picked.other_at)
    now, kept = Picked(run.id, at, other.id if other else BASE, other_at), held_out_count(run)
    asked = max((int(told.get("n") or 0) for told in run.held_out.values()), default=0)
    return {
        panel.run: gr.update(choices=[(title_of(one), one.id) for one in runs], value=run.id),
        panel.checkpoint: gr.update(choices=saved, value=at, interactive=True),
        panel.other: gr.update(choices=[BASE_MODEL, *((title_of(one), one.id) for one in fit)],
                               value=now.other),
        panel.other_at: gr.update(choices=theirs, value=other_at,
                                  visible=True if other else "hidden"),
        panel.count: gr.update(label=f"Questions, of {kept} held out" + (
            f" ({asked} asked while it trained)" if asked else "")),
        panel.result: _result(lab, run, now, kept)}


def _checkpoint(run: Run | None, picked: str | None) -> tuple[list[tuple[str, str]], str]:
    """(what is offered of a run, what is picked of it): what was picked if it is still there."""
    saved = checkpoints_of(run) if run else NO_CHECKPOINT
    return saved, picked if picked in {value for _, value in saved} else saved[0][1]


def _result(lab: Lab, run: Run, picked: Picked, kept: int) -> str:
    found, other = None, None
    try:
        mine = run.folder.saved_at(run.step_at(picked.at)).path
        other = _other_of(lab, picked)
        if other and verdicts.fingerprint(mine) == verdicts.fingerprint(other.adapter.path):
            return _empty(SAME)
        found = verdicts.of_adapter(run.folder, mine, other and other.adapter.path)
    except LabError:  # it was deleted in this moment
        pass
    if found is None and other is None and picked.at == NEWEST:
        found = verdicts.newest(run.folder)  # of an older adapter, which it says
    if found is None:
        return _empty("This run kept no questions aside, so there is nothing to judge it by. Start "
                      "one with 'Held-out rows' above 0." if not kept else
                      NONE_AGAINST if other else NONE_YET)
    return verdict_html(found, run.settings.rewards.chosen, kept, verdicts.every(run.folder))


def _other_of(lab: Lab, picked: Picked) -> Against | None:
    """What is compared with; None for the base model. Raises a LabError."""
    if not picked.other or picked.other == BASE:
        return None
    return find(f"{picked.other}:{picked.other_at or NEWEST}", lab.runs)


def _run_of(lab: Lab, run_id: str | None) -> Run:
    if not run_id:
        raise RunError("There is no run to judge yet.",
                       next="Train a model: its first checkpoint is enough.")
    return lab.runs.get(run_id)


def _whole(value: float | None, wrong: str, example: int, most: int | None = None) -> int:
    if value is None or value != int(value) or value < 1 or most and value > most:
        span = f"from 1 to {most}" if most else "above 0"
        raise RunError(wrong, f"It must be a whole number {span}.",
                       f"Take {example}, or any other.")
    return int(value)


def _beside(lab: Lab) -> str:
    active = lab.runs.active()
    return f"{active.name} is training: this takes longer meanwhile." if active else ""


def _empty(text: str) -> str:
    return f"<p class='empty'>{escape(text)}</p>"


def _shown(html: str) -> dict:
    return gr.update(value=html, visible=bool(html))
