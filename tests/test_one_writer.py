"""One writer for a run's folder, known to live by its lock: no clock, no process number."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from lab.core import adapters, events, lock
from lab.core.problems import RunError
from lab.services.jobs import Jobs, supervise
from lab.services.workers import is_worked_on, worker_of
from lab.services.workspace import PROJECT, RunFolder
from tests.test_training import start_long, steps_of, wait_for

HASTY = "import sys; from lab import worker; from lab.core import lock; lock.PATIENCE = 0.1; " \
        "sys.exit(worker.main(['train', sys.argv[1]]))"


def second_worker(folder: RunFolder) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", HASTY, str(folder.path)], cwd=PROJECT,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_a_clock_that_is_set_anew_ends_no_run_and_lets_no_second_worker_in(
        lab, quick, monkeypatch):
    folder = start_long(lab, quick)
    # On Linux psutil adds the boot's time of day, which such a jump moves, to the ticks since then.
    clock = time.time
    for jump in (-86_400, 7200):
        monkeypatch.setattr(time, "time", lambda jump=jump: clock() + jump)
        if sys.platform == "linux":
            monkeypatch.setattr(psutil._pslinux, "boot_time", lambda jump=jump: 1e9 + jump)
        again = Jobs(lab.workspace)
        assert again.runs.get(folder.id).status == "running"
        with pytest.raises(RunError, match="still training"):
            again.start(quick)
        with pytest.raises(RunError, match="still running"):
            again.resume(folder.id)
    lab.jobs.stop(folder.id)
    assert lab.jobs.wait(folder.id).status == "stopped"
    # The clock went back: what the first worker said lies in the future of the second's start.
    monkeypatch.setattr(time, "time", lambda: clock() - 86_400)
    lab.jobs.resume(folder.id)
    assert lab.runs.get(folder.id).is_active


@pytest.mark.parametrize("told", [None, "", '{"pid": 1e300}', '{"pid": null, "began": ""}'])
def test_a_worker_is_known_by_its_lock_where_its_number_is_lost(lab, quick, told):
    folder = start_long(lab, quick)
    worker, kept = worker_of(folder), folder.process.read_text()
    folder.process.unlink() if told is None else folder.process.write_text(told)
    assert worker_of(folder) is None and is_worked_on(folder)
    assert lab.runs.get(folder.id).status == "running"
    for refused, words in ((lambda: lab.jobs.start(quick), "still training"),
                           (lambda: lab.jobs.resume(folder.id), "still running"),
                           (lambda: lab.jobs.delete(folder.id), "Stop it first"),
                           (lambda: lab.jobs.kill(folder.id), "cannot be ended from here")):
        with pytest.raises(RunError, match=words):
            refused()
    lab.jobs.stop(folder.id)
    assert lab.jobs.wait(folder.id).status == "stopped"
    assert not worker.is_running() and not is_worked_on(folder)
    folder.process.write_text(kept)


def test_a_second_worker_ends_without_a_word_in_the_run(lab, quick):
    folder = start_long(lab, quick)
    second = second_worker(folder)
    said = folder.events.stat().st_size
    supervise(folder, second, said)  # as whoever started it does
    assert second.returncode == lock.OCCUPIED and "Another worker" in second.stderr.read()
    before = len(steps_of(lab, folder.id))
    wait_for(lambda: len(steps_of(lab, folder.id)) > before, "the first to go on")
    assert lab.runs.get(folder.id).status == "running"
    assert not any(isinstance(event, events.Failed) for event in told(folder))


def test_a_worker_whose_folder_is_deleted_ends_and_puts_nothing_back(lab, quick):
    folder = start_long(lab, quick, **{"train.save_steps": 100_000})
    worker = worker_of(folder)
    while folder.path.exists():  # as a person does: again, where the worker wrote meanwhile
        shutil.rmtree(folder.path, ignore_errors=True)
    worker.wait()
    lab.jobs.watched[folder.id].join()
    assert lab.workspace.folders() == [] and not folder.path.exists()
    assert not lab.runs.active()


def told(folder: RunFolder) -> list[events.Event]:
    lines = folder.events.read_text(encoding="utf-8").splitlines()
    return [read[1] for line in lines if (read := events.read_line(line))]


@pytest.mark.skipif(os.name == "nt", reason="it forks")
def test_the_lock_ends_with_the_process_and_is_not_handed_on_to_its_children(tmp_path):
    path = tmp_path / "lock"
    assert not lock.is_held(path)
    holder = subprocess.Popen([sys.executable, "-c", (
        "import os, sys, time; from pathlib import Path; from lab.core import lock\n"
        "held = lock.hold(Path(sys.argv[1])); child = os.fork()\n"
        "print(child, flush=True) if child else None\ntime.sleep(600)"), str(path)], cwd=PROJECT,
        stdout=subprocess.PIPE, text=True)
    child = int(holder.stdout.readline())
    try:
        assert lock.is_held(path) and lock.is_held(path)
        holder.kill()
        holder.wait()
        assert psutil.pid_exists(child) and not lock.is_held(path)
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.fixture
def stopped(finished, lab) -> RunFolder:
    """A run of this test's own with sound checkpoints at 2, 4 and 6 of 6 steps."""
    other, run_id = finished
    lab.workspace.make()
    folder = RunFolder(lab.workspace.root / run_id)
    shutil.copytree(other.workspace.run(run_id).path, folder.path)
    assert adapters.newest_sound(folder.path) == (6, {})
    return folder


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_newest_checkpoint_is_set_aside_and_said_and_an_older_one_is_resumed(
        lab, stopped):
    flip(stopped.checkpoint(6) / "optimizer.pt")
    cut(stopped.checkpoint(4) / "adapter_model.safetensors")
    lab.jobs.resume(stopped.id, 7)
    run, log = lab.jobs.wait(stopped.id), lab.runs.log(stopped.id)
    assert run.status == "finished" and list(log.steps) == [1, 2, 3, 4, 5, 6, 7]
    assert log.started.resumed_from == 2
    first, second = (notice for notice in log.notices if notice.level == "warning")
    assert "Checkpoint 6 is damaged: optimizer.pt" in first.text
    assert "Checkpoint 4 is damaged: adapter_model.safetensors" in second.text
    assert all("goes on from step 2" in one.text for one in (first, second))
    assert sorted(p.name for p in (stopped.path / "checkpoints").glob("*-*")) == [
        "damaged-4", "damaged-6", "step-2", "step-4", "step-6", "step-7"]


