"""What changes runs in the history: delete and undo, archive, names, tags and notes."""

from dataclasses import replace

import gradio as gr

from lab.core.problems import LabError
from lab.services import labels
from lab.services.lab import Lab
from lab.services.trash import KEPT_DAYS
from lab.ui.access import owner_only
from lab.ui.history import label_view
from lab.ui.history.page import (
    ARCHIVED,
    DELETED,
    Look,
    RunsTab,
    done,
    look_at,
    opened,
    quiet,
    shown,
    told_by,
)
from lab.ui.widgets import FREE, problem_in_place


def wire(tab: RunsTab, lab: Lab) -> None:
    filled, looked = shown(tab), tab.looked()

    tab.delete.click(lambda: gr.update(visible=True), outputs=tab.question, **FREE)
    tab.keep.click(lambda: gr.update(visible=False), outputs=tab.question, **FREE)

    @tab.really.click(inputs=looked, outputs=[*filled, tab.undone], **FREE)
    @owner_only
    def delete(*given) -> dict:
        look = Look(*given)
        try:
            name = lab.runs.get(look.run).name
            gone = lab.jobs.delete(look.run)
        except LabError as error:
            return look_at(lab, tab, look) | {tab.said: problem_in_place(error.problem)}
        return look_at(lab, tab, Look(None, *given[1:])) | {
            tab.said: done(f"{name} was deleted. For {KEPT_DAYS} days it can be brought back, "
                            f"here or under '{DELETED}'."),
            tab.undo: gr.update(visible=True), tab.undone: gone.key}

    def bring_back(key: str, look: Look) -> dict:
        try:
            back = lab.trash.restore(key)
        except LabError as error:
            return look_at(lab, tab, look) | {tab.said: problem_in_place(error.problem)}
        here = replace(look, run=back.id)
        return opened(tab, lab, here) | {
            tab.said: done(f"{lab.runs.get(back.id).name} is back.")}

    @tab.undo.click(inputs=[tab.undone, *looked], outputs=filled, **FREE)
    @owner_only
    def undo(key: str, *given) -> dict:
        return bring_back(key, Look(*given))

    @tab.table.restore(inputs=looked, outputs=filled, **FREE)
    @owner_only
    def restore(event: gr.EventData, *given) -> dict:
        return bring_back(told_by(event, "key"), Look(*given))

    tab.empty.click(lambda: gr.update(visible=True), outputs=tab.empty_question, **FREE)
    tab.empty_no.click(lambda: gr.update(visible=False), outputs=tab.empty_question, **FREE)

    @tab.empty_yes.click(inputs=looked, outputs=filled, **FREE)
    @owner_only
    def empty(*given) -> dict:
        try:
            gone = lab.trash.empty()
        except LabError as error:
            return look_at(lab, tab, Look(*given)) | {tab.said: problem_in_place(error.problem)}
        return look_at(lab, tab, Look(*given)) | quiet(tab) | {
            tab.said: done(f"{gone} {'runs are' if gone != 1 else 'run is'} gone for good.")}

    _wire_label(tab, lab)


def _wire_label(tab: RunsTab, lab: Lab) -> None:
    filled, looked, label = shown(tab), tab.looked(), tab.label

    @gr.on([label.save.click, label.name.submit, label.tags.submit],
           inputs=[*label.inputs(), *looked], outputs=filled, **FREE)
    @owner_only
    def save(name: str, tags: str, notes: str, was: str, *given) -> dict:
        look = Look(*given)
        try:
            changed = label_view.changes((name, tags, notes), was)
            if changed:
                labels.change(lab.workspace.run(look.run), **changed)
        except LabError as error:
            return {tab.said: problem_in_place(error.problem)}
        return opened(tab, lab, look) | {tab.said: done("Saved.")}

    @label.archive.click(inputs=looked, outputs=filled, **FREE)
    @owner_only
    def archive(*given) -> dict:
        look = Look(*given)
        try:
            run = lab.runs.get(look.run)
            labels.change(run.folder, archived=not run.label.archived)
        except LabError as error:
            return {tab.said: problem_in_place(error.problem)}
        said = (f"{run.name} is in the list again." if run.label.archived else
                f"{run.name} is archived. It stands under '{ARCHIVED}'.")
        return opened(tab, lab, look) | {tab.said: done(said)}
