"""The Start tab: pick a recipe, see what this machine can do and what is wrong, press Start."""

import asyncio
import sys
import traceback
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import gradio as gr

from lab.core.catalog import DEFAULT_RECIPE, RECIPES
from lab.core.engines import choose_engines, choose_stack
from lab.core.health import engine_lines, gpu_line, machine_problems
from lab.core.machine import Machine
from lab.core.problems import LabError, Problem, explain
from lab.core.rewards.registry import REWARDS, format_chosen
from lab.core.settings import ALL, Settings
from lab.services import machine
from lab.services.lab import Lab
from lab.services.runs import Run
from lab.ui.access import owner_only
from lab.ui.forms import Form
from lab.ui.widgets import QUIET, counted, moved, number, problems_html, when

NO_RUNS = "No runs yet. Pick a recipe and press Start."
SHOWN_RUNS = 5
SHOWN_CHANGES = 6
LONG = 70  # characters of a value from which on it is only said to be changed


CARDS_JS = """
const cards = [...element.querySelectorAll('.recipe')];
const show = () => cards.forEach(
  card => card.setAttribute('aria-pressed', String(card.dataset.recipe === props.value)));
cards.forEach(card => card.addEventListener('click', () => {
  props.value = card.dataset.recipe; show(); trigger('select'); }));
watch('value', show);
show();"""


@dataclass
class StartTab:
    """The parts that other tabs and the page fill or wait for."""

    cards: gr.HTML  # its value is the key of the recipe that was taken last
    summary: gr.HTML
    problems: gr.HTML
    name: gr.Textbox
    start: gr.Button
    said: gr.HTML
    runs: gr.HTML
    machine: gr.HTML


def build_tab(lab: Lab, form: Form) -> StartTab:
    facts = machine.look(lab.workspace.root)
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=5, min_width=320):
            gr.HTML("<h2>Pick a recipe</h2>")
            cards = gr.HTML(DEFAULT_RECIPE, html_template=cards_html(facts), js_on_load=CARDS_JS,
                            apply_default_css=False, elem_id="recipes")
            with gr.Column(elem_classes="sheet"):
                gr.HTML("<h3>What Start will run</h3>")
                summary = gr.HTML(elem_id="summary")
        with gr.Column(scale=3, min_width=300, elem_classes="side"):
            with gr.Column(elem_classes="sheet go"):
                problems = gr.HTML(elem_id="problems")
                name = gr.Textbox(label="Name of the run", placeholder="optional", max_lines=1,
                                  max_length=80, elem_id="run-name")
                start = gr.Button("Start", variant="primary", size="lg", elem_id="start")
                said = gr.HTML(elem_id="start-said")
            about = gr.HTML(machine_html(facts, form.first), elem_id="machine")
    gr.HTML("<h2>Last runs</h2>")
    runs = gr.HTML(elem_id="last-runs")
    return StartTab(cards, summary, problems, name, start, said, runs, about)


def wire(tab: StartTab, lab: Lab, form: Form, tabs: gr.Tabs) -> None:
    """Events, once every widget of the form exists."""

    @tab.start.click(inputs=[tab.name], inputs_kwargs=form.inputs(),
                     outputs=[tab.start, tab.said, tab.runs, tabs],
                     trigger_mode="once", concurrency_id="start", concurrency_limit=1, **QUIET)
    @owner_only
    async def start(name: str, **values) -> AsyncIterator[tuple]:
        wait = gr.Button("Starting …", interactive=False)
        yield wait, _said("Checking the settings"), gr.skip(), gr.skip()
        told: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        work = asyncio.create_task(asyncio.to_thread(
            lambda: lab.jobs.start(form.read(values), name.strip(),
                                   lambda text: loop.call_soon_threadsafe(told.put_nowait, text))))
        while not work.done():
            news = asyncio.create_task(told.get())
            await asyncio.wait({work, news}, return_when=asyncio.FIRST_COMPLETED)
            if news.done():
                yield wait, _said(news.result()), gr.skip(), gr.skip()
            else:
                news.cancel()
        ready = gr.Button("Start", interactive=True)
        if (error := work.exception()) is not None:
            if not isinstance(error, LabError):
                traceback.print_exception(error, file=sys.stderr)
            yield ready, refusal_html(explain(error)), gr.skip(), gr.skip()
        else:
            yield ready, "", runs_html(lab.runs.all()), gr.Tabs(selected="train")


def _said(text: str) -> str:
    return f"<p class='busy' role='status'>{escape(text)} …</p>"


def refusal_html(problem: Problem) -> str:
    return f"<div role='alert'>{problems_html([problem])}</div>"


