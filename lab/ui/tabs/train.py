"""The Train tab: the live view of a run, and the buttons that pause, stop and resume it."""

import contextlib
from dataclasses import dataclass

import gradio as gr
import psutil

from lab.core.problems import LabError, RunError
from lab.core.settings import CPU
from lab.services import machine
from lab.services.jobs import OFFERED
from lab.services.lab import Lab
from lab.services.runs import PAUSED
from lab.ui import next_steps
from lab.ui.access import owner_only
from lab.ui.asking import asking_panel
from lab.ui.doctor import doctor_panel
from lab.ui.forms import Form
from lab.ui.learning_map import learning_map
from lab.ui.live import LiveView
from lab.ui.microscope import microscope_view
from lab.ui.next_steps import NextSteps
from lab.ui.widgets import FREE, QUIET, focus_js, problem_in_place

STOP = "Stop after this step"
PATIENCE = 60.0  # seconds that a worker which has said its last word may take to end


@dataclass
class TrainTab:
    """The parts that other tabs wait for. `run` holds the id of the run that is shown."""

    live: LiveView
    run: gr.Textbox
    pause: gr.Button
    go_on: gr.Button
    stop: gr.Button
    kill: gr.Button
    steps: gr.Number
    resume: gr.Button
    said: gr.HTML
    doctor: gr.HTML
    toolbar: gr.Row
    ask: gr.Button
    steps_after: NextSteps


def build_tab(lab: Lab, form: Form) -> TrainTab:
    with gr.Row(elem_classes="toolbar", elem_id="train-toolbar", visible=False) as toolbar:
        pause = gr.Button("Pause", elem_id="pause", interactive=False, size="md", scale=0,
                          min_width=110)
        go_on = gr.Button("Go on", elem_id="go-on", visible=False, variant="primary", size="md",
                          scale=0, min_width=110)
        stop = gr.Button(STOP, elem_id="stop", interactive=False, size="md", scale=0,
                         min_width=180)
        kill = gr.Button("Stop now", elem_id="stop-now", interactive=False, size="md", scale=0,
                         min_width=120)
        gr.HTML("<p style='text-align:right;padding:8px 0;margin:0'>Go on to step</p>",
                apply_default_css=False, min_width=110)
        steps = gr.Number(label="Go on to step", elem_id="resume-steps", container=False,
                          interactive=False, scale=0, min_width=110)
        resume = gr.Button("Resume", elem_id="resume", interactive=False, size="md",
                           scale=0, min_width=110)
    with gr.Row(visible=False, elem_id="pause-question", elem_classes="question") as waits:
        gr.HTML("<p>Wait after this step? <b>Held</b>, the run keeps everything in memory, goes on "
                "at once, and no other run can start. <b>Given back</b>, its memory is free: the "
                "run is saved and stops, and Resume loads the model and goes on from there.</p>",
                min_width=300)
        hold = gr.Button("Hold it", variant="primary", elem_id="pause-hold", size="md", scale=0,
                         min_width=110)
        release = gr.Button("Give the memory back", elem_id="pause-release", size="md", scale=0,
                            min_width=190)
        unpaused = gr.Button("Keep training", elem_id="pause-no", size="md", scale=0,
                             min_width=140)
    with gr.Row(visible=False, elem_id="stop-now-question", elem_classes="question") as question:
        lost = gr.HTML("<p>Stop at once?</p>", elem_id="stop-now-lost")
        sure = gr.Button("Yes, stop now", variant="stop", elem_id="stop-now-yes", scale=0,
                         min_width=150)
        keep = gr.Button("Keep training", elem_id="stop-now-no", scale=0, min_width=150)
    said = gr.HTML(elem_id="train-said", visible=False)
    with gr.Column(visible=False, elem_id="offers", elem_classes="question") as offered:
        gr.HTML("<p>With one of these changes it would fit:</p>")
        offers = [gr.Button(visible=False, size="md", elem_id=f"offer-{place}")
                  for place in range(OFFERED)]
    run = gr.Textbox(visible="hidden", elem_id="shown-run", label="Run that is shown")
    after = next_steps.build()
    ask = asking_panel(lab, run)
    doctor = doctor_panel(lab)
    live = LiveView(lab)
    microscope_view(lab)
    learning_map(lab)
    gpu = gr.HTML(elem_id="gpu-memory", visible=False)
    tab = TrainTab(live, run, pause, go_on, stop, kill, steps, resume, said, doctor, toolbar, ask,
                   after)

    def buttons(run_id: str) -> dict:
        """How the buttons must stand for this run."""
        return {run: run_id, question: gr.update(visible=False), waits: gr.update(visible=False),
                **_buttons(lab, tab, run_id), **_offers(lab, run_id, offered, offers)}

    shown = [run, question, waits, pause, go_on, stop, kill, steps, resume, offered, *offers,
             toolbar, ask, after.row]

    @live.run_state(outputs=[*shown, said], **FREE)
    def state(event: gr.EventData) -> dict:
        # What was said stands until the run has moved on from it.
        return {said: problem_in_place(None), **buttons(str(event._data.get("run") or ""))}

    pause.click(lambda run_id: {waits: gr.update(visible=True), release: _given_back(lab, run_id)},
                run, [waits, release], js=focus_js("pause-hold"), **FREE)
    unpaused.click(lambda: gr.update(visible=False), outputs=waits, js=focus_js("pause"), **FREE)

    @owner_only
    def ask_to_wait(run_id: str) -> dict:
        return _try(lambda: lab.jobs.pause(run_id)) | buttons(run_id)

    hold.click(ask_to_wait, run, [*shown, said], js=focus_js("go-on"), **FREE)

    @owner_only
    def end_the_pause(run_id: str) -> dict:
        return _try(lambda: lab.jobs.go_on(run_id)) | buttons(run_id)

    go_on.click(end_the_pause, run, [*shown, said], js=focus_js("pause"), **FREE)

    @owner_only
    def ask_to_stop(run_id: str) -> dict:
        return _try(lambda: lab.jobs.stop(run_id)) | buttons(run_id)

    release.click(ask_to_stop, run, [*shown, said], js=focus_js("resume", "stop-now"), **FREE)
    stop.click(ask_to_stop, run, [*shown, said], js=focus_js("resume", "stop-now"), **FREE)
    kill.click(lambda run_id: {question: gr.update(visible=True), lost: _lost(lab, run_id)}, run,
               [question, lost], js=focus_js("stop-now-no"), **FREE)
    keep.click(lambda: gr.update(visible=False), outputs=question, js=focus_js("stop-now"), **FREE)

    @owner_only
    def stop_at_once(run_id: str) -> dict:
        return _try(lambda: lab.jobs.kill(run_id)) | buttons(run_id)

    sure.click(stop_at_once, run, [*shown, said], js=focus_js("resume", "stop-now"), **FREE)

    @owner_only
    def go_on(run_id: str, wanted: float | None) -> dict:
        return _try(lambda: lab.jobs.resume(run_id, _whole(wanted))) | buttons(run_id)

    resume.click(go_on, [run, steps], [*shown, said], trigger_mode="once",
                 concurrency_id="start", concurrency_limit=1, js=focus_js("stop", "resume"),
                 **QUIET)

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


