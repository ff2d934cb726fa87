"""Takes the README's pictures from the real app after a real run: `python -m tests.screenshots`."""

import re
import tempfile
from pathlib import Path

from playwright.sync_api import expect

from lab.services.workspace import PROJECT
from tests.browser import TABS, App, chromium, open_tab

IMAGES = PROJECT / "docs" / "images"
PARTS = {"train": {"group": "#microscope .group"},  # of a tab, pictures of their own
         "compare": {"verdict": "#verdict-result"}}
EARLY = 20  # a step of the starter recipe at which groups have right and wrong answers
HIGHEST = 1300  # pixels of a picture of a part
LONG = 600_000  # milliseconds: a whole run has to end


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as root, chromium() as browser:
        app = App(Path(root) / "runs").start()
        try:
            for theme in ("light", "dark"):
                page = browser.new_page(viewport={"width": 1280, "height": 900},
                                        color_scheme=theme)
                page.set_default_timeout(LONG)
                page.goto(f"{app.url}/?__theme={theme}")
                if theme == "light":
                    page.locator("#start").click()
                    expect(page.locator("#live")).to_have_attribute("data-status", "finished",
                                                                    timeout=LONG)
                for key, name in TABS.items():
                    open_tab(page, name)
                    prepare(page, key)
                    page.screenshot(path=IMAGES / f"{key}-{theme}.png",
                                    full_page=key == "compare")
                    if key == "train":
                        to_a_group_that_teaches(page)
                    for name, place in PARTS.get(key, {}).items():
                        picture_of(page, place, IMAGES / f"{name}-{theme}.png")
                page.close()
        finally:
            app.end()


def prepare(page, key: str) -> None:
    """Bring a tab into the state that is worth a picture."""
    if key == "start":
        expect(page.locator("#problems")).to_contain_text("Nothing speaks against", timeout=LONG)
    elif key == "data":
        page.locator("#preview").click()
        expect(page.locator("#preview-prompt textarea")).to_have_value(
            re.compile("user"), timeout=LONG)
    elif key == "train":
        page.wait_for_function("document.querySelector('#live-chart-goal .js-plotly-plot')"
                               "?.data?.[0]?.x?.length > 20")
    elif key == "compare":
        page.locator("#compare-example input").click()
        page.get_by_role("option").nth(3).click()
        expect(page.locator("#compare-question textarea")).not_to_have_value("")
        page.locator("#compare-sampling button").first.click()  # greedy: the same in both pictures
        page.locator("#set-sampling-temperature input").first.fill("0")
        page.keyboard.press("Tab")
        page.locator("#compare-sampling button").first.click()
        page.locator("#compare-send").click()
        expect(page.locator("#compare-stop")).to_be_enabled(timeout=LONG)
        expect(page.locator("#compare-send")).to_be_enabled(timeout=LONG)
        page.locator("#verdict-count input").fill("100")
        page.locator("#verdict-ask").click()
        expect(page.locator("#verdict-cancel")).to_be_enabled(timeout=LONG)  # not an earlier one
        expect(page.locator("#verdict-cancel")).to_be_disabled(timeout=LONG)
        expect(page.locator("#verdict-result .headline")).to_contain_text("of 100", timeout=LONG)
    elif key == "runs":
        expect(page.locator("#runs-table")).to_contain_text("finished", timeout=LONG)
    elif key == "how":
        expect(page.locator("#lesson tr[data-answer]").first).to_be_visible(timeout=LONG)


def to_a_group_that_teaches(page) -> None:
    """At the end of a run most groups are all right, at its begin most are all wrong."""
    scope = page.locator("#microscope .scope")
    scope.scroll_into_view_if_needed()
    scope.locator("label", has_text="Taught something").click()
    expect(scope.locator(".adv.up").first).to_be_visible(timeout=LONG)
    scope.locator(".group").press("Home")
    at = scope.locator(".at")
    expect(at).to_contain_text(re.compile(r"· 1 of \d"), timeout=LONG)
    while int(re.search(r"step (\d+)", before := at.inner_text())[1]) < EARLY:
        scope.locator(".group").press("ArrowDown")
        expect(at).not_to_have_text(before, timeout=LONG)


def picture_of(page, place: str, path: Path) -> None:
    """A part of the page, from its top to what fits into a README."""
    part = page.locator(place)
    part.scroll_into_view_if_needed()
    box = part.bounding_box()
    page.screenshot(path=path, full_page=True, clip={
        "x": box["x"], "y": box["y"] + page.evaluate("scrollY"), "width": box["width"],
        "height": min(box["height"], HIGHEST)})


if __name__ == "__main__":
    main()
