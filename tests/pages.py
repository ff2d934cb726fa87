"""An app and a page of it in Chromium, as fixtures: what the tests of the whole page share."""

import pytest
from playwright.sync_api import expect

from lab.core.catalog import RECIPES
from lab.services.lab import Lab
from tests.browser import SLOW, App


@pytest.fixture(scope="module")
def one_thread():
    """Runs train on one core here, and leave the others to the page and its browser."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def ended(app: App) -> None:
    """End the app and whatever still trains in its root."""
    app.end()
    lab = Lab.at(app.root)
    for folder in lab.workspace.folders():
        lab.jobs.kill(folder.id)


@pytest.fixture
def app(tmp_path):
    app = App(tmp_path / "runs").start()
    yield app
    ended(app)


@pytest.fixture(scope="module")
def idle_app(tmp_path_factory):
    """An app without runs, for tests that start none."""
    app = App(tmp_path_factory.mktemp("idle")).start()
    yield app
    ended(app)


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """An app with a run that goes on and on, started by another process."""
    app = App(tmp_path_factory.mktemp("training"))
    Lab.at(app.root).jobs.start(RECIPES["starter"].settings().with_values(
        {"train.max_steps": 100_000}))
    yield app.start()
    ended(app)


@pytest.fixture
def training_app(endless):
    """For tests that watch a run. It waits where no test does: others need the processor."""
    lab = Lab.at(endless.root)
    (folder,) = lab.workspace.folders()
    folder.pause.unlink(missing_ok=True)
    yield endless
    folder.pause.touch()


@pytest.fixture(scope="module")
def finished_app(finished):
    """An app in whose root is the finished run. Tests leave it as it is."""
    app = App(finished[0].workspace.root).start()
    yield app
    app.end()


@pytest.fixture
def open_page(browser, request):
    """Opens pages that fail their test on a script error or a request to elsewhere."""
    contexts, wrong = [], []

    def open_one(app: App, tolerant: bool = False, **look):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | look))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SLOW)
        page.on("request", lambda r: wrong.append(f"request to {r.url}")
                if not r.url.startswith((app.url, "data:", "blob:")) else None)
        if not tolerant:
            page.on("pageerror", lambda error: wrong.append(f"script error {error}"))
        page.goto(app.url)
        expect(page.locator("#start")).to_be_enabled(timeout=SLOW)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert wrong == []
