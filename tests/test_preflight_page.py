"""The Preflight tab in Chromium: run, look, take advice, cancel, and what goes wrong."""

import pytest
from playwright.sync_api import expect

from lab.core.catalog import RECIPES
from lab.core.insight.preflight import Sample, summary
from lab.core.settings import Settings
from lab.services import preflight_record
from lab.services.workspace import Workspace
from tests.browser import SLOW, App, open_tab
from tests.test_preflight import WRONG, group_of

pytestmark = pytest.mark.browser


@pytest.fixture
def app(tmp_path):
    app = App(tmp_path / "runs")
    yield app
    app.end()


def opened(browser, app: App, **look):
    page = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | look)).new_page()
    page.set_default_timeout(SLOW)
    page.goto(app.url)
    expect(page.locator("#start")).to_be_enabled(timeout=SLOW)
    show(page)
    return page


def show(page) -> None:
    """Open the tab, also where the page is too narrow for all of them."""
    found = page.get_by_role("tab", name="Preflight", exact=True)
    if found.is_visible():
        found.click()
    else:
        page.locator("#tabs .overflow-menu > button").click()
        page.locator("#tabs .overflow-dropdown").get_by_text("Preflight", exact=True).click()


def kept(root) -> tuple[Settings, dict]:
    """A preflight that lies in the root, with a piece of advice and a reward that never fired."""
    settings = RECIPES["starter"].settings()
    groups = tuple(group_of([WRONG] * 14 + ["42"] * 2, question=f"Number {n}?") for n in range(4))
    result = summary(Sample(groups, (50, 60), 4.0, 0.1, 2.0, "cpu"), settings, 9.0, 1.6)
    result["advice"] = [{"rule": "group_size", "what": "Draw 16 answers per question.",
                         "figure": "Half of the groups teach nothing.", "set": {
                             "train.num_generations": 16, "train.prompts_per_step": 4}}]
    preflight_record.keep(Workspace(root), settings, result)
    return settings, result


def bars(page) -> list[int]:
    page.wait_for_function("document.querySelector('#preflight-rates .js-plotly-plot')?.data")
    return page.evaluate("document.querySelector('#preflight-rates .js-plotly-plot').data[0].y")


def test_run_it_look_at_it_and_cancel_it(browser, app):
    page = opened(browser, app.start())
    expect(page.locator("#preflight-about")).to_contain_text("No preflight yet")
    expect(page.locator("#preflight-figures")).to_be_hidden()
    page.locator("#preflight-questions input").fill("2")
    # Two questions are soon answered: whoever looks now and then may never see the bar.
    page.evaluate("""() => new MutationObserver(() => {
        window.sawBar ||= !!document.querySelector('#preflight-said [role=progressbar]');
    }).observe(document.body, {subtree: true, childList: true}) ?? null""")
    page.locator("#preflight-run").click()
    expect(page.locator("#preflight-figures")).to_contain_text("2 questions, 32 answers",
                                                               timeout=SLOW)
    assert page.evaluate("window.sawBar") is True
    assert sum(bars(page)) == 2
    expect(page.locator("#preflight-dead .share")).to_have_count(4)
    expect(page.locator("#preflight-dead .share.own")).to_contain_text("8 answers")
    expect(page.locator("#preflight-signal .share")).to_have_count(5)
    expect(page.locator("#preflight-run")).to_be_enabled()
    expect(page.locator("#preflight-cancel")).to_be_disabled()
    page.locator("#preflight-questions input").fill("500")
    page.locator("#preflight-run").click()
    page.locator("#preflight-cancel").click()
    expect(page.locator("#preflight-said")).to_contain_text("was cancelled", timeout=SLOW)
    expect(page.locator("#preflight-run")).to_be_enabled()
    expect(page.locator("#preflight-figures")).to_contain_text("2 questions")  # what was, stays


def test_advice_is_taken_with_one_press_and_what_was_changed_since_is_said(browser, app):
    kept(app.root)
    page = opened(browser, app.start())
    expect(page.locator("#preflight-about")).to_contain_text("Preflight of")
    assert bars(page) == [0, 4, 0, 0, 0, 0, 0]
    expect(page.locator("#preflight-never")).to_contain_text("no answer earned it")
    take = page.locator("#advice-0-take")
    expect(page.locator("#advice-0")).to_contain_text("Half of the groups teach nothing.")
    expect(page.locator("#advice-1")).to_be_hidden()
    take.focus()
    page.keyboard.press("Enter")
    expect(take).to_have_text("Taken")
    open_tab(page, "Model & LoRA")
    expect(page.locator("#set-train-num_generations input")).to_have_value("16")
    expect(page.locator("#set-train-prompts_per_step input")).to_have_value("4")
    expect(page.locator("#derived")).to_contain_text("64 answers per step")
    show(page)
    expect(page.locator("#preflight-about")).to_contain_text("Since then changed")
    expect(page.locator("#preflight-about")).to_contain_text("group size")


def test_what_cannot_be_tried_is_said_in_place(browser, app):
    page = opened(browser, app.start())
    open_tab(page, "Model & LoRA")
    page.locator("#set-model-load_in_4bit input").check()
    show(page)
    page.locator("#preflight-run").click()
    said = page.locator("#preflight-said [role=alert]")
    expect(said).to_contain_text("Loading in 4 bit needs a GPU", timeout=SLOW)
    expect(page.locator("#preflight-run")).to_be_enabled()
    page.locator("#preflight-questions input").fill("1.5")
    page.locator("#preflight-run").click()
    expect(said).to_contain_text("1.5 is not a whole number")


@pytest.mark.parametrize("look", [
    {"viewport": {"width": 390, "height": 844}},
    {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}], ids=["light", "dark"])
def test_nothing_is_wider_than_a_telephone(browser, app, look):
    kept(app.root)
    page = opened(browser, app.start(), **look)
    assert len(bars(page)) == 7
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
