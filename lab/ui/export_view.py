"""Taking the LoRA home, in the Runs tab: what is made in the background, its check, a push."""

import atexit
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from lab.core.problems import LabError, RunError
from lab.services.export.check import QUESTIONS
from lab.services.export.hub import refuse_name
from lab.services.export.state import DONE, QUANTS, Asked, Export
from lab.services.lab import Lab
from lab.services.runs import NEWEST, Run
from lab.ui import access
from lab.ui.access import owner_only
from lab.ui.compare.sides import checkpoints_of, has_adapter
from lab.ui.export_html import CSS, made_html, progress_html
from lab.ui.widgets import FREE, QUIET, problem_in_place

KINDS = (("Adapter (PEFT)", "adapter"), ("Merged model (16 bit)", "merged"),
         ("GGUF for llama.cpp and Ollama", "gguf"), ("Script without the lab", "script"),
         ("Model card with curves", "card"), ("Bundle: all of it", "bundle"))
ABOUT = {
    "adapter": "A zip that plain peft loads: the adapter, its tokenizer files and a model card.",
    "merged": "The base with the adapter in it: loads with transformers and vLLM alone. As large "
              "as the base model.",
    "gguf": "The merged model for llama.cpp, with a Modelfile for Ollama. Needs llama.cpp's "
            "converter on this machine.",
    "script": "train.py for plain TRL or Unsloth, with the run's data and the commands for several "
              "GPUs and for a job on the Hub.",
    "card": "What it learnt, its settings and its curves as pictures.",
    "bundle": "Adapter, merged model, script and card; GGUF where it can be made.",
}
CHECKED = (" Each is loaded again by a process without the lab and answers held-out questions as "
           "a check.")
NO_ADAPTER = ("This run has no adapter yet: it is saved at each checkpoint, and when the run stops "
              "or ends.")
# gr.Timer would let the page hold a connection open; this one asks while an export works.
TICKING = """const timer = setInterval(() => {
  if (!element.isConnected) clearInterval(timer);
  else if (!document.hidden && element.querySelector('.busy')) trigger('tick');
}, 1000);"""
# In the browser, at once, so that whatever is asked for from now on knows of the pick.
CHOSEN_JS = "(run, at) => `${run}/${at}`"
# After news: those that were on their way when a person picked have put the first offer there.
STANDS_JS = """(run, at, chosen) =>
  chosen.startsWith(`${run}/`) ? chosen.slice(run.length + 1) : at"""
PUSHED = ("Uploads what is chosen above, with its card. It is made first where that was not done. "
          "A push that fails keeps what was made.")


@dataclass
class ExportPanel:
    note: gr.HTML
    about: gr.HTML
    kind: gr.Dropdown
    checkpoint: gr.Dropdown
    chosen: gr.Textbox  # RUN/CHECKPOINT where a person picked the checkpoint, else empty
    quant: gr.Dropdown
    count: gr.Number
    go_on: gr.Button
    make: gr.Button
    cancel: gr.Button
    said: gr.HTML
    progress: gr.HTML
    made: gr.HTML
    pick: gr.Dropdown
    download: gr.DownloadButton
    delete: gr.Button
    repository: gr.Textbox
    private: gr.Checkbox
    push: gr.Button

    def filled(self) -> list[gr.components.Component]:
        """What `look` fills."""
        return [self.note, self.about, self.kind, self.quant, self.checkpoint, self.chosen,
                self.go_on, self.make, self.push, self.cancel, self.progress, self.made, self.pick,
                self.download, self.delete, self.said]

    def kept(self) -> tuple[gr.components.Component, ...]:
        """What a person has made ready or is being told: it stays while the run stays."""
        return self.download, self.said, self.kind, self.quant, self.about, self.pick


