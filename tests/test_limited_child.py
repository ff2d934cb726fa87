"""The limited child: each limit really tried, by code that would do harm without it."""

import gc
import os
import subprocess
import sys
import threading

import pytest

from lab.core.limited import fence
from lab.core.limited.run import Child, Ended, Limits, missing
from lab.services.workspace import PROJECT

TRIAL = "lab.core.limited.trial"
QUICK = Limits(seconds=1.0, memory_mb=300, file_mb=1, output_kb=10)
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's fences are Linux's")


def ran(code: str, limits: Limits = QUICK) -> tuple[str, str]:
    """(what went wrong, what it printed) of code in a limited child."""
    with Child(TRIAL, {}, limits) as child:
        child.send(code=code)
        return child.receive()["ran"], child.printed


def test_sound_code_runs_and_its_tests_count():
    with Child(TRIAL, {}, QUICK) as child:
        child.send(code="def twice(x):\n    return 2 * x")
        assert child.receive() == {"ran": ""}
        child.send(tests="assert twice(2) == 4\nassert twice(2) == 5", token="t")
        assert child.receive() == {"passed": 1, "of": 2, "wrong": "assert twice(2) == 5",
                                   "token": "t"}


@pytest.mark.parametrize("code, words", [
    ("import os\nwhile True: os.fork()", "No other process can be started"),
    ("import subprocess; subprocess.run(['ls'])", "No other process can be started"),
    ("import os; os.execv('/bin/ls', ['ls'])", "No other process can be started"),
    ("import os; os.kill(os.getppid(), 9)", "No other process can be reached"),
    ("import os; os.killpg(0, 9)", "No other process can be reached"),
    ("x = bytearray(10**10)", "MemoryError"),
    ("x = []\nwhile True: x.append(bytearray(10**8))", "MemoryError"),
    ("open('big', 'w').write('x' * 2_000_000)", "File too large"),
    ("open({outside!r}, 'w')", "Files can only be written in"),
    ("import os; os.mkdir({outside!r})", "Files can only be written in"),
    ("import os; os.rename({there!r}, 'mine')", "Files can only be written in"),
    ("import os; os.remove({there!r})", "Files can only be written in"),
    ("import os; os.chmod({there!r}, 0)", "Files can only be written in"),
    ("import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')", "no network"),
    ("import socket; socket.socket().connect(('127.0.0.1', 9))", ""),  # refused one way or another
    ("import socket; socket.getaddrinfo('localhost', 80)", "no network"),
    ("import sys; sys.exit(0)", "SystemExit"),
    ("input()", "EOFError"),
    ("1 / 0", "ZeroDivisionError"),
    ("def broken(:", "SyntaxError"),
    ("class E(Exception):\n    def __str__(self): raise self\nraise E", "E"),
], ids=lambda text: text[:40])
def test_what_it_may_not_do_is_refused_in_words(tmp_path, code, words):
    there = tmp_path / "there"
    there.write_text("kept")
    before = list(tmp_path.iterdir())
    wrong, _ = ran(code.replace("{outside!r}", repr(str(tmp_path / "new")))
                   .replace("{there!r}", repr(str(there))))
    assert wrong and words in wrong
    assert list(tmp_path.iterdir()) == before and there.read_text() == "kept"


@pytest.mark.parametrize("code, words", [
    ("while True: pass", "s"),
    ("import time; time.sleep(600)", "did not end within 1 s"),
    ("import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
     "did not end within 1 s"),
    ("import os; os._exit(0)", "ended by itself with status 0"),
    ("import ctypes; ctypes.string_at(0)", "ended by signal"),
    ("import os\nfor n in range(3, 100):\n    try: os.write(n, b'x' * 20_000_000)\n"
     "    except OSError: pass", "replied with more than"),
    ("import os\nfor n in range(3, 100):\n    try: os.close(n)\n    except OSError: pass", "I"),
])
def test_what_does_not_come_back_is_ended_and_why_is_told(code, words):
    with Child(TRIAL, {}, QUICK) as child:
        child.send(code=code)
        with pytest.raises(Ended, match=words):
            child.receive()
            child.receive()  # what it forged for the first one is no reply to a second
        assert not child.alive
        assert not os.path.exists(child._folder.name)


