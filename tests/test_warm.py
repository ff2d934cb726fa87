"""Workers that are forked from a process with the libraries in memory do what new ones do."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest

from lab.core.hardware.allocator import keep_freed_memory
from lab.core.hardware.machine import Gpu
from lab.services import machine, starting
from lab.services.environment import WARM, worker_environment
from lab.services.lab import Lab
from lab.services.starting import Forked, Warm, start_worker
from lab.services.workers import worker_of
from lab.services.workspace import PROJECT
from lab.warm import THREADS, fits
from tests.browser import App
from tests.test_training import start_long, steps_of, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it forks")


@pytest.fixture(scope="module")
def place():
    """Where a process of this module's own forks workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(WARM, raising=False)
        patch.delenv(THREADS, raising=False)
        warm = Warm()
        wait_for(lambda: warm.is_ready or warm.process.poll() is not None, "the imports")
        yield warm
        warm.close()
        assert not warm.folder.exists() and WARM not in os.environ


@pytest.fixture
def forks(place, monkeypatch):
    monkeypatch.setenv(WARM, str(place.place))
    return place


def weights_of(lab: Lab, run_id: str) -> str:
    return hashlib.sha256(
        (lab.workspace.run(run_id).adapter / "adapter_model.safetensors").read_bytes()).hexdigest()


def test_a_forked_worker_learns_what_a_new_one_learns(lab, quick, forks, monkeypatch):
    learnt, parents = [], []
    for where in (str(forks.place), starting.OFF):
        monkeypatch.setenv(WARM, where)
        folder = lab.jobs.start(quick)
        parents.append(worker_of(folder).ppid())
        assert lab.jobs.wait(folder.id).status == "finished", folder.log.read_text()
        learnt.append(weights_of(lab, folder.id))
    assert learnt[0] == learnt[1]
    assert parents == [forks.process.pid, os.getpid()]


def test_a_forked_worker_is_stopped_killed_and_resumed_as_any(lab, quick, forks):
    folder = start_long(lab, quick)
    worker = worker_of(folder)
    assert worker.ppid() == forks.process.pid and os.getsid(worker.pid) == worker.pid
    lab.jobs.kill(folder.id)
    run = lab.jobs.wait(folder.id)
    assert run.status == "stopped" and not worker.is_running()
    last = run.step
    lab.jobs.resume(folder.id)
    wait_for(lambda: lab.runs.get(folder.id).step > last, "a step more")
    lab.jobs.stop(folder.id)
    assert lab.jobs.wait(folder.id).status == "stopped"


def test_another_run_may_start_as_soon_as_one_is_killed(lab, quick, forks):
    for _ in range(4):  # at different moments of its beginning
        folder = lab.jobs.start(quick)
        lab.jobs.kill(folder.id)
        assert worker_of(folder) is None and lab.jobs.runs.active() is None
    folder = start_long(lab, quick)
    lab.jobs.kill(folder.id)
    assert lab.jobs.runs.active() is None


