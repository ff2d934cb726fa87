"""The history in Chromium: find, tick, overlay, rename, delete and undo, fork; two pages."""

import json
import re
import shutil

import pytest
from playwright.sync_api import expect

from lab.core import events
from lab.services import labels
from lab.services.lab import Lab
from tests.browser import SLOW, App, faults, open_tab, with_run
from tests.test_history import ask_held_out, curve, make

pytestmark = pytest.mark.browser
OVERLAID = "document.querySelector('#runs-overlay .js-plotly-plot')?.data?.length ?? 0"


@pytest.fixture(scope="module")
def app(finished, tmp_path_factory):
    """A finished run with its adapters, and three more of which one can be looked at only."""
    other, run_id = finished
    lab = with_run(finished, tmp_path_factory.mktemp("history") / "runs")
    settings = other.runs.get(run_id).settings
    for name, rate in (("slow one", 1e-5), ("fast one", 1e-3)):
        make(lab, name, *curve([0.1, 0.4, 0.8]), settings=settings.with_values(
            {"train.learning_rate": rate}))
    damaged = make(lab, "damaged", events.Started(1, 0, {}))
    damaged.settings.write_text("{")
    app = App(lab.workspace.root).start()
    yield app
    app.end()


@pytest.fixture
def open_page(browser, app):
    contexts, wrong = [], []

    def open_one(**look):
        context = browser.new_context(**({"viewport": {"width": 1440, "height": 900}} | look))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SLOW)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{app.url}#runs")
        expect(page.locator("#runs-table tr[data-run]").first).to_be_visible(timeout=SLOW)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert wrong == []


def row(page, name: str):
    return page.locator("#runs-table tr[data-run]").filter(has_text=name)


def open_run(page, name: str) -> None:
    row(page, name).locator("button.run").click()
    expect(page.locator("#runs-run input")).to_have_value(re.compile(f"^{name}"), timeout=SLOW)


def test_runs_are_found_ordered_ticked_and_set_beside_each_other_by_key(app, open_page):
    page = open_page()
    rows = page.locator("#runs-table tr[data-run]")
    expect(rows).to_have_count(4)
    expect(row(page, "fast one")).to_contain_text("Word problems")
    open_run(page, "fast one")
    tick = row(page, "slow one").locator("[data-tick]")
    tick.focus()
    page.keyboard.press("Space")
    page.wait_for_function(f"{OVERLAID} === 2", timeout=SLOW)
    expect(page.locator("#runs-settings")).to_contain_text("One setting differs from slow one",
                                                           timeout=SLOW)
    expect(page.locator("#runs-overlay .named")).to_contain_text("10 % → 80 %", timeout=SLOW)
    row(page, "finished run").locator("[data-tick]").check()
    page.wait_for_function(f"{OVERLAID} === 3", timeout=SLOW)
    page.locator("#runs-overlay .metric").select_option("reward/weighted")
    page.locator("#runs-overlay .over").select_option("minutes")
    page.wait_for_function("document.querySelector('#runs-overlay .js-plotly-plot')"
                           ".data[0]?.x[0] === 0.1", timeout=SLOW)
    assert faults(page) == []
    page.locator("#runs-overlay").get_by_label("Take slow one away").click()
    page.wait_for_function(f"{OVERLAID} === 2", timeout=SLOW)
    expect(tick).not_to_be_checked(timeout=SLOW)

    page.locator("#runs-table [data-order=name]").focus()
    page.keyboard.press("Enter")
    expect(rows.nth(1)).to_contain_text("fast one", timeout=SLOW)  # behind the id of the damaged
    expect(page.locator("#runs-table [data-order=name]")).to_be_focused(timeout=SLOW)
    search = page.locator("#runs-search").get_by_role("textbox")
    search.fill("level slow")
    expect(rows).to_have_count(1, timeout=SLOW)
    search.fill("nowhere")
    expect(page.locator("#runs-table")).to_contain_text("No run fits 'nowhere'", timeout=SLOW)
    search.fill("")
    expect(rows).to_have_count(4, timeout=SLOW)


