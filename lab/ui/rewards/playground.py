"""The playground: score an answer that is pasted, of a row, of the base model or of a run."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from gradio.events import Dependency

from lab.core.problems import BadSettings, Problem
from lab.core.prompts import in_format
from lab.core.rewards.attempts import bad_answers
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.probe import PATIENCE, QUESTION, REFERENCE, probe
from lab.core.rewards.timed import is_costly
from lab.services.data.references import reference_of
from lab.ui.access import owner_only
from lab.ui.forms import Form
from lab.ui.rewards.probe_view import probe_html
from lab.ui.rewards.scored import answers_html, scored_answers
from lab.ui.widgets import FREE, QUIET, explained, problems_html

LINE = "====="  # stands alone on a line between two answers
MOST = 64  # answers
LONGEST = 400_000  # characters of them all
SOURCES = {"paste": "Write it", "row": "A row of the data", "base": "The base model",
           "run": "A run"}
HOW = ("scale_rewards", "multi_objective_aggregation")


@dataclass
class Playground:
    source: gr.Radio
    ways: dict[str, gr.Column]
    fill: gr.Dropdown
    row: gr.Number
    take: gr.Button
    count: gr.Number
    ask: gr.Button
    stop: gr.Button
    said: gr.HTML
    run: gr.Dropdown
    step: gr.Dropdown
    group: gr.Dropdown
    answer: gr.Dropdown
    whole: gr.Button  # asks for all groups of the run
    told: gr.HTML
    question: gr.Textbox
    reference: gr.Textbox
    columns: gr.Textbox
    good: gr.Textbox
    answers: gr.Textbox
    tokens: gr.Textbox  # {answer: its tokens} of those that were counted
    ask_all: gr.Button
    result: gr.HTML
    probe: gr.HTML

    @property
    def filled(self) -> list[gr.Textbox]:
        """What a row, the base model or a run fills in."""
        return [self.question, self.reference, self.columns, self.answers, self.tokens]


def ask_all(chosen: Sequence[Chosen]) -> Any:
    """The button that asks those too that are not asked at each change; unseen without any."""
    costly = [one.reward.label for one in chosen if is_costly(one)]
    return gr.update(visible=bool(costly), value=f"Ask {' and '.join(costly)} too, about these "
                     "answers and those of the probe")


def tries() -> list[tuple[str, str]]:
    """(title, key) of the answers that can be filled in."""
    made = bad_answers(QUESTION, REFERENCE, lambda reasoning, answer: f"{reasoning} {answer}", "")
    return [("A good answer", "good"), *((title, key) for key, title, _, _ in made)]


def build() -> Playground:
    with gr.Column(elem_classes="sheet", elem_id="probe-sheet"):
        gr.HTML("<h3>What bad answers earn</h3><p class='help'>A model learns whatever earns more. "
                "These are deliberately bad answers to the question below, beside a good one.</p>")
        probed = gr.HTML(elem_id="probe")
    with gr.Column(elem_classes="sheet", elem_id="playground"):
        gr.HTML("<h3>Score an answer</h3><p class='help'>Just as training would, with the "
                "rewards and weights on this page.</p>")
        source = gr.Radio([(title, key) for key, title in SOURCES.items()], value="paste",
                          label="Take it from", elem_id="play-source")
        ways = {}
        with gr.Column(elem_id="play-paste") as ways["paste"]:
            fill = gr.Dropdown(tries(), value=None, label="Fill in", filterable=False,
                               info="The answers of the probe above.", elem_id="play-fill")
        with gr.Column(visible=False, elem_id="play-row") as ways["row"], gr.Row():
            row = gr.Number(1, label="Row", info="Of the training rows of the Data tab.", step=1,
                            min_width=120, elem_id="play-row-number")
            take = gr.Button("Take this row", size="md", scale=0, min_width=150,
                             elem_id="play-take")
        with gr.Column(visible=False, elem_id="play-base") as ways["base"]:
            with gr.Row():
                count = gr.Number(4, label="Answers", info="A group, drawn as training draws it.",
                                  step=1, min_width=120, elem_id="play-count")
                ask = gr.Button("Ask", size="md", scale=0, min_width=90, elem_id="play-ask")
                stop = gr.Button("Stop", size="md", scale=0, min_width=90, interactive=False,
                                 elem_id="play-stop")
            said = gr.HTML(elem_id="play-said")
        with gr.Column(visible=False, elem_id="play-run") as ways["run"]:
            with gr.Row(elem_classes="fields"):
                run = gr.Dropdown([], label="Run", elem_id="play-run-id")
                step = gr.Dropdown([], label="Step", elem_id="play-step")
                group = gr.Dropdown([], label="Question", elem_id="play-group")
                answer = gr.Dropdown([], label="Answer", elem_id="play-answer")
            whole = gr.Button("What if all its groups had been paid by these?", size="md",
                              elem_id="play-whatif")
            told = gr.HTML(elem_id="play-told")
        question = gr.Textbox(QUESTION, label="Question", lines=2, max_lines=8,
                              max_length=LONGEST, elem_id="score-question")
        reference = gr.Textbox(REFERENCE, label="Reference answer", max_lines=4,
                               max_length=LONGEST, elem_id="score-answer")
        with gr.Accordion("Other columns, a good answer of yours", open=False,
                          elem_id="play-more"):
            columns = gr.Textbox("", label="Other columns of the row", lines=2, max_lines=8,
                                 info='For rewards that need them, as JSON: {"tests": "..."}.',
                                 max_length=LONGEST, elem_id="score-columns")
            good = gr.Textbox("", label="A good answer", lines=3, max_lines=12,
                              info="Bad answers are compared with it. Empty: the lab tries honest "
                              "ones in several forms.", max_length=LONGEST, elem_id="score-good")
        answers = gr.Textbox(in_format("49", "49"), label="Answers of a model", lines=7,
                             max_lines=20, max_length=LONGEST, elem_id="score-completion",
                             info=f"Several, with a line {LINE} between two, are a group.")
        tokens = gr.Textbox("", visible="hidden", label="Tokens")
        everyone = gr.Button("Ask all rewards", size="md", visible=False, elem_id="ask-all")
        result = gr.HTML(elem_id="score-table")
    return Playground(source, ways, fill, row, take, count, ask, stop, said, run, step, group,
                      answer, whole, told, question, reference, columns, good, answers, tokens,
                      everyone, result, probed)


def split_answers(text: str) -> list[str]:
    """The answers in the box. What surrounds the line between two belongs to none of them."""
    return text.split(f"\n{LINE}\n")


def join_answers(texts: Sequence[str]) -> str:
    return f"\n{LINE}\n".join(texts)


def columns_in(text: str) -> dict[str, Any]:
    """Raises BadSettings for what is no JSON object."""
    if not text.strip():
        return {}
    try:
        read = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadSettings("The other columns cannot be read.", f"They are not JSON: {error}.",
                          'Write them as {"tests": "..."}.') from error
    if not isinstance(read, dict):
        raise BadSettings("The other columns cannot be read.", "They are no JSON object.",
                          'Write them as {"tests": "..."}.')
    return read


def counts_in(text: str) -> dict[str, int]:
    """{answer: tokens}, as the page holds it; empty for what is not that."""
    try:
        read = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return {key: value for key, value in read.items() if isinstance(value, int)} \
        if isinstance(read, dict) else {}


def wire(play: Playground, form: Form, triggers: Sequence[Callable],
         after: Sequence[Dependency]) -> None:
    """What is shown is scored at each change, at `triggers`, and when the events `after` ended."""
    rewards = form.inputs("rewards.")
    learning = {f"train.{name}": form.widgets[f"train.{name}"] for name in HOW}

    def scores(question: str, reference: str, columns: str, answers: str, tokens: str, good: str,
               costly: bool, values: dict[str, Any]) -> tuple[str, str, Any]:
        """`costly`: those too that ask another machine or run code."""
        wrong = [p for p in form.problems(values) if p.field.startswith("rewards.")]
        texts = split_answers(answers or "")
        if len(texts) > MOST:
            wrong.append(Problem(f"{len(texts)} answers are too many.",
                                 f"At most {MOST} are scored at once."))
        try:
            other = columns_in(columns or "")
        except BadSettings as error:
            wrong.append(error.problem)
        if wrong:
            return "", problems_html(wrong), gr.update(visible=False)
        chosen = form.chosen(values)
        asked = [one for one in chosen if costly or not is_costly(one)]
        reference = reference_of(reference or "") or ""  # as training would read it
        row = {**other, "question": question or "", "answer": reference}
        counts = counts_in(tokens)
        rows = [row | ({"completion_tokens": counts[text]} if text in counts else {})
                for text in texts]
        found = probe(question or "", reference, chosen, other, good or "",
                      None if costly else PATIENCE)
        return (probe_html(found), answers_html(scored_answers(texts, rows, asked), chosen,
                                                *(values[f"train.{name}"] for name in HOW)),
                ask_all(chosen))

    @explained
    def at_once(*shown: str, **values) -> tuple[str, str, Any]:
        return scores(*shown, False, values)

    changed = [*triggers, *(box.change for box in (*play.filled, play.good)),
               *(widget.input for widget in (*rewards.values(), *learning.values()))]
    shown, outputs = [*play.filled, play.good], [play.probe, play.result, play.ask_all]
    for when in (partial(gr.on, changed), *(event.then for event in after)):
        when(at_once, shown, outputs, inputs_kwargs=rewards | learning,
             trigger_mode="always_last", **FREE)

    @play.ask_all.click(inputs=shown, inputs_kwargs=rewards | learning, outputs=outputs,
                        concurrency_id="ask-all", concurrency_limit=1, trigger_mode="once",
                        **QUIET | {"show_progress": "minimal"})
    @explained
    @owner_only
    async def with_all(*shown: str, **values) -> tuple[str, str, Any]:
        return await asyncio.to_thread(scores, *shown, True, values)

    @play.fill.input(inputs=[play.fill, play.question, play.reference, play.columns, play.good],
                     inputs_kwargs=rewards, outputs=play.answers, **FREE)
    @explained
    def fill(key: str, question: str, reference: str, columns: str, good: str, **values):
        if form.problems(values):
            return gr.skip()
        found = probe(question or "", reference or "", form.chosen(values),
                      columns_in(columns or ""), good or "")
        return next((one.text for one in (found.good, *found.bad) if one.key == key), gr.skip())
