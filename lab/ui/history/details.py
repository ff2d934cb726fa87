"""What is told of one run that was picked, and of the settings in which chosen runs differ."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lab.core.knobs import plain
from lab.core.rewards.chosen import format_chosen
from lab.core.settings import ALL, Settings
from lab.services import verdicts
from lab.services.history import differing
from lab.services.lineage import ancestors, children
from lab.services.runs import Run
from lab.ui.widgets import problems_html, table_html

LONGEST = 160  # characters of a value
LABELS = {setting.key: setting.knob.label for setting in ALL}


def details_html(run: Run, runs: Mapping[str, Run] | None = None) -> str:
    """The problem of a run if it has one, its verdicts, its lineage and what it ran on. `runs` are
    all there are, by id."""
    runs = {run.id: run} if runs is None else runs
    found = problems_html([run.problem]) if run.problem else ""
    if run.label.wrong:
        found += (f"<p class='note'>Its name, tags and notes (label.json) cannot be read: "
                  f"{escape(run.label.wrong)} Save them anew below.</p>")
    for title, made in (("Verdict", run.verdict),
                        ("Against another", verdicts.newest_against(run.folder))):
        if made:
            found += f"<p class='help'><b>{title}:</b> {escape(made['headline'])}</p>"
    found += lineage_html(run, runs)
    if run.label.notes:
        found += f"<p class='notes'>{escape(run.label.notes)}</p>"
    stack, notes = run.record.get("stack"), run.record.get("notes")
    facts = []
    if isinstance(stack, dict):
        facts.append(f"Ran on the {stack.get('value')} stack, because {stack.get('why')}.")
    facts += [str(note) for note in notes] if isinstance(notes, list) else []
    told = "".join(f" {escape(fact)}" for fact in facts)
    return f"{found}<p class='help'>Folder <code>{escape(run.id)}</code>.{told}</p>"


def lineage_html(run: Run, runs: Mapping[str, Run]) -> str:
    """Where its first adapter comes from, back to the first run, and what went on from it."""
    told = []
    if before := ancestors(run, runs):
        told.append("<b>Begins from</b> " + ", which begins from ".join(
            _linked(str(one), one.run if one.there else "") for one in before) + ".")
    if after := children(run, runs.values()):
        named = (_linked(one.name, one.id)
                 + (f" (from step {one.begin['step']})" if type(one.begin.get("step")) is int
                    else "") for one in after)
        told.append(f"<b>What goes on from it:</b> {', '.join(named)}.")
    return f"<p class='help' id='runs-lineage'>{' '.join(told)}</p>" if told else ""


def _linked(text: str, run_id: str) -> str:
    """A text that opens a run where it is pressed."""
    if not run_id:
        return escape(text)
    return (f"<button type='button' class='way' data-run='{escape(run_id)}'>{escape(text)}"
            "</button>")


def settings_html(many: Sequence[Run]) -> str:
    """Where the settings of these runs differ; of one alone, where they differ from the
    defaults."""
    known = [run for run in many if run.settings is not None]
    if not known:
        return ""
    if len(known) == 1:
        columns = [known[0].name, "Default"]
        found = differing([known[0].settings, Settings()])
        between = "from the defaults"
        same = "Its settings are the defaults."
    else:
        columns = [run.name for run in known]
        found = differing([run.settings for run in known])
        between = (f"from {known[1].name}" if len(known) == 2
                   else f"between these {len(known)} runs")
        same = "Their settings are the same."
    if not found:
        return f"<p class='fine'>{escape(same)}</p>"
    title = (f"{len(found)} settings differ {between}" if len(found) > 1
             else f"One setting differs {between}")
    rows = [(LABELS[key], key, *map(told, values)) for key, values in found.items()]
    return f"<h3>{escape(title)}</h3>{table_html(('Setting', 'Key', *columns), rows)}"


def told(value: Any) -> str:
    """A setting's value as people read it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        value = (", ".join(value) if value and isinstance(value[0], str)
                 else format_chosen(value).replace(",", ", "))
    if isinstance(value, float):
        value = plain(value)
    text = " ".join(str(value).split()) or "(empty)"
    return text if len(text) <= LONGEST else f"{text[:LONGEST - 1]}…"