def test_a_run_is_named_archived_deleted_and_brought_back_and_another_page_follows(app, open_page):
    page, other = open_page(), open_page()
    open_run(page, "fast one")  # the slow one is the newest, and open: a press of it shows nothing
    # gradio makes the fields when they are first shown, and fills them a moment after that: what a
    # script types at once is lost. So they are shown first, and then filled with another run's.
    page.locator("#runs-label button").first.click()
    name = page.locator("#runs-name").get_by_role("textbox")
    expect(name).to_have_value("fast one", timeout=SLOW)
    open_run(page, "slow one")
    expect(name).to_have_value("slow one", timeout=SLOW)
    name.fill("the patient one")
    page.locator("#runs-tags").get_by_role("textbox").fill("keeper, slow")
    page.locator("#runs-notes textarea").fill("It would have gone on.")
    page.locator("#runs-save").click()
    expect(row(page, "the patient one")).to_contain_text("keeper", timeout=SLOW)
    expect(page.locator("#runs-details")).to_contain_text("It would have gone on.")
    expect(row(other, "the patient one")).to_be_visible(timeout=SLOW)
    lab = Lab.at(app.root)
    run = next(run for run in lab.runs.all() if run.name == "the patient one")
    assert run.id.endswith("slow-one") and run.label.tags == ("keeper", "slow")

    # Somebody else changes a field, while another one is being typed here.
    page.locator("#runs-notes textarea").fill("typed here")
    labels.change(run.folder, tags=["theirs"])
    expect(page.locator("#runs-tags").get_by_role("textbox")).to_have_value("theirs", timeout=SLOW)
    expect(page.locator("#runs-notes textarea")).to_have_value("typed here")
    page.locator("#runs-save").click()
    expect(page.locator("#runs-details")).to_contain_text("typed here", timeout=SLOW)
    assert labels.of_run(run.folder) == labels.Label("the patient one", ("theirs",), "typed here")

    page.locator("#runs-archive").click()
    expect(page.locator("#runs-said")).to_contain_text("is archived", timeout=SLOW)
    expect(row(page, "the patient one")).to_have_count(0, timeout=SLOW)
    page.locator("#runs-place").get_by_label("Archived").check()
    expect(row(page, "the patient one")).to_be_visible(timeout=SLOW)
    page.locator("#runs-archive").click()
    expect(page.locator("#runs-said")).to_contain_text("in the list again", timeout=SLOW)
    page.locator("#runs-place").get_by_label("Runs").check()
    expect(row(page, "the patient one")).to_be_visible(timeout=SLOW)

    expect(page.locator("#runs-delete")).to_have_text("Delete the patient one")
    page.locator("#runs-delete").click()
    sure = page.locator("#runs-delete-yes")
    expect(sure).to_have_text("Yes, delete the patient one", timeout=SLOW)
    expect(sure).to_have_css("background-color", "rgb(161, 27, 27)")
    sure.click()
    expect(page.locator("#runs-said")).to_contain_text("was deleted", timeout=SLOW)
    expect(row(other, "the patient one")).to_have_count(0, timeout=SLOW)
    page.locator("#runs-undo").click()
    expect(page.locator("#runs-said")).to_contain_text("is back", timeout=SLOW)
    expect(row(other, "the patient one")).to_be_visible(timeout=SLOW)
    lab.jobs.delete(run.id)
    expect(row(page, "the patient one")).to_have_count(0, timeout=SLOW)
    page.locator("#runs-place").get_by_label("Deleted").check()
    assert faults(page) == []
    expect(row(other, "the patient one")).to_have_count(0, timeout=SLOW)
    page.get_by_label("Bring back the patient one").click()
    expect(row(other, "the patient one")).to_be_visible(timeout=SLOW)
    assert lab.runs.get(run.id).name == "the patient one"


def test_a_run_goes_on_from_a_checkpoint_from_the_history_and_from_train(app, open_page, finished):
    page = open_page()
    field = page.locator("#set-lora-begin_from").get_by_role("textbox")

    def begins(said: str) -> None:
        open_tab(page, "Model & LoRA")
        if not field.is_visible():
            page.locator("#advanced-lora button").first.click()
        expect(field).to_have_value(said, timeout=SLOW)

    open_run(page, "finished run")
    page.locator("#runs-checkpoint input").fill("Step 4")
    page.keyboard.press("Enter")
    page.locator("#runs-go-on").click()
    expect(page.locator("#start")).to_be_visible(timeout=SLOW)
    expect(page.get_by_text("begins with its adapter of step 4")).to_be_visible(timeout=SLOW)
    begins(f"{finished[1]}:4")
    page.goto(f"{app.url}#train/{finished[1]}")
    page.locator("#next-go-on").click()
    expect(page.locator("#start")).to_be_visible(timeout=SLOW)
    expect(page.locator("#problems")).to_contain_text("Nothing speaks against", timeout=SLOW)
    begins(f"{finished[1]}:6")


