"""The whole job in Chromium, as a person does it: start, watch, reload, stop, compare, download."""

import json
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
from tests.browser import TABS, App, chromium, open_tab

pytestmark = pytest.mark.browser
SLOW = 240_000  # milliseconds after which a test gives up waiting for something to appear


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Runs train on one core here, and leave the others to the page and its browser."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


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
def training_app(tmp_path_factory):
    """An app with a run that goes on and on, started by another process, for tests that watch."""
    app = App(tmp_path_factory.mktemp("training"))
    Lab.at(app.root).jobs.start(RECIPES["starter"].settings().with_values(
        {"train.max_steps": 100_000}))
    yield app.start()
    ended(app)


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


def live(page):
    return page.locator("#live")


def points(page) -> str:
    return "document.querySelector('#live-chart-reward .js-plotly-plot')?.data?.at(-1)?.x?.length"


def wait_for_points(page, more_than: int) -> None:
    page.wait_for_function(f"({points(page)} ?? 0) > {more_than}", timeout=SLOW)


def start_starter(page) -> None:
    """Press Start on the default recipe, which takes its time, and wait for the first points."""
    expect(page.locator("#problems")).to_contain_text("Nothing speaks against", timeout=SLOW)
    page.locator("#start").click()
    expect(live(page)).to_have_attribute("data-status", "running", timeout=SLOW)
    wait_for_points(page, 2)


def test_start_watch_reload_stop_compare_and_take_the_adapter_home(app, open_page, tmp_path):
    page = open_page(app)
    start_starter(page)
    before = page.evaluate(points(page))
    wait_for_points(page, before)  # the curve moves
    expect(page.locator("#live-groups")).to_contain_text("Newest answers")

    page.reload()
    open_tab(page, "Train")
    expect(live(page)).to_have_attribute("data-status", "running", timeout=SLOW)
    wait_for_points(page, before)

    open_tab(page, "Start")  # a second start is refused with the reason
    page.locator("#start").click()
    expect(page.locator("#start-said")).to_contain_text("still training", timeout=SLOW)

    open_tab(page, "Train")
    page.locator("#stop").click()
    expect(live(page)).to_have_attribute("data-status", "stopped", timeout=SLOW)
    expect(page.locator("#resume")).to_be_enabled(timeout=SLOW)

    open_tab(page, "Compare")
    page.locator("#compare-question textarea").fill(
        "Tom has 3 apples. He buys 4 more. How many apples does Tom have now?")
    page.locator("#compare-reference").get_by_role("textbox").fill("7")
    page.locator("#compare-send").click()
    for side in ("left", "right"):
        expect(page.locator(f"#compare-{side}-scores")).to_contain_text("Right answer",
                                                                       timeout=SLOW)
    expect(page.locator("#compare-right .badge.adapter")).to_contain_text("logits", timeout=SLOW)
    expect(page.locator("#compare-send")).to_be_enabled(timeout=SLOW)
    page.locator("#compare-question textarea").fill("And if he eats 2?")  # a follow-up turn
    page.locator("#compare-send").click()
    expect(page.locator("#compare-left-chat .user, #compare-left-chat [data-testid=user]")
           .filter(has_text="And if he eats 2?").first).to_be_visible(timeout=SLOW)
    expect(page.locator("#compare-send")).to_be_enabled(timeout=SLOW)

    open_tab(page, "Runs & export")
    page.locator("#runs-prepare").click()
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
    page.evaluate("""() => {
        const reward = document.querySelector('#live-chart-reward .js-plotly-plot');
        Plotly.relayout(reward, {'xaxis.range[0]': 1, 'xaxis.range[1]': 2.5});
        Plotly.restyle(document.querySelector('#live-chart-rewards .js-plotly-plot'),
                       {visible: 'legendonly'}, [1]);
    }""")
    wait_for_points(page, page.evaluate(points(page)) + 2)
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
    app.start()
    expect(live(page)).not_to_have_attribute("data-offline", "", timeout=SLOW)
    page.wait_for_function(f"document.querySelector('#live').dataset.step > {away}", timeout=SLOW)
    expect(live(page)).to_have_attribute("data-status", "running")


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


