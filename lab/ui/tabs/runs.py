"""The Runs tab: every run there is, what it was set to, and what can be done with it."""

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lab.core.knobs import plain
from lab.core.problems import LabError, Problem, RunError
from lab.core.rewards.registry import format_chosen
from lab.core.settings import ALL, Settings
from lab.services.export import adapter_zip, zip_name
from lab.services.lab import Lab
from lab.services.runs import Run
from lab.ui.access import owner_only
from lab.ui.forms import Form
from lab.ui.talk import has_adapter
from lab.ui.widgets import FREE, moved, problem_in_place, problems_html, table_html, when

DEFAULTS = "defaults"
NEWEST = "newest"
NO_RUNS = "No runs yet. Pick a recipe on the Start tab and press Start; it will be listed here."
ZIPPED = ("A zip that plain peft loads, without the lab: the adapter, its tokenizer files and a "
          "model card.")
NO_ADAPTER = ("This run has no adapter yet: it is saved at each checkpoint, and when the run stops "
              "or ends.")
# Tells the live view which run to show, also when it was never opened (assets/live.js).
SHOW_JS = """(id) => {
  if (id) sessionStorage.setItem('grpo-lab-run', id);
  window.dispatchEvent(new CustomEvent('grpo-lab-show', {detail: id || ''}));
  return [id];
}"""


class RunTable(gr.HTML):
    """A table whose rows can be picked; triggers `pick` with the id of the run."""

    def __init__(self, **look: Any) -> None:
        super().__init__(value="", apply_default_css=False, js_on_load="""
element.addEventListener('click', event => {
  const row = event.target.closest('[data-run]');
  if (row) trigger('pick', {run: row.dataset.run});
});""", css_template="""
tr[data-run] { cursor: pointer; }
tr[data-run]:hover, tr[aria-selected=true] { background: var(--background-fill-secondary); }
tr[aria-selected=true] > :first-child { box-shadow: inset 3px 0 0 var(--border-color-accent); }
button.run { font: inherit; font-weight: 700; color: inherit; background: none; border: 0;
  padding: 0; cursor: pointer; text-align: left; }
button.run:hover { text-decoration: underline; }
button.run:focus-visible { outline: 2px solid var(--border-color-accent); outline-offset: 2px; }
td, th { white-space: nowrap; }""", **look)

    def api_info(self) -> dict[str, Any]:
        return {"type": "string"}


@dataclass
class RunsTab:
    table: RunTable
    run: gr.Dropdown
    other: gr.Dropdown
    details: gr.HTML
    said: gr.HTML
    open: gr.Button
    fork: gr.Button
    resume: gr.Button
    delete: gr.Button
    question: gr.Row
    really: gr.Button
    keep: gr.Button
    note: gr.HTML
    checkpoint: gr.Dropdown
    prepare: gr.Button
    download: gr.DownloadButton
    panel: gr.Column


def build_tab(lab: Lab, form: Form) -> RunsTab:
    table = RunTable(elem_id="runs-table")
    said = gr.HTML(elem_id="runs-said", visible=False)
    with gr.Column(elem_id="runs-panel", visible=False) as panel:
        with gr.Row():
            run = gr.Dropdown([], label="Run", elem_id="runs-run", scale=2, min_width=220)
            other = gr.Dropdown([("The defaults", DEFAULTS)], value=DEFAULTS, scale=2,
                                min_width=220, label="Compare its settings with",
                                elem_id="runs-other")
        with gr.Row(elem_id="runs-actions"):
            show = gr.Button("Open in Train", elem_id="runs-open", size="md", scale=0,
                             min_width=150)
            fork = gr.Button("Use these settings", elem_id="runs-fork", size="md", scale=0,
                             min_width=190)
            resume = gr.Button("Resume", elem_id="runs-resume", size="md", scale=0, min_width=110)
            delete = gr.Button("Delete", elem_id="runs-delete", size="md", scale=0, min_width=110)
        with gr.Row(visible=False, elem_id="runs-delete-question") as question:
            gr.HTML("<p>Delete this run with its curves, answers and adapters? It cannot be "
                    "brought back.</p>")
            really = gr.Button("Yes, delete it", variant="stop", elem_id="runs-delete-yes",
                               size="md", scale=0, min_width=150)
            keep = gr.Button("Keep it", elem_id="runs-delete-no", size="md", scale=0,
                             min_width=110)
        details = gr.HTML(elem_id="runs-details", css_template=".help { margin: 10px 0; } "
                          "h3 { margin: 14px 0 8px; }")
        gr.HTML("<h3>Export the adapter</h3>")
        note = gr.HTML(elem_id="runs-export-note")
        checkpoint = gr.Dropdown([("Newest", NEWEST)], value=NEWEST, label="Checkpoint",
                                 elem_id="runs-checkpoint", scale=0)
        with gr.Row(elem_id="runs-export"):
            prepare = gr.Button("Make the zip", elem_id="runs-prepare", size="md", scale=0,
                                min_width=150)
            download = gr.DownloadButton("Download", elem_id="runs-download", interactive=False,
                                         variant="primary", size="md", scale=0, min_width=200)
    return RunsTab(table, run, other, details, said, show, fork, resume, delete, question, really,
                   keep, note, checkpoint, prepare, download, panel)


