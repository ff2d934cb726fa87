"""The microscope and the learning map: what they are told of a run, and both in Chromium."""

import json

import pytest
from playwright.sync_api import expect

from lab.core import events
from lab.core.catalog import RECIPES
from lab.core.insight.differences import differences
from lab.services.lab import Lab
from lab.ui import learning_map, microscope
from tests.browser import SLOW, App, chromium, faults, open_tab
from tests.test_groups import group


def run_of(lab: Lab, steps: dict[int, list], name: str = "by hand", **values) -> str:
    """A run that recorded these groups; its id."""
    folder = lab.workspace.make().new_run(name)
    settings = RECIPES["notebook"].settings().with_values({
        "train.prompts_per_step": 4, "train.max_steps": 9, **values})
    folder.settings.write_text(json.dumps({"settings": settings.to_dict(), "name": name}))
    write = events.EventWriter(folder.events)
    write(events.Started(9, 0, {"rows": 50}))
    for step, groups in steps.items():
        write(events.Step(step, {"reward/weighted": 0.5}))
        write(events.Samples(step, groups))
    write(events.Finished(max(steps), 1.0))
    write.close()
    return folder.id


STEPS = {1: [group("first?", 2, 0, 0), group("second?", 0, 0)],
         2: [group("first?", 2, 2, 2), group("second?", 0, 0, errors={"int": "int failed: no"})],
         3: ["no group", group("third?", 2, 0, cut=True)],
         4: [group("third?", 0, 0), group("first?", 2, 2)]}


@pytest.fixture
def lab(tmp_path):
    return Lab.at(tmp_path / "runs")


def test_a_group_comes_best_answer_first_with_scores_parts_and_errors(lab):
    run = run_of(lab, STEPS)
    found = microscope.looked_at(lab, [run, "all", None, "newest"])
    assert found["at"] == [4, 1] and found["newest"] and not found["can"]["next"]
    assert found["can"]["before"] and found["can"]["step before"]
    assert found["counts"] == {"all": 7, "mixed": 2, "dead": 5, "right": 2, "wrong": 3,
                               "errors": 1, "cut": 1}
    first = microscope.looked_at(lab, [run, "all", [1, 0], ""])
    assert (first["prompt"], first["whole"], first["reference"]) == ("first?", "user: first?", "4")
    assert [one["advantage"] for one in first["answers"]] == [1.333, -0.6667, -0.6667]
    assert first["answers"][0]["parts"] == {"correctness": 2.0} and first["said"]["text"] == ""
    assert [one["pieces"] for one in first["answers"]] == [
        [("2", False)], [("0", True)], [("0", True)]]
    broken = microscope.looked_at(lab, [run, "errors", None, ""])
    assert broken["at"] == [2, 1] and broken["answers"][0]["errors"] == {"int": "int failed: no"}


def test_a_group_that_taught_nothing_says_so_with_its_score(lab):
    run = run_of(lab, STEPS | {5: [group("none?", None, None)]})
    said = {tuple(at): microscope.looked_at(lab, [run, "all", at, ""])["said"]["text"]
            for at in ([1, 1], [2, 0], [5, 0])}
    assert said == {(1, 1): "This group taught nothing: all 2 scored 0.",
                    (2, 0): "This group taught nothing: all 3 scored 2, all of them right.",
                    (5, 0): "This group taught nothing: no answer could be judged."}


def test_a_move_that_leads_nowhere_stays_and_a_kind_without_groups_is_empty(lab):
    run = run_of(lab, {1: [group("a?", 0, 0)], 2: [group("b?", 0, 0)]})
    assert microscope.looked_at(lab, [run, "all", [2, 0], "next"])["at"] == [2, 0]
    assert microscope.looked_at(lab, [run, "all", [2, 0], "step before"])["at"] == [1, 0]
    assert microscope.looked_at(lab, [run, "mixed", [2, 0], ""])["at"] is None


