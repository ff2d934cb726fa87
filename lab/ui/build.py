"""The page: header, tabs in their order, what is watched across tabs, and how it is served."""

import contextlib
import time
from functools import partial
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from lab.core.catalog import RECIPES
from lab.core.hardware.machine import Machine
from lab.core.problems import BadSettings, LabError, RunError
from lab.core.settings import Settings
from lab.services import jobs, machine
from lab.services.forecasts import forecast_of
from lab.services.lab import Lab
from lab.services.reach import Reach, bracketed
from lab.ui import access, doctor, header, next_steps, sessions
from lab.ui.door import Door
from lab.ui.forms import Form
from lab.ui.panel import ASSETS
from lab.ui.summary import forecast_html, summary_html
from lab.ui.tabs import compare, data, how, model, preflight, rewards, runs, start, train
from lab.ui.theme import theme
from lab.ui.widgets import FOLLOWS, FREE, QUIET, explained

KEPT_COPIES = 24 * 3600  # seconds for which gradio keeps its own copies of files
MOST_WAITING = 128  # calls in the queue; on a Space its visitors have half of them
# Seconds between two looks at a queue that is empty: gradio's own thousand looks a second take 8 %
# of a core from what trains.
LOOKS = 0.02
FACTS_AGE = 20.0  # seconds for which the facts of the machine are not looked at again


def build(lab: Lab) -> gr.Blocks:
    access.guard_code()
    form = Form()
    with gr.Blocks(title="GRPO Lab", fill_width=True, analytics_enabled=False,
                   delete_cache=(KEPT_COPIES, KEPT_COPIES)) as page:
        chip = header.build(lab)
        visitors_cannot = access.build_notes(lab, page)
        with gr.Tabs(selected="start", elem_id="tabs", overflow_behavior="wrap") as tabs:
            with gr.Tab("Start", id="start", elem_id="tab-start") as tab_start:
                on_start = start.build_tab(lab, form)
            with gr.Tab("Model & LoRA", id="model", elem_id="tab-model"):
                on_model = model.build_tab(lab, form)
            with gr.Tab("Data", id="data", elem_id="tab-data"):
                on_data = data.build_tab(lab, form)
            with gr.Tab("Rewards", id="rewards", elem_id="tab-rewards") as tab_rewards:
                on_rewards = rewards.build_tab(lab, form)
            with gr.Tab("Preflight", id="preflight", elem_id="tab-preflight") as tab_preflight:
                on_preflight = preflight.build_tab(lab, form)
            with gr.Tab("Train", id="train", elem_id="tab-train"):
                on_train = train.build_tab(lab, form)
            with gr.Tab("Compare", id="compare", elem_id="tab-compare") as tab_compare:
                on_compare = compare.build_tab(lab, form)
            with gr.Tab("Runs & export", id="runs", elem_id="tab-runs") as tab_runs:
                on_runs = runs.build_tab(lab, form)
            with gr.Tab("How GRPO works", id="how", elem_id="tab-how"):
                how.build_tab(lab)
        start.wire(on_start, lab, form, tabs)
        model.wire(on_model, lab, form)
        data.wire(on_data, lab, form)
        preflight.wire(on_preflight, lab, form, page, tab_preflight)
        compare.wire(on_compare, lab, form, [page.load, tab_compare.select, chip.change])
        runs.wire(on_runs, lab, form, tabs, [page.load, tab_runs.select, chip.change])
        next_steps.wire(on_train.steps_after, on_train.run, lab, tabs, on_compare, on_runs,
                        form)
        doctor.wire(on_train.doctor, lab, form, tabs)
        facts = _Facts(lab.workspace.root)
        draft = gr.BrowserState(None, storage_key="grpo-lab-draft-1", secret="grpo-lab")
        _fill(page, form, facts, draft, on_start, on_model.memory)
        form.shown_by.append(chip.change(lambda: None, **FREE))  # a run is a reason not to start
        # Last: its playground follows every event that puts values into the form.
        rewards.wire(on_rewards, lab, form, [tab_rewards.select])
        visitors_cannot(on_start.start, on_model.ask, on_compare.send, on_compare.lapse.start,
                        on_data.upload, on_data.read_columns, on_data.preview,
                        on_compare.verdict.ask, on_preflight.run, *on_rewards.of_the_owner())
        _watch(lab, form, facts, draft, on_start, on_model, on_data, on_rewards)
        chip.select(lambda: gr.Tabs(selected="train"), outputs=tabs, **FREE)
        gr.on([page.load, tab_start.select, chip.change],
              explained(lambda: (*start.listed(lab), gr.skip() if lab.queue.all() else "")),
              outputs=[on_start.runs, on_start.queue, on_start.said], **FOLLOWS)
    _tell_no_loading(page)
    return page


def _tell_no_loading(page: gr.Blocks) -> None:
    """Where a handler shows no progress, let no component be told that it is loading: gradio tells
    all that were ever an output, at every word of a handler, and looks for each of them in the
    whole page. That was a third of the time in which the page opens."""
    for handler in page.fns.values():
        if handler.show_progress == "hidden" and handler.show_progress_on is None:
            handler.show_progress_on = []


