"""Each run is read alone: what is damaged is shown as damaged, and stands in no other's way."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.core import events
from lab.core.settings import Settings
from lab.services import history
from lab.services.lab import Lab
from lab.services.workspace import PROJECT, RunFolder
from lab.ui.compare.sides import checkpoints_of, newest_with_adapter
from lab.ui.header import chip_of
from lab.ui.history import overlay
from lab.ui.history.details import details_html, settings_html
from lab.ui.history.table import table_of
from lab.ui.live import Feed
from lab.ui.tabs import start

NOBODY = 65534
DEEP = "[" * 100_000
LONG = "9" * 400


def make(root: Path, run_id: str, events_text: str | None = None, **record) -> RunFolder:
    """A run whose settings.json has these values, and whose events.jsonl is this text."""
    folder = RunFolder(root / run_id)
    folder.path.mkdir(parents=True)
    folder.settings.write_text(json.dumps({"settings": Settings().to_dict(), **record}))
    if events_text is not None:
        folder.events.write_text(events_text)
    return folder


def sound(root: Path) -> RunFolder:
    said = (events.Started(3, 0, {}), events.Step(1, {"reward/weighted": 0.5}),
            events.Finished(1, 1.0))
    return make(root, "20200101-000000-sound", "".join(map(events.line_of, said)), name="sound",
                created=1.6e9)


def everywhere(lab: Lab) -> list:
    """Whatever lists or shows runs; the runs come back."""
    found = lab.runs.all()
    assert lab.runs.active() is None
    start.runs_html(found)
    table_of(found, "")
    settings_html(found)
    for order in history.ORDERS:
        assert len(history.listed(found, "", order)) == len(found)
    overlay.curves_of(lab, [[one.id for one in found], "reward/weighted", "minutes"])
    overlay.chosen(found, "")
    chip_of(lab)
    newest_with_adapter(lab)
    feed = Feed(lab)
    listed = feed.listing([])
    assert [one["run"] for one in listed] == [one.id for one in found]
    for one in found:
        json.dumps([one.to_dict(), feed.tick([one.id, "", 0, 0, 0]), feed.history([one.id])],
                   allow_nan=False)
        details_html(one, None)
        checkpoints_of(one)
    return found


@pytest.mark.parametrize("record", [
    {"created": 1e300}, {"created": -1}, {"created": "now"}, {"created": None},
    {"created": float("nan")}, {"created": float("inf")}, {"name": 7}, {"name": ["a"]},
    {"notes": "text"}, {"settings": None}, {"settings": {"train": {"max_steps": int(LONG)}}},
    {"settings": {"train": {"learning_rate": 1e999}}}, {"settings": {"train": 3}}])
def test_what_a_record_cannot_hold_is_damage_of_this_run_alone(tmp_path, record):
    sound(tmp_path)
    make(tmp_path, "20300101-000000-damaged", **{"name": "x", "created": 1.7e9} | record)
    damaged, whole = everywhere(Lab.at(tmp_path))
    assert damaged.status == "damaged" and damaged.problem.what
    assert (whole.name, whole.status) == ("sound", "finished")


@pytest.mark.parametrize("text", ["", "{", DEEP, '{"a":' * 1000, "\udcff", "null"],
                         ids=lambda text: ascii(text[:20]))
def test_settings_that_are_no_settings_are_damage_of_this_run_alone(tmp_path, text):
    sound(tmp_path)
    folder = make(tmp_path, "20300101-000000-damaged")
    folder.settings.write_bytes(text.encode("utf-8", "surrogateescape"))
    damaged, whole = everywhere(Lab.at(tmp_path))
    assert damaged.status == "damaged" and whole.status == "finished"


@pytest.mark.parametrize("line", [
    '{"event": "step", "time": 1, "step": null, "metrics": {}}',
    '{"event": "step", "time": 1, "step": true, "metrics": {}}',
    '{"event": "step", "time": 1, "step": -1, "metrics": {}}',
    '{"event": "step", "time": 1, "step": ' + LONG + ', "metrics": {}}',
    '{"event": "step", "time": 1, "step": 2, "metrics": [1]}',
    '{"event": "step", "time": 1e300, "step": 2, "metrics": {}}',
    '{"event": "step", "time": NaN, "step": 2, "metrics": {}}',
    '{"event": "started", "time": 1, "steps": "3", "resumed_from": 0, "facts": {}}',
    '{"event": "started", "time": 1, "steps": 3, "resumed_from": 0, "facts": null}',
    '{"event": "finished", "time": 1, "step": 1, "seconds": null}',
    '{"event": "failed", "time": 1, "step": 1, "what": 3}',
    '{"event": "notice", "time": 1, "level": "info", "text": null}',
    '{"event": "samples", "time": 1, "step": 1, "groups": {}}',
    '{"event": ["step"], "time": 1}', DEEP, "7", "[]"], ids=lambda line: line[:70])
def test_a_damaged_line_is_counted_and_the_others_are_read(tmp_path, line):
    folder = sound(tmp_path)
    kept = folder.events.read_text()
    first, rest = kept.split("\n", 1)
    folder.events.write_text(f"{first}\n{line}\n{rest}")
    lab = Lab.at(tmp_path)
    (whole,) = everywhere(lab)
    log = lab.runs.log(folder.id)
    assert whole.status == "finished" and list(log.steps) == [1] and log.damaged == 1


@pytest.mark.parametrize("value", ['"text"', "1e999", "-Infinity", "NaN", LONG, "null", "{}"],
                         ids=lambda value: value[:9])
def test_a_metric_that_is_no_number_is_no_point(tmp_path, value):
    folder = sound(tmp_path)
    lines = folder.events.read_text().splitlines()
    lines[1:2] = [line.replace("VALUE", value) for line in (
        '{"event": "step", "time": 1, "step": 1, "metrics": {"loss": VALUE, "kl": 1}}',
        '{"event": "held_out", "time": 1, "step": 1, "metrics": {"goal": VALUE}}')]
    folder.events.write_text("\n".join(lines) + "\n")
    lab = Lab.at(tmp_path)
    everywhere(lab)
    log = lab.runs.log(folder.id)
    assert log.newest("loss") is None and log.newest("kl") == 1
    assert log.held_out == {1: {"goal": None}} and log.damaged == 0


@pytest.mark.parametrize("text", ["", "[]", '{"pid": -1}', '{"pid": 1e300, "began": ""}', DEEP],
                         ids=lambda text: text[:20])
def test_a_damaged_record_of_a_worker_is_no_worker(tmp_path, text):
    folder = sound(tmp_path)
    folder.process.write_text(text)
    folder.control.write_bytes(b"\xff")
    (whole,) = everywhere(Lab.at(tmp_path))
    assert whole.status == "finished"


@contextmanager
def as_somebody_else():
    """Root may read everything: whoever runs these tests as root does this as nobody."""
    root = os.name != "nt" and os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.skipif(os.name == "nt", reason="folders have no such rights there")
def test_a_folder_that_may_not_be_read_is_shown_as_that():
    root = Path(tempfile.mkdtemp())  # pytest's own can be read by its owner only
    try:
        root.chmod(0o755)
        sound(root)
        locked = make(root, "20300101-000000-locked", "")
        half = make(root, "20310101-000000-half", "")
        half.events.write_text("{}\n")
        half.events.chmod(0)
        locked.path.chmod(0)
        with as_somebody_else():
            first, second, whole = everywhere(Lab.at(root))
        assert (first.status, second.status, whole.status) == ("damaged", "damaged", "finished")
        assert "Permission denied" in first.problem.why
        assert "Permission denied" in second.problem.why
    finally:
        for path in root.iterdir():
            path.chmod(0o755)
        shutil.rmtree(root)


def test_the_commands_list_damaged_runs_and_a_run_starts_beside_them(lab, quick):
    root = lab.workspace.make().root
    make(root, "20300101-000000-name", name=7)
    make(root, "20310101-000000-time", created=1e300)
    made = make(root, "20320101-000000-step",
                '{"event": "step", "time": 1, "step": null, "metrics": {}}\n')
    folder = lab.jobs.start(quick.with_values({"train.max_steps": 1}))
    assert lab.jobs.wait(folder.id).status == "finished"
    done = subprocess.run([sys.executable, "-m", "lab", "runs", "--root", str(root), "--json"],
                          cwd=PROJECT, capture_output=True, text=True)
    told = {one["run"]: one["status"] for one in json.loads(done.stdout)["runs"]}
    assert told == {"20300101-000000-name": "damaged", "20310101-000000-time": "damaged",
                    made.id: "failed", folder.id: "finished"}
    for run_id in told:
        done = subprocess.run([sys.executable, "-m", "lab", "doctor", run_id, "--root", str(root)],
                              cwd=PROJECT, capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
