"""The Runs tab: every run there is, what sets chosen ones apart, and what can be done with one."""

from collections.abc import Callable, Sequence

import gradio as gr

from lab.core.problems import LabError, RunError
from lab.core.settings import Settings
from lab.services.history import NEWEST_FIRST, ORDERS
from lab.services.lab import Lab
from lab.services.runs import Run
from lab.ui import export_view
from lab.ui.access import owner_only
from lab.ui.forms import Form
from lab.ui.history import fork as from_here
from lab.ui.history import keeping, label_view, listing, overlay
from lab.ui.history.page import (
    ARCHIVED,
    DELETED,
    RUNS,
    Look,
    RunsTab,
    done,
    look_at,
    opened,
    quiet,
    shown,
)
from lab.ui.history.table import AT_ONCE, run_table
from lab.ui.widgets import FREE, problem_in_place

# Tells the live view which run to show, also when it was never opened (assets/live.js).
SHOW_JS = """(id, ...rest) => {
  if (id) sessionStorage.setItem('grpo-lab-run', id);
  window.dispatchEvent(new CustomEvent('grpo-lab-show', {detail: id || ''}));
  return [id, ...rest];
}"""
# Of an HTML component: a run that is pressed becomes its `pick` event.
PICK_JS = """element.addEventListener('click', event => {
  const run = event.target.closest('[data-run]');
  if (run) trigger('pick', {run: run.dataset.run});
});"""


def build_tab(lab: Lab, form: Form) -> RunsTab:
    with gr.Row(elem_id="runs-find"):
        words = gr.Textbox(label="Search", max_lines=1, scale=3, min_width=220,
                           placeholder="Name, model, data, tag, note", elem_id="runs-search",
                           info="Every word must fit; tag:WORD, note:WORD, model:WORD look there "
                           "alone.")
        order = gr.Dropdown([(told, key) for key, told in ORDERS.items()], value=NEWEST_FIRST,
                            label="Order", scale=1, min_width=170, elem_id="runs-order",
                            filterable=False)
        place = gr.Radio([RUNS, ARCHIVED, DELETED], value=RUNS, label="Show", scale=2,
                         min_width=260, elem_id="runs-place")
    table = run_table()
    ticked = gr.Textbox("[]", visible="hidden", elem_id="runs-ticked", label="Ticked")
    was = gr.Textbox("", visible="hidden", elem_id="runs-was", label="Was")
    chosen = gr.Textbox("", visible="hidden", elem_id="runs-chosen", label="Chosen")
    limit = gr.Number(AT_ONCE, visible="hidden", elem_id="runs-limit", label="Rows")
    empty = gr.Button("Delete all of these for good", elem_id="runs-empty", size="md", scale=0,
                      visible=False, variant="stop", min_width=240)
    with gr.Row(visible=False, elem_classes="question", elem_id="runs-empty-question") as sure:
        gr.HTML("<p>Delete all of these for good? They cannot be brought back then.</p>")
        empty_yes = gr.Button("Yes, delete them for good", variant="stop", size="md", scale=0,
                              elem_id="runs-empty-yes", min_width=220)
        empty_no = gr.Button("Keep them", elem_id="runs-empty-no", size="md", scale=0,
                             min_width=110)
    with gr.Row(elem_classes="toolbar"):
        said = gr.HTML(elem_id="runs-said", visible=False)
        undo = gr.Button("Undo", elem_id="runs-undo", size="md", scale=0, min_width=110,
                         visible=False)
    with gr.Column(elem_id="runs-panel", visible=False) as panel:
        run = gr.Dropdown([], label="Run", elem_id="runs-run")
        with gr.Row(elem_id="runs-actions"):
            show = gr.Button("Open in Train", elem_id="runs-open", size="md", scale=0,
                             min_width=150)
            fork = gr.Button("Use these settings", elem_id="runs-fork", size="md", scale=0,
                             min_width=190)
            resume = gr.Button("Resume", elem_id="runs-resume", size="md", scale=0, min_width=110)
            delete = gr.Button("Delete", elem_id="runs-delete", size="md", scale=0, min_width=110,
                               variant="stop")
        with gr.Row(visible=False, elem_classes="question",
                    elem_id="runs-delete-question") as question:
            asked = gr.HTML()
            really = gr.Button("Yes, delete it", variant="stop", elem_id="runs-delete-yes",
                               size="md", scale=0, min_width=150)
            keep = gr.Button("Keep it", elem_id="runs-delete-no", size="md", scale=0,
                             min_width=110)
        details = gr.HTML(elem_id="runs-details", js_on_load=PICK_JS, css_template=
                          ".help { margin: 10px 0; } h3 { margin: 14px 0 8px; }")
        label = label_view.build(was)
        gr.HTML("<h3>Curves and settings</h3><p class='help'>Tick runs in the table to set them "
                "beside this one.</p>")
        curves = overlay.overlay(lab)
        settings = gr.HTML(elem_id="runs-settings", css_template="h3 { margin: 14px 0 8px; }")
        export = export_view.build_panel(chosen)
    followed = gr.Textbox("", visible="hidden", elem_id="runs-followed", label="Followed")
    undone = gr.Textbox("", visible="hidden", elem_id="runs-undone", label="Deleted last")
    return RunsTab(words, order, place, table, ticked, limit, empty, sure, empty_yes, empty_no,
                   run, details, said, undo, undone, show, fork, resume, delete, question, asked,
                   really, keep, label, curves, settings, export, panel, followed)