def test_where_no_checkpoint_is_sound_nothing_is_begun_anew(lab, stopped):
    for step in (2, 4, 6):
        cut(stopped.checkpoint(step) / "scheduler.pt")
    with pytest.raises(RunError, match="no checkpoint to resume from.*scheduler.pt"):
        lab.jobs.resume(stopped.id, 7)
    worker = second_worker(stopped)  # nor by the worker, where nobody has looked before
    assert worker.wait() == 1
    run = lab.runs.get(stopped.id)
    assert run.status == "failed" and "No checkpoint of this run can be read" in run.problem.what


@pytest.mark.parametrize(("name", "content", "words"), [
    ("trainer_state.json", b"", "trainer_state|Expecting"),
    ("trainer_state.json", b'{"global_step": 4}', "another step"),
    ("trainer_state.json", b"[" * 100_000, "recursion"),
    ("trainer_state.json", None, "No such file"),
    ("adapter_config.json", b"[]", "no settings"),
    ("adapter_model.safetensors", b"", "not whole"),
    ("optimizer.pt", None, "optimizer is missing"),
    ("optimizer.pt", b"", "optimizer.pt cannot be read"),
    ("rng_state.pth", bytes(1000), "rng_state.pth cannot be read"),
])
def test_what_is_wrong_with_a_checkpoint_is_named(stopped, name, content, words):
    file = stopped.checkpoint(6) / name
    file.unlink() if content is None else file.write_bytes(content)
    step, damaged = adapters.newest_sound(stopped.path)
    assert step == 4 and list(damaged) == [6]
    assert re.search(words, damaged[6]), damaged[6]
