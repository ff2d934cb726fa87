"""What the doctor sees, in the page's panel, on the command line and while a run trains."""

import json
import subprocess
import sys

import pytest
from playwright.sync_api import expect

from lab.commands.shown import told
from lab.core import events
from lab.core.insight import doctor
from lab.core.settings import Settings, read_assignment
from lab.services.lab import Lab
from lab.services.workspace import PROJECT
from lab.ui.doctor import health_of
from tests import curves
from tests.browser import SLOW, App, open_tab

GAMED = Settings().with_values(curves.GAMED)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root with the recorded run that was gamed, and a healthy one before it."""
    lab = Lab.at(tmp_path_factory.mktemp("doctor") / "runs")
    healthy = curves.read("healthy")[0]
    ids = [curves.as_run(lab.workspace, "a healthy one", healthy,
                         Settings.from_dict(healthy["settings"])),
           curves.as_run(lab.workspace, "gamed", curves.read("gamed")[0], GAMED)]
    return lab.workspace.root, ids


def command(root, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "lab", *arguments, "--root", str(root)],
                          cwd=PROJECT, capture_output=True, text=True)


def test_the_command_says_the_verdict_and_each_finding_with_its_cure(root):
    path, (healthy, gamed) = root
    done = command(path, "doctor", gamed, "--json")
    said = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and said["verdict"] == "warning" and said["status"] == "finished"
    found = {one["rule"]: one for one in said["findings"]}
    assert found["shape_only"]["since"] <= 12
    for one in said["findings"]:
        assert {"rule", "level", "since", "what", "figure", "next", "set"} <= set(one)
        Settings().with_values(one["set"])
    plain = command(path, "doctor", gamed).stdout
    assert "warning: since step 10, shape_only:" in plain
    cure = next(line for line in plain.splitlines() if "strict_format:weight=0.25" in line)
    assert cure.startswith("  cure: python -m lab train ... --set rewards.chosen=")
    assert "healthy: The goal is reached" in command(path, "doctor", healthy).stdout


def test_a_cure_is_written_as_the_command_line_reads_it():
    one = doctor.Finding("warning", "What.", "1", "Next.", {"train.learning_rate": 2.5e-5,
                         "rewards.chosen": [{"name": "int", "weight": 0.25}]}, rule="flat", since=3)
    words = told(one, whole=True).split("--set ")[1:]
    assert [read_assignment(word.strip(" '")) for word in words] == [
        ("train.learning_rate", 2.5e-5), ("rewards.chosen", GAMED.with_values(
            {"rewards.chosen": one.set["rewards.chosen"]}).rewards.chosen)]


def test_train_says_a_finding_once_when_it_first_appears(tmp_path):
    done = command(tmp_path / "runs", "train", "--steps", "8", "--set", "data.rows=600", "--set",
                   "data.held_out=0", "--set", "train.max_completion_length=8", "--set",
                   "train.prompts_per_step=4")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("warning: since step")]
    rules = [line.split(", ")[1].split(":")[0] for line in said]
    assert "cut" in rules and len(rules) == len(set(rules))


def test_the_panel_is_told_only_what_has_changed(root):
    path, (healthy, gamed) = root
    lab = Lab.at(path)
    whole = health_of(lab, [gamed, ""])
    assert whole["verdict"] == "warning" and len(json.dumps(whole)) < 8192
    cures = {one["rule"]: one["cure"] for one in whole["findings"]}
    assert "Tag count 1 → 0.25" in cures["shape_only"]
    assert health_of(lab, [gamed, whole["key"]]) == {"run": gamed, "key": whole["key"]}
    assert health_of(lab, [healthy, whole["key"]])["verdict"] == "healthy"


@pytest.mark.parametrize("asked", [None, "x", [], ["no such run", ""], [None, None], [{}, []],
                                   ["../" * 9, ""], ["x" * 5000, ""], [1, 2, 3]])
def test_whatever_is_asked_the_panel_answers(root, asked):
    assert health_of(Lab.at(root[0]), asked) == {"run": "", "key": ""}


def test_the_report_grows_with_the_run_and_begins_anew_after_a_resume(tmp_path):
    lab = Lab.at(tmp_path / "runs")
    (run,) = curves.read("gamed")
    half = run | {"steps": run["steps"][:8]}
    run_id = curves.as_run(lab.workspace, "gamed", half, GAMED)
    assert "shape_only" not in {f.rule for f in lab.doctor.report(lab.runs.get(run_id)).findings}
    say = events.EventWriter(lab.workspace.run(run_id).events)

    def go_on(first: int, last: int) -> dict[str, int]:
        for place in range(first, last):
            say(events.Step(run["steps"][place], {n: column[place]
                                                  for n, column in run["metrics"].items()}))
        return {f.rule: f.since for f in lab.doctor.report(lab.runs.get(run_id)).findings}

    assert go_on(8, 20)["shape_only"] == 10
    say(events.Started(60, 8, {}))
    assert "shape_only" not in go_on(8, 8)
    assert go_on(8, 20)["shape_only"] == 10


@pytest.fixture(scope="module")
def app(root):
    app = App(root[0]).start()
    yield app
    app.end()


@pytest.mark.browser
def test_a_finding_is_read_in_the_page_and_its_cure_put_into_the_form(app, browser, root):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(SLOW)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(app.url)
    expect(page.locator("#start")).to_be_enabled(timeout=SLOW)
    open_tab(page, "Train")
    expect(page.locator("#doctor-verdict")).to_have_text("Warning", timeout=SLOW)
    card = page.locator("#doctor-findings [data-rule=shape_only]")
    expect(card).to_contain_text("since step 10")
    expect(card).to_contain_text("better made, not better")
    expect(card.get_by_role("button")).to_be_visible()  # the first is open, the others a press away
    second = page.locator("#doctor-findings [data-rule=length_collapse]")
    expect(second.get_by_role("button")).to_be_hidden()
    second.locator("summary").press("Enter")
    expect(second.get_by_role("button")).to_be_visible()
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.locator("#doctor").bounding_box()["width"] <= 390
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.set_viewport_size({"width": 1280, "height": 900})

    card.get_by_role("button", name="Prepare this").press("Enter")
    expect(page.locator("#tab-start")).to_be_visible(timeout=SLOW)
    expect(page.locator("#start")).to_be_focused()
    open_tab(page, "Model & LoRA")
    expect(page.get_by_label("Learning rate", exact=True).first).to_have_value("0.00004")
    page.get_by_role("tab", name="Rewards").click()
    expect(page.locator("#tab-rewards")).to_contain_text("Tag count")

    open_tab(page, "Train")
    page.locator("#live-run").select_option(root[1][0])
    expect(page.locator("#doctor-verdict")).to_have_text("Healthy", timeout=SLOW)
    expect(page.locator("#doctor-why")).to_contain_text("The goal is reached")
    assert wrong == []
    page.close()
