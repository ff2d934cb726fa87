"""Named sets in the Rewards tab: take one, save what is chosen, hand sets on as JSON."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from lab.core.problems import BadSettings, LabError
from lab.core.rewards import sets
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.sets import RewardSet, goal_share
from lab.services.lab import Lab
from lab.ui.access import owner_only
from lab.ui.forms import Form
from lab.ui.widgets import FREE, QUIET, explained, percent, problem_in_place, problems_html

OWN = " (yours)"


@dataclass
class SetsView:
    pick: gr.Dropdown
    about: gr.HTML
    name: gr.Textbox
    sentence: gr.Textbox
    save: gr.Button
    delete: gr.Button
    take_in: gr.UploadButton
    links: gr.HTML
    said: gr.HTML

    def live(self) -> list[Component]:
        return [self.pick, self.about, self.delete, self.links]

    def updates(self, lab: Lab, chosen: Sequence[Chosen]) -> dict[Component, Any]:
        """Which set the chosen rewards are, and the files that can be taken away."""
        try:
            known = lab.sets.all()
        except LabError as error:
            known = list(sets.built_in())
            told = problems_html([error.problem])
        else:
            told = ""
        fits = next((one for one in known if set(one.chosen) == set(chosen)), None)
        own = known[len(sets.built_in()):]
        return {self.pick: gr.update(choices=_choices(known), value=fits.name if fits else None),
                self.about: about_html(fits, chosen) + told,
                self.delete: gr.update(interactive=fits in own),
                self.links: links_html(fits, own, chosen)}


def build(lab: Lab) -> SetsView:
    with gr.Column(elem_classes="sets"):
        pick = gr.Dropdown([one.name for one in sets.built_in()], value=None, label="Set",
                           info="Rewards and weights that belong together. Take one, then change "
                           "what you like.", elem_id="sets-pick", filterable=False)
        about = gr.HTML(elem_id="sets-about")
        with gr.Accordion("Save, export, import", open=False, elem_id="sets-keep"):
            with gr.Row(elem_classes="fields"):
                name = gr.Textbox(label="Name", max_lines=1, max_length=sets.NAME_LENGTH,
                                  placeholder="my rewards", elem_id="sets-name")
                sentence = gr.Textbox(label="When to take it", max_lines=2,
                                      max_length=sets.SENTENCE_LENGTH, placeholder="optional",
                                      elem_id="sets-sentence")
            with gr.Row(elem_classes="buttons"):
                save = gr.Button("Save", size="md", scale=0, min_width=110, elem_id="sets-save")
                delete = gr.Button("Delete", size="md", scale=0, min_width=110,
                                   interactive=False, elem_id="sets-delete")
                take_in = gr.UploadButton("Import", file_types=[".json"], size="md", scale=0,
                                          min_width=110, elem_id="sets-import")
            links = gr.HTML(elem_id="sets-links")
        said = gr.HTML(elem_id="sets-said", visible=False)
    return SetsView(pick, about, name, sentence, save, delete, take_in, links, said)


def wire(view: SetsView, lab: Lab, form: Form) -> None:
    shown = view.live()

    def refusal(error: LabError) -> dict:
        return {view.said: problem_in_place(error.problem)}

    def kept(text: str, chosen: Sequence[Chosen]) -> dict:
        return view.updates(lab, chosen) | {view.said: gr.update(
            value=f"<p class='fine' role='status'>{escape(text)}</p>", visible=True)}

    # What is said of a set belongs to the click that it answers; the next one takes it away.
    def take(name: str | None) -> dict:
        if not name:
            return gr.skip()
        try:
            chosen = lab.sets.named(name).chosen
            return form.show_rewards(chosen) | {view.said: problem_in_place(None)}
        except LabError as error:
            return refusal(error)

    form.shown_by.append(view.pick.input(
        explained(take), view.pick, [*form.outputs(), view.said], **FREE))

    @gr.on([view.save.click, view.name.submit], inputs=[view.name, view.sentence],
           inputs_kwargs=form.inputs("rewards."), outputs=[*shown, view.said], **QUIET)
    @explained
    @owner_only
    def save(name: str, sentence: str, **values) -> dict:
        try:
            for problem in form.problems(values):
                raise BadSettings(problem.what, problem.why, problem.next)
            made = lab.sets.save(name, sentence, form.chosen(values))
        except LabError as error:
            return refusal(error)
        return kept(f"The set {made.name!r} is saved.", made.chosen)

    @view.delete.click(inputs=view.pick, inputs_kwargs=form.inputs("rewards."),
                       outputs=[*shown, view.said], **QUIET)
    @explained
    @owner_only
    def delete(name: str | None, **values) -> dict:
        try:
            lab.sets.delete(name or "")
        except LabError as error:
            return refusal(error)
        return kept(f"The set {name!r} is deleted; its rewards stay chosen here.",
                    form.chosen(values))

    @view.take_in.upload(inputs=view.take_in, inputs_kwargs=form.inputs("rewards."),
                         outputs=[*shown, view.said], **QUIET)
    @explained
    @owner_only
    def take_in(path: str, **values) -> dict:
        try:
            new, replaced = lab.sets.take_in(_read(Path(path)))
        except LabError as error:
            return refusal(error)
        told = [f"Taken in: {', '.join(new)}."] if new else []
        told += [f"Replaced: {', '.join(replaced)}."] if replaced else []
        return kept(" ".join(told), form.chosen(values))


def _read(path: Path) -> str:
    """Raises BadSettings for what is no text of a usual size."""
    try:
        if path.stat().st_size <= 4 * sets.MOST_CHARACTERS:
            return path.read_text(encoding="utf-8-sig")
        why = f"It has {path.stat().st_size / 1e6:.0f} MB."
    except (OSError, UnicodeDecodeError) as error:
        why = f"It is not UTF-8 text: {error}."
    raise BadSettings("These reward sets cannot be read.", why,
                      "Take a file that this page exported.")


def _choices(known: Sequence[RewardSet]) -> list[tuple[str, str]]:
    own = {one.name for one in known[len(sets.built_in()):]}
    return [(one.name + (OWN if one.name in own else ""), one.name) for one in known]


def about_html(fits: RewardSet | None, chosen: Sequence[Chosen]) -> str:
    if fits is not None:
        text = fits.sentence or (f"{percent(goal_share(fits.chosen))} of its largest sum is for "
                                 "being right.")
        return f"<p class='help'>{escape(text)}</p>"
    return "<p class='help'>What is chosen is none of these sets.</p>" if chosen else ""


def links_html(fits: RewardSet | None, own: Sequence[RewardSet], chosen: Sequence[Chosen]) -> str:
    """Files to take away, made in the page: no path of the server is in them."""
    links = [] if not own else [_link(f"Export all {len(own)} of yours", "reward-sets.json", own)]
    if any(one.file for one in chosen):
        links.insert(0, "<span class='help'>Rewards of your own stay with their file: a set with "
                        "them cannot be exported.</span>")
    elif chosen:
        links.insert(0, _export(fits, chosen))
    return f"<p class='links'>{' '.join(links)}</p>" if links else ""


def _export(fits: RewardSet | None, chosen: Sequence[Chosen]) -> str:
    name = fits.name if fits else "my rewards"
    return _link("Export what is chosen", f"{name.replace(' ', '-')}.json",
                 [RewardSet(name, fits.sentence if fits else "", tuple(chosen))])


def _link(text: str, file: str, listed: Sequence[RewardSet]) -> str:
    data = base64.b64encode(sets.to_json(listed).encode()).decode()
    return (f"<a download='{escape(file)}' href='data:application/json;base64,{data}'>"
            f"{escape(text)}</a>")