@pytest.mark.parametrize(("width", "theme"), [
    (390, "light"), (1440, "dark"), pytest.param(390, "dark", marks=pytest.mark.slow)])
def test_the_history_fits_and_has_no_fault_of_access(app, open_page, width, theme):
    page = open_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    open_run(page, "finished run")
    page.locator("#runs-label button").first.click()
    expect(page.locator("#runs-save")).to_be_visible(timeout=SLOW)
    row(page, "fast one").locator("[data-tick]").check()
    page.wait_for_function(f"{OVERLAID} === 2", timeout=SLOW)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert faults(page) == []


def test_a_folder_with_a_name_in_words_has_an_address(app, open_page, finished):
    path = app.root / "mein bester Lauf"
    shutil.copytree(app.root / finished[1], path)
    (path / "label.json").write_text(json.dumps({"name": "moved by hand"}))
    page = open_page()
    open_run(page, "moved by hand")
    page.locator("#runs-open").click()
    expect(page).to_have_url(re.compile("#train/mein%20bester%20Lauf$"), timeout=SLOW)
    page.reload()
    expect(page.locator("#live")).to_have_attribute("data-run", "mein bester Lauf", timeout=SLOW)


def test_the_picker_of_an_open_page_turns_to_the_best_checkpoint_until_a_person_picks(
        app, open_page, finished):
    path = app.root / "watched"
    shutil.copytree(app.root / finished[1], path)
    folder = Lab.at(app.root).workspace.run("watched")
    labels.change(folder, name="watched")
    page = open_page()
    open_run(page, "watched")
    picker, notes = page.locator("#runs-checkpoint input"), page.locator("#runs-notes textarea")
    page.locator("#runs-label button").first.click()

    def follow(note: str) -> None:
        """The page has shown what is new."""
        labels.change(folder, notes=note)
        expect(notes).to_have_value(note, timeout=SLOW)

    def pick(step: str) -> None:
        picker.fill(step)
        page.keyboard.press("Enter")
        expect(picker).to_have_value(re.compile(f"^{step}"), timeout=SLOW)

    expect(picker).to_have_value("Newest · step 6", timeout=SLOW)
    ask_held_out(folder, {0: 0.1, 4: 0.9, 6: 0.5})
    follow("it has a best one now")
    expect(picker).to_have_value(re.compile("^Best · step 4"), timeout=SLOW)
    pick("Newest")
    follow("the newest was picked")
    expect(picker).to_have_value("Newest · step 6")
    pick("Step 2")
    page.locator("#runs-save").click()
    expect(page.locator("#runs-said")).to_contain_text("Saved", timeout=SLOW)
    expect(picker).to_have_value("Step 2")
    shutil.rmtree(folder.checkpoint(2))
    follow("it is there no more")
    expect(picker).to_have_value(re.compile("^Best · step 4"), timeout=SLOW)
    late = []

    def hold(route) -> None:
        """What asks for the news; it says what the notes held."""
        asks = "it is there no more" in (route.request.post_data or "")
        late.append(route) if asks else route.continue_()

    page.route("**/queue/join*", hold)
    labels.change(folder, notes="asked for before the pick")
    while not late:
        page.wait_for_timeout(100)
    pick("Newest")
    for route in late:
        route.continue_()
    page.unroute("**/queue/join*")
    expect(notes).to_have_value("asked for before the pick", timeout=SLOW)
    expect(picker).to_have_value("Newest · step 6", timeout=SLOW)
    open_run(page, "fast one")
    open_run(page, "watched")
    expect(picker).to_have_value(re.compile("^Best · step 4"), timeout=SLOW)
    page.locator("#runs-go-on").click()
    expect(page.get_by_text("begins with its adapter of step 4")).to_be_visible(timeout=SLOW)