def _fill(page: gr.Blocks, form: Form, facts: "_Facts", draft: gr.BrowserState,
          on_start: start.StartTab, memory: gr.HTML) -> None:
    """Fill the form with this browser's draft when the page opens, with a recipe that is taken, and
    with what cures a problem."""

    @explained
    def restore(draft: dict | None) -> dict:
        updates = {on_start.machine: start.machine_html(facts(), form.first)}
        with contextlib.suppress(BadSettings, TypeError, KeyError, AttributeError):
            settings = Settings.from_dict(draft["settings"])
            if draft["recipe"] in RECIPES:
                updates |= {on_start.cards: draft["recipe"], **form.show(settings)}
        return updates

    @explained
    def take(recipe: str) -> dict:
        return form.show(RECIPES[recipe].settings())

    @explained
    def cure(event: gr.EventData, **values) -> dict:
        """Take a change that a problem offers."""
        changes = event._data.get("set") if isinstance(event._data, dict) else None
        if not isinstance(changes, dict):
            return gr.skip()
        return form.show(form.read(values).with_values(changes))

    form.shown_by += [
        *(place.cure(cure, outputs=form.outputs(), inputs_kwargs=form.inputs(), **FREE)
          for place in (on_start.problems, memory)),
        page.load(restore, draft, [on_start.cards, on_start.machine, *form.outputs()], **FREE),
        on_start.cards.select(take, on_start.cards, form.outputs(), **FREE)]


def _watch(lab: Lab, form: Form, facts: "_Facts", draft: gr.BrowserState,
           on_start: start.StartTab, on_model: model.ModelTab, on_data: data.DataTab,
           on_rewards: rewards.RewardsTab) -> None:
    """Keep problems, summaries and this browser's draft in step with the form."""
    shown = [on_start.problems, on_start.start, on_start.summary, on_start.machine,
             *on_model.live(), *on_rewards.live(), draft, on_data.built_in, on_data.gym,
             on_data.outside, on_data.mapping]

    @explained
    def check(recipe: str, **values) -> dict:
        found = form.problems(values)
        updates = on_data.visible_for(values["data.source"])
        if not found:
            settings = form.read(values)
            found = jobs.speaks_against(settings, facts(), lab.workspace)
            updates |= {on_start.summary: summary_html(settings, recipe),
                        on_start.machine: start.machine_html(facts(), settings),
                        **on_model.updates(settings, facts()),
                        draft: {"recipe": recipe, "settings": settings.to_dict()}}
        return (updates | form.mark(found) | on_rewards.updates(lab, form, values, found)
                | start.against(on_start, lab, found))

    @explained
    def forecast(**values) -> str:
        """The first time it measures this machine, which nothing else should wait for."""
        if form.problems(values):
            return ""
        settings = form.read(values)
        return forecast_html(forecast_of(settings, facts(), lab.workspace))

    # `input` is a person's change. `change` would come once for each of the many widgets that a
    # recipe sets, with half of them still as they were.
    for when in (*(event.then for event in form.shown_by),
                 partial(gr.on, [widget.input for widget in form.widgets.values()])):
        when(forecast, outputs=on_start.forecast, inputs_kwargs=form.inputs(),
             trigger_mode="always_last", concurrency_id="forecast", concurrency_limit=1, **QUIET)
        when(check, on_start.cards, [*shown, *form.outputs()],
             inputs_kwargs=form.inputs(), trigger_mode="always_last",
             # One after the other, so that an earlier answer never comes last.
             concurrency_id="check", concurrency_limit=1, **QUIET)


class _Facts:
    """The machine's facts, looked at again when they are old: a look may ask the GPU's driver."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._facts: Machine | None = None
        self._when = 0.0

    def __call__(self) -> Machine:
        if self._facts is None or time.monotonic() - self._when > FACTS_AGE:
            self._facts, self._when = machine.look(self.root), time.monotonic()
        return self._facts


def launch(lab: Lab, reach: Reach) -> gr.Blocks:
    """Serve the page and return at once. Raises RunError if it cannot be served there."""
    space = access.here()
    page = build(lab)
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    page.queue(default_concurrency_limit=4, max_size=MOST_WAITING, api_open=False)
    page._queue.sleep_when_free = LOOKS
    page._queue.progress_update_sleep_when_free = 4 * LOOKS
    door = Middleware(Door, reach=reach, space=space, waiting=lambda: len(page._queue),
                      most_waiting=MOST_WAITING)
    try:
        page.launch(
            server_name=bracketed(reach.host), server_port=reach.port, share=reach.share,
            root_path=reach.root_path, prevent_thread_lock=True, quiet=True, inbrowser=False,
            show_error=False, ssr_mode=False, run_history=False, enable_monitoring=False,
            mcp_server=False, pwa=False, footer_links=[], max_file_size=data.LARGEST_UPLOAD,
            strict_cors=True, theme=theme(), css_paths=ASSETS / "style.css",
            head=f"<script>{script}</script>",
            favicon_path=ASSETS / "favicon.svg", app_kwargs={"middleware": [door]})
    except OSError as error:
        raise RunError(f"{reach.host}:{reach.port} cannot be used.", f"{error}.",
                       "Take another one, for example "
                       f"--port {reach.port % 65535 + 1}.") from error
    except Exception as error:  # gradio asks its own page, and says this with a bare Exception
        if isinstance(error, LabError):
            raise
        raise RunError("The page was started, but this machine cannot reach it.", f"{error}",
                       "A proxy or a firewall may stand between: put 'localhost,127.0.0.1,"
                       f"{reach.host}' into no_proxy, or give another --host.") from error
    sessions.bound(page)
    lab.queue.watch()
    lab.runs.warm()
    return page
