"""Taking the LoRA home on the page, in Chromium: made behind a closed page, cancelled, deleted."""

import zipfile

import pytest
from playwright.sync_api import expect

from lab.services.export.state import exports_of
from lab.services.lab import Lab
from tests.browser import SLOW, App, chromium, faults, open_tab, with_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def app(finished, tmp_path_factory):
    app = App(with_run(finished, tmp_path_factory.mktemp("take-home")).workspace.root).start()
    app.run_id = finished[1]
    yield app
    app.end()


def choose(page, kind: str) -> None:
    page.locator("#runs-export-kind input").click()
    page.get_by_role("option", name=kind).click()


def test_exports_go_on_behind_a_closed_page_and_are_found_again(app, tmp_path):
    lab = Lab.at(app.root)
    folder = lab.workspace.run(app.run_id)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(SLOW)
        page.goto(app.url)
        open_tab(page, "Runs & export")
        expect(page.locator("#runs-export-made")).to_contain_text("Nothing of this run was")
        choose(page, "Merged model")
        expect(page.locator("#runs-export-about")).to_contain_text("As large as the base model")
        page.locator("#runs-prepare").click()
        expect(page.locator("#runs-export-progress")).to_contain_text("Merged of step 6")
        expect(page.locator("#runs-prepare")).to_be_disabled()
        page.reload()  # the page is gone, and another one finds the export
        open_tab(page, "Runs & export")
        expect(page.locator("#runs-export-progress")).to_contain_text("Merged of step 6")
        page.locator("#runs-export-cancel").click()
        expect(page.locator("#runs-export-made")).to_contain_text("was cancelled")
        expect(page.locator("#runs-prepare")).to_be_enabled()
        expect(page.locator("#runs-export-progress")).to_have_text("")

        choose(page, "Adapter")
        page.locator("#runs-prepare").click()
        expect(page.locator("#runs-export-made .ok")).to_contain_text("earned just what they earn")
        expect(page.locator("#runs-download")).to_be_enabled()
        assert faults(page) == []
        with page.expect_download() as download:
            page.locator("#runs-download").click()
        download.value.save_as(tmp_path / "adapter.zip")
        with zipfile.ZipFile(tmp_path / "adapter.zip") as archive:
            assert {"README.md", "adapter_config.json", "goal.svg"} <= set(archive.namelist())

        page.locator("#runs-push-box button").first.click()
        page.locator("#runs-push").click()
        expect(page.locator("#runs-export-said")).to_contain_text("The repository has no name yet")
        page.locator("#runs-push-name").get_by_role("textbox").fill("ana/my-lora")
        page.locator("#runs-push").click()  # HF_HUB_OFFLINE is set for the tests
        expect(page.locator("#runs-export-made")).to_contain_text("stays off the network")
        expect(page.locator("#runs-export-made")).to_contain_text("What was made is kept")
        expect(page.locator("#runs-download")).to_be_enabled()
        page.locator("#runs-export-delete").click()
        expect(page.locator("#runs-export-made")).not_to_contain_text("stays off the network")
        expect(page.locator("#runs-download")).to_be_disabled()
    assert [one.asked.kind for one in exports_of(folder)] == ["merged"]