def is_tick(response) -> bool:
    """The page asking for what is new."""
    return ("component_server" in response.url
            and '"tick"' in (response.request.post_data or ""))


def test_a_gpu_recipe_says_what_it_needs_and_loses_nothing(idle_app, open_page):
    page = open_page(idle_app)
    page.locator("#recipes").get_by_text("Llama 3.1 8B").first.click()
    expect(page.locator("#problems")).to_contain_text("needs a GPU", timeout=SLOW)
    page.locator("#start").click()
    expect(page.locator("#start-said")).to_contain_text("no CUDA device was found", timeout=SLOW)
    assert Lab.at(idle_app.root).workspace.folders() == []


def test_an_uploaded_file_is_mapped_previewed_and_trained_on(app, open_page, tmp_path):
    file = tmp_path / "my sums.csv"
    file.write_text("task;solution\n" + "".join(
        f"What is {n} + {n + 1}?;{2 * n + 1}\n" for n in range(500)))
    page = open_page(app)
    page.locator("#recipes").get_by_text("Your own data").first.click()
    open_tab(page, "Data")
    page.locator("#upload input[type=file]").set_input_files(str(file))
    expect(page.locator("#set-data-question_column input")).to_have_value("task", timeout=SLOW)
    expect(page.locator("#set-data-answer_column input")).to_have_value("solution")
    page.locator("#preview").click()
    expect(page.locator("#preview-counts")).to_contain_text("450", timeout=SLOW)
    expect(page.locator("#preview-prompt textarea")).to_have_value(
        re.compile(r"<\|im_start\|>user\nWhat is \d+ \+ \d+\?<\|im_end\|>"), timeout=SLOW)
    open_tab(page, "Start")
    page.locator("#start").focus()
    page.keyboard.press("Enter")  # no mouse needed
    expect(live(page)).to_have_attribute("data-status", "running", timeout=SLOW)
    (folder,) = Lab.at(app.root).workspace.folders()
    assert json.loads(folder.data.read_text().splitlines()[0])["question"].startswith("What is")


def test_a_switched_off_reward_is_not_in_the_sum(idle_app, open_page):
    page = open_page(idle_app)
    open_tab(page, "Rewards")
    page.locator("#score-completion textarea").fill("<answer>42</answer>")
    page.locator("#score-answer").get_by_role("textbox").fill("42")
    expect(page.locator("#score-table")).to_contain_text("2.5", timeout=SLOW)
    page.locator("#set-rewards-int-on input").uncheck()
    expect(page.locator("#score-table")).not_to_contain_text("Whole number", timeout=SLOW)
    for name in ("xmlcount", "soft_format", "strict_format", "correctness"):
        page.locator(f"#set-rewards-{name}-on input").uncheck()
    expect(page.locator("#reward-problems")).to_contain_text("No reward is chosen", timeout=SLOW)
    open_tab(page, "Start")
    expect(page.locator("#problems")).to_contain_text("No reward is chosen", timeout=SLOW)


@pytest.fixture(scope="module")
def finished_app(finished):
    app = App(finished[0].workspace.root).start()
    yield app
    app.end()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_tab_scrolls_sideways(finished_app, open_page, theme, width):
    page = open_page(finished_app, viewport={"width": width, "height": 900}, color_scheme=theme)
    for key, name in TABS.items():
        found = page.get_by_role("tab", name=name, exact=True)
        if found.is_visible():
            found.click()
        else:
            page.locator("#tabs .overflow-menu > button").click()
            page.locator("#tabs .overflow-dropdown").get_by_text(name, exact=True).click()
        expect(page.locator(f"#tab-{key}")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name


def test_a_run_that_trains_answers_in_the_page(training_app, open_page):
    page = open_page(training_app)
    open_tab(page, "Train")
    expect(live(page)).to_have_attribute("data-status", "running", timeout=SLOW)
    page.locator("#ask-run button").first.click()
    page.locator("#ask-run-question textarea").fill("Tom has 3 apples and buys 4. How many?")
    page.locator("#ask-run-send").click()
    answer = page.locator("#ask-run-answer")
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
