"""Compare in Chromium: blind votes, more sides, what is taken away, and the time-lapse."""

import json
import re

import pytest
from playwright.sync_api import expect

from lab.core.insight.votes import identity
from lab.services import labels, votes
from tests.browser import SLOW, App, faults, open_tab, with_run
from tests.test_history import ask_held_out

pytestmark = pytest.mark.browser
QUESTION = "Tom has 3 apples. He buys 4 more. How many apples does Tom have now?"


@pytest.fixture(scope="module")
def app(finished, tmp_path_factory):
    """A finished run, in a root of its own: votes are kept with it."""
    lab = with_run(finished, tmp_path_factory.mktemp("compared") / "runs")
    app = App(lab.workspace.root).start()
    app.run = lab.workspace.run(finished[1])
    yield app
    app.end()


@pytest.fixture
def open_page(browser, app):
    contexts, wrong = [], []

    def open_one(width: int = 1440, theme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 900},
                                      color_scheme=theme, accept_downloads=True,
                                      permissions=["clipboard-read", "clipboard-write"])
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SLOW)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{app.url}#compare")
        expect(page.locator("#compare-left-run input")).to_have_value("Base model", timeout=SLOW)
        expect(page.locator("#compare-right-run input")).to_have_value(re.compile("finished run"),
                                                                       timeout=SLOW)
        page.locator("#compare-sampling button").first.click()
        page.locator("#set-sampling-max_tokens input").fill("24")
        page.keyboard.press("Tab")
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert wrong == []


def fits(page, width: int) -> None:
    page.wait_for_function(f"document.documentElement.scrollWidth <= {width}")
    assert faults(page) == []


def test_a_blind_vote_hides_who_answers_until_a_key_is_pressed(app, open_page):
    page = open_page(390, "dark")
    page.locator("#compare-blind input").check()
    expect(page.locator("#compare-blind-about")).to_contain_text("One of the two answers is of "
                                                                 "the base model", timeout=SLOW)
    expect(page.locator("#compare-left-run")).to_be_hidden()
    expect(page.locator("#compare-add")).to_be_disabled()
    page.locator("#compare-draw").click()
    question = page.locator("#compare-question textarea")
    expect(question).to_have_value(re.compile(r"\w"), timeout=SLOW)
    page.locator("#compare-send").click()
    vote = page.locator("#vote-left")
    expect(vote).to_be_focused(timeout=SLOW)
    panes = page.locator("#compare-panes")
    expect(panes.locator(".strip").first).to_have_text("Left answer")
    expect(panes.locator(".badge")).to_have_count(0)
    expect(page.locator("#compare-turns textarea")).to_have_value("[]")
    fits(page, 390)

    page.keyboard.press("2")
    expect(page.locator("#vote-next")).to_be_focused(timeout=SLOW)
    expect(panes.locator(".badge.adapter")).to_have_count(2, timeout=SLOW)
    expect(page.locator("#compare-said")).to_contain_text("You preferred")
    (kept,) = votes.of_run(app.run)
    assert kept["vote"] == "right" and kept["question"] == question.input_value()
    assert {identity(kept[place])[0] for place in ("left", "right")} == {"", app.run.id}
    name = "Base model" if not kept["right"]["run"] else "finished run, step 6"
    expect(page.locator("#compare-right-strip .who")).to_have_text(name)
    tally = page.locator("#compare-tally")
    expect(tally.locator(".headline")).to_contain_text("of 1 vote ")
    expect(tally).to_contain_text("Does the reward want what you want?")
    expect(tally).to_contain_text("Weighted sum")
    fits(page, 390)

    page.keyboard.press("Enter")  # the next question, drawn and asked
    expect(vote).to_be_focused(timeout=SLOW)
    expect(question).not_to_have_value(kept["question"])
    page.locator("#vote-bad").click()
    expect(tally).to_contain_text("1 both bad", timeout=SLOW)
    assert [one["vote"] for one in votes.of_run(app.run)] == ["right", "bad"]

    page.locator("#compare-blind input").uncheck()
    expect(page.locator("#compare-left-run")).to_be_visible(timeout=SLOW)
    expect(panes.locator(".badge")).to_have_count(0)
    app.run.votes.unlink()