def wire(tab: RunsTab, lab: Lab, form: Form, page: gr.Blocks, tabs: gr.Tabs, item: gr.Tab) -> None:
    """Events. `item` is the tab's own gr.Tab: opening it looks for what is new."""
    exports = Path(tempfile.mkdtemp(prefix="grpo-lab-"))
    atexit.register(shutil.rmtree, exports, ignore_errors=True)
    shown = [tab.table, tab.panel, tab.run, tab.other, tab.details, tab.open, tab.fork, tab.resume,
             tab.delete, tab.question, tab.note, tab.checkpoint, tab.prepare, tab.download]

    def look(run_id: str | None, other: str | None) -> dict:
        return _look(lab, tab, run_id, other)

    def look_anew(run_id: str | None, other: str | None) -> dict:
        return _look(lab, tab, run_id, other) | {tab.said: _nothing()}

    gr.on([page.load, item.select], look, [tab.run, tab.other], shown, **FREE)
    gr.on([tab.run.input, tab.other.input], look_anew, [tab.run, tab.other], [*shown, tab.said],
          **FREE)

    @tab.table.pick(inputs=tab.other, outputs=[*shown, tab.said], **FREE)
    def pick(other: str, event: gr.EventData) -> dict:
        return look_anew(str(event._data.get("run") or ""), other)

    tab.open.click(lambda _: gr.Tabs(selected="train"), tab.run, tabs, js=SHOW_JS, **FREE)

    def fork(run_id: str) -> dict:
        try:
            settings = _settings_of(lab.runs.get(run_id))
            name = lab.runs.get(run_id).name
        except LabError as error:
            return {tab.said: problem_in_place(error.problem)}
        return form.show(settings) | {tabs: gr.Tabs(selected="model"), tab.said: _done(
            f"The form now holds the settings of {name}. Change what you like, then press Start.")}

    form.shown_by.append(tab.fork.click(fork, tab.run, [*form.outputs(), tab.said, tabs], **FREE))

    @tab.resume.click(inputs=[tab.run, tab.other], outputs=[*shown, tab.said, tabs],
                      trigger_mode="once", concurrency_id="start", concurrency_limit=1,
                      api_visibility="private", show_progress="hidden", js="""(id, other) => {
  if (id) sessionStorage.setItem('grpo-lab-run', id);
  window.dispatchEvent(new CustomEvent('grpo-lab-show', {detail: id || ''}));
  return [id, other];
}""")
    @owner_only
    def resume(run_id: str, other: str) -> dict:
        try:
            lab.jobs.resume(run_id)
        except LabError as error:
            return _look(lab, tab, run_id, other) | {tab.said: problem_in_place(error.problem)}
        return _look(lab, tab, run_id, other) | {tab.said: _nothing(),
                                                 tabs: gr.Tabs(selected="train")}

    tab.delete.click(lambda: gr.update(visible=True), outputs=tab.question, **FREE)
    tab.keep.click(lambda: gr.update(visible=False), outputs=tab.question, **FREE)

    @tab.really.click(inputs=[tab.run, tab.other], outputs=[*shown, tab.said], **FREE)
    @owner_only
    def delete(run_id: str, other: str) -> dict:
        try:
            lab.jobs.delete(run_id)
        except LabError as error:
            return _look(lab, tab, run_id, other) | {tab.said: problem_in_place(error.problem)}
        except OSError as error:
            return _look(lab, tab, run_id, other) | {tab.said: problem_in_place(Problem(
                "The run could not be deleted.", f"{error.strerror or error}.",
                "Look whether another program uses its folder."))}
        return _look(lab, tab, None, other) | {tab.said: _done(f"Run {run_id} was deleted.")}

    @tab.prepare.click(inputs=[tab.run, tab.checkpoint], outputs=[tab.download, tab.said],
                       trigger_mode="once", concurrency_id="export", concurrency_limit=1,
                       api_visibility="private", show_progress="minimal")
    @owner_only
    def prepare(run_id: str, checkpoint: str) -> dict:
        try:
            folder = lab.workspace.run(run_id)  # an id that is looked up, never a path
            step = int(checkpoint) if (checkpoint or "").isdecimal() else None
            path = adapter_zip(folder, step, exports / zip_name(folder, step))
        except LabError as error:
            return {tab.download: _no_download(), tab.said: problem_in_place(error.problem)}
        size = path.stat().st_size / 1e6
        return {tab.said: _nothing(), tab.download: gr.update(
            label=f"Download ({size:.1f} MB)", value=str(path), interactive=True)}

    tab.checkpoint.input(_no_download, outputs=tab.download, **FREE)


