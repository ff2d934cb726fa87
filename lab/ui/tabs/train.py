"""The Train tab: the live view of a run, and the buttons that stop it and let it go on."""

from dataclasses import dataclass

import gradio as gr

from lab.core.problems import LabError, RunError
from lab.services.lab import Lab
from lab.ui.access import owner_only
from lab.ui.forms import Form
from lab.ui.live import LiveView
from lab.ui.widgets import FREE, problem_in_place


@dataclass
class TrainTab:
    """The parts that other tabs wait for. `run` holds the id of the run that is shown."""

    live: LiveView
    run: gr.Textbox
    stop: gr.Button
    kill: gr.Button
    steps: gr.Number
    resume: gr.Button
    said: gr.HTML


def build_tab(lab: Lab, form: Form) -> TrainTab:
    with gr.Row(elem_classes="toolbar", elem_id="train-toolbar"):
        stop = gr.Button("Stop after this step", elem_id="stop", interactive=False, size="md",
                         scale=0, min_width=180)
        kill = gr.Button("Stop now", elem_id="stop-now", interactive=False, size="md", scale=0,
                         min_width=120)
        gr.HTML("<p style='text-align:right;padding:8px 0;margin:0'>Go on to step</p>",
                apply_default_css=False, min_width=110)
        steps = gr.Number(label="Go on to step", elem_id="resume-steps", container=False,
                          interactive=False, scale=0, min_width=110)
        resume = gr.Button("Resume", elem_id="resume", interactive=False, size="md",
                           scale=0, min_width=110)
    with gr.Row(visible=False, elem_id="stop-now-question", elem_classes="question") as question:
        gr.HTML("<p>Stop at once? What was learnt since the last checkpoint is lost.</p>")
        sure = gr.Button("Yes, stop now", variant="stop", elem_id="stop-now-yes", scale=0,
                         min_width=150)
        keep = gr.Button("Keep training", elem_id="stop-now-no", scale=0, min_width=150)
    said = gr.HTML(elem_id="train-said", visible=False)
    live = LiveView(lab)
    run = gr.Textbox(visible="hidden", elem_id="shown-run", label="Run that is shown")
    tab = TrainTab(live, run, stop, kill, steps, resume, said)

    def buttons(run_id: str) -> dict:
        """How the buttons must stand for this run."""
        return {run: run_id, question: gr.update(visible=False), **_buttons(lab, tab, run_id)}

    shown = [run, question, stop, kill, steps, resume]

    @live.run_state(outputs=[*shown, said], **FREE)
    def state(event: gr.EventData) -> dict:
        # What was said stands until the run has moved on from it.
        return {said: problem_in_place(None), **buttons(str(event._data.get("run") or ""))}

    @stop.click(inputs=run, outputs=[*shown, said], **FREE)
    @owner_only
    def ask_to_stop(run_id: str) -> dict:
        return _try(lambda: lab.jobs.stop(run_id)) | buttons(run_id)

    kill.click(lambda: gr.update(visible=True), outputs=question, **FREE)
    keep.click(lambda: gr.update(visible=False), outputs=question, **FREE)

    @sure.click(inputs=run, outputs=[*shown, said], **FREE)
    @owner_only
    def stop_at_once(run_id: str) -> dict:
        return _try(lambda: lab.jobs.kill(run_id)) | buttons(run_id)

    @resume.click(inputs=[run, steps], outputs=[*shown, said], trigger_mode="once",
                  concurrency_id="start", concurrency_limit=1,
                  api_visibility="private", show_progress="hidden")
    @owner_only
    def go_on(run_id: str, wanted: float | None) -> dict:
        return _try(lambda: lab.jobs.resume(run_id, _whole(wanted))) | buttons(run_id)

    def _try(work) -> dict:
        try:
            work()
        except LabError as error:
            return {said: problem_in_place(error.problem)}
        return {said: problem_in_place(None)}

    return tab


def _buttons(lab: Lab, tab: TrainTab, run_id: str) -> dict:
    off = {part: gr.update(interactive=False)
           for part in (tab.stop, tab.kill, tab.resume)}
    off[tab.steps] = gr.update(interactive=False, value=None)
    try:
        run = lab.runs.get(run_id)
    except LabError:
        return off
    off[tab.steps] = gr.update(interactive=False, value=run.steps or None)
    if run.is_active:
        return off | {
            tab.stop: gr.update(interactive=run.status in ("starting", "running")),
            tab.kill: gr.update(interactive=True)}
    saved = run.folder.checkpoints()
    if run.settings is None or not saved:
        return off
    planned = run.settings.train.max_steps
    more = planned if planned > saved[-1] else saved[-1] + planned
    return off | {tab.resume: gr.update(interactive=True),
                  tab.steps: gr.update(interactive=True, value=more)}


def _whole(number: float | None) -> int | None:
    """The steps that were typed; None means as many as were planned."""
    if number is None:
        return None
    if number != int(number) or number < 1:
        raise RunError("The number of steps cannot be used.",
                       f"{number:g} is not a whole number above 0.",
                       "Give the number of steps in all, those that are done included.")
    return int(number)
