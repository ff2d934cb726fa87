"""Goes on from a run's adapter: the settings of a new run that begins with it, in the form."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from lab.core.insight.doctor.cures import in_words
from lab.services import lineage
from lab.services.lab import Lab
from lab.ui.forms import Form


def prepared(lab: Lab, form: Form, tabs: gr.Tabs, run_id: str, checkpoint: str | None = None,
             changes: Mapping[str, Any] | None = None) -> dict:
    """Updates that put them into the form and open the Start tab; says so in a toast. Raises a
    LabError."""
    run = lab.runs.get(run_id)
    settings, found = lineage.forked(run, checkpoint, lab.workspace)
    changed = f", with {', '.join(in_words(run.settings, changes))}" if changes else ""
    at = "an unknown step" if found.step is None else f"step {found.step}"
    gr.Info(f"The form holds the settings of {run.name}{changed}, and begins with its adapter of "
            f"{at}. The optimizer and the learning rate begin anew. Press Start to try it.",
            duration=15)
    return form.show(settings.with_values(changes or {})) | {tabs: gr.Tabs(selected="start")}
