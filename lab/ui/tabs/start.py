"""The Start tab: pick a recipe, see what this machine can do and what is wrong, press Start."""

import asyncio
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

import gradio as gr

from lab.core.catalog import DEFAULT_RECIPE, RECIPES
from lab.core.checks import in_short
from lab.core.hardware.engines import choose_engines, choose_stack
from lab.core.hardware.health import engine_lines, gpu_line, machine_problems
from lab.core.hardware.machine import Machine
from lab.core.problems import LabError, Problem, explain
from lab.core.settings import Settings
from lab.services import machine
from lab.services.jobs import ONE_AT_A_TIME
from lab.services.lab import Lab
from lab.services.queue import Waiting
from lab.services.runs import Run
from lab.ui.access import owner_only
from lab.ui.forms import Form
from lab.ui.summary import source_of
from lab.ui.widgets import (
    CURE_JS,
    FREE,
    QUIET,
    counted,
    explained,
    moved,
    problems_html,
    when,
)

NO_RUNS = "No runs yet. Pick a recipe and press Start."
SHOWN_RUNS = 5

CARDS_JS = """
const cards = [...element.querySelectorAll('.recipe')];
const show = () => cards.forEach(
  card => card.setAttribute('aria-pressed', String(card.dataset.recipe === props.value)));
cards.forEach(card => card.addEventListener('click', () => {
  props.value = card.dataset.recipe; show(); trigger('select'); }));
watch('value', show);
show();"""
QUEUE_JS = """
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-waiting]');
  if (button) { trigger('pick', {id: button.dataset.waiting}); window.labFocus('#start'); }
});"""
# To where the run can be stopped, or back to the button, which was off for a moment.
FOCUS_JS = """() => document.querySelector('#tab-train-button[aria-selected=true]')
  ? window.labFocus('#stop', 60000, '#tab-train-button') : window.labFocus('#start')"""


@dataclass
class StartTab:
    """The parts that other tabs and the page fill or wait for."""

    cards: gr.HTML  # its value is the key of the recipe that was taken last
    summary: gr.HTML
    forecast: gr.HTML
    problems: gr.HTML
    name: gr.Textbox
    start: gr.Button
    said: gr.HTML
    runs: gr.HTML
    queue: gr.HTML
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
                forecast = gr.HTML(elem_id="forecast")
        with gr.Column(scale=3, min_width=300, elem_classes="side"):
            with gr.Column(elem_classes="sheet go"):
                problems = gr.HTML(elem_id="problems", js_on_load=CURE_JS)
                name = gr.Textbox(label="Name of the run", placeholder="optional", max_lines=1,
                                  max_length=80, elem_id="run-name")
                start = gr.Button("Start", variant="primary", size="lg", elem_id="start")
                said = gr.HTML(elem_id="start-said")
            about = gr.HTML(machine_html(facts, form.first), elem_id="machine")
    queue = gr.HTML(elem_id="queue", apply_default_css=False, js_on_load=QUEUE_JS)
    gr.HTML("<h2>Last runs</h2>")
    runs = gr.HTML(elem_id="last-runs")
    return StartTab(cards, summary, forecast, problems, name, start, said, runs, queue, about)


def wire(tab: StartTab, lab: Lab, form: Form, tabs: gr.Tabs) -> None:
    """Events, once every widget of the form exists."""

    @owner_only
    async def start(name: str, **values) -> AsyncIterator[tuple]:
        wait = gr.Button("Starting …", interactive=False)
        nothing = 3 * [gr.skip()]
        yield wait, _said("Checking the settings"), *nothing
        told: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        work = asyncio.create_task(asyncio.to_thread(
            lambda: _start(lab, form.read(values), name.strip(),
                           lambda text: loop.call_soon_threadsafe(told.put_nowait, text))))
        while not work.done():
            news = asyncio.create_task(told.get())
            await asyncio.wait({work, news}, return_when=asyncio.FIRST_COMPLETED)
            if news.done():
                yield wait, _said(news.result()), *nothing
            else:
                news.cancel()
        ready = start_button(lab)
        if (error := work.exception()) is not None:
            if not isinstance(error, LabError):
                traceback.print_exception(error, file=sys.stderr)
            yield ready, refusal_html(explain(error)), *nothing
        elif place := work.result():
            yield ready, _queued(lab, place), *listed(lab), gr.skip()
        else:
            yield ready, "", *listed(lab), gr.Tabs(selected="train")

    tab.start.click(
        start, [tab.name], [tab.start, tab.said, tab.runs, tab.queue, tabs],
        inputs_kwargs=form.inputs(), trigger_mode="once", concurrency_id="start",
        concurrency_limit=1, **QUIET).then(None, js=FOCUS_JS, **FREE)

    @tab.queue.pick(outputs=[tab.start, tab.said, tab.runs, tab.queue], **FREE)
    @explained
    @owner_only
    def leave(event: gr.EventData) -> tuple:
        lab.queue.remove(str(event._data.get("id") or ""))
        return start_button(lab), "", *listed(lab)