def show(tab: RunsTab, lab: Lab, run_id: str | None, chosen: str) -> dict:
    """Updates that open this run, with all runs listed; `chosen` is what the export panel has."""
    return opened(tab, lab, Look(run_id, chosen=chosen))


def wire(tab: RunsTab, lab: Lab, form: Form, tabs: gr.Tabs, triggers: Sequence[Callable]) -> None:
    """Events. `triggers` are the moments at which there may be something new."""
    filled, looked = shown(tab), tab.looked()
    listing.wire(tab, lab, triggers)
    keeping.wire(tab, lab)
    export_view.wire(tab.export, lab, tab.run)

    tab.open.click(lambda _: gr.Tabs(selected="train"), tab.run, tabs, js=SHOW_JS, **FREE)

    def fork(run_id: str) -> dict:
        try:
            run = lab.runs.get(run_id)
            return _in_form(form, tabs, tab, _settings_of(run),
                            f"The form now holds the settings of {run.name}. Change what you like, "
                            "then press Start.")
        except LabError as error:
            return {tab.said: problem_in_place(error.problem)}

    def go_on(run_id: str, checkpoint: str) -> dict:
        try:
            return from_here.prepared(lab, form, tabs, run_id, checkpoint)
        except LabError as error:
            return {tab.said: problem_in_place(error.problem)}

    outputs = [*form.outputs(), tab.said, tabs]
    form.shown_by += [tab.fork.click(fork, tab.run, outputs, **FREE),
                      tab.export.go_on.click(go_on, [tab.run, tab.export.checkpoint], outputs,
                                              **FREE)]

    @tab.resume.click(inputs=looked, outputs=[*filled, tabs], trigger_mode="once",
                      concurrency_id="start", concurrency_limit=1, api_visibility="private",
                      show_progress="hidden", js=SHOW_JS)
    @owner_only
    def resume(*given) -> dict:
        look = Look(*given)
        try:
            lab.jobs.resume(look.run)
        except LabError as error:
            return look_at(lab, tab, look) | {tab.said: problem_in_place(error.problem)}
        return look_at(lab, tab, look) | quiet(tab) | {tabs: gr.Tabs(selected="train")}


def _in_form(form: Form, tabs: gr.Tabs, tab: RunsTab, settings: Settings, said: str) -> dict:
    return form.show(settings) | {tabs: gr.Tabs(selected="model"), tab.said: done(said)}


def _settings_of(run: Run) -> Settings:
    if run.settings is None:
        raise RunError(run.problem.what, run.problem.why, run.problem.next)
    return run.settings
