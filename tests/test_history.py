"""The history: names, tags and notes beside a worker, summaries, search, delete and undo, forks."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time

import gradio as gr
import pytest
from safetensors.torch import load_file

from lab.core import events
from lab.core.problems import BadSettings, LabError, RunError
from lab.core.settings import Settings
from lab.services import begin, history, labels, lineage, runs, summary
from lab.services.lab import Lab
from lab.services.runs import BEST, NEWEST
from lab.services.trash import KEPT_DAYS
from lab.services.workspace import PROJECT, RunFolder
from lab.ui.forms import Form
from lab.ui.header import chip_of
from lab.ui.history import label_view, listing, overlay
from lab.ui.history.details import details_html, settings_html
from lab.ui.history.page import Look, opened
from lab.ui.history.table import read_ticked, spark_html, table_of
from lab.ui.tabs.runs import build_tab


def make(lab: Lab, name: str, *said: events.Event, settings: Settings | None = None,
         **record) -> RunFolder:
    """A run with these events, as the lab writes them."""
    folder = lab.workspace.make().new_run(name)
    folder.settings.write_text(json.dumps({
        "name": name, "created": 1.7e9, "settings": (settings or Settings()).to_dict(), **record}))
    say = events.EventWriter(folder.events)
    for event in said:
        say(event)
    say.close()
    return folder


def curve(values, metric="goal/reached"):
    return [events.Started(len(values), 0, {}),
            *(events.Step(i, {metric: value, "reward/weighted": value, "seconds/step": 6.0})
              for i, value in enumerate(values, 1)),
            events.Finished(len(values), 1.0)]


def ask_held_out(folder: RunFolder, goals: dict[int, float]) -> None:
    """What a finished run tells of its held-out questions, by step, before it ends."""
    *lines, last = folder.events.read_text().splitlines()
    told = [json.dumps({"event": "held_out", "time": 1.0, "step": step, "metrics": {
        "n": 24, "goal": goal, "reached": goal, "reward": goal}}) for step, goal in goals.items()]
    folder.events.write_text("\n".join([*lines, *told, last, ""]))


# what a person says of a run


def test_a_label_changes_what_it_names_alone_and_the_folder_keeps_its_name(lab):
    folder = make(lab, "first", *curve([0.1, 0.2]))
    labels.change(folder, name="Zweiter Versuch 🙂", tags="slow,  good , slow")
    labels.change(folder, notes="a\nb")
    labels.change(folder, archived=True)
    run = Lab.at(lab.workspace.root).runs.get(folder.id)
    assert (run.name, run.label.tags, run.label.notes, run.label.archived) == (
        "Zweiter Versuch 🙂", ("slow", "good"), "a\nb", True)
    assert run.record["name"] == "first" and run.folder.path == folder.path
    labels.change(folder, name="")
    assert lab.runs.get(folder.id).name == "first"


@pytest.mark.parametrize("field", [
    {"name": "x" * 81}, {"name": "a\nb"}, {"name": "\ud800"}, {"name": 7},
    {"tags": ["x" * 41]}, {"tags": [str(n) for n in range(21)]}, {"tags": [1]}, {"tags": {}},
    {"notes": "x" * 10_001}, {"notes": "\x00"}, {"notes": None}], ids=lambda f: str(f)[:30])
def test_a_label_that_cannot_be_is_refused_and_nothing_changes(lab, field):
    folder = make(lab, "first")
    labels.change(folder, name="kept", tags=["kept"], notes="kept")
    before = folder.label.read_bytes()
    with pytest.raises(BadSettings):
        labels.change(folder, **field)
    assert folder.label.read_bytes() == before


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"tags": 3}', '{"name": ["a"]}',
                                  "[" * 100_000, '{"notes": 1e999}'], ids=lambda text: text[:12])
def test_a_damaged_label_is_said_and_blocks_nothing_and_is_mended_by_the_next(lab, text):
    folder = make(lab, "first", *curve([0.1, 0.2]))
    folder.label.write_text(text)
    run = lab.runs.get(folder.id)
    assert (run.name, run.status) == ("first", "finished") and run.label.wrong
    assert "cannot be read" in details_html(run)
    labels.change(folder, tags=["new"])
    assert lab.runs.get(folder.id).label == labels.Label(tags=("new",))


def test_many_changes_at_once_lose_none(lab):
    folder = make(lab, "first")
    code = ("import sys; from pathlib import Path; from lab.services import labels;"
            "from lab.services.workspace import RunFolder\n"
            "[labels.change(RunFolder(Path(sys.argv[1])), **{sys.argv[2]: str(n)}) "
            "for n in range(25)]")
    others = [subprocess.Popen([sys.executable, "-c", code, str(folder.path), field], cwd=PROJECT)
              for field in ("name", "notes")]
    threads = [threading.Thread(target=labels.change, args=(folder,), kwargs={"tags": ["t"]})
               for _ in range(8)]
    for one in threads:
        one.start()
    for one in (*threads, *others):
        one.join() if isinstance(one, threading.Thread) else one.wait()
    assert labels.of_run(folder) == labels.Label("24", ("t",), "24")
    assert not list(folder.path.glob(".label*"))


def test_what_another_page_changed_is_neither_lost_nor_in_the_way_of_typing(lab):
    folder = make(lab, "first")
    labels.change(folder, notes="before")
    was = json.dumps(label_view.shown(lab.runs.get(folder.id)))
    labels.change(folder, name="from elsewhere", tags=["elsewhere"])
    typed = ("first", "", "typed here")
    assert label_view.changes(typed, was) == {"notes": "typed here"}
    view = label_view.LabelView(*("name", "tags", "notes", "was", "save", "archive"))
    updates = view.follow(lab.runs.get(folder.id), typed, was)
    assert updates["name"] == "from elsewhere" and "notes" not in updates
    assert label_view.changes(("from elsewhere", "elsewhere", "typed here"), updates["was"]) == {
        "notes": "typed here"}


# summaries


def test_a_list_reads_no_curve_twice_and_says_what_the_curves_say(lab, monkeypatch):
    folder = make(lab, "first", *curve([n / 100 for n in range(100)]))
    first = lab.runs.get(folder.id)
    whole = lab.runs.log(folder.id)
    assert summary.of_log(whole) == summary.read(folder, summary.stamp_of(folder.events),
                                                 runs.goals_of(folder))
    monkeypatch.setattr(runs, "RunLog", None)  # whoever reads events now fails
    again = Lab.at(lab.workspace.root).runs.get(folder.id)
    assert again.status == "finished" and again == first
    assert (again.reward_first, again.reward_last) == pytest.approx((0.045, 0.945))
    assert again.spark.kind == "goal" and len(again.spark.values) == summary.SPARK


@pytest.mark.parametrize("damage", [
    lambda text: "", lambda text: text[:-9], lambda text: text.replace("0.9", "0.8"),
    lambda text: "[]", lambda text: '{"format": 1}', lambda text: "[" * 100_000,
    lambda text: text.replace('"format": 1', '"format": 0')])
def test_a_damaged_summary_is_made_anew(lab, damage):
    folder = make(lab, "first", *curve([0.1, 0.9]))
    told = lab.runs.get(folder.id)
    kept = folder.summary.read_text()
    folder.summary.write_text(damage(kept))
    assert folder.summary.read_text() != kept
    assert Lab.at(lab.workspace.root).runs.get(folder.id) == told
    assert folder.summary.read_text() == kept


def test_events_that_came_since_are_told(lab):
    folder = make(lab, "first", *curve([0.1, 0.2])[:-1], events.Stopped(2))
    assert lab.runs.get(folder.id).status == "stopped"
    say = events.EventWriter(folder.events)
    for event in (events.Started(4, 2, {}), events.Step(3, {"reward/weighted": 1.0}),
                  events.Failed(3, "What.", kind="disk")):
        say(event)
    say.close()
    for now in (lab, Lab.at(lab.workspace.root)):
        run = now.runs.get(folder.id)
        assert (run.status, run.step, run.problem.kind) == ("failed", 3, "disk")


def test_answers_are_read_where_they_are_shown(lab):
    groups = [{"prompt": "p", "columns": {}, "answers": [{"text": "ä]}\n"}]}]
    folder = make(lab, "first", events.Started(1, 0, {}), events.Samples(1, groups))
    log = lab.runs.log(folder.id)
    assert log.groups_at() == (1, groups) and log.damaged == 0
    text = folder.events.read_text()
    folder.events.write_text(text.replace('"columns": {}', '"columns": {x'))
    log = Lab.at(lab.workspace.root).runs.log(folder.id)
    assert log.groups_at() is None and list(log.samples) == [1]


def test_curves_of_few_runs_stay_in_memory(lab, monkeypatch):
    made = [make(lab, f"{n}", *curve([0.1, 0.2])) for n in range(4)]
    monkeypatch.setattr(runs, "MOST_LOGS", 2)
    for folder in made:
        lab.runs.log(folder.id)
    assert list(lab.runs._logs) == [folder.id for folder in made[-2:]]
    assert list(lab.runs.log(made[0].id).steps) == [1, 2]


# looking through


def test_runs_are_found_by_words_and_put_in_order(lab):
    big = Settings().with_values({"model.name": "Qwen/Qwen2.5-1.5B", "data.source": "gsm8k"})
    one = make(lab, "small steps", *curve([0.1, 0.9]))
    two = make(lab, "big model", *curve([0.1, 0.5], "loss"), settings=big)
    three = make(lab, "no word", events.Started(5, 0, {}))
    labels.change(one, tags=["keeper", "slow"], notes="the rate was too high")
    labels.change(three, archived=True)
    known = lab.runs.all()

    def names(words="", order="newest", archived=False):
        return [run.name for run in history.listed(known, words, order, archived)]

    assert sorted(names()) == ["big model", "small steps"]
    assert names(archived=True) == ["no word"]
    assert names("QWEN gsm8k") == ["big model"] == names("model:qwen data:gsm")
    assert names("tag:keep") == ["small steps"] == names("note:rate")
    assert names("tag:qwen") == names("qwen keeper") == []
    assert names("unknown:field") == []
    assert names(order="goal")[0] == "small steps" == names(order="reward")[0]
    assert names(order="name") == ["big model", "small steps"]
    for order in history.ORDERS:
        assert len(names(order=order)) == 2
    assert len(lab.runs.all()) == 3 and two.path.exists()


def test_settings_that_differ_are_told_for_any_number_of_runs(lab):
    made = [make(lab, f"run {n}", settings=Settings().with_values(
        {"train.seed": n % 2, "train.learning_rate": 1e-4, "data.level": n + 1}))
        for n in range(3)]
    many = [lab.runs.get(folder.id) for folder in made]
    found = history.differing([run.settings for run in many])
    assert found == {"data.level": [1, 2, 3], "train.seed": [0, 1, 0]}
    html = settings_html(many)
    assert "2 settings differ between these 3 runs" in html and "run 2" in html
    assert "learning_rate" not in html
    assert "from the defaults" in settings_html(many[:1])
    assert "differ from run 1" in settings_html(many[:2])
    assert "same" in settings_html([many[0], many[0]])
    assert "held-out questions" in " ".join(history.incomparable([r.settings for r in many]))


def test_curves_are_told_for_any_metric_over_steps_or_minutes_and_to_anyone(lab):
    asked = [events.HeldOut(step, {"goal": step / 10, "n": 4}) for step in (0, 2)]
    folder = make(lab, "first", *curve([0.1, 0.2, 0.3])[:-1], *asked)
    (told,) = overlay.curves_of(lab, [[folder.id], "goal/reached", "steps"])["runs"]
    assert (told["x"], told["y"]) == ([1, 2, 3], [0.1, 0.2, 0.3])
    assert "seconds/step" in told["names"]
    (told,) = overlay.curves_of(lab, [[folder.id], "held out", "minutes"])["runs"]
    assert (told["x"], told["y"]) == ([0.0, 0.2], [0.0, 0.2])
    long = make(lab, "long", *curve([0.5] * 3001))
    (told,) = overlay.curves_of(lab, [[long.id], "reward/weighted", "steps"])["runs"]
    assert len(told["x"]) <= overlay.MOST_POINTS and told["x"][-1] == 3001
    for wrong in (None, 7, [], ["a", "b", "c"], [[1, None, "../x", "x" * 999], "a", {}],
                  [[folder.id], [], 3], [[folder.id] * 99, "kl", None]):
        assert len(overlay.curves_of(lab, wrong)["runs"]) <= overlay.MOST_RUNS
    chosen = json.loads(overlay.chosen(lab.runs.all(), folder.id))
    assert chosen["first"] == "goal/reached"
    assert [one["fixed"] for one in chosen["runs"] if one["run"] == folder.id] == [True]


def test_the_table_says_each_run_once_and_nothing_of_it_is_markup(lab):
    settings = Settings().with_values({"model.name": "<b>model</b>"})
    folder = make(lab, "a run", *curve([0.1, 0.9]), settings=settings)
    labels.change(folder, name="<script>'\"", tags=["<i>"], notes="<u>")
    html = table_of(lab.runs.all(), folder.id, [folder.id])
    assert html.count("&lt;script&gt;&#x27;&quot;") == 2  # the button, and whom its tick compares
    assert not any(tag in html for tag in ("<script", "<i>", "<u>", "<b>model"))
    assert "checked" in html and "Word problems" in html and "aria-selected='true'" in html
    assert "from 10% to 90%" in spark_html(lab.runs.get(folder.id).spark)
    assert read_ticked("[") == read_ticked('{"a": 1}') == read_ticked(None) == []
    assert read_ticked('["a", 1]') == ["a"]


# the checkpoint that the export panel stands on


@pytest.fixture
def tab(lab):
    """(the tab, what it shows of news to a page with this run open and this checkpoint picked)."""
    with gr.Blocks() as page:
        tab = build_tab(lab, Form())
        listing.wire(tab, lab, [page.load])
    handler = next(one for one in page.fns.values() if one.targets == [(page._id, "load")])

    def follow(run: str, chosen: str = "") -> dict:
        held = {tab.run: run, tab.export.chosen: chosen}
        return handler.fn(*(held.get(part, part.value) for part in handler.inputs))

    return tab, follow


def test_a_page_that_follows_a_run_stands_on_its_best_checkpoint_until_a_person_picked(
        finished, lab, tab):
    (other, run_id), (tab, follow) = finished, tab
    shutil.copytree(other.workspace.run(run_id).path, lab.workspace.make().root / run_id)
    folder = lab.workspace.run(run_id)

    def stands(chosen: str = "") -> str:
        return follow(run_id, chosen)[tab.export.checkpoint]["value"]

    assert stands() == NEWEST
    ask_held_out(folder, {0: 0.1, 4: 0.9, 6: 0.5})
    assert stands() == BEST  # the page that was open shows another now
    assert tab.export.chosen not in follow(run_id)  # somebody may pick while it answers
    for picked in (NEWEST, "2"):
        assert stands(f"{run_id}/{picked}") == picked
        assert tab.export.chosen not in follow(run_id, f"{run_id}/{picked}")
    shutil.rmtree(folder.checkpoint(2))
    assert stands(f"{run_id}/2") == BEST
    assert follow(run_id, f"{run_id}/2")[tab.export.chosen] == ""
    assert stands("another run/4") == BEST  # what was picked of another run is not of this one
    shown = opened(tab, lab, Look(run_id, chosen="another run/4"))
    assert (shown[tab.export.checkpoint]["value"], shown[tab.export.chosen]) == (BEST, "")


# deleted and moved


def test_a_deleted_run_comes_back_whole_and_is_gone_after_its_days(lab, monkeypatch):
    folder = make(lab, "first", *curve([0.1, 0.2]))
    before = lab.runs.get(folder.id)
    gone = lab.jobs.delete(folder.id)
    assert lab.runs.all() == [] and [one.name for one in lab.trash.all()] == ["first"]
    with pytest.raises(RunError):
        lab.runs.get(folder.id)
    lab.trash.restore(gone.key)
    assert lab.runs.get(folder.id) == before and lab.trash.all() == []
    with pytest.raises(RunError, match="cannot be brought back"):
        lab.trash.restore(gone.key)
    gone = lab.jobs.delete(folder.id)
    shutil.copytree(gone.folder.path, folder.path)
    with pytest.raises(RunError, match="another one with its id"):
        lab.trash.restore(gone.key)
    assert lab.trash.all() and lab.runs.get(folder.id).status == "finished"
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + (KEPT_DAYS + 1) * 86_400)
    lab.trash.tidy()
    assert lab.trash.all() == []


def test_each_deletion_of_a_run_is_news_to_pages_that_did_not_see_it_come_back(lab):
    folder = make(lab, "first", *curve([0.1, 0.2]))
    seen = [chip_of(lab)["history"]]
    for _ in range(2):
        gone = lab.jobs.delete(folder.id)
        seen.append(chip_of(lab)["history"])
        lab.trash.restore(gone.key)
    assert len(set(seen)) == 3 and chip_of(lab)["history"] == seen[0]


@pytest.mark.parametrize("name", ["my best run", "Lauf für Anna", "run (2)", "x" * 60])
def test_a_folder_that_was_given_another_name_is_listed_right_and_keeps_its_adapter(
        finished, lab, name):
    other, run_id = finished
    newer = make(lab, "newer", *curve([0.1, 0.2]), created=4e9)
    path = lab.workspace.root / name
    shutil.copytree(other.workspace.run(run_id).path, path)
    found = lab.runs.all()
    assert [run.id for run in found] == [newer.id, name]  # by when they began, not by their names
    moved = found[1]
    assert moved.status == "finished" and moved.folder.adapter.is_dir()
    assert load_file(moved.folder.saved_at(6).path / "adapter_model.safetensors")
    settings, origin = lineage.forked(moved, "4", lab.workspace)
    assert settings.lora.begin_from == f"{name}:4" and origin.path == moved.folder.checkpoint(4)
    assert begin.problems(settings, lab.workspace) == []


@pytest.mark.parametrize("name", ["a:b", "a/b", ".x", " a", "a\n", "é\u200b", "x" * 201, "ä" * 101])
def test_what_is_no_name_of_a_run_stays_none(lab, name):
    with pytest.raises(RunError, match="There is no run"):
        lab.workspace.make().run(name)


# going on


def test_a_fork_begins_with_the_checkpoint_and_its_lineage_is_told_even_in_a_circle(
        finished, lab, quick):
    other, run_id = finished
    shutil.copytree(other.workspace.run(run_id).path, lab.workspace.make().root / run_id)
    first = lab.runs.get(run_id)
    settings, origin = lineage.forked(first, "4", lab.workspace)
    assert (settings.lora.begin_from, origin.step) == (f"{run_id}:4", 4)
    assert set(first.settings.differences(settings)) == {"lora.begin_from"}
    assert lineage.forked(first, None, lab.workspace)[1].step == 6
    with pytest.raises(LabError, match="no checkpoint at step 5"):
        lineage.forked(first, "5", lab.workspace)
    folder = lab.jobs.start(settings.with_values({"train.max_steps": 1}), "second")
    second = lab.jobs.wait(folder.id)
    assert second.status == "finished", second.problem
    labels.change(first.folder, name="the first one")
    known = {run.id: run for run in lab.runs.all()}
    assert [str(one) for one in lineage.ancestors(known[folder.id], known)] == [
        "the first one, step 4"]
    assert [run.id for run in lineage.children(known[run_id], known.values())] == [folder.id]
    assert "begins from the first one, step 4" in table_of(list(known.values()), "")
    assert "which" not in details_html(known[folder.id], known)
    third = lineage.forked(known[folder.id], None, lab.workspace)[0]
    made = make(lab, "third", settings=third, begin={"run": folder.id, "step": 1})
    known = {run.id: run for run in lab.runs.all()}
    assert "which begins from" in details_html(known[made.id], known)
    known[run_id].record["begin"] = {"run": made.id, "step": 1}  # folders that were renamed
    assert len(lineage.ancestors(known[made.id], known)) == 3
    lab.jobs.delete(run_id)
    known = {run.id: run for run in lab.runs.all()}
    assert str(lineage.origin_of(known[folder.id], known)) == f"{run_id} (no longer here), step 4"


def test_a_run_that_trains_is_renamed_without_a_word_to_its_worker(lab, quick):
    folder = lab.jobs.start(quick.with_values({"train.max_steps": 4}), "before")
    written = folder.settings.read_bytes()
    count = 0
    while lab.runs.get(folder.id).is_active:
        count += 1
        labels.change(folder, name=f"after {count}", notes="x" * count)
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished", run.problem
    assert run.name == f"after {count}" and folder.settings.read_bytes() == written
    lab.jobs.resume(folder.id, 5)  # the record is written anew
    assert lab.jobs.wait(folder.id).name == f"after {count}"
    assert os.path.basename(folder.path).endswith("before")


def command(lab: Lab, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "lab", "runs", "--root", str(lab.workspace.root),
                           *arguments], cwd=PROJECT, capture_output=True, text=True)


def test_the_command_finds_names_deletes_and_brings_back(lab):
    one = make(lab, "one", *curve([0.1, 0.9]))
    two = make(lab, "two", settings=Settings().with_values({"train.seed": 7}))
    told = json.loads(command(lab, "--rename", one.id, "the good one", "--json").stdout)
    assert told["name"] == "the good one" and told["begins_from"] is None
    assert command(lab, "--tag", one.id, "keeper, x").returncode == 0
    found = json.loads(command(lab, "--search", "tag:keeper", "--json").stdout)["runs"]
    assert [(run["run"], run["tags"], run["archived"]) for run in found] == [
        (one.id, ["keeper", "x"], False)]
    assert "the good one" in command(lab).stdout
    differ = json.loads(command(lab, "--differ", one.id, two.id, "--json").stdout)
    assert differ["settings"] == {"train.seed": [Settings().train.seed, 7]}
    gone = json.loads(command(lab, "--delete", two.id, "--json").stdout)
    assert two.id in command(lab, "--deleted").stdout and not two.path.exists()
    assert command(lab, "--restore", gone["deleted"]).returncode == 0 and two.path.exists()
    wrong = command(lab, "--rename", one.id, "x" * 99)
    assert wrong.returncode == 2 and "This name cannot be used" in wrong.stderr
    assert command(lab, "--delete", "nothing").returncode == 1
