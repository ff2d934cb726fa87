"""The section "Your own reward": asked over HTTP with and without permission, and in Chromium."""

import os
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from lab.core.rewards import own, permission
from lab.core.rewards.chosen import parse_chosen
from lab.services.own_rewards import Trial, dry_run
from lab.ui.forms import OWN_FILE, OWN_LIST, Form
from lab.ui.own_rewards import TEMPLATE, choice_of, off_html, scan_html, tried_html
from tests.browser import App, chromium, open_tab
from tests.test_space import Page

MINE = """from lab.core.rewards import reward

@reward("Mine", max_score=1.0)
def mine(completion, answer):
    print("looking for", answer)
    if not completion:
        return below(completion)
    return 1.5 if answer in completion else 0

def below(text):
    return 1 / len(text)
"""


@pytest.fixture(scope="module", params=["1", ""], ids=["code on", "code off"])
def app(tmp_path_factory, request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(permission.VARIABLE, request.param)
        app = App(tmp_path_factory.mktemp("own") / "runs").start()
    app.on = bool(request.param)
    yield app
    app.end()


@pytest.fixture
def page(app):
    with httpx.Client(base_url=app.url, timeout=60) as client:
        yield Page(client)


def test_use_keeps_the_file_and_chooses_its_rewards_only_where_code_may_run(app, page):
    kept = app.root / "uploads" / "rewards"
    last = page.call("own-use", **{"own-code": MINE})[-1]
    if not app.on:
        assert last["success"] is False and "Reward code is off here." in last["output"]["error"]
        assert not kept.exists()
        return
    path, chosen = last["output"]["data"]
    assert Path(path).parent == kept and Path(path).read_text() == MINE and chosen == "mine"
    last = page.call("own-use", **{"own-code": "def broken(:"})[-1]
    assert last["success"] is False and "Line 1: This is no Python" in last["output"]["error"]
    last = page.call("start", **{"set-rewards-file": path, "set-rewards-own": "nope"})[-1]
    assert "There is no reward" in str(last["output"]) and "nope" in str(last["output"])


def test_own_code_runs_at_the_button_alone_and_only_where_it_may(app, page, tmp_path):
    """A client that sends what the page would not: a file of the lab's folder, rewards of it."""
    planted = app.root / "uploads" / "rewards" / "planted.py"
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text("def a(completions, **k): return [0.8125] * len(completions)\n")
    mine = {"set-rewards-file": str(planted), "set-rewards-own": "a"}
    typing = next(d for d in page.config["dependencies"] if d["backend_fn"] and any(
        page.components[o]["props"].get("elem_id") == "score-table" for o in d["outputs"]))
    assert "0.812" not in str(page._ask(typing, mine)[-1])
    told = str(page.call("ask-all", **mine)[-1])
    assert ("0.812" in told) == app.on and ("Reward code is off here." in told) != app.on
    outside = tmp_path / "outside.py"
    outside.write_text(planted.read_text())
    told = str(page.call("ask-all", **mine | {"set-rewards-file": str(outside)})[-1])
    assert "0.812" not in told and "There is no reward" in told


@pytest.mark.browser
@pytest.mark.parametrize("app", ["1"], indirect=True, ids=["code on"])  # off: there is no editor
def test_a_person_writes_checks_and_uses_a_reward(app):
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(120_000)
        page.goto(app.url)
        open_tab(page, "Rewards")
        page.locator("#own-rewards button").first.click()
        code = page.locator("#own-code .cm-content")
        code.fill(MINE.replace("(completion, answer)", "(text)"))
        expect(page.locator("#own-told")).to_contain_text("Line 4: mine takes neither")
        code.fill(MINE)
        expect(page.locator("#own-told")).to_contain_text("Mine")
        page.locator("#own-check").click()
        told = page.locator("#own-told")
        expect(told).to_contain_text("9 scores of real rows, 3 failed.", timeout=120_000)
        expect(told).to_contain_text("line 7, in mine: return below(completion) → line 11")
        expect(told).to_contain_text("gives a wrong answer as much as the right one")
        expect(told).to_contain_text("'mine' gave 1.5, and its highest score is 1.")
        page.locator("#own-use").click()
        expect(page.locator("#set-rewards-own textarea, #set-rewards-own input")).to_have_value(
            "mine")
        expect(page.locator("#score-table")).to_contain_text("Mine")
        # The draft of this browser keeps it, as soon as the summary tells of it; the editor shows
        # the file again.
        expect(page.locator("#summary")).to_contain_text("Mine", timeout=120_000)
        page.reload()
        open_tab(page, "Rewards")
        expect(page.locator("#score-table")).to_contain_text("Mine")
        page.locator("#own-rewards button").first.click()
        expect(page.locator("#set-rewards-own textarea, #set-rewards-own input")).to_have_value(
            "mine")
        expect(page.locator("#own-code .cm-content")).to_contain_text("below(completion)")
        page.locator("#own-drop").click()
        expect(page.locator("#score-table")).not_to_contain_text("Mine")


# its parts


def test_the_template_is_sound_and_tells_right_from_wrong(monkeypatch):
    monkeypatch.setenv(permission.VARIABLE, "1")
    source = own.source_of("rewards.py", TEMPLATE)
    assert not source.mistakes and off_html() == ""
    tried, _ = dry_run(source, [{"question": "6 * 7?", "answer": "42"}])
    assert not any(one.error for one in tried)
    assert "as much as the right one" not in tried_html(tried, source)
    monkeypatch.delenv(permission.VARIABLE)
    assert "Reward code is off." in off_html()


def test_what_a_file_says_is_never_markup():
    text = ('from lab.core.rewards import reward\n@reward("<b>x</b>", max_score=1)\n'
            'def a(completion): "<script>"\n')
    source = own.source_of("x.py", text)
    assert "<b>" not in scan_html(source)
    shown = tried_html([Trial("a", "the right answer", "<i>?</i>", None, "<script>", ("<p>",))],
                       source)
    assert "<script>" not in shown and "<i>" not in shown


def test_the_form_keeps_weights_and_refuses_files_elsewhere(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(TEMPLATE)
    before = parse_chosen("polite:weight=0.25", str(path))
    assert [(c.name, c.weight) for c in choice_of(str(path), "gone:weight=3,polite:weight=0.25")
            ] == [("right_at_last", 1.0), ("polite", 0.25)]
    form = Form()
    form.root = tmp_path
    assert form.own_file({OWN_FILE: str(path)}) == str(path)
    for elsewhere in (os.devnull, str(tmp_path / ".." / "x.py"), "mine.py"):
        assert form.own_file({OWN_FILE: elsewhere}) == ""
    assert before[0].file == str(path) and OWN_LIST not in form.widgets