def test_it_is_said_which_part_of_the_groups_is_recorded(lab):
    part = run_of(lab, STEPS, **{"train.log_groups": 2})
    told = microscope.looked_at(lab, [part, "all", None, ""])["part"]
    assert told.startswith("8 of the 16 groups that were answered are recorded: 2 of the 4")
    whole = run_of(lab, {1: [group("a?", 0, 0)] * 4}, "whole", **{"train.log_groups": 4})
    assert microscope.looked_at(lab, [whole, "all", None, ""])["part"] == ""
    assert "missing here" in learning_map.drawn(lab, [part, ""])["part"]
    assert "1 of the 50 questions" in learning_map.drawn(lab, [whole, ""])["part"]


def test_long_answers_are_shown_whole_but_not_compared(lab):
    long = group("a?", 2, 0)
    for one in long["answers"]:
        one["text"] = "word " * (microscope.MARKED // 5)
    found = microscope.looked_at(lab, [run_of(lab, {1: [long]}), "all", None, ""])
    assert found["marked"] is False and len(found["answers"][1]["pieces"]) == 1


def test_the_map_has_each_question_with_its_state_and_its_groups(lab):
    run = run_of(lab, STEPS)
    told = learning_map.drawn(lab, [run, ""])
    assert told["states"] == {"solved": 1, "learning": 0, "never": 1, "forgotten": 1}
    by_text = {tile[4]: tile for tile in told["tiles"]}
    assert {text: tile[1:4] for text, tile in by_text.items()} == {
        "first?": [3, 1, "solved"], "second?": [2, 0, "never"], "third?": [2, 0, "forgotten"]}
    assert learning_map.drawn(lab, [run, told["key"]]) == {"run": run, "key": told["key"]}
    one = learning_map.one_of(lab, [run, by_text["first?"][0]])
    assert one["visits"] == [[1, 0, 1, 3, True], [2, 0, 3, 3, False], [4, 1, 2, 2, False]]
    assert (one["text"], one["reference"], one["state"]) == ("first?", "4", "solved")


@pytest.mark.parametrize("nonsense", [
    None, [], {}, "x", 7, [None] * 4, [[]] * 4, ["../../etc/passwd"] * 2, ["a" * 9000, ""],
    ["\x00", "all", [1, 2], 3], ["", "", [], ""], [1, 2]])
def test_whoever_asks_nonsense_is_told_nothing(lab, nonsense):
    run_of(lab, STEPS)
    assert microscope.looked_at(lab, nonsense) == microscope.NOTHING
    assert learning_map.drawn(lab, nonsense) == learning_map.NOTHING
    assert learning_map.one_of(lab, nonsense) == learning_map.NOTHING


@pytest.mark.parametrize("at", [None, "x", [1], [-1, 0], [True, 0], [1, "a"], [10**30, 10**30],
                                {"a": 1}, [[1], [2]]])
def test_a_place_that_is_none_leads_to_a_group_all_the_same(lab, at):
    found = microscope.looked_at(lab, [run_of(lab, STEPS), "no kind", at, ["x"]])
    assert found["kind"] == "all" and found["at"] == [4, 1]


def test_a_long_run_is_looked_through_without_reading_its_file(lab, monkeypatch):
    """Of 2,000 steps only the line of the wanted group is read again."""
    many = {step: [group(f"question {step % 700}?", 2, 0), group("b?", 0, 0)]
            for step in range(1, 2001)}
    run = run_of(lab, many)
    log, size = lab.runs.log(run), lab.workspace.run(run).events.stat().st_size
    log.seen()  # all lines, once
    read = []
    parse = events.read_line
    monkeypatch.setattr("lab.services.run_log.events.read_line",
                        lambda line: read.append(len(line)) or parse(line))
    found = microscope.looked_at(lab, [run, "mixed", [1000, 0], "next"])
    assert found["at"] == [1001, 0] and found["counts"]["all"] == 4000
    assert len(read) == 1 and read[0] < size / 1000 and log is lab.runs.log(run)
    read.clear()
    told = learning_map.drawn(lab, [run, ""])
    assert read == [] and len(told["tiles"]) == 701 and told["tiles"][0][1] == 2000
    assert len(json.dumps(told)) < 200_000


def test_marks_and_text_are_the_answer_whatever_it_holds():
    for text in ("", " ", "a\n\n b ", "\n<b>x</b>\n", "🧪 é 1,000.5"):
        assert "".join(piece for piece, _ in differences("a b <b>y</b>", text)) == text


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Opens the Train tab on the run by hand; fails on script errors and requests to elsewhere."""
    app = App(tmp_path_factory.mktemp("scope") / "runs")
    run_of(Lab.at(app.root), STEPS)
    app.start()
    wrong = []
    with chromium() as browser:
        def opened(**look):
            page = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | look)
                                       ).new_page()
            page.set_default_timeout(SLOW)
            page.on("request", lambda r: wrong.append(r.url) if not r.url.startswith(
                (app.url, "data:", "blob:")) else None)
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.goto(app.url)
            expect(page.locator("#start")).to_be_enabled(timeout=SLOW)
            open_tab(page, "Train")
            return page

        yield opened
    app.end()
    assert wrong == []


@pytest.mark.browser
def test_groups_are_gone_through_by_key_and_filtered(pages):
    page = pages()
    scope = page.locator("#microscope .scope")
    expect(scope).to_have_attribute("data-at", "4/1", timeout=SLOW)
    scope.locator(".group").focus()
    for key, at in (("ArrowLeft", "4/0"), ("ArrowLeft", "3/1"), ("ArrowUp", "2/0"),
                    ("ArrowRight", "2/1"), ("ArrowDown", "3/1"), ("Home", "1/0"), ("End", "4/1")):
        page.keyboard.press(key)
        expect(scope).to_have_attribute("data-at", at, timeout=SLOW)
    expect(scope.locator(".follow")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("ArrowRight")  # there is none: it stays
    expect(scope.get_by_role("button", name="Next group")).to_have_attribute("aria-disabled",
                                                                            "true")
    scope.get_by_label("Taught something").check(force=True)
    expect(scope).to_have_attribute("data-at", "3/1", timeout=SLOW)
    expect(scope.locator(".answer.cut")).to_have_count(2)
    expect(scope.locator("mark").nth(1)).to_have_text("0")  # the first explains the mark
    scope.get_by_role("button", name="Group before").click()
    expect(scope).to_have_attribute("data-at", "1/0", timeout=SLOW)
    scope.get_by_label("Errors").check(force=True)
    expect(scope.locator(".chips .bad").first).to_contain_text("int failed: no", timeout=SLOW)
    expect(scope.locator(".said")).to_contain_text("taught nothing: all 2 scored 0")
    assert faults(page) == []
    scope.get_by_role("button", name="How it counts").click()
    expect(page.locator("#lesson .source")).to_contain_text("by hand, step 2: group 2",
                                                            timeout=SLOW)


@pytest.mark.browser
@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (1440, "light")])
def test_the_map_leads_by_key_to_a_question_and_to_its_group(pages, width, theme):
    page = pages(viewport={"width": width, "height": 900}, color_scheme=theme)
    board = page.locator("#learning-map")
    expect(board.locator("summary")).to_contain_text("1 solved · 1 never right · 1 forgotten",
                                                     timeout=SLOW)
    board.locator("summary").focus()
    page.keyboard.press("Enter")
    tiles = board.locator(".tiles .tile")
    expect(tiles).to_have_count(3)
    tiles.first.focus()
    page.keyboard.press("ArrowRight")
    expect(tiles.nth(1)).to_be_focused()
    page.keyboard.press("ArrowDown")  # there is no further line
    expect(tiles.nth(1)).to_be_focused()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    question = board.locator(".question")
    expect(question).to_contain_text("Step 2", timeout=SLOW)
    expect(question.locator(".visits button")).to_have_count(2)
    assert faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    question.locator(".visits button").first.click()
    expect(page.locator("#microscope .group")).to_be_focused(timeout=SLOW)
    expect(page.locator("#microscope .scope")).not_to_have_attribute("data-at", "4/1",
                                                                     timeout=SLOW)
    board.locator(".states button[data-state=solved]").click()
    expect(tiles).to_have_count(1)