def _start(lab: Lab, settings: Settings, name: str, say: Callable[[str], None]) -> int:
    """Start a run, or put it behind those that wait where one trains: its place there, or 0.
    Raises a LabError."""
    if lab.runs.active() or any(not one.problem for one in lab.queue.all()):
        return lab.queue.add(settings, name)
    lab.jobs.start(settings, name, say)
    return 0


def start_button(lab: Lab) -> dict:
    return gr.update(value="Add to the queue" if lab.runs.active() else "Start", interactive=True)


def listed(lab: Lab) -> tuple[str, str]:
    """The last runs, and those that wait."""
    return (runs_html([run for run in lab.runs.all() if not run.label.archived]),
            queue_html(lab.queue.all()))


def against(tab: StartTab, lab: Lab, found: Sequence[Problem]) -> dict:
    """Updates that say what speaks against starting: of the settings, and a run that trains."""
    active = lab.runs.active()
    busy = busy_html(active, len(lab.queue.all())) if active else ""
    fine = "" if active else "Nothing speaks against starting."
    return {tab.problems: busy + problems_html(in_short(found), fine), tab.start: start_button(lab)}


def busy_html(run: Run, waiting: int) -> str:
    """What it means for a start that this run trains."""
    behind = f" behind {waiting} that {'waits' if waiting == 1 else 'wait'}" if waiting else ""
    at = "is starting" if run.status == "starting" else (
        f"is {'paused' if run.is_paused else 'training'} (step {run.step} of {run.steps})")
    return (f"<div class='problem busy-run'><p class='what'>{escape(run.name)} {at}.</p>"
            f"<p>{ONE_AT_A_TIME} A new run waits in the queue{behind}.</p>"
            f"<p class='next'>{run_link(run, 'Watch it')}</p></div>")


def run_link(run: Run, text: str) -> str:
    """A link to a run's own address (assets/page.js)."""
    return f"<a href='#train/{quote(run.id)}'>{escape(text)}</a>"


def _queued(lab: Lab, place: int) -> str:
    active = lab.runs.active()
    after = f"{active.name} has ended" if active and place == 1 else "those before it have ended"
    return (f"<p class='note' role='status'>In the queue, at place {place}. It starts by itself "
            f"when {escape(after)}.</p>")


def queue_html(waiting: Sequence[Waiting]) -> str:
    """The runs that wait, each with a button that takes it out."""
    if not waiting:
        return ""
    rows = []
    for place, one in enumerate(waiting, 1):
        name = one.name or "a run without a name"
        about = "" if one.settings is None else (
            f"{one.settings.model.name}, {counted(one.settings.train.max_steps, 'step')}, "
            f"{source_of(one.settings)[0]}")
        wrong = f"<p class='wrong'>Could not start. {escape(str(one.problem))}</p>" if (
            one.problem) else ""
        rows.append(
            f"<li><div><b>{escape(name)}</b> <span class='help'>{escape(about)}</span>{wrong}</div>"
            f"<button type='button' class='tool wide' data-waiting='{escape(one.id)}' "
            f"aria-label='Take {escape(name)}, at place {place}, out of the queue'>Remove</button>"
            "</li>")
    return ("<h2>Waiting</h2><p class='help'>The next one starts when no run trains, as long as "
            f"the lab is open.</p><ol class='queue'>{''.join(rows)}</ol>")


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
        measured = (f"<span class='measured'>{escape(recipe.measured)}</span>"
                    if recipe.measured else "")
        cards.append(
            f"<button type='button' class='recipe' data-recipe='{escape(recipe.key)}' "
            f"aria-pressed='false'><span class='title'>{escape(recipe.title)}</span>"
            f"<span class='text'>{escape(recipe.summary)}</span>{measured}{badge}</button>")
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


def runs_html(runs: Sequence[Run]) -> str:
    """The newest runs with their status and how the reward moved."""
    if not runs:
        return f"<p class='empty'>{NO_RUNS}</p>"
    rows = "".join(
        f"<tr data-run='{escape(run.id)}' data-status='{run.status}'>"
        f"<th scope='row'>{run_link(run, run.name)}</th>"
        f"<td data-label='Status'><span class='status {run.status}'>{run.status}</span></td>"
        f"<td class='number' data-label='Step'>{run.step} / {run.steps}</td>"
        f"<td class='goal' data-label='Goal: answers right'>{run.goal_told}</td>"
        f"<td class='number' data-label='Reward, first → last'>{moved(run)}</td>"
        f"<td data-label='Started'>{when(run.created)}</td></tr>"
        for run in runs[:SHOWN_RUNS])
    more = (f"<p class='more'>{len(runs) - SHOWN_RUNS} more under Runs &amp; export.</p>"
            if len(runs) > SHOWN_RUNS else "")
    return ("<div class='table' tabindex='0'><table><thead><tr><th>Run</th><th>Status</th>"
            "<th class='number'>Step</th><th>Goal: answers right</th>"
            "<th class='number'>Reward, first → last</th>"
            f"<th>Started</th></tr></thead><tbody>{rows}</tbody></table></div>{more}")
