"""The Model & LoRA tab: which model learns, how it is trained, in what memory; try the base."""

import shlex
import threading
import time
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from lab.core.hardware import engines
from lab.core.hardware.cures import Cure
from lab.core.hardware.machine import Machine
from lab.core.hardware.memory import Estimate, as_decided, weights_gb
from lab.core.problems import LabError, Problem
from lab.core.prompts import messages
from lab.core.settings import Settings
from lab.core.words import duration
from lab.services import machine, models
from lab.services.chat import Side
from lab.services.lab import Lab
from lab.services.models import ModelFacts
from lab.ui.access import owner_only
from lab.ui.forms import Form
from lab.ui.widgets import CURE_JS, FREE, QUIET, counted, explained, problems_html, streamed

GROUP_KEYS = ("train.num_generations", "train.prompts_per_step")
IN_REWARDS = ("train.multi_objective_aggregation",)  # whose widgets stand in that tab
FIRST_QUESTION = ("Ana has 12 apples. She buys 5 more and gives 4 to Ben. "
                  "How many apples does Ana have?")


@dataclass
class ModelTab:
    about: gr.HTML
    look_up: gr.Button
    memory: gr.HTML
    derived: gr.HTML
    question: gr.Textbox
    ask: gr.Button
    stop: gr.Button
    answer: gr.Textbox
    facts: gr.HTML

    def live(self) -> list[Component]:
        """What follows every change of the form."""
        return [self.about, self.look_up, self.memory, self.derived]

    def updates(self, settings: Settings, machine: Machine) -> dict[Component, Any]:
        try:
            facts = models.look_at(settings.model.name)
        except LabError:  # said at the field already
            facts = None
        return {self.about: about_html(facts) if facts else "",
                self.look_up: gr.update(visible=facts is not None and not facts.source),
                self.memory: memory_html(models.memory_of(settings, machine),
                                         models.model_problems(settings, machine),
                                         models.quicker(settings, machine)),
                self.derived: derived_html(settings) + decided_html(settings, machine)
                + launch_html(settings, machine)}


def build_tab(lab: Lab, form: Form) -> ModelTab:
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=5, min_width=320):
            gr.HTML("<h2>Model</h2>")
            form.widget("model.name", allow_custom_value=True, choices=models.offered(
                machine.look(lab.workspace.root)))
            about = gr.HTML(elem_id="model-about")
            look_up = gr.Button("Look it up on the Hub", size="sm", visible=False,
                                elem_id="model-look-up")
            form.group("model")
            memory = gr.HTML(elem_id="model-memory", js_on_load=CURE_JS)
            gr.HTML("<h2>LoRA</h2>")
            form.group("lora")
            with gr.Accordion("How it learns", open=True, elem_id="how-it-learns"):
                form.group("train", GROUP_KEYS)
                derived = gr.HTML(elem_id="derived")
                form.group("train", without=IN_REWARDS)
            with gr.Accordion("Hardware", open=False, elem_id="hardware"):
                form.group("hardware")
        with gr.Column(scale=3, min_width=300, elem_classes="side"), \
                gr.Column(elem_classes="sheet"):
            gr.HTML("<h3>Try the base model</h3><p class='help'>It answers with the system "
                    "prompt of the Data tab and the sampling of the Compare tab, before any "
                    "training.</p>")
            question = gr.Textbox(FIRST_QUESTION, label="Question", lines=3, max_lines=8,
                                  elem_id="try-question")
            with gr.Row():
                ask = gr.Button("Ask", size="md", elem_id="try-ask")
                stop = gr.Button("Stop", size="md", interactive=False, elem_id="try-stop")
            answer = gr.Textbox(label="Answer of the base model", lines=9, max_lines=24,
                                interactive=False, elem_id="try-answer", placeholder="Press Ask.")
            facts = gr.HTML(elem_id="try-facts")
    return ModelTab(about, look_up, memory, derived, question, ask, stop, answer, facts)


def wire(tab: ModelTab, lab: Lab, form: Form) -> None:
    going: dict[str, threading.Event] = {}  # what ends the answer of each open page

    @tab.ask.click(inputs=[tab.question], inputs_kwargs=form.inputs(),
                   outputs=[tab.answer, tab.facts, tab.ask, tab.stop],
                   concurrency_id="chat", concurrency_limit=1, trigger_mode="once", **QUIET)
    @explained
    @owner_only
    async def ask(question: str, request: gr.Request, **values):
        stop = going[request.session_hash] = threading.Event()
        try:
            settings = form.read(values)
            conversation = messages(question, settings.data.system_prompt)
            yield ("", "<p class='busy' role='status'>The model is being loaded …</p>",
                   gr.update(interactive=False), gr.update(interactive=True))
            begun = time.monotonic()
            async for update in streamed(lambda: lab.chat.stream(
                    settings, [Side(conversation)], settings.sampling, settings.train.seed, stop),
                    stop):
                end = ", cut at the longest length" if update.cut else ""
                yield (update.text, f"<p class='facts'>{update.tokens} tokens in "
                       f"{duration(time.monotonic() - begun)}{end}</p>",
                       gr.skip(), gr.skip())
        except Exception:
            yield gr.skip(), "", gr.update(interactive=True), gr.update(interactive=False)
            raise
        finally:
            going.pop(request.session_hash, None)
        yield gr.skip(), gr.skip(), gr.update(interactive=True), gr.update(interactive=False)

    @tab.look_up.click(inputs_kwargs=form.inputs(), outputs=[tab.about, tab.look_up, tab.memory],
                       **FREE)
    @explained
    @owner_only
    def look_up(**values):
        settings = form.read(values)
        facts = models.look_at(settings.model.name, fetch=True)
        updates = tab.updates(settings, machine.look(lab.workspace.root))
        return about_html(facts), updates[tab.look_up], updates[tab.memory]

    # Not `cancels`: the answer must end by itself, so that its buttons come back in order.
    @tab.stop.click(**FREE)
    def stop(request: gr.Request) -> None:
        if event := going.get(request.session_hash):
            event.set()