def _lost(lab: Lab, run_id: str) -> str:
    """What an end at once would lose."""
    try:
        saved = lab.workspace.run(run_id).checkpoints()
    except LabError:
        return "<p>Stop at once?</p>"
    what = (f"What was learnt since the checkpoint of step {saved[-1]} is lost." if saved else
            "There is no checkpoint yet: everything it learnt is lost, and Resume begins anew.")
    return f"<p>Stop at once? {what}</p>"


def _given_back(lab: Lab, run_id: str) -> str:
    """What a run that stops gives back, as a button says it."""
    try:
        on_gpu = lab.runs.log(run_id).engine not in ("", CPU)
    except LabError:
        on_gpu = False
    return f"Give the {'GPU' if on_gpu else 'memory'} back"


def _buttons(lab: Lab, tab: TrainTab, run_id: str) -> dict:
    off = {part: gr.update(interactive=False)
           for part in (tab.kill, tab.resume, tab.ask)}
    off[tab.pause] = gr.update(interactive=False, visible=True)
    off[tab.go_on] = gr.update(visible=False)
    off[tab.stop] = gr.update(interactive=False, value=STOP)
    off[tab.steps] = gr.update(interactive=False, value=None)
    off |= tab.steps_after.look(lab, run_id)
    try:
        run = lab.runs.get(run_id)
    except LabError:
        return off | {tab.toolbar: gr.update(visible=False)}
    off[tab.toolbar] = gr.update(visible=True)
    off[tab.steps] = gr.update(interactive=False, value=run.steps or None)
    if run.is_active:
        return off | {
            tab.pause: gr.update(interactive=run.status in ("starting", "running"),
                                 visible=not run.is_paused),
            tab.go_on: gr.update(visible=run.is_paused),
            tab.stop: gr.update(interactive=run.status != "stopping",
                                value="Stop and save" if run.status == PAUSED else STOP),
            tab.kill: gr.update(interactive=True), tab.ask: gr.update(interactive=True)}
    saved = run.folder.checkpoints()
    if run.settings is None or not (saved or run.begins_again):
        return off
    planned = run.settings.train.max_steps
    more = planned if run.can_go_on else saved[-1] + planned
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
