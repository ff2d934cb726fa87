"""The newest adapter is the one that has learnt longest, and every label says which step it is."""

import hashlib
import json
import shutil
import zipfile

import pytest

from lab.core import events
from lab.core.adapters import RECORD, WEIGHTS, is_whole
from lab.core.problems import RunError
from lab.core.prompts import messages
from lab.services.evaluate import evaluate
from lab.services.export import adapter_zip, zip_name
from lab.services.workers import worker_of
from lab.services.workspace import RunFolder
from lab.ui.compare import panes
from lab.ui.compare.sides import BASE, NEWEST, checkpoints_of
from lab.ui.history.table import table_of
from lab.ui.talk import Talk
from tests.test_compare import to_its_end
from tests.test_training import LONG, start_long, wait_for

QUESTION = "Tom has 3 apples. He buys 4 more. How many apples does Tom have now?"


def sha(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def exported(folder: RunFolder, checkpoint, out) -> tuple[str, str]:
    """(hash of the weights, the card) of an export."""
    with zipfile.ZipFile(adapter_zip(folder, checkpoint, out)) as archive:
        return (hashlib.sha256(archive.read(WEIGHTS)).hexdigest(),
                archive.read("README.md").decode())


def compared(lab, run_id: str, at: str) -> Talk:
    """One question in Compare, base to the left and this checkpoint to the right, to its end."""
    settings = lab.runs.get(run_id).settings.with_values({"sampling.max_tokens": 24})
    return to_its_end(Talk(lab, settings, QUESTION, "7", 1, "[]", ((BASE, NEWEST), (run_id, at))))


def test_a_resumed_run_shows_exports_and_compares_what_it_has_learnt_since(lab, quick, tmp_path):
    folder = start_long(lab, quick)
    lab.jobs.stop(folder.id)
    stopped = lab.jobs.wait(folder.id).step
    before = sha(folder.adapter / WEIGHTS)
    assert folder.newest().step == stopped

    lab.jobs.resume(folder.id, LONG["train.max_steps"])
    wait_for(lambda: (folder.checkpoints() or [0])[-1] > stopped, "a checkpoint after the resume")
    step = folder.saved_at(None).step  # while it trains
    assert step > stopped and exported(folder, step, tmp_path / "a.zip")[0] != before

    worker_of(folder).kill()
    assert lab.jobs.wait(folder.id).status == "failed"
    newest, step = folder.newest(), folder.checkpoints()[-1]
    weights = sha(folder.checkpoint(step) / WEIGHTS)
    assert newest.step == step and sha(newest.path / WEIGHTS) == weights != before
    assert sha(folder.adapter / WEIGHTS) == before  # still there, and still of its own step
    assert sha(folder.adapter_at(stopped) / WEIGHTS) == before

    out = tmp_path / zip_name(folder, newest.step)
    assert out.name == f"{folder.id}-step-{step}.zip"
    found, card = exported(folder, None, out)
    assert found == weights and f"after step {step}; the run was planned for 5000" in card

    run = lab.runs.get(folder.id)
    assert checkpoints_of(run)[0] == (f"Newest · step {step}", NEWEST)
    assert f"step {step}" in panes.title(run) and f">step {step}<" in table_of([run], "")
    assert run.to_dict()["adapter_step"] == step
    talk, by_hand, old = (compared(lab, run.id, at) for at in (NEWEST, str(step), str(stopped)))
    assert f"Adapter of step {step} live" in talk.in_short(1)
    assert f"Adapter of step {stopped} live" in old.in_short(1)
    assert talk.effects[1] == by_hand.effects[1] != old.effects[1]
    assert talk.effects[1] == lab.chat.adapter_effect(
        run.settings, folder.checkpoint(step), messages(QUESTION, run.settings.data.system_prompt))
    assert evaluate(run, n=2)["step"] == step

    lab.jobs.resume(folder.id, step + 1)
    assert lab.jobs.wait(folder.id).status == "finished"
    assert json.loads((folder.adapter / RECORD).read_text()) == {"step": step + 1}
    assert folder.newest().step == step + 1
    assert exported(folder, None, out)[0] == sha(folder.adapter / WEIGHTS)


@pytest.fixture
def old(finished, tmp_path) -> RunFolder:
    """A run as older versions left it: nothing beside the weights tells their step."""
    lab, run_id = finished
    folder = RunFolder(tmp_path / run_id)
    shutil.copytree(lab.workspace.run(run_id).path, folder.path)
    (folder.adapter / RECORD).unlink()
    return folder


def said(folder: RunFolder, *more: events.Event) -> None:
    write = events.EventWriter(folder.events)
    for event in more:
        write(event)
    write.close()


def test_an_adapter_without_a_record_is_of_the_last_stop_that_saved_one(old):
    shutil.rmtree(old.path / "checkpoints")
    assert old.newest().step == 6
    said(old, events.Started(20, 6, {}), events.Step(7, {}), events.Stopped(7))  # it was killed
    assert old.newest().step == 6
    said(old, events.Started(20, 6, {}), events.Step(8, {}), events.Checkpoint(8),
         events.Stopped(8))
    assert old.newest().step == 8
    shutil.copytree(old.adapter, old.checkpoint(9))
    assert old.newest().path == old.checkpoint(9)


def test_where_nothing_tells_the_step_it_is_said_and_a_checkpoint_goes_before(old, tmp_path):
    old.events.unlink()
    assert old.newest().step == 6  # the last checkpoint
    shutil.rmtree(old.path / "checkpoints")
    assert old.newest().step is None
    assert "| Steps | an unknown number of" in exported(old, None, tmp_path / "a.zip")[1]
    assert zip_name(old, None) == f"{old.id}-adapter.zip"


@pytest.mark.parametrize("record", ["", "[]", '{"step": null}', '{"step": -1}', '{"step": "6"}'])
def test_a_damaged_record_is_no_step(old, record):
    shutil.rmtree(old.path / "checkpoints")
    (old.adapter / RECORD).write_text(record)
    assert old.newest().step is None


def test_weights_that_are_cut_off_are_no_adapter(old):
    assert is_whole(old.checkpoint(6))
    whole = (old.checkpoint(6) / WEIGHTS).read_bytes()
    for damaged in (b"", b"half a file", whole[:-1], whole + b"x", bytes(len(whole)),
                    b"\x02" + bytes(7) + b"{}", b"\x02" + bytes(7) + b"[]"):
        (old.checkpoint(6) / WEIGHTS).write_bytes(damaged)
        assert not is_whole(old.checkpoint(6)), damaged[:20]
    assert old.checkpoints() == [2, 4]
    assert old.newest().path == old.adapter  # of step 6 too, and whole
    with pytest.raises(RunError, match="no checkpoint at step 5.*2, 4, 6"):
        old.saved_at(5)
