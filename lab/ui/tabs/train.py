"""The Train tab: the live view of a run, and the buttons that stop it and let it go on."""

import contextlib
from dataclasses import dataclass

import gradio as gr
import psutil

from lab.core.problems import LabError, RunError
from lab.services import machine
from lab.services.jobs import OFFERED
from lab.services.lab import Lab
from lab.ui.access import owner_only
from lab.ui.asking import asking_panel
from lab.ui.forms import Form
from lab.ui.live import LiveView
from lab.ui.widgets import FREE, problem_in_place

PATIENCE = 60.0  # seconds that a worker which has said its last word may take to end


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
    with gr.Column(visible=False, elem_id="offers", elem_classes="question") as offered:
        gr.HTML("<p>With one of these changes it would fit:</p>")
        offers = [gr.Button(visible=False, size="md", elem_id=f"offer-{place}")
                  for place in range(OFFERED)]
    run = gr.Textbox(visible="hidden", elem_id="shown-run", label="Run that is shown")
    asking_panel(lab, run)
    live = LiveView(lab)
    gpu = gr.HTML(elem_id="gpu-memory", visible=False)
    tab = TrainTab(live, run, stop, kill, steps, resume, said)

    def buttons(run_id: str) -> dict:
        """How the buttons must stand for this run."""
        return {run: run_id, question: gr.update(visible=False), **_buttons(lab, tab, run_id),
                **_offers(lab, run_id, offered, offers)}

    shown = [run, question, stop, kill, steps, resume, offered, *offers]

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

    for place, button in enumerate(offers):
        @button.click(inputs=run, outputs=[*shown, said], trigger_mode="once",
                      concurrency_id="start", concurrency_limit=1,
                      api_visibility="private", show_progress="hidden")
        @owner_only
        def take(run_id: str, place: int = place) -> dict:
            return _try(lambda: _take_offer(lab, run_id, place)) | buttons(run_id)

    @live.run_state(outputs=gpu, **FREE)
    def memory_in_use(event: gr.EventData) -> dict:
        return _gpu_memory(lab, str(event._data.get("run") or ""))

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


def _offers(lab: Lab, run_id: str, box: gr.Column, buttons: list[gr.Button]) -> dict:
    """What is offered after a lack of memory: one button for each change that would fit."""
    try:
        found = lab.jobs.offers(run_id)
    except LabError:
        found = []
    updates: dict = {box: gr.update(visible=bool(found))}
    for place, button in enumerate(buttons):
        cure = found[place] if place < len(found) else None
        updates[button] = gr.update(visible=cure is not None) if cure is None else gr.update(
            visible=True, value=cure.sentence)
    return updates


def _take_offer(lab: Lab, run_id: str, place: int) -> None:
    found = lab.jobs.offers(run_id)
    if place >= len(found):
        raise RunError("This offer is gone.", "The run or the machine has changed since.",
                       "Look at the run again.")
    lab.jobs.start_again(run_id, found[place].changes)


def _gpu_memory(lab: Lab, run_id: str) -> dict:
    """What the GPU holds now; after a run, once its processes have ended."""
    if not machine.look(lab.workspace.root).gpus:
        return gr.update(visible=False)
    with contextlib.suppress(LabError, psutil.Error):
        if run_id and not lab.runs.get(run_id).is_active:
            lab.jobs.wait(run_id, PATIENCE)
    facts = machine.look(lab.workspace.root)
    told = ", ".join(f"{gpu.memory_gb - gpu.free_gb:.1f} of {gpu.memory_gb:.0f} GB"
                     for gpu in facts.gpus)
    return gr.update(visible=True, value=f"<p class='facts'>GPU memory in use: {told}</p>")


def _whole(number: float | None) -> int | None:
    """The steps that were typed; None means as many as were planned."""
    if number is None:
        return None
    if number != int(number) or number < 1:
        raise RunError("The number of steps cannot be used.",
                       f"{number:g} is not a whole number above 0.",
                       "Give the number of steps in all, those that are done included.")
    return int(number)
