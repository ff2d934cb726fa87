"""The Model & LoRA tab: which model learns, how it is trained; try the base model."""

import threading
from dataclasses import dataclass

import gradio as gr

from lab.core.catalog import MODELS, KnownModel
from lab.core.prompts import messages
from lab.core.settings import Settings
from lab.services.chat import Side
from lab.services.lab import Lab
from lab.ui.forms import Form
from lab.ui.widgets import FREE, QUIET, explained, streamed

GROUP_KEYS = ("train.num_generations", "train.prompts_per_step")
FIRST_QUESTION = ("Ana has 12 apples. She buys 5 more and gives 4 to Ben. "
                  "How many apples does Ana have?")


@dataclass
class ModelTab:
    derived: gr.HTML
    question: gr.Textbox
    ask: gr.Button
    stop: gr.Button
    answer: gr.Textbox
    facts: gr.HTML


def build_tab(lab: Lab, form: Form) -> ModelTab:
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=5, min_width=320):
            gr.HTML("<h2>Model</h2>")
            form.widget("model.name", allow_custom_value=True, choices=[
                (f"{m.title} · {_licence(m)}", m.name) for m in MODELS])
            form.group("model")
            gr.HTML("<h2>LoRA</h2>")
            form.group("lora")
            with gr.Accordion("How it learns", open=True, elem_id="how-it-learns"):
                form.group("train", GROUP_KEYS)
                derived = gr.HTML(elem_id="derived")
                form.group("train")
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
    return ModelTab(derived, question, ask, stop, answer, facts)


def wire(tab: ModelTab, lab: Lab, form: Form) -> None:
    going: dict[str, threading.Event] = {}  # what ends the answer of each open page

    @tab.ask.click(inputs=[tab.question], inputs_kwargs=form.inputs(),
                   outputs=[tab.answer, tab.facts, tab.ask, tab.stop],
                   concurrency_id="chat", concurrency_limit=1, trigger_mode="once", **QUIET)
    @explained
    async def ask(question: str, request: gr.Request, **values):
        stop = going[request.session_hash] = threading.Event()
        try:
            settings = form.read(values)
            conversation = messages(question, settings.data.system_prompt)
            yield ("", "<p class='busy' role='status'>The model is being loaded …</p>",
                   gr.update(interactive=False), gr.update(interactive=True))
            async for update in streamed(lambda: lab.chat.stream(
                    settings, [Side(conversation)], settings.sampling, settings.train.seed, stop),
                    stop):
                end = ", cut at the longest length" if update.cut else ""
                yield (update.text, f"<p class='facts'>{update.tokens} tokens{end}</p>",
                       gr.skip(), gr.skip())
        except Exception:
            yield gr.skip(), "", gr.update(interactive=True), gr.update(interactive=False)
            raise
        finally:
            going.pop(request.session_hash, None)
        yield gr.skip(), gr.skip(), gr.update(interactive=True), gr.update(interactive=False)

    # Not `cancels`: the answer must end by itself, so that its buttons come back in order.
    @tab.stop.click(**FREE)
    def stop(request: gr.Request) -> None:
        if event := going.get(request.session_hash):
            event.set()


def _licence(model: KnownModel) -> str:
    return f"{model.licence}{', to be accepted on its page first' if model.gated else ''}"


def derived_html(settings: Settings) -> str:
    """How the answers of a step are cut into batches: always possible, whatever the sizes."""
    train = settings.train
    batch, rounds = train.per_device_train_batch_size(), train.gradient_accumulation_steps()
    return (f"<p class='derived'>{train.prompts_per_step} questions × {train.num_generations} "
            f"answers = <b>{train.answers_per_step()} answers per step</b>, trained as "
            f"per-device batch {batch} × accumulation {rounds}.</p>")