def test_how_a_forked_worker_ended_is_known(forks, tmp_path):
    """It ends by itself, by a signal, and is waited for with and without patience."""
    streams = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    with (tmp_path / "log").open("wb") as log:
        broken = start_worker(["train", str(tmp_path / "nowhere")], worker_environment(),
                              stdout=log, **streams)
    assert isinstance(broken, Forked)
    assert broken.wait() == broken.poll() == 1
    assert "FileNotFoundError" in (tmp_path / "log").read_text()
    waits = start_worker(["chat", "cpu"], worker_environment(), stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with pytest.raises(subprocess.TimeoutExpired):
        waits.wait(0.05)
    assert waits.poll() is None
    waits.kill()
    assert waits.wait() == -signal.SIGKILL
    with waits:  # its pipes are closed
        pass
    assert waits.stdin.closed and waits.stdout.closed
    waits.kill()  # nobody is there any more


def test_a_run_goes_on_where_the_process_that_forked_it_is_killed(lab, quick, monkeypatch):
    monkeypatch.delenv(WARM, raising=False)
    warm = Warm()
    wait_for(lambda: warm.is_ready, "the imports")
    folder = lab.jobs.start(quick.with_values({"train.max_steps": 12}))
    worker = worker_of(folder)
    assert worker.ppid() == warm.process.pid
    warm.process.kill()
    assert lab.jobs.wait(folder.id).status == "finished"
    assert steps_of(lab, folder.id)[-1] == 12 and not worker.is_running()
    folder = lab.jobs.start(quick)  # nobody forks there any more: it is a new process
    assert worker_of(folder).ppid() == os.getpid()
    lab.jobs.kill(folder.id)
    lab.jobs.wait(folder.id)
    warm.close()


@pytest.mark.parametrize("changed", [{"HF_HOME": "/elsewhere"}, {"PYTHONPATH": "/elsewhere"}])
def test_a_worker_of_another_environment_is_a_new_process(forks, changed):
    worker = start_worker(["chat", "cpu"], worker_environment() | changed, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert isinstance(worker, subprocess.Popen)
    worker.kill()
    worker.communicate()


def test_a_fork_computes_with_the_threads_of_its_environment(forks, lab, quick, monkeypatch):
    assert THREADS not in psutil.Process(forks.process.pid).environ()
    monkeypatch.setenv(THREADS, "1")
    folder = lab.jobs.start(quick)
    assert worker_of(folder).ppid() == forks.process.pid
    lab.jobs.wait(folder.id)
    assert lab.runs.log(folder.id).started.facts["threads"] == 1


@pytest.mark.parametrize(("asked", "own", "fit"), [
    ("1", "", True), ("2", "1", True), ("2,1", "2,1", True), ("", "", True),
    ("", "2", False), ("2,1", "2", False), ("0", "2", False), ("many", "", False)])
def test_threads_that_cannot_be_set_later_need_a_new_process(asked, own, fit):
    theirs, ours = ({THREADS: number} if number else {} for number in (asked, own))
    assert fits(theirs, ours) == fit
    assert not fits(theirs | {"HF_HOME": "/elsewhere"}, ours)


def test_a_worker_that_has_ended_before_we_look_is_not_begun_again(forks, tmp_path, monkeypatch):
    """It was reaped by who forked it: its number is no process any more."""
    def gone(pid):
        raise psutil.NoSuchProcess(pid)

    with (tmp_path / "log").open("wb") as log:
        monkeypatch.setattr(starting.psutil, "Process", gone)
        worker = start_worker(["train", str(tmp_path / "nowhere")], worker_environment(),
                              stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    assert isinstance(worker, Forked) and worker.wait() == 1
    worker.kill()
    assert (tmp_path / "log").read_text().count("FileNotFoundError") == 1


@pytest.mark.skipif(not keep_freed_memory(), reason="another C library")
@pytest.mark.parametrize("told", [{}, keep_freed_memory()])
def test_the_allocator_of_a_fork_keeps_what_it_is_told_to_keep(told):
    held = subprocess.run([sys.executable, "-c", (
        "import json, sys, psutil\nfrom lab.core.hardware import allocator\n"
        "allocator.tell(json.loads(sys.argv[1]))\n"
        "hold = lambda: psutil.Process().memory_info().rss\n"
        "before, block = hold(), bytearray(b'x') * 200_000_000\ndel block\n"
        "print(hold() - before)"), json.dumps(told)], cwd=PROJECT, capture_output=True, text=True)
    assert (int(held.stdout) > 150_000_000) == bool(told), held.stderr


def test_the_apps_workers_are_forked_and_outlive_it(tmp_path, quick, monkeypatch):
    monkeypatch.delenv(WARM, raising=False)
    app = App(tmp_path / "runs").start()
    lab = Lab.at(app.root)
    try:
        forker = wait_for(lambda: [child for child in psutil.Process(app.process.pid).children()
                                   if "lab.warm" in child.cmdline()], "the process that imports")[0]
        place = forker.cmdline()[-1]
        wait_for(lambda: os.path.exists(place), "the imports")
        monkeypatch.setenv(WARM, place)
        folder = start_long(lab, quick)
        worker = worker_of(folder)
        assert worker.ppid() == forker.pid
        app.process.kill()  # not in its own good time
        forker.wait()
        assert not os.path.exists(os.path.dirname(place)) and worker.is_running()
        before = lab.runs.get(folder.id).step
        wait_for(lambda: lab.runs.get(folder.id).step > before, "the run to go on")
        lab.jobs.stop(folder.id)
        assert lab.jobs.wait(folder.id).status == "stopped"
    finally:
        app.end()
        for folder in lab.workspace.folders():
            lab.jobs.kill(folder.id)


def test_nothing_is_imported_ahead_for_a_gpu_or_where_it_is_turned_off(tmp_path, monkeypatch):
    facts = machine.look(tmp_path)
    monkeypatch.setenv(WARM, starting.OFF)
    assert starting.warm_up(facts) is None
    monkeypatch.delenv(WARM)
    card = Gpu("NVIDIA L4", 24.0, 23.0, "580.95.05", 8.9)
    assert starting.warm_up(replace(facts, gpus=(card,))) is None
