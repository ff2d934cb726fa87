"""The page: header, tabs in their order, what is watched across tabs, and how it is served."""

import contextlib
import ipaddress
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

from lab.core.catalog import RECIPES
from lab.core.machine import Machine
from lab.core.problems import BadSettings, RunError
from lab.core.settings import Settings
from lab.services import jobs, machine
from lab.services.lab import Lab
from lab.services.space import Space
from lab.services.workspace import PROJECT
from lab.ui import access
from lab.ui.forms import REWARD_LIST, Form
from lab.ui.tabs import compare, data, model, rewards, runs, start, train
from lab.ui.theme import theme
from lab.ui.widgets import FREE, QUIET, explained, problems_html

ASSETS = PROJECT / "assets"
LARGEST_UPLOAD = "200mb"
HUB = "https://huggingface.co"
FACTS_AGE = 20.0  # seconds for which the facts of the machine are not looked at again


CHIP = ("<button type='button' id='active-run' class='chip' data-status='' data-step='' "
        "title='Go to the Train tab'><span class='dot'></span><span class='text'>…</span></button>")
CHIP_JS = """
const chip = element.querySelector('.chip'), text = chip.querySelector('.text');
let busy = false, before = null;
async function look() {
  if (busy || document.visibilityState !== 'visible') return;
  busy = true;
  try {
    const run = await server.newest_run();
    chip.dataset.status = run.status; chip.dataset.step = run.step; chip.dataset.run = run.run;
    text.textContent = run.text;
    const now = run.run + ' ' + run.status;
    if (before !== null && now !== before) trigger('change');
    before = now;
  } catch (error) { chip.dataset.status = 'offline'; text.textContent = 'The lab does not answer'; }
  finally { busy = false; }
}
chip.addEventListener('click', () => trigger('select'));
const timer = setInterval(() => element.isConnected ? look() : clearInterval(timer), 1500);
document.addEventListener('visibilitychange', look);
look();"""


def run_chip(lab: Lab) -> gr.HTML:
    """The run that trains, or the newest one, in the header. Pulls by itself; triggers `change`
    when a run starts or ends, and `select` when it is pressed."""

    def newest_run(*_) -> dict:
        return chip_of(lab)

    # Not a subclass: gradio writes a .pyi file beside each module that has one.
    return gr.HTML("", html_template=CHIP, js_on_load=CHIP_JS, apply_default_css=False,
                   server_functions=[newest_run])


def chip_of(lab: Lab) -> dict:
    """What the chip shows: {"run", "status", "step", "text"}."""
    folders = lab.workspace.folders()
    if not folders:
        return {"run": "", "status": "idle", "step": 0, "text": "No run yet"}
    run = lab.runs.active() or lab.runs.get(folders[0].id)
    text = f"{run.name}: {run.status}"
    if run.status != "starting":
        text += f", step {run.step} of {run.steps}"
    return {"run": run.id, "status": run.status, "step": run.step, "text": text}


def build(lab: Lab) -> gr.Blocks:
    form = Form()
    mark = (ASSETS / "favicon.svg").read_text().replace("<svg ", "<svg aria-hidden='true' ")
    with gr.Blocks(title="GRPO Lab", fill_width=True, analytics_enabled=False) as page:
        with gr.Row(elem_classes="header"):
            gr.HTML(f"<div class='brand'>{mark}<div><h1>GRPO Lab</h1><p>Teach a language model by "
                    "rewards, and watch it learn.</p></div></div>")
            chip = run_chip(lab)
        visitors_cannot = access.build_notes(lab, page)
        with gr.Tabs(selected="start", elem_id="tabs") as tabs:
            with gr.Tab("Start", id="start", elem_id="tab-start") as tab_start:
                on_start = start.build_tab(lab, form)
            with gr.Tab("Model & LoRA", id="model", elem_id="tab-model"):
                on_model = model.build_tab(lab, form)
            with gr.Tab("Data", id="data", elem_id="tab-data"):
                on_data = data.build_tab(lab, form)
            with gr.Tab("Rewards", id="rewards", elem_id="tab-rewards") as tab_rewards:
                on_rewards = rewards.build_tab(lab, form)
            with gr.Tab("Train", id="train", elem_id="tab-train"):
                train.build_tab(lab, form)
            with gr.Tab("Compare", id="compare", elem_id="tab-compare") as tab_compare:
                on_compare = compare.build_tab(lab, form)
            with gr.Tab("Runs & export", id="runs", elem_id="tab-runs") as tab_runs:
                on_runs = runs.build_tab(lab, form)
        start.wire(on_start, lab, form, tabs)
        model.wire(on_model, lab, form)
        data.wire(on_data, lab, form)
        rewards.wire(on_rewards, form, [page.load, tab_rewards.select])
        compare.wire(on_compare, lab, form, page, tab_compare)
        runs.wire(on_runs, lab, form, page, tabs, tab_runs)
        visitors_cannot(on_start.start, on_model.ask, on_compare.send, on_data.upload,
                        on_data.read_columns, on_data.preview)
        _watch(page, lab, form, on_start, on_model, on_data, on_rewards)
        chip.select(lambda: gr.Tabs(selected="train"), outputs=tabs, **FREE)
        gr.on([page.load, tab_start.select, chip.change],
              explained(lambda: (start.runs_html(lab.runs.all()), "")),
              outputs=[on_start.runs, on_start.said], **FREE)
    return page