def _look(lab: Lab, tab: RunsTab, run_id: str | None, other: str | None) -> dict:
    """Everything the tab shows, for this run, or the newest one where it is not there."""
    runs = lab.runs.all()
    run = next((one for one in runs if one.id == run_id), runs[0] if runs else None)
    if run is None:
        return {tab.table: table_of([], ""), tab.panel: gr.update(visible=False),
                tab.run: gr.update(choices=[], value=None)}
    others = [one for one in runs if one.id != run.id and one.settings]
    against = next((one for one in others if one.id == other), None)
    steps = run.folder.checkpoints()
    usable = run.settings is not None
    saved = has_adapter(run)
    return {
        tab.table: table_of(runs, run.id), tab.panel: gr.update(visible=True),
        tab.run: gr.update(choices=[(title_of(one), one.id) for one in runs], value=run.id),
        tab.other: gr.update(
            choices=[("The defaults", DEFAULTS), *((title_of(one), one.id) for one in others)],
            value=against.id if against else DEFAULTS),
        tab.details: details_html(run, against),
        tab.open: gr.update(interactive=True),
        tab.fork: gr.update(interactive=usable),
        tab.resume: gr.update(interactive=usable and bool(steps) and not run.is_active
                              and run.settings.train.max_steps > steps[-1]),
        tab.delete: gr.update(interactive=not run.is_active),
        tab.question: gr.update(visible=False),
        tab.note: f"<p class='help'>{ZIPPED if saved else NO_ADAPTER}</p>",
        tab.checkpoint: gr.update(
            choices=[("Newest", NEWEST), *((f"Step {s}", str(s)) for s in reversed(steps))],
            value=NEWEST, interactive=saved),
        tab.prepare: gr.update(interactive=saved),
        tab.download: _no_download(),
    }


def table_of(runs: Sequence[Run], chosen: str) -> str:
    if not runs:
        return f"<p class='empty'>{escape(NO_RUNS)}</p>"
    rows = "".join(
        f"<tr data-run='{escape(run.id)}' data-status='{escape(run.status)}' "
        f"aria-selected='{str(run.id == chosen).lower()}'>"
        f"<th scope='row'><button type='button' class='run'>{escape(run.name)}</button></th>"
        f"<td><span class='status {escape(run.status)}'>{escape(run.status)}</span></td>"
        f"<td class='number'>{run.step} / {run.steps}</td>"
        f"<td class='number'>{moved(run)}</td><td class='number'>{duration(run.seconds)}</td>"
        f"<td>{when(run.created)}</td><td><code>{escape(run.id)}</code></td></tr>"
        for run in runs)
    return ("<div class='table' tabindex='0' role='region' aria-label='Runs'><table><thead><tr>"
            "<th>Run</th><th>Status</th><th class='number'>Steps</th>"
            "<th class='number'>Reward, first → last</th><th class='number'>Took</th>"
            f"<th>Started</th><th>Id</th></tr></thead><tbody>{rows}</tbody></table></div>")


def details_html(run: Run, other: Run | None) -> str:
    """The problem of a run if it has one, what it ran on, and where its settings differ."""
    found = problems_html([run.problem]) if run.problem else ""
    if run.settings is None:
        return found
    stack = run.record.get("stack")
    facts = []
    if isinstance(stack, dict):
        facts.append(f"Ran on the {stack.get('value')} stack, because {stack.get('why')}.")
    notes = run.record.get("notes")
    facts += [str(note) for note in notes] if isinstance(notes, list) else []
    about = f"<p class='help'>{escape(' '.join(facts))}</p>" if facts else ""
    against = other.settings if other else Settings()
    name = other.name if other else "the defaults"
    differences = run.settings.differences(against)
    if not differences:
        return found + about + f"<p class='fine'>Its settings are those of {escape(name)}.</p>"
    labels = {s.key: s.knob.label for s in ALL}
    rows = [(labels[key], key, _value(mine), _value(theirs))
            for key, (mine, theirs) in differences.items()]
    title = (f"{len(rows)} settings differ from {name}" if len(rows) > 1
             else f"One setting differs from {name}")
    heads = ("Setting", "Key", run.name, other.name if other else "Default")
    return f"{found}{about}<h3>{escape(title)}</h3>{table_html(heads, rows)}"


def title_of(run: Run) -> str:
    return run.id if run.name == run.id else f"{run.name} · {when(run.created)}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _settings_of(run: Run) -> Settings:
    if run.settings is None:
        raise RunError(run.problem.what, run.problem.why, run.problem.next)
    return run.settings


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        value = (", ".join(value) if value and isinstance(value[0], str)
                 else format_chosen(value).replace(",", ", "))
    if isinstance(value, float):
        value = plain(value)
    text = " ".join(str(value).split()) or "(empty)"
    return text if len(text) <= 160 else f"{text[:159]}…"


def _no_download() -> dict:
    return gr.update(label="Download", value=None, interactive=False)


def _nothing() -> dict:
    return gr.update(value="", visible=False)


def _done(text: str) -> dict:
    return gr.update(value=f"<p class='note' role='status'>{escape(text)}</p>", visible=True)