def about_html(facts: ModelFacts) -> str:
    """What is known of the model, under its field."""
    if not facts.source:
        return ("<p class='help'>Size and memory of this model are unknown until its config.json "
                "is downloaded.</p>")
    rows = []
    if facts.parameters:
        rows.append(("Size", f"{_millions(facts.parameters)} parameters"))
    if facts.shape:
        rows.append(("Weights", f"{_gb(weights_gb(facts.shape, True))} in 4 bit, "
                     f"{_gb(weights_gb(facts.shape, False))} in 16 bit"))
    if facts.longest:
        rows.append(("Longest sequence", f"{facts.longest:,} tokens"))
    if facts.licence or facts.gated:
        page = models.page_of(facts.name)
        gate = (f", to be accepted on <a href='{escape(page)}' target='_blank' rel='noreferrer'>"
                "its page</a> first" if facts.gated else "")
        rows.append(("Licence", f"{escape(facts.licence) or 'its owner&#39;s'}{gate}"))
    if facts.in_4bit and facts.in_4bit != facts.name:
        rows.append(("In 4 bit on the Hub", escape(facts.in_4bit)))
    if facts.chat_template is not None:
        note = facts.note or ("Has one." if facts.chat_template else "Has none: a base model.")
        rows.append(("Chat template", escape(note)))
    elif facts.note:
        rows.append(("Note", escape(facts.note)))
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return f"<div class='about'><dl>{listed}</dl></div>"


def memory_html(found: Estimate | None, problems: list[Problem],
                quicker: Cure | None = None) -> str:
    """The estimated peak, what it is made of, what speaks against this model here, and what would
    be quicker."""
    against = problems_html(problems)
    if found is None:
        return ("<div class='memory'><p>Estimated memory: unknown until the model's config.json "
                f"is here.</p>{against}</div>")
    of = "of the GPU" if found.on_gpu else "of this machine"
    share = min(100.0, 100 * found.total_gb / found.memory_gb)
    level = "fits" if found.fits_well else "tight" if found.fits else "over"
    parts = "".join(f"<dt>{escape(p.name)}</dt><dd>{_gb(p.gb)}</dd>" for p in found.parts)
    more = (f"<p class='help'>There is room to be quicker. {escape(quicker.sentence)} The same "
            "answers then learn in fewer passes.</p>") if quicker else ""
    return (f"<div class='memory {level}'><p>Estimated memory: <b>{_gb(found.total_gb)}</b> of "
            f"{_gb(found.memory_gb)} {of}</p><div class='meter' aria-hidden='true'>"
            f"<i style='width:{share:.1f}%'></i></div><details><summary>What it is made of"
            f"</summary><dl>{parts}</dl></details>{against}{more}</div>")


def _millions(parameters: float) -> str:
    return f"{parameters / 1000:.3g} billion" if parameters >= 1000 else f"{parameters:.3g} million"


def _gb(size: float) -> str:
    return f"{size:.0f} GB" if size >= 100 else f"{size:.1f} GB" if size >= 0.1 else (
        f"{1000 * size:.0f} MB")


def derived_html(settings: Settings) -> str:
    """How the answers of a step are cut into batches: always possible, whatever the sizes."""
    train, processes = settings.train, settings.hardware.processes()
    if train.answers_per_step() % processes:  # said at the field
        return ""
    batch = train.per_device_train_batch_size(processes)
    rounds = train.gradient_accumulation_steps(processes)
    over = f" × {processes} processes" if processes > 1 else ""
    return (f"<p class='derived'>{counted(train.prompts_per_step, 'question')} × "
            f"{train.num_generations} answers = <b>{train.answers_per_step()} answers per step"
            f"</b>, trained as per-device batch {batch} × accumulation {rounds}{over}.</p>")


def decided_html(settings: Settings, machine: Machine) -> str:
    """What is left to the lab, as it would decide it here."""
    made = models.decided_for(settings, machine)
    return "" if made == settings else f"<p class='derived'>{escape(as_decided(made))}</p>"


def launch_html(settings: Settings, machine: Machine) -> str:
    """The commands that run over several GPUs or hosts; nothing where one process trains."""
    plan = engines.plan_of(engines.choose_engines(settings, machine).first, settings)
    if settings.hardware.processes() == 1 and settings.hardware.vllm_mode != "server":
        return ""
    model = settings.model.name.strip()
    listed = [("here, by Start", engines.launch_command("python", "RUN_FOLDER", settings, plan)),
              *engines.commands_elsewhere("python", "RUN_FOLDER", model, settings, plan)]
    rows = "".join(f"<p class='help'>Runs {escape(where)}:</p><pre tabindex='0'>"
                   f"{escape(shlex.join(command))}</pre>" for where, command in listed)
    return f"<div id='launch-commands'>{rows}</div>"
