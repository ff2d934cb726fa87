"""The app as a user starts it: a real process that serves the page, and refuses what it must."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from lab.services.reach import Reach
from lab.ui.door import Door
from tests.ports import free_port

APP = Path(__file__).resolve().parents[1] / "app.py"
DEADLINE = 60  # seconds until the page is served, on a busy machine


def started(root: Path, *more: str, env: dict | None = None) -> tuple[subprocess.Popen, str]:
    """The app, once it says that it is open, and its address."""
    process = subprocess.Popen(
        [sys.executable, APP, "--port", str(free_port()), "--root", root, *more], cwd=root.parent,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    line = process.stdout.readline()  # ends with the process, at the latest
    assert "GRPO Lab is open at " in line, process.communicate(timeout=DEADLINE)
    return process, re.search(r"http://\S+", line)[0]


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    process, url = started(tmp_path_factory.mktemp("app") / "runs")
    with httpx.Client(base_url=url, timeout=DEADLINE) as client:
        yield process, client
    process.terminate()
    process.wait(DEADLINE)


@pytest.fixture(scope="module")
def config(app) -> dict:
    return app[1].get("/config").raise_for_status().json()


def run_app(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, APP, *arguments], capture_output=True, text=True,
                          timeout=DEADLINE)


def test_the_page_is_served(app):
    answer = app[1].get("/")
    assert answer.status_code == 200
    assert "GRPO Lab" in answer.text


def test_the_page_loads_nothing_from_elsewhere(app):
    page = app[1].get("/").text
    tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page)
    hosts = re.findall(r"(?:src|href)=[\"'](?:https?:)?//([^/\"']+)", "".join(tags))
    assert [host for host in hosts if not host.startswith("127.0.0.1")] == []
    styles = app[1].get("/theme.css").text
    assert not re.search(r"url\(['\"]?(https?:)?//", styles)


def test_the_lab_has_its_tabs_in_order(config):
    tabs = [c["props"]["label"] for c in config["components"] if c["type"] == "tabitem"]
    assert tabs == ["Start", "Model & LoRA", "Data", "Rewards", "Preflight", "Train",
                    "Compare", "Runs & export", "How GRPO works"]


def test_no_connection_is_held_open(config):
    assert config["connect_heartbeat"] is False
    assert not {c["type"] for c in config["components"]} & {"state", "timer", "plot"}


def test_no_component_is_told_that_it_loads_where_no_progress_is_shown(config):
    quiet = [one for one in config["dependencies"] if one["show_progress"] == "hidden"]
    assert len(quiet) > 100 and all(one["show_progress_on"] == [] for one in quiet)


def test_news_that_come_while_news_are_shown_are_shown_after_them(config):
    """What follows several moments would else leave out the one that comes while it answers."""
    follows = [one for one in config["dependencies"] if len(one["targets"]) > 1
               and "load" in {event for _, event in one["targets"]}]
    assert len(follows) >= 5 and {one["trigger_mode"] for one in follows} == {"always_last"}


def test_no_handler_is_part_of_a_public_interface(app, config):
    assert {d["api_visibility"] for d in config["dependencies"]} == {"private"}
    assert app[1].get("/gradio_api/info").json()["named_endpoints"] == {}


def test_only_the_start_button_is_primary_on_the_start_tab(config):
    start = next(c for c in config["components"] if c["props"].get("elem_id") == "start")
    assert start["props"]["variant"] == "primary"


@pytest.mark.parametrize(("headers", "status"), [
    ({"Host": "evil.com"}, 400),
    ({"Host": "evil.com", "Origin": "http://evil.com"}, 400),  # DNS rebinding
    ({"Host": "127.0.0.1.evil.com"}, 400),
    ({"Host": "[::1"}, 400),
    ({"Origin": "http://evil.com"}, 403),
    ({"Origin": "null"}, 403),
    ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
])
def test_foreign_names_and_pages_are_refused(app, headers, status):
    assert app[1].get("/config", headers=headers).status_code == status


def test_a_foreign_page_cannot_call_what_components_call(app):
    answer = app[1].post("/gradio_api/component_server", headers={
        "Origin": "http://evil.com", "Content-Type": "text/plain"}, content="{}")
    assert answer.status_code == 403


@pytest.mark.parametrize(("host", "share", "name", "known"), [
    ("127.0.0.1", False, "127.0.0.1:7860", True),
    ("127.0.0.1", False, "LOCALHOST", True),
    ("127.0.0.1", False, "[::1]:7860", True),
    ("127.0.0.1", False, "192.168.0.7", False),
    ("127.0.0.1", False, "", False),
    ("lab.local", False, "lab.local:7860", True),
    ("0.0.0.0", False, "192.168.0.7:7860", True),
    ("0.0.0.0", False, "evil.com", False),
    ("127.0.0.1", True, "abc.gradio.live", True),
    ("127.0.0.1", False, "abc.gradio.live", False),
])
def test_the_names_that_are_known(host, share, name, known):
    assert Door(None, Reach(host, share=share)).knows(name) is known


@pytest.mark.parametrize("path", ["app.py", "/etc/hosts", "lab/ui/build.py"])
def test_files_are_not_served_by_their_path(app, path):
    assert app[1].get(f"/gradio_api/file={path}").status_code in (403, 404)


@pytest.mark.skipif(sys.platform != "linux", reason="the memory map is readable on Linux only")
def test_the_app_never_loads_torch(app, config):
    maps = [m.path for m in psutil.Process(app[0].pid).memory_maps()]
    assert maps
    assert not [path for path in maps if "torch" in path]


def test_help_is_quick_and_names_the_options():
    done = run_app("--help")
    assert done.returncode == 0
    for option in ("--host", "--port", "--root", "--allow-code", "--share", "--allow-host",
                   "--root-path", "--token", "--data-dir"):
        assert option in done.stdout


def test_a_port_that_is_taken_is_named(app, tmp_path):
    port = app[1].base_url.port
    done = run_app("--port", str(port), "--root", str(tmp_path))
    assert done.returncode == 1
    assert f"Port {port} is taken." in done.stderr
    assert f"--port {port + 1}" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_root_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = run_app("--port", str(free_port()), "--root", str(tmp_path / "file" / "runs"))
    assert done.returncode == 1
    assert f"{tmp_path / 'file' / 'runs'} cannot be written" in done.stderr
    assert "--root" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("port", ["http", "0", "70000"])
def test_a_port_that_is_none_is_wrong_use(port):
    done = run_app("--port", port)
    assert done.returncode == 2
    assert "give a number from 1 to 65535" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal to send")
def test_ctrl_c_ends_it_quietly_and_leaves_no_folder_behind(tmp_path):
    """Also in the moment in which it says that it is open."""
    (tmp_path / "scratch").mkdir()
    process, _ = started(tmp_path / "runs",
                         env=os.environ | {"TMPDIR": str(tmp_path / "scratch")})
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert stderr == ""
    assert not list((tmp_path / "scratch").glob("grpo-lab-*"))


@pytest.mark.skipif(sys.platform != "linux", reason="counts what the kernel tells of each thread")
def test_an_app_that_nobody_asks_leaves_the_processor_alone(app):
    """gradio's own queue is looked at a thousand times a second."""
    def switches() -> int:
        return sum(int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", told.read_text(), re.M)[1])
                   for told in Path(f"/proc/{app[0].pid}/task").glob("*/status"))

    begun, before = time.monotonic(), switches()
    time.sleep(2)  # there is nothing to wait for: that nothing happens is what is looked at
    assert (switches() - before) / (time.monotonic() - begun) < 300
