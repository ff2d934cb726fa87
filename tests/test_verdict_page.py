"""The verdict as the page shows it, the goal in Compare, on Start and in the tables of runs."""

import json
import re
from html import unescape
from pathlib import Path

import pytest

from lab.core import events
from lab.core.catalog import RECIPES
from lab.core.rewards.chosen import parse_chosen
from lab.core.rewards.scoring import score
from lab.services import verdicts
from lab.services.lab import Lab
from lab.services.workspace import RunFolder
from lab.ui import summary
from lab.ui.compare.scores import goal_html, scores_html
from lab.ui.history.details import details_html
from lab.ui.history.table import table_of
from lab.ui.tabs import start
from lab.ui.verdict import NONE_AGAINST, NONE_YET, NOTHING, SAME, Picked, _look, build_panel
from lab.ui.verdict_page import progress_html, verdict_html
from tests.test_verdict import CLASSIC, GUESS, a_verdict


def weights(folder: Path, value: int) -> None:
    """A whole safetensors file with one number."""
    header = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (folder / "adapter_model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + bytes([value]))


def words(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def test_the_headline_stands_first_and_large_and_the_goal_leads_the_table():
    found = a_verdict(2, 11, 300)
    html = verdict_html(found, CLASSIC, 300)
    assert html.startswith("<p class='headline warning' role='status'>Right on 3.7 % of 300")
    said = words(html)
    order = ["Right: every goal reached", "Right answer (goal, of 2)", "Tag count (shape, of 0.5)",
             "Weighted reward", "In the asked format", "Tokens an answer"]
    assert [said.index(name) for name in order] == sorted(said.index(name) for name in order)
    assert "0.7 % (0.2 % to 2.4 %) 3.7 % (2.1 % to 6.4 %) +3.0 (+1.0 to +5.7), p = 0.004" in said
    assert "The adapter of step 6, 300 greedy answers a side" in said


def test_a_question_of_a_model_is_text_and_never_markup():
    found = a_verdict(0, 3, 6)
    bad = "<img src=x onerror=alert(1)>"
    for row in (*found["gained"], *found["lost"]):
        row["question"] = row["answer"] = row["tuned"]["text"] = bad
    found["headline"] = bad
    html = verdict_html(found, CLASSIC, 6)
    assert "<img" not in html and words(html).count(bad) >= 1 + 3 * len(found["gained"])


def test_best_gains_and_worst_losses_stand_side_by_side():
    found = a_verdict(3, 5, 8)
    said = words(verdict_html(found, CLASSIC, 8))
    assert "What it gained How many, 3?" in said
    assert "goal not reached" in said and "Reference answer: 15" in said
    assert f"Tuned goal reached reward 3, 40 tokens {GUESS.format(15)}" in said
    assert "start one with more 'Held-out rows'" in said  # 8 questions do not tell


def test_other_verdicts_of_the_run_are_listed():
    old, new = a_verdict(2, 3, 20, step=2), a_verdict(2, 9, 20, step=6)
    said = words(verdict_html(new, CLASSIC, 20, [old, new]))
    assert "Other verdicts on this run" in said
    assert re.search(r"2 Base \d{4}-\d\d-\d\d \d\d:\d\d 20 15\.0 % 10\.0 % better made", said)
    assert "Other verdicts" not in words(verdict_html(new, CLASSIC, 20, [new]))


def test_progress_says_how_far_and_how_long_it_still_takes():
    assert "Loading the model" in progress_html(0, 0, 0.0)
    html = progress_html(50, 200, 10.0, "a run is training")
    assert "aria-valuenow='25'" in html and "50 of 200 answers, about 30 s left" in html
    assert "a run is training" in html


@pytest.fixture
def panel():
    import gradio as gr

    with gr.Blocks():
        yield build_panel()


def test_the_panel_teaches_the_next_click(panel, tmp_path):
    lab = Lab.at(tmp_path / "runs")
    empty = _look(lab, panel, Picked())
    assert NOTHING in empty[panel.result]


def run_with_checkpoints(lab: Lab, name: str, byte: int = 0, **values) -> RunFolder:
    """A run's folder with two checkpoints and one question held out."""
    folder = lab.workspace.make().new_run(name)
    folder.settings.write_text(json.dumps({
        "settings": RECIPES["starter"].settings().with_values(values).to_dict(), "name": name}))
    folder.held_out.write_text(json.dumps({"question": "q", "answer": "1"}) + "\n")
    events.EventWriter(folder.events)(events.Started(6, 0, {}))
    for step in (2, 4):
        folder.checkpoint(step).mkdir(parents=True)
        weights(folder.checkpoint(step), byte + step)
    return folder


def test_the_panel_shows_the_verdict_of_the_adapter_that_is_picked(panel, tmp_path):
    lab = Lab.at(tmp_path / "runs")
    folder = run_with_checkpoints(lab, "a run")
    shown = _look(lab, panel, Picked(folder.id, "2"))
    assert shown[panel.result] == f"<p class='empty'>{NONE_YET}</p>"
    assert shown[panel.count]["label"] == "Questions, of 1 held out"
    events.EventWriter(folder.events)(events.HeldOut(2, {"n": 1, "goal": 0.5}))
    assert _look(lab, panel, Picked(folder.id, "2"))[panel.count]["label"] == (
        "Questions, of 1 held out (1 asked while it trained)")
    verdicts.keep(folder, a_verdict(2, 9, 20, step=2,
                                    adapter=verdicts.fingerprint(folder.checkpoint(2))))
    assert "Right on 45.0 %" in _look(lab, panel, Picked(folder.id, "2"))[panel.result]
    assert NONE_YET in _look(lab, panel, Picked(folder.id, "4"))[panel.result]
    newest = _look(lab, panel, Picked(folder.id, "newest"))[panel.result]
    assert "The adapter of step 2" in newest  # an older one, and it says so
    weights(folder.checkpoint(2), 7)  # trained anew
    assert NONE_YET in _look(lab, panel, Picked(folder.id, "2"))[panel.result]
    folder.held_out.unlink()
    assert "kept no questions aside" in _look(lab, panel, Picked(folder.id, "2"))[panel.result]


def against(folder: RunFolder, name: str, step: int, of_step: int) -> dict:
    """What a verdict says that compares step 4 with this adapter, beside its figures."""
    return {"names": [f"{name} (step {step})", f"a run (step {of_step})"], "against": {
        "run": folder.id, "name": name, "step": step,
        "adapter": verdicts.fingerprint(folder.checkpoint(step))}}


def test_the_panel_shows_the_verdict_on_the_two_sides_that_are_picked(panel, tmp_path):
    lab = Lab.at(tmp_path / "runs")
    one, two = (run_with_checkpoints(lab, name, byte)
                for name, byte in (("another", 10), ("a run", 20)))
    strange = run_with_checkpoints(lab, "strange", 30, **{"model.name": "some/model"})
    shown = _look(lab, panel, Picked(two.id, "4", one.id, "2"))
    assert NONE_AGAINST in shown[panel.result]
    offered = {value for _, value in shown[panel.other]["choices"]}
    assert offered == {"base", two.id, one.id} and strange.id not in offered
    assert shown[panel.other_at]["value"] == "2" and shown[panel.other_at]["visible"] is True
    mine = verdicts.fingerprint(two.checkpoint(4))
    both = a_verdict(2, 9, 20, step=4, adapter=mine)
    verdicts.keep(two, both | against(one, "another", 2, 4) | {"headline": "It is another one.",
                                                              "seen": 3, "notes": ["Mind this."]})
    said = words(_look(lab, panel, Picked(two.id, "4", one.id, "2"))[panel.result])
    assert "It is another one." in said and "another (step 2) a run (step 4) Difference" in said
    assert "3 held-out questions left out: a side was trained on them. Mind this." in said
    assert NONE_AGAINST in _look(lab, panel, Picked(two.id, "4", one.id, "4"))[panel.result]
    assert NONE_YET in _look(lab, panel, Picked(two.id, "4"))[panel.result]
    assert SAME in _look(lab, panel, Picked(two.id, "4", two.id, "newest"))[panel.result]
    gone = _look(lab, panel, Picked(strange.id, "4", one.id, "2"))  # of another base model
    assert gone[panel.other]["value"] == "base" and gone[panel.other_at]["visible"] == "hidden"


def test_what_a_run_learnt_is_never_read_from_a_verdict_against_another(tmp_path):
    lab = Lab.at(tmp_path / "runs")
    one, two = (run_with_checkpoints(lab, name, byte)
                for name, byte in (("another", 10), ("a run", 20)))
    mine = verdicts.fingerprint(two.checkpoint(4))
    verdicts.keep(two, a_verdict(2, 9, 20, step=4, adapter=mine)
                  | against(one, "another", 2, 4) | {"headline": "It is another one."})
    run = lab.runs.get(two.id)
    assert run.verdict is None and run.goal is None and verdicts.newest(two) is None
    assert verdicts.of_adapter(two, two.checkpoint(4)) is None
    assert "judged" not in table_of(lab.runs.all(), "")
    assert "Against another: It is another one." in words(details_html(run))
    verdicts.keep(two, a_verdict(2, 9, 20, step=4, adapter=mine))
    run = lab.runs.get(two.id)
    assert run.goal.last == 0.45 and "Right on 45.0 %" in run.verdict["headline"]
    assert len(verdicts.every(two)) == 2 and len(verdicts.of_run(two)) == 1


def test_lines_of_an_older_lab_stay_verdicts_against_the_base(tmp_path):
    lab = Lab.at(tmp_path / "runs")
    folder = run_with_checkpoints(lab, "a run")
    old = a_verdict(2, 9, 20, step=4, adapter=verdicts.fingerprint(folder.checkpoint(4)))
    verdicts.keep(folder, {key: value for key, value in old.items() if key not in verdicts.SINCE})
    found = verdicts.newest(folder)
    assert found["seeds"] == 1 and found["against"] is None
    assert verdict_html(found, CLASSIC, 20).startswith("<p class='headline good'")
    for wrong in ({"seeds": 0}, {"against": {"run": "a"}}, {"names": ["a", "b"]}, {"notes": 3},
                  {"longest": "96"},
                  {"against": against(folder, "a", 2, 4)["against"], "names": ["one"]}):
        verdicts.keep(folder, old | wrong)
    assert verdicts.every(folder) == [found]


def test_answers_of_another_length_are_told_beside_the_other_verdicts(tmp_path):
    now, before = a_verdict(2, 9, 20), a_verdict(7, 9, 20) | {"longest": 1096}
    assert "20, up to 1,096 tokens" in words(verdict_html(now, CLASSIC, 20, [before, now]))
    as_trained = words(verdict_html(now, CLASSIC, 20, [now | {"made": 1}, now]))
    assert "tokens" not in as_trained.partition("Other verdicts")[2]


def test_several_answers_are_told_with_the_questions(tmp_path):
    found = a_verdict(2, 9, 20) | {"seeds": 4, "drawn": True}
    for row in found["gained"]:
        row["base"]["often"], row["tuned"]["often"] = 1, 3
    said = words(verdict_html(found, CLASSIC, 20))
    assert "20 questions, 4 drawn answers to each a side (errors by question)" in said
    assert "right in 3 of 4 answers" in said and "20 × 4" in words(
        verdict_html(a_verdict(2, 8, 20), CLASSIC, 20, [found]))


@pytest.mark.parametrize(("chosen", "text", "columns", "badge"), [
    ("xmlcount,correctness", "15", {"answer": "15"}, "Goal reached"),
    ("xmlcount,correctness", "16", {"answer": "15"}, "Goal not reached"),
    ("xmlcount,correctness", "15", {}, "Goal not judged"),
    ("xmlcount,int", "15", {"answer": "15"},
     "No goal reward: nothing says whether this is right"),
    ("xmlcount:kind=goal,int", "<reasoning>\nSo\n</reasoning>\n", {},
     "Goal not reached: 50% of its points"),
])
def test_compare_says_plainly_whether_the_goal_is_reached(chosen, text, columns, badge):
    chosen = parse_chosen(chosen)
    scored = score(text, columns, chosen)
    html = goal_html(scored, chosen) + scores_html(scored, chosen, columns)
    assert words(html).startswith(f"{badge} Reward Kind Score Weight Counts")
    kinds = re.findall(r"<tr class='(goal|shape)'>", html)
    assert kinds == sorted(kinds) and len(kinds) == 2  # goals first


def test_start_tells_goals_and_shapes_apart_and_warns_without_a_goal():
    settings = RECIPES["starter"].settings()
    said = words(summary.summary_html(settings, "starter"))
    assert "Rewarded for Right answer weight 1" in said
    assert "Shaped by Tag count, Soft format, Strict format, Whole number weights 1, 1" in said
    assert "No goal reward" not in said
    without = settings.with_values({"rewards.chosen": parse_chosen("int:weight=2")})
    said = words(summary.summary_html(without, "starter"))
    assert "Rewarded for" not in said and "Shaped by Whole number weight 2" in said
    assert "No goal reward is chosen." in said


def test_the_tables_of_runs_show_the_goal_before_the_reward(tmp_path):
    lab = Lab.at(tmp_path / "runs")
    folder = lab.workspace.make().new_run("a run")
    folder.settings.write_text(json.dumps({
        "settings": RECIPES["starter"].settings().to_dict(), "name": "a run"}))
    write = events.EventWriter(folder.events)
    write(events.Started(2, 0, {}))
    for step in (1, 2):
        write(events.Step(step, {"goal/reached": step / 4, "reward/weighted": 1.0}))
    for html in (start.runs_html(lab.runs.all()), table_of(lab.runs.all(), folder.id)):
        heads = [re.sub("<[^>]*>", "", head)
                 for head in re.findall(r"<th[^>]*>(.*?)</th>", html.split("</thead>")[0])]
        assert heads.index("Goal: answers right") < heads.index("Reward, first → last")
        assert re.search("<td class='goal'[^>]*>25 % → 50 % in training</td>", html)