def cards_html(facts: Machine) -> str:
    cuda = choose_stack("auto", facts).value == "gpu"
    cards = []
    for recipe in RECIPES.values():
        if not recipe.needs_gpu:
            badge = "<span class='badge fits'>runs here</span>"
        elif cuda:
            badge = "<span class='badge fits'>uses the GPU here</span>"
        else:
            badge = "<span class='badge needs'>needs a GPU</span>"
        cards.append(
            f"<button type='button' class='recipe' data-recipe='{escape(recipe.key)}' "
            f"aria-pressed='false'><span class='title'>{escape(recipe.title)}</span>"
            f"<span class='text'>{escape(recipe.summary)}</span>{badge}</button>")
    return f"<div class='recipes' role='group' aria-label='Recipes'>{''.join(cards)}</div>"


def machine_html(facts: Machine, settings: Settings) -> str:
    """What this machine has, what would train these settings on it, and what to see to."""
    stack = choose_stack(settings.hardware.stack, facts)
    rows = [("Stack", f"{stack.value}, because {stack.why}"),
            *engine_lines(choose_engines(settings, facts)),
            *(("GPU", gpu_line(gpu)) for gpu in facts.gpus)]
    rows += [
        ("CPU cores", str(facts.cores)),
        ("Memory", f"{facts.free_memory_gb:.1f} of {facts.memory_gb:.1f} GB free"),
        ("Disk", f"{facts.free_disk_gb:.0f} GB free where runs are kept"),
        ("System", facts.system),
    ]
    versions = [("Python", facts.python), *facts.packages.items()]

    def listed(pairs: Sequence[tuple[str, str]]) -> str:
        return "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in pairs)

    wrong = problems_html(machine_problems(facts, machine.pins(facts.packages)))
    return (f"<section class='sheet machine'><h3>This machine</h3>{wrong}<dl>{listed(rows)}</dl>"
            f"<details><summary>Versions</summary><dl>{listed(versions)}</dl></details></section>")


def summary_html(settings: Settings, recipe: str) -> str:
    """What Start will run, and where it differs from the recipe."""
    train = settings.train
    changes = RECIPES[recipe].settings().differences(settings) if recipe in RECIPES else {}
    cells = (
        ("Model", settings.model.name, f"LoRA rank {settings.lora.rank}"),
        ("Learns for", counted(train.max_steps, "step"),
         f"of {counted(train.prompts_per_step, 'question')} × {train.num_generations} answers"),
        ("From", *_source(settings)),
        ("Rewarded for", ", ".join(REWARDS[c.name].label for c in settings.rewards.chosen),
         "weights " + ", ".join(number(c.weight) for c in settings.rewards.chosen)),
    )
    text = "".join(f"<div><dt>{a}</dt><dd>{escape(b)}<span>{escape(c)}</span></dd></div>"
                   for a, b, c in cells)
    text = f"<dl>{text}</dl>"
    if changes:
        labels = {s.key: s.knob.label for s in ALL}
        shown = [f"<li>{escape(labels[key])}: {_change(was, now)}</li>"
                 for key, (was, now) in list(changes.items())[:SHOWN_CHANGES]]
        if len(changes) > SHOWN_CHANGES:
            shown.append(f"<li>and {len(changes) - SHOWN_CHANGES} more</li>")
        text += (f"<p>Changed from the recipe (press its card again to take it back):</p>"
                 f"<ul>{''.join(shown)}</ul>")
    return f"<div class='summary'>{text}</div>"


def _source(settings: Settings) -> tuple[str, str]:
    data = settings.data
    rows = f"{data.rows:,} rows at most" if data.rows else "all rows"
    return {"word-problems": (f"Word problems, level {data.level}", rows),
            "gsm8k": ("GSM8K", rows),
            "hub": (data.path or "A Hub dataset", rows),
            "file": (Path(data.path).name or "A file of yours", rows)}[data.source]


def _change(was: object, now: object) -> str:
    was, now = _plain(was), _plain(now)
    if max(len(was), len(now)) > LONG:
        return "<b>changed</b>"
    return f"<b>{escape(now)}</b> <span class='was'>instead of {escape(was)}</span>"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        value = (format_chosen(value) if value and not isinstance(value[0], str)
                 else ", ".join(value))
    return " ".join(str(value).split()) or "nothing"


def runs_html(runs: Sequence[Run]) -> str:
    """The newest runs with their status and how the reward moved."""
    if not runs:
        return f"<p class='empty'>{NO_RUNS}</p>"
    rows = "".join(
        f"<tr data-run='{escape(run.id)}' data-status='{run.status}'>"
        f"<th scope='row'>{escape(run.name)}</th>"
        f"<td><span class='status {run.status}'>{run.status}</span></td>"
        f"<td class='number'>{run.step} / {run.steps}</td>"
        f"<td class='number'>{moved(run)}</td><td>{when(run.created)}</td></tr>"
        for run in runs[:SHOWN_RUNS])
    more = (f"<p class='more'>{len(runs) - SHOWN_RUNS} more under Runs &amp; export.</p>"
            if len(runs) > SHOWN_RUNS else "")
    return ("<div class='table' tabindex='0'><table><thead><tr><th>Run</th><th>Status</th>"
            "<th class='number'>Step</th><th class='number'>Reward, first → last</th>"
            f"<th>Started</th></tr></thead><tbody>{rows}</tbody></table></div>{more}")