def test_sides_are_added_asked_again_edited_and_taken_away(app, open_page, tmp_path):
    page = open_page()
    for side, step in (("third", "Step 4"), ("fourth", "Step 2")):
        expect(page.locator(f"#compare-{side}")).to_be_hidden()
        page.locator("#compare-add").click()
        picker = page.locator(f"#compare-{side}-checkpoint")
        expect(picker.locator("input")).to_have_value(step, timeout=SLOW)
        expect(picker).to_be_visible(timeout=SLOW)
    expect(page.locator("#compare-left-checkpoint")).to_be_hidden()  # the base has none
    expect(page.locator("#compare-add")).to_be_disabled()
    question = page.locator("#compare-question textarea")
    question.fill(QUESTION)
    page.locator("#compare-reference").get_by_role("textbox").fill("7")
    page.locator("#compare-send").click()
    for side, badge in (("left", "Base model"), ("right", "step 6 live"), ("third", "step 4 live"),
                        ("fourth", "step 2 live")):
        expect(page.locator(f"#compare-{side}-scores")).to_contain_text("Right answer",
                                                                       timeout=SLOW)
        expect(page.locator(f"#compare-{side}-strip .adapter")).to_contain_text(badge,
                                                                               timeout=SLOW)
    copy = page.locator("#compare-copy")
    expect(copy).to_be_enabled(timeout=SLOW)
    boxes = [page.locator(f"#compare-{side}").bounding_box()
             for side in ("left", "right", "third", "fourth")]
    assert len({round(box["y"]) for box in boxes}) == 1  # in one row
    fits(page, 1440)
    copy.click()
    expect(page.locator("#compare-took")).to_contain_text("Copied", timeout=SLOW)
    text = page.evaluate("navigator.clipboard.readText()")
    assert QUESTION in text and "### finished run, step 4" in text and "| Total |" in text
    with page.expect_download() as download:
        page.locator("#compare-save").click()
    file = tmp_path / "compared.json"
    download.value.save_as(file)
    (first,) = json.loads(file.read_text())["turns"]
    assert [side["step"] for side in first["sides"]] == [None, 6, 4, 2] and first["seed"] == 3407

    question.fill("Something else, not sent")
    page.locator("#compare-retry").click()  # what was asked, whatever stands in the box
    expect(question).to_have_value(QUESTION, timeout=SLOW)
    expect(page.locator("#compare-seed input")).not_to_have_value("3407", timeout=SLOW)
    expect(page.locator("#compare-retry")).to_be_enabled(timeout=SLOW)
    turns = page.locator("#compare-turns textarea")
    expect(turns).not_to_have_value(re.compile('"seed": 3407'), timeout=SLOW)
    assert len(json.loads(turns.input_value())) == 1

    question.fill("And if he eats 2?")
    page.locator("#compare-send").click()
    expect(turns).to_have_value(re.compile("And if he eats 2"), timeout=SLOW)
    expect(page.locator("#compare-edit")).to_be_enabled(timeout=SLOW)
    question.fill("")
    page.locator("#compare-edit").click()
    expect(question).to_have_value("And if he eats 2?", timeout=SLOW)
    expect(question).to_be_focused(timeout=SLOW)
    expect(page.locator("#compare-left-chat")).not_to_contain_text("eats 2", timeout=SLOW)
    expect(page.locator("#compare-left-chat")).to_contain_text("Tom has 3 apples")
    question.fill("And if he eats 3?")
    page.locator("#compare-send").click()
    expect(turns).to_have_value(re.compile("And if he eats 3"), timeout=SLOW)
    assert [turn["question"] for turn in json.loads(turns.input_value())] == [
        QUESTION, "And if he eats 3?"]
    page.locator("#compare-remove").click()
    expect(page.locator("#compare-fourth")).to_be_hidden(timeout=SLOW)
    expect(turns).to_have_value("[]")


@pytest.mark.parametrize(("width", "theme"), [(390, "light"), (1440, "dark")])
def test_a_time_lapse_is_walked_through_by_key(open_page, width, theme):
    page = open_page(width, theme)
    page.locator("#compare-question textarea").fill(QUESTION)
    page.locator("#compare-reference").get_by_role("textbox").fill("7")
    page.locator("#lapse-start").click()
    shown, slider = page.locator("#lapse .moment"), page.locator("#lapse-slider")
    expect(page.locator("#lapse-start")).to_be_enabled(timeout=SLOW)
    expect(page.locator("#lapse output")).to_have_text("Step 6, 4 of 4", timeout=SLOW)
    expect(shown).to_contain_text("Adapter of step 6 live")
    expect(shown).to_contain_text("Right answer")
    expect(page.locator("#lapse .sums i")).to_have_count(4)
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator("#lapse output")).to_have_text("Base model, 1 of 4")
    expect(shown).to_contain_text("Base model, no adapter")
    expect(shown.locator("mark")).to_have_count(0)
    page.keyboard.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", "Step 2")
    expect(shown).to_contain_text(re.compile("Marked|Word for word"))
    fits(page, width)
    page.get_by_role("button", name="Play", exact=True).click()
    expect(page.locator("#lapse output")).to_have_text("Step 6, 4 of 4", timeout=SLOW)


def test_without_a_question_the_time_lapse_says_so(open_page):
    page = open_page()
    page.locator("#lapse-start").click()
    expect(page.locator("#lapse-said")).to_contain_text("There is no question", timeout=SLOW)
    expect(page.locator("#lapse-start")).to_be_enabled(timeout=SLOW)
    open_tab(page, "Start")


def test_a_verdict_turns_to_the_best_adapter_of_the_run_until_a_person_picks(app, open_page):
    """Last: from here on the run has a best adapter."""
    page = open_page()
    run, judged = page.locator("#verdict-run input"), page.locator("#verdict-checkpoint input")

    def follow(name: str) -> None:
        """The page has shown what is new."""
        labels.change(app.run, name=name)
        expect(run).to_have_value(re.compile(f"^{name}"), timeout=SLOW)

    expect(judged).to_have_value("Newest · step 6", timeout=SLOW)
    ask_held_out(app.run, {0: 0.1, 4: 0.9, 6: 0.5})
    follow("it has a best one now")
    expect(judged).to_have_value(re.compile("^Best · step 4"), timeout=SLOW)
    judged.fill("Newest")
    page.keyboard.press("Enter")
    expect(page.locator("#verdict-followed textarea")).to_have_value("chosen", timeout=SLOW)
    follow("the newest was picked")
    expect(judged).to_have_value("Newest · step 6")
    assert faults(page) == []
