"""Reading runs: half lines, damaged folders, breaks by a resume, strangers' names."""

import json
import math

import pytest

from lab.core import events
from lab.core.problems import RunError
from lab.core.settings import Settings
from lab.services.run_log import RunLog
from lab.services.runs import Runs
from lab.services.workspace import Workspace


def write(path, *said):
    writer = events.EventWriter(path)
    for event in said:
        writer(event)
    writer.close()


def step(number: int, **metrics) -> events.Step:
    return events.Step(number, {"reward/weighted": number / 10, **metrics})


@pytest.fixture
def run(tmp_path):
    """A run folder with settings and no events yet."""
    folder = Workspace(tmp_path).new_run("A Name, with §!")
    folder.settings.write_text(json.dumps({"settings": Settings().to_dict(), "name": "n"}))
    return folder


def test_every_kind_of_event_survives_its_line():
    for event in (events.Phase("x"), events.Started(3, 0, {"rows": 1}), step(1),
                  events.Samples(1, [{"prompt": "ä\n", "answers": []}]), events.Checkpoint(2),
                  events.Notice("info", "t"), events.Stopped(2), events.Finished(3, 1.5),
                  events.Failed(1, "what", "why", "next")):
        line = events.line_of(event)
        assert line.count("\n") == 1 and events.read_line(line)[1] == event


def test_numbers_that_json_lacks_become_null():
    line = events.line_of(step(1, kl=math.nan, loss=math.inf))
    assert json.loads(line)["metrics"] == {"reward/weighted": 0.1, "kl": None, "loss": None}


def test_a_half_written_last_line_waits_for_its_end(run):
    write(run.events, events.Started(5, 0, {}), step(1))
    whole = events.line_of(step(2)).encode()
    with run.events.open("ab") as f:
        f.write(whole[:20])
    log = RunLog(run.events).refresh()
    assert list(log.steps) == [1] and log.damaged == 0
    with run.events.open("ab") as f:
        f.write(whole[20:])
    assert list(log.refresh().steps) == [1, 2]


def test_a_worker_that_goes_on_after_a_half_line_loses_only_that_line(run):
    write(run.events, events.Started(5, 0, {}), step(1))
    with run.events.open("ab") as f:
        f.write(b'{"event": "step", "ti')
    write(run.events, step(2))
    log = RunLog(run.events).refresh()
    assert list(log.steps) == [1, 2] and log.damaged == 1


def test_damaged_lines_and_unknown_events_are_counted_not_fatal(run):
    run.events.write_bytes(b'\xff\xfe\x00\n[]\n{"event": "newer", "x": 1}\n{"event": "step"}\n\n')
    write(run.events, step(1))
    log = RunLog(run.events).refresh()
    assert list(log.steps) == [1] and log.damaged == 4


def test_a_resume_forgets_the_steps_after_its_checkpoint(run):
    write(run.events, events.Started(5, 0, {}), step(1), step(2), step(3), step(4))
    log = RunLog(run.events).refresh()
    assert log.epoch == 0
    write(run.events, events.Started(5, 2, {}), step(3), step(4))
    log.refresh()
    assert list(log.steps) == [1, 2, 3, 4] and log.epoch == 1 and log.resumed == [2]
    write(run.events, events.Started(5, 1, {}))
    assert log.refresh().resumed == [1]  # the curve has no mark after where it was cut
    write(run.events, step(2), step(3), step(4))
    log.refresh()
    assert list(log.metrics["reward/weighted"]) == [0.1, 0.2, 0.3, 0.4]


def test_metrics_that_come_late_or_miss_are_empty_there(run):
    write(run.events, step(1), step(2, kl=0.5), step(3))
    log = RunLog(run.events).refresh()
    assert log.rows_since(0)["y"]["kl"] == [None, 0.5, None]
    assert log.mean("kl") == 0.5 and log.newest("nothing") is None


def test_a_long_run_is_thinned_and_ends_with_its_last_point(run):
    write(run.events, *(step(n) for n in range(1, 5001)))
    rows = RunLog(run.events).refresh().rows_since(0, most=1000)
    assert len(rows["x"]) <= 1000 and rows["x"][-1] == 5000 and rows["to"] == 5000


def test_a_run_that_ended_without_a_word_has_failed_and_says_so(run):
    write(run.events, events.Started(5, 0, {}), step(1))
    run.log.write_text("something\nthe last line\n")
    found = Runs(Workspace(run.path.parent)).get(run.id)
    assert found.status == "failed" and found.problem.why == "the last line"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": {"train": {"max_steps": -1}}}',
                                     '{"settings": {"new": {}}}'])
def test_a_damaged_folder_is_listed_as_damaged(run, content):
    run.settings.write_text(content)
    (found,) = Runs(Workspace(run.path.parent)).all()
    assert found.status == "damaged" and found.problem.what


@pytest.mark.parametrize("name", ["..", "../x", "/etc", "a/b", "", ".hidden", "none"])
def test_only_the_name_of_a_run_is_a_run(tmp_path, name):
    with pytest.raises(RunError, match="There is no run"):
        Workspace(tmp_path).run(name)


def test_names_become_safe_folders_and_never_clash(tmp_path):
    space = Workspace(tmp_path)
    made = [space.new_run("Ünïcode / .. name").path for _ in range(3)]
    assert len(set(made)) == 3 and all(p.parent == tmp_path for p in made)


def test_a_root_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        Workspace(tmp_path / "file" / "runs").make()


def test_time_is_that_of_training_and_not_of_the_breaks(run, monkeypatch):
    clock = iter([100, 110, 120, 500, 510, 515])  # started, step, stopped; phase, started, step
    monkeypatch.setattr(events.time, "time", lambda: next(clock))
    write(run.events, events.Started(5, 0, {}), step(1), events.Stopped(1), events.Phase("x"),
          events.Started(5, 1, {}), step(2))
    found = Runs(Workspace(run.path.parent)).get(run.id)
    assert found.seconds == 20 + 5


def test_a_run_that_was_ended_at_once_by_its_owner_is_stopped_not_failed(run):
    write(run.events, events.Started(5, 0, {}), step(1))
    run.control.write_text("now\n")
    assert Runs(Workspace(run.path.parent)).get(run.id).status == "stopped"
