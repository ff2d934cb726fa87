"""The app as a real process, and a real Chromium: for tests, benchmarks and screenshots."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import axe_playwright_python
from playwright.sync_api import expect, sync_playwright

from lab.services.lab import Lab
from lab.services.workspace import PROJECT
from tests.chromium import find_browser
from tests.ports import free_port

SLOW = 240_000  # milliseconds after which a test gives up waiting for something to appear
TABS = {"start": "Start", "model": "Model & LoRA", "data": "Data", "rewards": "Rewards",
        "preflight": "Preflight", "train": "Train", "compare": "Compare", "runs": "Runs & export",
        "how": "How GRPO works"}


class App:
    """app.py as a process of its own; it can be ended and started again on the same port."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> "App":
        """Start it and wait until it serves its page."""
        self.process = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(self.port), "--root", str(self.root)],
            cwd=PROJECT, env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        while self.process.poll() is None:
            try:
                urllib.request.urlopen(self.url).read()
                return self
            except OSError:
                time.sleep(0.05)  # only its page tells that it is served
        raise RuntimeError(f"app.py ended: {self.process.stdout.read().decode()}")

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)


def with_run(finished, root: Path) -> Lab:
    """A lab in this root with a copy of the finished run: what a page changes is changed there."""
    other, run_id = finished
    lab = Lab.at(root)
    shutil.copytree(other.workspace.run(run_id).path, lab.workspace.make().root / run_id)
    return lab


@contextmanager
def chromium():
    """A headless Chromium that can reach nothing but this machine."""
    found = find_browser()
    if not found:
        raise RuntimeError("No Chromium was found. `make test` installs one where it can.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which(found) or found, args=[
            "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"])
        expect.set_options(timeout=SLOW)  # Playwright's own is 5 s: too little on a busy machine
        yield browser
        browser.close()


AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


def faults(page) -> list[str]:
    """What axe-core finds against WCAG A and AA in what the page shows now."""
    if not page.evaluate("typeof axe === 'object'"):
        page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
        # A colour that fades is no fault, whenever it begins to.
        page.add_style_tag(content="*, *::before, *::after { transition: none !important; "
                                   "animation: none !important }")
    found = page.evaluate("""async levels => (await axe.run(document, {
        runOnly: {type: 'tag', values: levels}, resultTypes: ['violations']})).violations.flatMap(
        one => one.nodes.map(node => `${one.id}: ${node.target} ${node.html.slice(0, 160)} ${
            node.failureSummary.split(/[\\n]+/)[1] || ''}`))""", LEVELS)
    return found


def open_tab(page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def live(page):
    return page.locator("#live")


def points(page, chart: str = "goal") -> str:
    return f"document.querySelector('#live-chart-{chart} .js-plotly-plot')?.data?.[0]?.x?.length"


def wait_for_points(page, more_than: int, chart: str = "goal") -> None:
    page.locator(f"#live-chart-{chart}").scroll_into_view_if_needed()  # only what is seen is drawn
    page.wait_for_function(f"({points(page, chart)} ?? 0) > {more_than}", timeout=SLOW)


def start_starter(page) -> None:
    """Press Start on the default recipe, with steps without end, and wait for the first points."""
    open_tab(page, "Model & LoRA")
    page.locator("#set-train-max_steps input").first.fill("5000")
    open_tab(page, "Start")
    expect(page.locator("#summary")).to_contain_text("5,000 steps", timeout=SLOW)
    expect(page.locator("#problems")).to_contain_text("Nothing speaks against", timeout=SLOW)
    page.locator("#start").click()
    expect(live(page)).to_have_attribute("data-status", "running", timeout=SLOW)
    wait_for_points(page, 2)