def test_processor_time_is_limited_by_itself():
    """With patience for the clock, the kernel ends it."""
    with Child(TRIAL, {}, Limits(seconds=0.5)) as child:
        child.send(code="while True: pass")
        with pytest.raises(Ended, match="of the processor"):
            child.receive(60)


def test_it_prints_as_much_as_it_likes_and_little_is_kept():
    wrong, printed = ran("print('x' * 10_000_000)")
    assert wrong == "" and 0 < len(printed) <= QUICK.output_kb * 1000


def test_it_inherits_no_secret_and_no_file(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with (tmp_path / "open").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        wrong, printed = ran(
            "import os\nprint(sorted(os.environ), os.path.expanduser('~') == os.getcwd(), "
            f"os.path.exists('/proc/self/fd/{held.fileno()}') and "
            f"os.readlink('/proc/self/fd/{held.fileno()}'))")
    assert wrong == "" and "HF_TOKEN" not in printed and "True" in printed
    assert str(tmp_path) not in printed


@needs_linux
def test_the_kernel_keeps_it_where_python_does_not():
    """ctypes goes around Python's own hook: the system must refuse by itself."""
    assert missing() == ()
    wrong, printed = ran(
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.fork(), libc.socket(2, 1, 0), libc.kill(os.getppid(), 0), "
        "libc.open(b'/tmp/evil', 0o101, 0o644), libc.open(b'/etc/passwd', 0), "
        "libc.unlink(b'/etc/hostname'), libc.open(b'mine', 0o101, 0o644) > 0)")
    assert (wrong, printed.strip()) == ("", "-1 -1 -1 -1 -1 -1 True")


@needs_linux
def test_it_reads_neither_our_environment_nor_our_files(tmp_path):
    secret = tmp_path / "token"
    secret.write_text("secret")
    for path in (secret, f"/proc/{os.getpid()}/environ", PROJECT / "README.md"):
        wrong, _ = ran(f"print(open({str(path)!r}).read())")
        assert "Permission denied" in wrong


@pytest.mark.parametrize("code", [
    "import threading\nt = threading.Thread(target=print)\nt.start(); t.join()",
    "import asyncio\nasync def one(): return 1\nassert asyncio.run(one()) == 1",
    "import tempfile\nwith tempfile.TemporaryFile() as f: f.write(b'x')",
    "import os\nos.mkdir('a'); os.rename('a', 'b'); os.rmdir('b')",
    "import json, re, math, random, datetime, decimal, fractions, statistics, unicodedata",
    "import numpy; assert numpy.ones(3).sum() == 3",
])
def test_honest_code_has_what_it_needs(code):
    assert ran(code, Limits())[0] == ""


def test_it_gives_threads_and_folders_back():
    before = threading.active_count()
    for _ in range(3):
        ran("pass")
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "limited child":
            thread.join(10)
    assert threading.active_count() <= before


WITHOUT_KERNEL = """
import os, sys
from lab.core.limited import fence
fence._landlock = fence._seccomp = lambda *_: False
os.chdir(sys.argv[1])
fence.resource = None
assert fence.put_up({}, os.getcwd(), []) == []
import socket, subprocess
refused = 0
for what in (lambda: subprocess.run(["ls"]), os.fork, lambda: open(sys.argv[2], "w"),
             lambda: os.remove(sys.argv[2]), lambda: os.kill(os.getppid(), 0),
             lambda: socket.create_connection(("127.0.0.1", 9))):
    try:
        what()
    except PermissionError as error:
        refused += "limited child" in str(error)
open("mine", "w").close()
open(os.devnull, "w").close()
print(refused)
"""


def test_where_the_system_keeps_nothing_python_still_refuses(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "theirs").write_text("kept")
    done = subprocess.run([sys.executable, "-c", WITHOUT_KERNEL, str(tmp_path / "own"),
                           str(tmp_path / "theirs")], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout.strip() == "6", done.stderr
    assert (tmp_path / "theirs").read_text() == "kept"


def test_every_fence_has_a_sentence_for_where_it_is_missing():
    from lab.core.limited.run import _LACKS

    assert set(_LACKS) == set(fence.FENCES)
