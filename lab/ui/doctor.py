"""What the doctor sees: the panel of the Train tab, with a button that prepares each cure.

The browser (assets/doctor.js) asks again whenever the live view has shown another step, and gets
only what has changed.
"""

import json
from typing import Any
from zlib import crc32

import gradio as gr

from lab.core.insight.doctor.cures import in_words
from lab.core.insight.doctor.rules import Finding
from lab.core.problems import LabError, RunError
from lab.core.settings import Settings
from lab.services.lab import Lab
from lab.services.runs import Run
from lab.ui.forms import Form
from lab.ui.history import fork
from lab.ui.panel import panel
from lab.ui.widgets import FREE, explained

LONGEST = 1200  # characters of a sentence that are sent
NOTHING = {"run": "", "key": ""}
FOCUS_START = "() => { document.querySelector('#start')?.focus(); }"


def doctor_panel(lab: Lab) -> gr.HTML:
    """The panel. It follows the run that the live view shows, and triggers `cure` and `fork` with
    the event data {"run", "rule"}."""

    return panel("doctor", "doctor", NOTHING, health=lambda asked: health_of(lab, asked))


def health_of(lab: Lab, asked: Any) -> dict:
    """What the panel shows of a run. `asked` is [run, key of what is shown]; where nothing has
    changed since that key, only the key comes back."""
    given = asked if isinstance(asked, list) and len(asked) == 2 else ["", ""]
    if not isinstance(given[0], str) or not given[0]:
        return NOTHING
    try:
        run = lab.runs.get(given[0])
        report = lab.doctor.report(run)
    except (LabError, OSError):
        return NOTHING
    body = {"run": run.id, "verdict": report.verdict, "why": report.why[:LONGEST],
            "findings": [_shown(run.settings, one) for one in report.findings]}
    key = f"{crc32(json.dumps(body).encode()):08x}"
    return {"run": run.id, "key": key} if key == given[1] else body | {"key": key}


def _shown(settings: Settings, found: Finding) -> dict:
    return {"rule": found.rule, "level": found.level, "since": found.since,
            "what": found.what[:LONGEST], "figure": found.figure[:LONGEST],
            "next": found.next[:LONGEST], "back": found.back_to,
            "cure": ", ".join(in_words(settings, found.set))}


def wire(panel: gr.HTML, lab: Lab, form: Form, tabs: gr.Tabs) -> None:
    """Put a finding's cure into the form, and go to where it can be started."""

    def found_by(event: gr.EventData, needs: str) -> tuple[Run, Finding]:
        asked = event._data if isinstance(event._data, dict) else {}
        run = lab.runs.get(str(asked.get("run") or ""))
        found = next((one for one in lab.doctor.report(run).findings
                      if one.rule == asked.get("rule") and getattr(one, needs)), None)
        if found is None:
            raise RunError("This finding is gone.", "The run has moved on since.",
                           "Look at what the doctor sees now.")
        return run, found

    @explained
    def cure(event: gr.EventData) -> dict:
        run, found = found_by(event, "set")
        gr.Info(f"The form holds the settings of {run.name} with "
                f"{', '.join(in_words(run.settings, found.set))}. Press Start to try it.",
                duration=15)
        return form.show(run.settings.with_values(found.set)) | {tabs: gr.Tabs(selected="start")}

    @explained
    def fork_back(event: gr.EventData) -> dict:
        """A new run from the checkpoint that is from before, with the cure."""
        run, found = found_by(event, "back_to")
        return fork.prepared(lab, form, tabs, run.id, str(found.back_to), found.set)

    for ask, does in ((panel.cure, cure), (panel.fork, fork_back)):
        done = ask(does, outputs=[*form.outputs(), tabs], **FREE)
        form.shown_by.append(done)
        done.then(None, js=FOCUS_START, **FREE)
