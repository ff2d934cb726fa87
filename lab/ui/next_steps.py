"""What a run that has ended leads to: compare it, judge it, take it home."""

from dataclasses import dataclass

import gradio as gr

from lab.core.problems import LabError
from lab.services.lab import Lab
from lab.ui import verdict
from lab.ui.compare.sides import has_adapter
from lab.ui.forms import Form
from lab.ui.history import fork
from lab.ui.tabs import compare, runs
from lab.ui.widgets import FREE, explained, focus_js


@dataclass
class NextSteps:
    row: gr.Row
    compare: gr.Button
    evaluate: gr.Button
    export: gr.Button
    go_on: gr.Button

    def look(self, lab: Lab, run_id: str) -> dict:
        """Shown for a run that has ended and saved an adapter."""
        try:
            run = lab.runs.get(run_id)
            there = not run.is_active and run.settings is not None and has_adapter(run)
        except LabError:
            there = False
        return {self.row: gr.update(visible=there)}


def build() -> NextSteps:
    with gr.Row(visible=False, elem_id="next-steps", elem_classes="toolbar") as row:
        gr.HTML("<p>What next?</p>", min_width=90)
        made = [gr.Button(text, elem_id=f"next-{name}", size="md", scale=0, min_width=width)
                for name, text, width in (("compare", "Compare with the base", 200),
                                          ("evaluate", "Evaluate on held-out questions", 260),
                                          ("export", "Export", 110),
                                          ("go-on", "Go on from this adapter", 220))]
    return NextSteps(row, *made)


def wire(steps: NextSteps, run: gr.Textbox, lab: Lab, tabs: gr.Tabs,
         on_compare: compare.CompareTab, on_runs: runs.RunsTab, form: Form) -> None:
    """Each opens its tab with this run. `run` holds the id of the run that is shown."""

    @explained
    def to_compare(run_id: str) -> dict:
        return compare.show(on_compare, lab, run_id) | {tabs: gr.Tabs(selected="compare")}

    @explained
    def to_verdict(run_id: str) -> dict:
        return verdict.show(on_compare.verdict, lab, run_id) | {tabs: gr.Tabs(selected="compare")}

    @explained
    def to_export(run_id: str, chosen: str) -> dict:
        return runs.show(on_runs, lab, run_id, chosen) | {tabs: gr.Tabs(selected="runs")}

    @explained
    def to_fork(run_id: str) -> dict:
        return fork.prepared(lab, form, tabs, run_id)

    form.shown_by.append(steps.go_on.click(to_fork, run, [*form.outputs(), tabs],
                                           js=focus_js("start"), **FREE))
    steps.compare.click(to_compare, run, [tabs, *compare.shown(on_compare)],
                        js=focus_js("compare-question textarea"), **FREE)
    steps.evaluate.click(to_verdict, run, [tabs, *verdict.shown(on_compare.verdict)],
                         js=focus_js("verdict-ask"), **FREE)
    steps.export.click(to_export, [run, on_runs.export.chosen], [tabs, *runs.shown(on_runs)],
                       js=focus_js("runs-export"), **FREE)
