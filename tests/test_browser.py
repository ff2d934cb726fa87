"""The whole job in Chromium, as a person does it: start, watch, reload, stop, compare, download."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import threading
import zipfile

import psutil
import pytest
from playwright.sync_api import expect

from lab.core import events
from lab.core.catalog import RECIPES
from lab.services.data import load as datasets
from lab.services.lab import Lab
from lab.services.workspace import STARTER_FOLDER
from tests.browser import SLOW, TABS, App, faults, open_tab

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module", autouse=True)
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
    path = page.locator("#set-data-path").get_by_role("textbox")
    refused = page.locator("#upload-refused")
    expect(path).to_have_value(re.compile("my-sums.csv$"))
    empty = tmp_path / "headeronly.csv"
    empty.write_text("task;solution\n")
    page.locator("#upload").get_by_label("Clear").click()
    page.locator("#upload input[type=file]").set_input_files(str(empty))
    expect(refused).to_contain_text("headeronly.csv has no rows.", timeout=SLOW)
    expect(path).to_have_value("")  # the earlier file is not in force
    page.locator("#upload input[type=file]").set_input_files(str(file))
    expect(page.locator("#set-data-question_column input")).to_have_value("task", timeout=SLOW)
    expect(refused).to_be_hidden()
    page.locator("#preview").click()
    expect(page.locator("#preview-counts")).to_contain_text("400", timeout=SLOW)
    expect(page.locator("#preview-prompt textarea")).to_have_value(
        re.compile(r"<\|im_start\|>user\nWhat is \d+ \+ \d+\?<\|im_end\|>"), timeout=SLOW)
    expect(page.locator("#preview")).to_be_enabled()
    assert faults(page) == []
    open_tab(page, "Start")
    page.locator("#start").focus()
    page.keyboard.press("Enter")  # no mouse needed
    expect(live(page)).to_have_attribute("data-status", "running", timeout=SLOW)
    (folder,) = Lab.at(app.root).workspace.folders()
    assert json.loads(folder.data.read_text().splitlines()[0])["question"].startswith("What is")


def test_a_switched_off_reward_is_not_in_the_sum(idle_app, open_page):
    page = open_page(idle_app)
    open_tab(page, "Rewards")
    table = page.locator("#score-table")
    page.locator("#score-completion textarea").fill("<answer>42</answer>")
    expect(table).to_contain_text("2.5 of at most 4", timeout=SLOW)
    page.locator("#set-rewards-int-on input").uncheck()
    expect(table).to_contain_text("2 of at most 3.5", timeout=SLOW)
    expect(page.locator("#stand-int")).to_contain_text("Switched off")
    expect(page.locator("#stand-correctness")).to_contain_text("57.1 %")
    for name in ("xmlcount", "soft_format", "strict_format", "correctness"):
        page.locator(f"#set-rewards-{name}-on input").uncheck()
    expect(page.locator("#reward-problems")).to_contain_text("No reward is chosen", timeout=SLOW)
    open_tab(page, "Start")
    expect(page.locator("#problems")).to_contain_text("No reward is chosen", timeout=SLOW)
    page.locator("#problems").get_by_text("Go to the rewards").click()
    expect(page.locator("#reward-editor :focus")).to_be_visible(timeout=SLOW)


def test_a_set_is_taken_changed_saved_exported_and_taken_in_again(app, open_page, tmp_path):
    page = open_page(app)
    open_tab(page, "Rewards")
    probe, problems = page.locator("#probe"), page.locator("#reward-problems")
    expect(probe).to_contain_text("A guess in perfect format earns 2 of 4 without a thought",
                                  timeout=SLOW)
    page.locator("#sets-pick input").click()
    page.get_by_role("option", name="goal-first").click()
    expect(page.locator("#reward-number")).to_be_visible(timeout=SLOW)
    expect(page.locator("#reward-xmlcount")).not_to_be_visible()
    expect(probe).to_contain_text("None of", timeout=SLOW)

    page.locator("#set-rewards-number-kind select").select_option("shape")  # for this run
    expect(problems).to_contain_text("Nothing here says whether an answer is right", timeout=SLOW)
    page.locator("#add-reward summary").click()
    page.get_by_label("Search rewards").fill("to the letter")
    page.keyboard.press("Enter")  # to the first that fits
    page.keyboard.press("Enter")
    expect(page.locator("#reward-correctness")).to_be_visible(timeout=SLOW)
    expect(problems).not_to_contain_text("Nothing here says", timeout=SLOW)
    expect(page.locator("#add-reward [data-name=correctness]")).to_have_attribute(
        "aria-pressed", "true")

    page.locator("#sets-keep button").first.click()
    page.locator("#sets-name").get_by_role("textbox").fill("my own")
    page.locator("#sets-save").click()
    expect(page.locator("#sets-said")).to_contain_text("is saved", timeout=SLOW)
    expect(page.locator("#sets-pick input")).to_have_value("my own (yours)")
    with page.expect_download() as download:
        page.get_by_text("Export what is chosen").click()
    file = tmp_path / "sets.json"
    download.value.save_as(file)
    lab = Lab.at(app.root)
    (saved,) = lab.sets.own()
    assert [(one.name, one.kind) for one in saved.chosen if one.kind] == [("number", "shape")]
    page.locator("#sets-delete").click()
    expect(page.locator("#sets-said")).to_contain_text("is deleted", timeout=SLOW)
    assert lab.sets.own() == []
    with page.expect_file_chooser() as chooser:
        page.locator("#sets-import").click()
    chooser.value.set_files(str(file))
    expect(page.locator("#sets-said")).to_contain_text("Taken in: my own", timeout=SLOW)
    assert lab.sets.own() == [saved]
    file.write_text("{}")
    with page.expect_file_chooser() as chooser:
        page.locator("#sets-import").click()
    chooser.value.set_files(str(file))
    expect(page.locator("#sets-said")).to_contain_text("cannot be read", timeout=SLOW)


@pytest.fixture(scope="module")
def finished_app(finished):
    app = App(finished[0].workspace.root).start()
    yield app
    app.end()


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


def test_a_held_out_verdict_is_cancelled_made_and_kept(finished, app, open_page):
    lab, run_id = finished
    folder = shutil.copytree(lab.workspace.run(run_id).path, app.root / run_id)
    held_out = folder / "held_out.jsonl"
    held_out.write_text(held_out.read_text() * 200)
    page = open_page(app)
    open_tab(page, "Train")
    page.locator("#next-export").click()  # what a finished run leads to
    expect(page.locator("#runs-panel")).to_contain_text("finished run", timeout=SLOW)
    expect(page).to_have_url(re.compile("#runs"), timeout=SLOW)  # it follows a moment later
    page.go_back()
    expect(page).to_have_url(re.compile("#train"), timeout=SLOW)
    page.locator("#next-evaluate").click()
    result, ask = page.locator("#verdict-result"), page.locator("#verdict-ask")
    expect(ask).to_be_focused(timeout=SLOW)
    expect(result).to_contain_text("No verdict on this adapter yet", timeout=SLOW)

    page.locator("#verdict-count input").fill("4000")
    ask.click()
    expect(page.locator("#verdict-said [role=progressbar]")).to_be_visible(timeout=SLOW)
    answering = [child for child in psutil.Process(app.process.pid).children(recursive=True)
                 if "eval" in child.cmdline()]
    page.locator("#verdict-cancel").click()
    expect(page.locator("#verdict-said")).to_contain_text("Cancelled", timeout=SLOW)
    assert psutil.wait_procs(answering, timeout=30)[1] == []
    expect(ask).to_be_enabled()

    page.locator("#verdict-count input").fill("6")
    ask.focus()
    page.keyboard.press("Enter")  # no mouse needed
    expect(result.locator(".headline")).to_contain_text("of 6 held-out questions", timeout=SLOW)
    expect(result).to_contain_text("Right: every goal reached")
    assert faults(page) == []
    expect(page.locator("#verdict-cancel")).to_be_disabled()
    page.reload()
    open_tab(page, "Compare")
    expect(result.locator(".headline")).to_contain_text("of 6 held-out questions", timeout=SLOW)
    open_tab(page, "Train")
    expect(page.locator("#live-verdict")).to_contain_text("adapter of step 6", timeout=SLOW)
    expect(page.locator("#live-figures .goal").first).to_contain_text("Right, held out")
    expect(page.locator("#live-charts figure").first).to_have_attribute("id", "live-chart-goal")


def test_a_verdict_on_two_adapters_is_made_with_several_answers_and_kept(finished, app, open_page):
    lab, run_id = finished
    folder = shutil.copytree(lab.workspace.run(run_id).path, app.root / run_id)
    (folder / "verdicts.jsonl").unlink(missing_ok=True)  # other tests may have asked for some
    other = shutil.copytree(folder, app.root / "another")
    record = json.loads((other / "settings.json").read_text())
    (other / "settings.json").write_text(json.dumps(
        record | {"name": "other try", "created": record["created"] - 3600}))  # the older one
    rows = (folder / "held_out.jsonl").read_text().splitlines(keepends=True)
    with (other / "data.jsonl").open("a") as file:
        file.writelines(rows[:2])  # the other run knows them
    page = open_page(app)
    open_tab(page, "Train")
    page.locator("#next-evaluate").click()  # now the run is a person's choice
    against, result = page.locator("#verdict-against"), page.locator("#verdict-result")
    expect(page.locator("#verdict-ask")).to_be_focused(timeout=SLOW)
    expect(page.locator("#verdict-run input")).not_to_have_value(re.compile("other try"))
    expect(page.locator("#verdict-against-checkpoint")).to_be_hidden()

    def pick(field: str, name: str) -> None:
        box = page.locator(f"#verdict-{field} input")
        box.blur()  # the list opens when it is focused, and a pick leaves the focus there
        box.click()
        page.get_by_role("option", name=re.compile(name)).click()

    pick("against", "^other try")
    expect(result).to_contain_text("Both sides are the same adapter", timeout=SLOW)
    assert page.evaluate("scrollY") > 300  # a list that opens leaves the page where it was
    pick("against-checkpoint", "^Step 2")
    expect(result).to_contain_text("These two were not compared yet", timeout=SLOW)
    page.locator("#verdict-count input").fill("4")
    page.locator("#verdict-seeds input").fill("2")
    page.locator("#verdict-ask").click()
    headline = result.locator(".headline")
    expect(headline).to_contain_text("finished run (step 6) is right on", timeout=SLOW)
    expect(headline).to_contain_text("of 4 held-out questions (2 drawn answers each)")
    expect(result).to_contain_text("2 held-out questions left out")
    expect(result.locator("th").nth(1)).to_have_text("other try (step 2)")
    assert faults(page) == []
    pick("against", "^Base model")
    expect(result).to_contain_text("No verdict on this adapter yet", timeout=SLOW)
    expect(page.locator("#verdict-against-checkpoint")).to_be_hidden(timeout=SLOW)
    pick("against", "^other try")
    expect(result).to_contain_text("Both sides are the same adapter", timeout=SLOW)
    pick("against-checkpoint", "^Step 2")
    expect(headline).to_contain_text("finished run (step 6) is right on", timeout=SLOW)  # kept
    expect(against.locator("input")).to_have_value(re.compile("^other try"))
    open_tab(page, "Runs & export")
    page.locator("#runs-table tr[data-run]").filter(has_text="finished run").locator(".run").click()
    expect(page.locator("#runs-details")).to_contain_text("Against another: finished run (step 6)",
                                                          timeout=SLOW)


def test_curves_are_smoothed_on_wish_and_share_one_axis(finished_app, open_page, finished):
    page = open_page(finished_app)
    open_tab(page, "Train")
    plot = "document.querySelector('#live-chart-%s .js-plotly-plot')"
    wait_for_points(page, 0, "reward")
    wait_for_points(page, 0, "rewards")
    slider = page.locator("#live-smoothing")
    slider.fill("50")
    expect(page.locator(".smoothing output")).to_have_text("50 %")
    lab, run = finished
    values = lab.runs.log(run).metrics["reward"]
    wanted, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = 0.5 * total + 0.5 * value, 0.5 * weight + 0.5
        wanted.append(total / weight)
    page.locator("#live-chart-reward").scroll_into_view_if_needed()  # only what is seen is drawn
    page.wait_for_function(f"{plot % 'reward'}.data.some(t => t.name.endsWith('each step'))")
    drawn = page.evaluate(f"{plot % 'reward'}.data.filter(t => t.line.width).map(t => [...t.y])")
    assert drawn[0] == pytest.approx(wanted, abs=1e-3)
    assert drawn[-1] == pytest.approx(list(values), abs=1e-3)
    page.evaluate(f"Plotly.relayout({plot % 'reward'}, {{'xaxis.range': [2, 4]}})")
    page.wait_for_function(f"{plot % 'rewards'}.layout.xaxis.range[1] === 4")
    page.evaluate(f"Plotly.relayout({plot % 'rewards'}, {{'xaxis.autorange': true}})")
    page.wait_for_function(f"{plot % 'reward'}.layout.xaxis.autorange === true")
    page.reload()  # a person's choice is kept
    open_tab(page, "Train")
    expect(slider).to_have_value("50")
    assert faults(page) == []


def test_the_playground_scores_a_group_of_a_run_a_row_and_the_base_model(finished_app, open_page,
                                                                        finished):
    page = open_page(finished_app)
    open_tab(page, "Rewards")
    table, source = page.locator("#score-table"), page.locator("#play-source")
    source.get_by_label("A run", exact=True).check()
    page.locator("#play-run-id input").click()
    page.locator("[role=option]").first.click()  # not of a <select>
    expect(table).to_contain_text("4 answers: mean", timeout=SLOW)
    lab, run = finished
    step, groups = lab.runs.log(run).groups_at()
    recorded = [answer["advantage"] for answer in groups[0]["answers"]]
    lines = table.locator("[data-advantage]")
    assert [float(line.get_attribute("data-advantage")) for line in lines.all()] == pytest.approx(
        recorded, abs=1e-3)
    page.locator("#play-whatif").click()
    told = page.locator("#play-told")
    expect(told).to_contain_text("In 0 of", timeout=SLOW)  # these are the rewards that it had
    expect(told.get_by_role("row", name="All goals together")).to_be_visible()
    source.get_by_label("A row of the data").check()
    page.locator("#play-row-number input").fill("3")
    page.locator("#play-take").click()
    rows = datasets.load(RECIPES["starter"].settings().data, 3407).train
    expect(page.locator("#score-question textarea")).to_have_value(rows[2]["question"],
                                                                   timeout=SLOW)
    source.get_by_label("The base model").check()
    page.locator("#play-count input").fill("2")
    page.locator("#play-ask").click()
    expect(page.locator("#play-ask")).to_be_disabled(timeout=SLOW)
    expect(page.locator("#play-ask")).to_be_enabled(timeout=SLOW)
    expect(table).to_contain_text("2 answers: mean", timeout=SLOW)


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
