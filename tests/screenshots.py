"""Takes the README's pictures from the real app after a real run: `python -m tests.screenshots`."""

import re
import tempfile
from pathlib import Path

from playwright.sync_api import expect

from lab.services.workspace import PROJECT
from tests.browser import TABS, App, chromium, open_tab

IMAGES = PROJECT / "docs" / "images"
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
        page.wait_for_function("document.querySelector('#live-chart-reward .js-plotly-plot')"
                               "?.data?.at(-1)?.x?.length > 20")
    elif key == "compare":
        page.locator("#compare-example input").click()
        page.get_by_role("option").nth(3).click()
        expect(page.locator("#compare-question textarea")).not_to_have_value("")
        page.locator("#compare-send").click()
        expect(page.locator("#compare-stop")).to_be_enabled(timeout=LONG)
        expect(page.locator("#compare-send")).to_be_enabled(timeout=LONG)
    elif key == "runs":
        expect(page.locator("#runs-table")).to_contain_text("finished", timeout=LONG)


if __name__ == "__main__":
    main()
