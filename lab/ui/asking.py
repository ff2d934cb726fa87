"""Ask a run while it trains: the panel of the Train tab, answered by the training worker."""

import asyncio
from collections.abc import AsyncIterator
from html import escape

import gradio as gr

from lab.core.events import Answered
from lab.core.problems import RunError
from lab.core.rewards.scoring import score
from lab.services.lab import Lab
from lab.services.runs import PAUSED
from lab.ui.access import owner_only
from lab.ui.widgets import QUIET, explained, number

LOOK_EVERY = 0.25  # seconds between two looks at the run's events
EMPTY = "The worker answers at the end of its step, with and without what it has learnt so far."


def asking_panel(lab: Lab, run: gr.Textbox) -> gr.Button:
    """A question box for the run whose id `run` holds; returns the button that asks."""
    with gr.Accordion("Ask it while it trains", open=False, elem_id="ask-run"):
        with gr.Row():
            question = gr.Textbox(label="Question", lines=2, max_lines=8, max_length=20_000,
                                  scale=5, min_width=260, elem_id="ask-run-question")
            ask = gr.Button("Ask now", scale=0, min_width=120, elem_id="ask-run-send")
        answer = gr.HTML(f"<p class='empty'>{EMPTY}</p>", elem_id="ask-run-answer")

    @gr.on([ask.click, question.submit], inputs=[run, question], outputs=[answer, ask],
           trigger_mode="once", **QUIET)
    @explained
    @owner_only
    async def ask_run(run_id: str, text: str) -> AsyncIterator[tuple]:
        name = lab.jobs.ask(run_id, text)
        yield _waiting(lab, run_id), gr.update(interactive=False)
        try:
            found = await _answer(lab, run_id, name)
        except RunError:
            yield gr.skip(), gr.update(interactive=True)
            raise
        yield answers_html(lab, run_id, found), gr.update(interactive=True)

    return ask


async def _answer(lab: Lab, run_id: str, name: str) -> Answered:
    """Wait for the event. Raises RunError when it cannot come any more."""
    file = lab.workspace.run(run_id).asks / f"{name}.json"
    while True:
        gone = not file.exists()  # before the events are read: it is deleted after it is said
        found = next((a for a in lab.runs.log(run_id).answers if a.ask == name), None)
        if found:
            return found
        if gone:
            raise RunError("The worker could not answer.", "Its reason is among the notices.",
                           "Ask something shorter, or ask under Compare.")
        if not lab.runs.get(run_id).is_active:
            file.unlink(missing_ok=True)
            raise RunError("The run ended before it could answer.",
                           next="Ask its adapter under Compare.")
        await asyncio.sleep(LOOK_EVERY)


def _waiting(lab: Lab, run_id: str) -> str:
    """Without the step's number: not every step is logged, and a step may end just now."""
    what = "answer" if lab.runs.get(run_id).status == PAUSED else "end of this step"
    return f"<p class='busy' role='status'>Waiting for the {what} …</p>"


def answers_html(lab: Lab, run_id: str, found: Answered) -> str:
    """Both answers side by side, with the rewards that need no reference."""
    chosen = lab.runs.get(run_id).settings.rewards.chosen
    labels = {one.name: one.reward.label for one in chosen}
    sides = []
    for title, side in (("Before training", found.base), ("Now", found.tuned)):
        scored = score(side["text"], {}, chosen)
        told = ", ".join(f"{labels[name]} {number(value)}"
                         for name, value in scored.rewards.items()
                         if value is not None)
        about = f"{side['tokens']} tokens{', cut at the longest length' if side['cut'] else ''}."
        sides.append(f"<div><h4>{title}</h4><pre tabindex='0'>{escape(side['text']) or '(empty)'}"
                     f"</pre><p class='help'>{escape(f'{about} {told}')}</p></div>")
    return (f"<p class='facts'>At the end of step {found.step}, in {found.seconds:g} s:</p>"
            f"<div class='pair'>{''.join(sides)}</div>")