def _watch(page: gr.Blocks, lab: Lab, form: Form, on_start: start.StartTab,
           on_model: model.ModelTab, on_data: data.DataTab,
           on_rewards: rewards.RewardsTab) -> None:
    """Keep problems, summaries and this browser's draft in step with the form."""
    facts = _Facts(lab.workspace.root)
    draft = gr.BrowserState(None, storage_key="grpo-lab-draft-1", secret="grpo-lab")
    shown = [on_start.problems, on_start.summary, on_start.machine, *on_model.live(),
             on_rewards.notes, draft, on_data.built_in, on_data.outside, on_data.mapping]

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
    def check(recipe: str, **values) -> dict:
        found = form.problems(values)
        updates = on_data.visible_for(values["data.source"])
        if not found:
            settings = form.read(values)
            found = jobs.speaks_against(settings, facts())
            updates |= {on_start.summary: start.summary_html(settings, recipe),
                        on_start.machine: start.machine_html(facts(), settings),
                        **on_model.updates(settings, facts()),
                        draft: {"recipe": recipe, "settings": settings.to_dict()}}
        of_rewards = [p for p in found if p.field == REWARD_LIST]
        return updates | form.mark(found) | {
            on_rewards.notes: problems_html(of_rewards),
            on_start.problems: problems_html(found, "Nothing speaks against starting.")}

    restored = page.load(restore, draft, [on_start.cards, on_start.machine, *form.outputs()],
                         **FREE)
    taken = on_start.cards.select(take, on_start.cards, form.outputs(), **FREE)
    # `input` is a person's change. `change` would come once for each of the many widgets that a
    # recipe sets, with half of them still as they were.
    for when in (restored.then, taken.then, *(event.then for event in form.shown_by),
                 partial(gr.on, [widget.input for widget in form.widgets.values()])):
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


class SameSite:
    """Refuses requests that come by another name (DNS rebinding) or from another page (Origin).

    Allowed names are this machine's loopback and `host`; where `host` is every address (0.0.0.0),
    any plain IP address too, since a foreign page can point its own name at this machine but not
    make the browser send an address; with `share`, the tunnel's names; on a Space, its own, and
    pages of the Hub, which show it in a frame. A Space's visitors cannot upload either.
    """

    def __init__(self, app: Callable, host: str, share: bool = False,
                 space: Space | None = None) -> None:
        self.app = app
        self.host = host
        self.share = share
        self.space = space

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode().lower(): value.decode("latin-1")
                   for name, value in scope["headers"] if name in (b"host", b"origin")}
        if not self.knows(headers.get("host", "")):
            refusal = PlainTextResponse("Invalid host header", 400)
        elif not self.trusts(headers.get("origin", ""), headers["host"]):
            refusal = PlainTextResponse("Requests from other pages are refused", 403)
        elif (scope["path"].rstrip("/").endswith("/upload")
              and not access.allows(scope.get("session") or {})):
            refusal = PlainTextResponse("Only the owner of this Space may upload", 403)
        else:
            await self.app(scope, receive, send)
            return
        await refusal(scope, receive, send)

    def trusts(self, origin: str, host_header: str) -> bool:
        """Whether a request from this page is let through; none names the page of a plain one."""
        if not origin or origin.partition("://")[2] == host_header:
            return True
        return self.space is not None and (
            origin == HUB or origin in {f"https://{host}" for host in self.space.hosts})

    def knows(self, host_header: str) -> bool:
        try:
            name = urlsplit(f"//{host_header}").hostname or ""
        except ValueError:
            return False
        if name in ("localhost", "127.0.0.1", "::1", self.host):
            return True
        # The platform asks by an address or by the container's name whether the page is up.
        if self.space and name in (*self.space.hosts, socket.gethostname().lower()):
            return True
        if self.share and name.endswith((".gradio.live", ".gradio.app")):
            return True
        if self.host not in ("0.0.0.0", "::"):
            return False
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name)
            return True
        return False


def launch(lab: Lab, host: str = "127.0.0.1", port: int = 7860, share: bool = False
           ) -> tuple[gr.Blocks, str]:
    """Serve the page and return at once: (page, URL). Raises RunError if the port is taken."""
    page = build(lab)
    page.queue(default_concurrency_limit=4, max_size=64, api_open=False)
    try:
        _, local, public = page.launch(
            server_name=host, server_port=port, share=share, prevent_thread_lock=True, quiet=True,
            inbrowser=False, show_error=False, ssr_mode=False, run_history=False,
            enable_monitoring=False, mcp_server=False, pwa=False, footer_links=[],
            max_file_size=LARGEST_UPLOAD, strict_cors=True, theme=theme(),
            css_paths=ASSETS / "style.css", favicon_path=ASSETS / "favicon.svg",
            app_kwargs={"middleware": [Middleware(SameSite, host=host, share=share,
                                                  space=access.here())]})
    except OSError as error:
        raise RunError(f"{host}:{port} cannot be used.", f"{error}",
                       f"Take another one, for example --port {port % 65535 + 1}.") from error
    return page, public or local.rstrip("/")
