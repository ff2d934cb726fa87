"""The tab "How GRPO works": what is asked and answered, and the page in Chromium."""

import json

import pytest
from playwright.sync_api import expect

from lab.core.insight.lesson import Moves
from lab.core.rewards.chosen import parse_chosen
from lab.services.lab import Lab
from lab.services.lesson import built_in
from lab.ui.lesson import moves_of, told
from tests.browser import SLOW, App, chromium, faults, open_tab


def test_without_a_run_there_is_a_group_of_the_labs_own(tmp_path):
    shown = told(Lab.at(tmp_path), {})
    assert shown["run"] == "" and shown["reference"] == "19"
    gains = shown["figures"]["advantages"]
    assert max(gains) > 0 > min(gains) and sum(gains) == pytest.approx(0, abs=1e-3)
    assert shown["figures"]["dead"] is False


def test_a_run_shows_the_advantages_that_it_recorded_and_every_move_counts(finished):
    lab, run_id = finished
    shown = told(lab, {"run": run_id})
    step, place = shown["at"]
    assert shown["run"] == run_id and len(lab.runs.log(run_id).groups_at(step)[1]) > place
    recorded = [one["recorded"] for one in shown["answers"]]
    assert shown["figures"]["advantages"] == pytest.approx(recorded, abs=1e-4)
    scores = [one["scores"] for one in shown["answers"]]
    best = [reward["best"] for reward in shown["rewards"]]
    moved = told(lab, {"run": run_id, "at": shown["at"],
                       "scores": [best, *([0.0] * len(best) for _ in scores[1:])]})["figures"]
    assert moved["advantages"][0] == max(moved["advantages"]) > 0
    assert moved["totals"] == [sum(b * r["weight"] for b, r in zip(
        best, shown["rewards"], strict=True)), *([0.0] * (len(scores) - 1))]
    alike = told(lab, {"run": run_id, "at": shown["at"], "scores": [best] * len(scores)})["figures"]
    assert alike["dead"] and alike["advantages"] == [0.0] * len(scores)
    assert all(not any(one["push"]) for one in alike["losses"].values())
    nothing = told(lab, {"run": run_id, "at": shown["at"], "weights": {
        reward["name"]: 0 for reward in shown["rewards"]}})["figures"]
    assert nothing["dead"] and nothing["baseline"] is None


def test_a_groups_neighbours_are_reached_and_the_ends_are_known(finished):
    lab, run_id = finished
    first = told(lab, {"run": run_id, "at": [1, 0], "move": "first"})
    assert (first["before"], first["after"]) == (False, True)
    second = told(lab, {"run": run_id, "at": first["at"], "move": "next"})
    assert second["at"] > first["at"] and second["before"]
    last = told(lab, {"run": run_id, "at": [1, 0], "move": "newest"})
    assert last["after"] is False and last["at"][0] == 6


CHOSEN = parse_chosen("correctness,int")


@pytest.mark.parametrize("nonsense", [
    None, 7, [], "x", {"run": 3, "at": [True, 0], "move": "x", "scores": "x", "weights": []},
    {"run": "../../etc", "at": [-1, 5], "scores": [[1, 2]], "scale": "x", "ratio": 0},
    {"scores": [[10**400, "a"]] * 6, "weights": {"correctness": -1, "b": 2}, "beta": "x"},
    {"scores": [[float("nan"), None]] * 6, "ratio": float("inf"), "likelier": True},
    {"at": [10**30, 10**30], "run": "\x00", "aggregation": 4, "beta": 99}])
def test_whoever_asks_nonsense_is_shown_what_there_is(tmp_path, nonsense):
    lab = Lab.at(tmp_path)
    assert told(lab, nonsense) == told(lab, {})
    asked = nonsense if isinstance(nonsense, dict) else {}
    assert moves_of(asked, CHOSEN, 6) == Moves()
    json.dumps(told(lab, nonsense), allow_nan=False)


def test_the_built_in_group_has_every_kind_of_answer():
    group = built_in().groups[0]
    totals = {sum(score or 0 for score in one["rewards"].values()) for one in group["answers"]}
    assert len(totals) >= 4 and 0 in totals


@pytest.fixture(scope="module")
def page(finished):
    app = App(finished[0].workspace.root).start()
    with chromium() as browser:
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(SLOW)
        asked = []
        page.on("request", lambda r: asked.append(r.url) if not r.url.startswith(
            (app.url, "data:", "blob:")) else None)
        page.goto(app.url)
        expect(page.locator("#start")).to_be_enabled(timeout=SLOW)
        open_tab(page, "How GRPO works")
        yield page
    app.end()
    assert asked == []  # nothing from elsewhere


@pytest.mark.browser
def test_moving_a_reward_and_a_weight_moves_what_follows(page, finished):
    lab, run_id = finished
    lesson = page.locator("#lesson")
    expect(lesson.locator(".source")).to_contain_text("finished run, step", timeout=SLOW)
    shown = told(lab, {"run": run_id})
    row = lesson.locator("tr[data-answer='0']")
    gain = row.locator(".gain")
    before = f"{shown['figures']['advantages'][0]:g}"
    expect(gain).to_have_attribute("data-value", before)

    right = row.get_by_label("Right answer", exact=False)
    right.focus()
    for _ in range(8):
        page.keyboard.press("ArrowUp")  # no mouse needed
    expect(gain).not_to_have_attribute("data-value", before, timeout=SLOW)
    expect(right).to_be_focused()
    expect(gain.locator("b")).to_contain_text("+")
    lesson.get_by_label("nothing (Dr. GRPO)").check()
    expect(lesson.locator("[data-step=advantages] .say")).to_have_text("reward − mean",
                                                                      timeout=SLOW)
    for weight in lesson.locator(".weights input").all():
        weight.focus()
        page.keyboard.press("Home")
    expect(lesson.locator(".dead")).to_contain_text("teaches nothing", timeout=SLOW)
    assert faults(page) == []
    lesson.get_by_role("button", name="As it was").click()
    expect(lesson.locator(".dead")).to_be_hidden(timeout=SLOW)
    expect(gain).to_have_attribute("data-value", before)


@pytest.mark.browser
def test_a_loss_is_taken_into_the_table_and_clipping_is_said(page):
    lesson = page.locator("#lesson")
    lesson.get_by_role("button", name="Show the push of grpo in the table").click()
    expect(lesson.locator("[data-step=push] .key")).to_have_text("grpo")
    ratio = lesson.get_by_label("A token became likelier")
    ratio.focus()
    page.keyboard.press("End")
    expect(lesson.locator("[data-step=push] .say")).to_contain_text("clipped", timeout=SLOW)
    lesson.get_by_role("button", name="Show the push of cispo in the table").click()
    expect(lesson.locator("[data-step=push] .say")).not_to_contain_text("clipped")
    lesson.get_by_label("KL weight (beta)").focus()
    page.keyboard.press("End")
    lesson.get_by_label("Likelier than in the base").focus()
    page.keyboard.press("End")
    expect(lesson.locator(".pull")).to_contain_text("−", timeout=SLOW)
    lesson.get_by_role("button", name="As it was").click()
    expect(lesson.locator(".pull")).to_contain_text("since beta is 0", timeout=SLOW)