def build_panel(chosen: gr.Textbox) -> ExportPanel:
    """`chosen` is hidden, and outside of what is shown and hidden with a run."""
    gr.HTML("<h3>Its adapter: take it home, or go on from it</h3>")
    note = gr.HTML(elem_id="runs-export-note", visible=False)
    with gr.Row(equal_height=True):
        kind = gr.Dropdown(list(KINDS), value="adapter", label="Export as",
                           elem_id="runs-export-kind", scale=3, min_width=220)
        checkpoint = gr.Dropdown([("Newest", NEWEST)], value=NEWEST, label="Checkpoint",
                                 elem_id="runs-checkpoint", scale=2, min_width=150)
        quant = gr.Dropdown(list(QUANTS), value="q8_0", label="Numbers of the GGUF", visible=False,
                            elem_id="runs-export-quant", scale=1, min_width=150)
        count = gr.Number(QUESTIONS, label="Questions to check it on", minimum=0, precision=0,
                          scale=1, min_width=190, elem_id="runs-export-count")
    about = gr.HTML(elem_id="runs-export-about")
    with gr.Row(elem_id="runs-export"):
        make = gr.Button("Export", variant="primary", elem_id="runs-prepare", size="md", scale=0,
                         min_width=150)
        go_on = gr.Button("Go on from this adapter", elem_id="runs-go-on", size="md", scale=0,
                          min_width=220)
        cancel = gr.Button("Cancel", elem_id="runs-export-cancel", interactive=False, size="md",
                           scale=0, min_width=110)
    said = gr.HTML(elem_id="runs-export-said", visible=False)
    progress = gr.HTML(elem_id="runs-export-progress", css_template=CSS, js_on_load=TICKING)
    made = gr.HTML(elem_id="runs-export-made", css_template=CSS)
    with gr.Row(elem_classes="toolbar", elem_id="runs-export-take"):
        pick = gr.Dropdown([], label="Exported", elem_id="runs-export-pick", scale=2,
                           min_width=260)
        download = gr.DownloadButton("Download", elem_id="runs-download", interactive=False,
                                     size="md", scale=0, min_width=260)
        delete = gr.Button("Delete this export", elem_id="runs-export-delete", interactive=False,
                           size="md", scale=0, min_width=180)
    with gr.Accordion("Push to the Hugging Face Hub", open=False, elem_id="runs-push-box"):
        gr.HTML(f"<p class='help'>{PUSHED}</p>")
        with gr.Row(elem_classes="toolbar"):
            repository = gr.Textbox(label="Repository", placeholder="OWNER/NAME", scale=3,
                                    min_width=220, elem_id="runs-push-name")
            private = gr.Checkbox(True, label="Private", elem_id="runs-push-private", scale=0,
                                  min_width=120)
            push = gr.Button("Push", elem_id="runs-push", size="md", scale=0, min_width=110)
    return ExportPanel(note, about, kind, checkpoint, chosen, quant, count, go_on, make, cancel,
                       said, progress, made, pick, download, delete, repository, private, push)


def look(panel: ExportPanel, lab: Lab, run: Run, chosen: str = "") -> dict:
    """Everything the panel shows of this run. A checkpoint of it that a person has `chosen` stays
    while it is there."""
    saved = has_adapter(run)
    return {**_checkpoints(panel, run, chosen, saved),
            panel.note: gr.update(visible=not saved,
                                  value=f"<p class='help'>{NO_ADAPTER}</p>"),
            panel.about: f"<p class='help'>{_about('adapter')}</p>",
            panel.go_on: gr.update(interactive=saved and run.settings is not None),
            panel.kind: "adapter", panel.quant: gr.update(visible=False),
            panel.download: _no_download(), panel.said: problem_in_place(None),
            **_now(panel, lab, run, None)}


def wire(panel: ExportPanel, lab: Lab, run: gr.Dropdown) -> None:
    """Events. `run` holds the id of the run that is shown."""
    ready = Path(tempfile.mkdtemp(prefix="grpo-lab-"))  # gradio hands out no file of a run's folder
    atexit.register(shutil.rmtree, ready, ignore_errors=True)
    follows = [panel.make, panel.push, panel.cancel, panel.progress, panel.made, panel.pick,
               panel.download, panel.delete, panel.said]
    wanted = [run, panel.kind, panel.checkpoint, panel.quant, panel.count]

    @panel.kind.input(inputs=panel.kind, outputs=[panel.about, panel.quant], **FREE)
    def explain_kind(kind: str) -> dict:
        return {panel.about: f"<p class='help'>{_about(kind)}</p>",
                panel.quant: gr.update(visible=kind == "gguf")}

    def start(run_id: str, kind: str, checkpoint: str, quant: str, count: float | None,
              repository: str = "", private: bool = True, token: str = "") -> dict:
        try:
            found = lab.runs.get(run_id)  # an id that is looked up, never a path
            # Once: a run that trains saves a newer one, or a better one.
            step = found.folder.saved_at(found.step_at(checkpoint)).step
            lab.exports.start(Asked(run_id, kind, step, quant, _count(count), "", repository,
                                    private), token)
        except LabError as error:
            return {panel.said: problem_in_place(error.problem)}
        return _now(panel, lab, found, None) | {panel.said: problem_in_place(None),
                                                panel.download: _no_download()}

    panel.checkpoint.input(None, [run, panel.checkpoint], panel.chosen, js=CHOSEN_JS, **FREE)

    @panel.make.click(inputs=wanted, outputs=follows, trigger_mode="once",
                      concurrency_id="export", concurrency_limit=1, **QUIET)
    @owner_only
    def make(run_id: str, kind: str, checkpoint: str, quant: str, count: float | None) -> dict:
        return start(run_id, kind, checkpoint, quant, count)

    @panel.push.click(inputs=[*wanted, panel.repository, panel.private], outputs=follows,
                      trigger_mode="once", concurrency_id="export", concurrency_limit=1, **QUIET)
    @owner_only
    def push(run_id: str, kind: str, checkpoint: str, quant: str, count: float | None,
             repository: str, private: bool) -> dict:
        try:
            return start(run_id, kind, checkpoint, quant, count, refuse_name(repository), private,
                         access.token_of_caller())
        except LabError as error:
            return {panel.said: problem_in_place(error.problem)}

    @panel.cancel.click(inputs=run, outputs=follows, **FREE)
    @owner_only
    def cancel(run_id: str) -> dict:
        if (export := lab.exports.active()) is not None:
            lab.exports.cancel(export)
        return gr.skip()

    @panel.progress.tick(inputs=[run, panel.pick], outputs=follows, **FREE)
    def tick(run_id: str, picked: str | None) -> dict:
        try:
            found = lab.runs.get(run_id)
        except LabError:
            return {panel.progress: ""}
        newest = next(iter(lab.exports.of(run_id)), None)
        if lab.exports.active() is not None or newest is None:
            return _now(panel, lab, found, picked)
        # It has ended: what was made is ready to be taken.
        updates = _now(panel, lab, found, newest.folder.path.name)
        return updates | {panel.download: _download(newest, ready)}

    @panel.pick.input(inputs=[run, panel.pick], outputs=[panel.download, panel.delete], **FREE)
    def take(run_id: str, picked: str | None) -> dict:
        export = _picked(lab, run_id, picked)
        return {panel.download: _download(export, ready) if export else _no_download(),
                panel.delete: gr.update(interactive=export is not None)}

    @panel.delete.click(inputs=[run, panel.pick], outputs=follows, **FREE)
    @owner_only
    def delete(run_id: str, picked: str | None) -> dict:
        try:
            found = lab.runs.get(run_id)
            if (export := _picked(lab, run_id, picked)) is not None:
                lab.exports.delete(export)
        except LabError as error:
            return {panel.said: problem_in_place(error.problem)}
        return _now(panel, lab, found, None) | {panel.download: _no_download()}

    gr.on([panel.checkpoint.input, panel.kind.input], _no_download, outputs=panel.download, **FREE)


