"""Runs that wait: kept over a restart, started in their order, none in another's way."""

import pytest
from filelock import FileLock

from lab.core.problems import BadSettings
from lab.services.lab import Lab
from lab.ui.tabs.start import busy_html, queue_html


def test_the_next_one_starts_when_nothing_trains(lab, quick):
    quick = quick.with_values({"train.max_steps": 1, "train.save_steps": 1})
    first = lab.jobs.start(quick.with_values({"train.max_steps": 100_000}), "first")
    file = lab.workspace.make().root / "no.csv"
    bad = quick.with_values({"data.source": "file", "data.path": str(file)})
    with pytest.raises(BadSettings):
        lab.queue.add(quick.with_values({"train.max_prompt_length": 4000}))
    file.write_text("question,answer\n" + "a,1\n" * 600)
    assert lab.queue.add(bad, "gone") == 1
    file.unlink()
    assert lab.queue.add(quick, "second <b>") == 2
    assert lab.queue.add(quick, "third") == 3
    assert "behind 3 that wait" in busy_html(lab.runs.active(), 3)

    lab.queue.turn()  # one trains: nothing happens
    again = Lab.at(lab.workspace.root)  # another start of the app finds them
    assert [one.name for one in again.queue.all()] == ["gone", "second <b>", "third"]
    again.queue.remove(again.queue.all()[2].id)
    again.queue.remove("../../etc")

    lab.jobs.kill(first.id)
    lab.jobs.wait(first.id)
    with FileLock(lab.workspace.root / ".start.lock"):  # another run is just being started
        again.queue.turn()
    assert [one.problem for one in again.queue.all()] == [None, None]  # they wait on
    again.queue.turn()
    gone, = again.queue.all()
    assert gone.name == "gone" and "no.csv" in str(gone.problem)
    assert "Could not start" in queue_html(again.queue.all())
    (second,) = [run for run in again.runs.all() if run.name == "second <b>"]
    assert again.jobs.wait(second.id).status == "finished"
    assert "<b>" not in queue_html(again.queue.all()).replace("<b>gone", "")
