"""The whole job in Chromium, as a person does it: start, watch, reload, stop, compare, download."""

import contextlib
import re
import subprocess
import sys
import threading
import zipfile

import pytest
from playwright.sync_api import expect

from lab.core import events
from lab.core.catalog import RECIPES
from lab.services.lab import Lab
from lab.services.workspace import STARTER_FOLDER
from tests.browser import (
    SLOW,
    TABS,
    faults,
    live,
    open_tab,
    points,
    start_starter,
    wait_for_points,
)

pytest_plugins = "tests.pages"
pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("one_thread")]


def test_start_watch_reload_stop_compare_and_take_the_adapter_home(app, open_page, tmp_path):
    page = open_page(app)
    start_starter(page)
    before = page.evaluate(points(page))
    wait_for_points(page, before)  # the curve moves
    expect(page.locator("#microscope")).to_contain_text("Reference answer", timeout=SLOW)

    page.reload()
    open_tab(page, "Train")
    expect(live(page)).to_have_attribute("data-status", "running", timeout=SLOW)
    wait_for_points(page, before)

    open_tab(page, "Start")  # a second one waits, and can be taken out again
    expect(page.locator("#problems")).to_contain_text("is training", timeout=SLOW)
    expect(page.locator("#start")).to_have_text("Add to the queue")
    page.locator("#start").click()
    expect(page.locator("#queue li")).to_have_count(1, timeout=SLOW)
    page.locator("#queue button").click()
    expect(page.locator("#queue li")).to_have_count(0, timeout=SLOW)
    for _ in range(5):  # to the run that is in the way; the list may be drawn anew under a click
        page.locator("#problems a").click()
        with contextlib.suppress(AssertionError):
            expect(page.locator("#stop")).to_be_visible(timeout=5_000)
            break

    page.locator("#stop").click()
    expect(live(page)).to_have_attribute("data-status", "stopped", timeout=SLOW)
    expect(page.locator("#resume")).to_be_focused(timeout=SLOW)

    open_tab(page, "Compare")
    question = page.locator("#compare-question textarea")
    # The tab is made when it is first opened: what is pressed before its sides stand is lost.
    expect(page.locator("#compare-right-run input")).to_have_value(re.compile("step"), timeout=SLOW)
    page.locator("#compare-draw").click()  # any question, with its reference
    expect(question).to_have_value(re.compile(r"\w+"), timeout=SLOW)
    expect(page.locator("#compare-reference").get_by_role("textbox")).to_have_value(
        re.compile(r"\d"), timeout=SLOW)
    drawn = question.input_value()
    page.locator("#compare-draw").click()
    expect(question).not_to_have_value(drawn, timeout=SLOW)
    expect(page.locator("#compare-left-checkpoint")).not_to_be_visible()  # the base has none
    question.fill(
        "Tom has 3 apples. He buys 4 more. How many apples does Tom have now?")
    expect(page.locator("#compare-reference").get_by_role("textbox")).to_have_value("")
    page.locator("#compare-reference").get_by_role("textbox").fill("7")
    page.locator("#compare-send").click()
    for side in ("left", "right"):
        expect(page.locator(f"#compare-{side}-scores")).to_contain_text("Right answer",
                                                                       timeout=SLOW)
    expect(page.locator("#compare-right .badge.adapter")).to_contain_text("logits", timeout=SLOW)
    expect(page.locator("#compare-send")).to_be_enabled(timeout=SLOW)
    expect(page.locator("#compare-right-strip")).to_contain_text("Total")  # above the answer
    assert faults(page) == []
    page.locator("#compare-question textarea").fill("And if he eats 2?")  # a follow-up turn
    expect(page.locator("#compare-reference").get_by_role("textbox")).to_have_value("")
    page.locator("#compare-send").click()
    expect(page.locator("#compare-left-chat .user, #compare-left-chat [data-testid=user]")
           .filter(has_text="And if he eats 2?").first).to_be_visible(timeout=SLOW)
    expect(page.locator("#compare-send")).to_be_enabled(timeout=SLOW)

    open_tab(page, "Runs & export")
    page.locator("#runs-prepare").click()
    expect(page.locator("#runs-export-made .ok")).to_contain_text("earned just what they earn",
                                                                  timeout=SLOW)
    with page.expect_download(timeout=SLOW) as download:
        page.locator("#runs-download").click(timeout=SLOW)
    zipped = tmp_path / "adapter.zip"
    download.value.save_as(zipped)
    folder = tmp_path / "adapter"
    zipfile.ZipFile(zipped).extractall(folder)
    (config,) = folder.rglob("adapter_config.json")
    code = ("import sys; from peft import PeftModel; from transformers import AutoModelForCausalLM;"
            "m = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sys.argv[1]),"
            "sys.argv[2]); print(sum(float(p.abs().sum()) for n, p in m.named_parameters()"
            " if 'lora_B' in n) > 0)")
    done = subprocess.run([sys.executable, "-c", code, str(STARTER_FOLDER), str(config.parent)],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr


def test_zoom_and_hidden_traces_survive_updates(training_app, open_page):
    page = open_page(training_app)
    open_tab(page, "Train")
    wait_for_points(page, 3)
    wait_for_points(page, 3, "rewards")
    page.evaluate("""() => {
        const reward = document.querySelector('#live-chart-reward .js-plotly-plot');
        Plotly.relayout(reward, {'xaxis.range[0]': 1, 'xaxis.range[1]': 2.5});
        Plotly.restyle(document.querySelector('#live-chart-rewards .js-plotly-plot'),
                       {visible: 'legendonly'}, [1]);
    }""")
    wait_for_points(page, page.evaluate(points(page, "rewards")) + 2, "rewards")
    kept = page.evaluate("""() => [
        document.querySelector('#live-chart-reward .js-plotly-plot').layout.xaxis.range,
        document.querySelector('#live-chart-rewards .js-plotly-plot').data[1].visible]""")
    assert kept == [[1, 2.5], "legendonly"]


def test_the_run_goes_on_while_the_app_is_away_and_the_page_finds_it_again(app, open_page):
    page = open_page(app, tolerant=True)
    start_starter(page)
    app.end()
    expect(live(page)).to_have_attribute("data-offline", "", timeout=SLOW)
    lab = Lab.at(app.root)
    (folder,) = lab.workspace.folders()
    away = lab.runs.get(folder.id).step
    open_tab(page, "Runs & export")
    app.start()
    expect(page.locator(".anew")).to_contain_text("loaded anew", timeout=SLOW)
    expect(page.locator("#runs-table")).to_contain_text("running", timeout=SLOW)  # the same tab
    page.locator("#runs-actions").get_by_text("Open in Train").click()  # its buttons work again
    page.wait_for_function(f"document.querySelector('#live')?.dataset.step > {away}", timeout=SLOW)
    expect(live(page)).to_have_attribute("data-status", "running")
    expect(page).to_have_url(re.compile(f"#train/{folder.id}$"), timeout=SLOW)


def test_a_run_is_held_and_goes_on_or_gives_its_memory_back(training_app, open_page):
    page = open_page(training_app)
    open_tab(page, "Train")
    wait_for_points(page, 1)
    page.locator("#pause").click()
    expect(page.locator("#pause-hold")).to_be_focused(timeout=SLOW)
    expect(page.locator("#pause-release")).to_have_text("Give the memory back")
    page.locator("#pause-no").click()
    expect(page.locator("#pause-hold")).to_be_hidden(timeout=SLOW)
    page.locator("#pause").click()
    page.locator("#pause-hold").click()
    expect(live(page)).to_have_attribute("data-status", "paused", timeout=SLOW)
    expect(page.locator("#live .word")).to_contain_text("in memory")
    expect(page.locator("#stop")).to_have_text("Stop and save", timeout=SLOW)
    expect(page.locator("#active-run")).to_contain_text("paused", timeout=SLOW)
    assert faults(page) == []
    expect(page.locator("#go-on")).to_be_focused(timeout=SLOW)
    at = int(live(page).get_attribute("data-step"))
    page.keyboard.press("Enter")
    page.wait_for_function(f"document.querySelector('#live')?.dataset.step > {at}", timeout=SLOW)
    expect(live(page)).to_have_attribute("data-status", "running", timeout=SLOW)
    expect(page.locator("#pause")).to_be_enabled(timeout=SLOW)
    expect(page.locator("#go-on")).to_be_hidden()


@pytest.mark.slow  # that no page holds a connection is in test_app_http.py too
def test_nine_tabs_work_at_once(training_app, open_page):
    first = open_page(training_app)
    open_tab(first, "Train")
    pages = [first]
    for _ in range(8):  # tabs of one browser window share its connections
        page = first.context.new_page()
        page.set_default_timeout(SLOW)
        page.goto(training_app.url)
        open_tab(page, "Train")
        pages.append(page)
    for page in pages:
        page.bring_to_front()
        wait_for_points(page, 3)
        wait_for_points(page, page.evaluate(points(page)))  # and it goes on


def test_a_tick_moves_less_than_a_kilobyte(training_app, open_page):
    page = open_page(training_app)
    open_tab(page, "Train")
    wait_for_points(page, 2)
    sizes, wanted = [], page.evaluate(points(page)) + 3
    while len(sizes) < 3 or page.evaluate(points(page)) < wanted:  # one may bring several points
        with page.expect_response(is_tick) as told:
            pass
        sizes.append(len(told.value.request.post_data) + len(told.value.body()))
    assert max(sizes) < 1024
    expect(page.locator(".chip")).to_have_attribute("data-beat", "")  # it lives, and yet
    assert page.evaluate("document.getAnimations().filter("  # nothing is drawn again and again
                         "a => a.effect.getComputedTiming().iterations === Infinity).length") == 0


def is_tick(response) -> bool:
    """The page asking for what is new."""
    return ("component_server" in response.url
            and '"tick"' in (response.request.post_data or ""))


def test_a_gpu_recipe_says_what_it_needs_and_loses_nothing(idle_app, open_page):
    page = open_page(idle_app)
    page.locator("#recipes").get_by_text("Llama 3.1 8B").first.click()
    lacking = page.locator("#problems .problem").filter(has_text="needs a GPU")
    expect(lacking).to_have_count(1, timeout=SLOW)  # not one for each setting
    assert faults(page) == []
    page.locator("#start").click()
    expect(page.locator("#start-said")).to_contain_text("no CUDA device was found", timeout=SLOW)
    assert Lab.at(idle_app.root).workspace.folders() == []


@pytest.mark.parametrize(("state", "width", "theme"), [
    ("finished", 390, "light"), ("finished", 1280, "dark"), ("training", 390, "light"),
    *(pytest.param(*rest, marks=pytest.mark.slow) for rest in (
        ("finished", 390, "dark"), ("finished", 1280, "light"), ("idle", 390, "dark")))])
def test_every_tab_is_reached_by_key_and_fits_and_has_no_fault_of_access(
        request, open_page, state, width, theme):
    app = request.getfixturevalue(f"{state}_app")
    page = open_page(app, viewport={"width": width, "height": 900}, color_scheme=theme)
    page.get_by_role("tab", name="Start", exact=True).focus()
    for key, name in TABS.items():
        tab = page.get_by_role("tab", name=name, exact=True)
        expect(tab).to_be_focused()
        expect(tab).to_have_attribute("aria-selected", "true")
        expect(page.locator(f"#tab-{key}")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert faults(page) == [], name
        page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Start", exact=True)).to_be_focused()  # once around


def test_a_run_that_trains_answers_in_the_page(training_app, open_page):
    page = open_page(training_app)
    open_tab(page, "Train")
    expect(live(page)).to_have_attribute("data-status", "running", timeout=SLOW)
    expect(page.locator("#live-doing")).to_contain_text(
        re.compile(r"Learning|Scoring|Answering \d+ of \d+"), timeout=SLOW)
    page.locator("#ask-run button").first.click()
    answer = page.locator("#ask-run-answer")
    for _ in range(5):  # gradio sets a field once more just after the fold has made it
        page.locator("#ask-run-question textarea").fill("Tom has 3 apples and buys 4. How many?")
        page.locator("#ask-run-send").click()
        with contextlib.suppress(AssertionError):
            expect(answer).not_to_contain_text("The worker answers at the end", timeout=5_000)
            break
    expect(answer).to_contain_text("At the end of step", timeout=SLOW)
    expect(answer).to_contain_text("Before training")
    expect(page.locator("#ask-run-send")).to_be_enabled(timeout=SLOW)


def test_after_a_lack_of_memory_one_click_goes_on(app, open_page):
    lab = Lab.at(app.root)
    folder = lab.jobs.start(RECIPES["starter"].settings().with_values(
        {"train.max_steps": 5000, "train.save_steps": 2, "train.max_completion_length": 300}))
    while not folder.checkpoints():
        assert lab.runs.get(folder.id).is_active, folder.log.read_text()
        threading.Event().wait(0.1)
    lab.jobs.kill(folder.id)
    lab.jobs.wait(folder.id)
    say = events.EventWriter(folder.events)
    say(events.Failed(2, "The GPU ran out of memory while it learnt.", kind="out_of_memory"))
    say.close()
    page = open_page(app)
    open_tab(page, "Train")
    expect(page.locator("#offers")).to_contain_text("it would fit", timeout=SLOW)
    page.locator("#offer-0").click()
    expect(live(page)).to_have_attribute("data-status", re.compile("starting|running"),
                                         timeout=SLOW)
    expect(page.locator("#offers")).not_to_be_visible()
    assert lab.runs.active().settings.differences(RECIPES["starter"].settings())


def test_several_gpus_show_the_commands_that_run_them(idle_app, open_page):
    page = open_page(idle_app)
    open_tab(page, "Model & LoRA")
    page.locator("#hardware button").first.click()
    page.locator("#hardware").get_by_label("GPUs", exact=True).fill("2")
    commands = page.locator("#launch-commands")
    expect(commands).to_contain_text("torch.distributed.run --nproc_per_node 2", timeout=SLOW)
