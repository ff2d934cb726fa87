"""In Chromium: data and rewards before a run, verdict and playground after it."""

import json
import re
import shutil

import psutil
import pytest
from playwright.sync_api import expect

from lab.core.catalog import RECIPES
from lab.services.data import load as datasets
from lab.services.lab import Lab
from tests.browser import (
    SLOW,
    faults,
    live,
    open_tab,
    wait_for_points,
)

pytest_plugins = "tests.pages"
pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("one_thread")]


def test_an_uploaded_file_is_mapped_previewed_and_trained_on(app, open_page, tmp_path):
    file = tmp_path / "my sums.csv"
    file.write_text("task;solution\n" + "".join(
        f"What is {n} + {n + 1}?;{2 * n + 1}\n" for n in range(500)))
    page = open_page(app)
    page.locator("#recipes").get_by_text("Your own data").first.click()
    open_tab(page, "Data")
    # Nobody has chosen a file before the recipe's values are there.
    expect(page.locator("#set-data-source input")).to_have_value("A file", timeout=SLOW)
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
    page.locator("#verdict-longest input").fill("3")
    ask.click()
    expect(page.locator("#verdict-said")).to_contain_text("must be at least 8, not 3", timeout=SLOW)
    page.locator("#verdict-longest input").fill("40")
    ask.focus()
    page.keyboard.press("Enter")  # no mouse needed
    expect(result).to_contain_text("Answers had up to 40 tokens here, and up to 24 in training.",
                                   timeout=SLOW)
    page.locator("#verdict-longest input").fill("0")
    ask.click()
    expect(result).not_to_contain_text("40 tokens here", timeout=SLOW)
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