def _now(panel: ExportPanel, lab: Lab, run: Run, picked: str | None) -> dict:
    """How far it is, and what was made of this run."""
    active = lab.exports.active()
    made = lab.exports.of(run.id)
    saved = has_adapter(run)
    names = [value for _, value in _choices(lab, run.id)]
    return {
        panel.make: gr.update(interactive=saved and active is None),
        panel.push: gr.update(interactive=saved and active is None),
        panel.cancel: gr.update(interactive=active is not None),
        panel.progress: progress_html(active, run.id) if active else "",
        panel.made: made_html([one for one in made if not one.is_active], saved),
        panel.pick: gr.update(choices=_choices(lab, run.id),
                              value=picked if picked in names else None),
        panel.delete: gr.update(interactive=picked in names)}


def _checkpoints(panel: ExportPanel, run: Run, chosen: str, saved: bool) -> dict:
    """What the picker offers. Where nobody has picked one of these it stands on the first, also
    when that becomes another: the best, once there is one."""
    offered, at = checkpoints_of(run), chosen.removeprefix(f"{run.id}/")
    picked = at in {value for _, value in offered}
    # Else not touched: somebody may just pick one.
    forgotten = {panel.chosen: ""} if chosen and not picked else {}
    return {panel.checkpoint: gr.update(choices=offered, value=at if picked else offered[0][1],
                                        interactive=saved)} | forgotten


def _about(kind: str) -> str:
    return ABOUT.get(kind, "") + ("" if kind in ("script", "card") else CHECKED)


def _choices(lab: Lab, run_id: str) -> list[tuple[str, str]]:
    return [(one.asked.heading, one.folder.path.name) for one in lab.exports.of(run_id)
            if one.status == DONE and one.path]


def _picked(lab: Lab, run_id: str, picked: str | None) -> Export | None:
    try:
        return next((one for one in lab.exports.of(run_id)
                     if one.folder.path.name == picked), None)
    except LabError:
        return None


def _download(export: Export, ready: Path) -> dict:
    """The button for a file that was made; off for visitors, and for what is no file."""
    if export.path is None or not export.path.is_file() or not access.may_train():
        return _no_download()
    target = ready / export.path.name
    target.unlink(missing_ok=True)
    try:
        os.link(export.path, target)
    except OSError:  # another disk
        shutil.copyfile(export.path, target)
    return gr.update(label=f"Download {export.asked.title} ({export.bytes / 1e6:.1f} MB)",
                     value=str(target), interactive=True)


def _no_download() -> dict:
    return gr.update(label="Download", value=None, interactive=False)


def _count(value: float | None) -> int:
    if value is None or value != int(value) or not 0 <= value <= 1000:
        raise RunError("So many questions cannot be asked.", "It must be a whole number from 0 to "
                       "1000.", f"Take {QUESTIONS}; 0 leaves the check out.")
    return int(value)
