"""Starts the lab's workers: as forks where the libraries are in memory already, else anew.

The app holds such a process ready (lab/warm.py) where that is possible: on Linux, without a GPU.
A worker then begins at once, instead of importing for ten seconds. How it works is the same.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

import psutil

from lab.core.hardware.machine import Machine
from lab.services.environment import WARM, worker_environment
from lab.services.workspace import PROJECT

OFF = "0"  # of WARM: each worker is a new process
NEEDED = 3 * 2**30  # bytes of free memory, of which the libraries take a sixth


class Forked:
    """A worker that another process has forked for us, used as a subprocess.Popen is."""

    def __init__(self, arguments: list[str], pid: int, channel: socket.socket,
                 stdin: IO[bytes] | None, stdout: IO[bytes] | None) -> None:
        self.args, self.pid, self.stdin, self.stdout, self.stderr = (
            arguments, pid, stdin, stdout, None)
        self.returncode: int | None = None
        self._process: psutil.Process | None = None
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended already
            self._process = psutil.Process(pid)
        self._ended = threading.Event()
        threading.Thread(target=self._hear, args=(channel,), daemon=True,
                         name=f"end of {pid}").start()

    def _hear(self, channel: socket.socket) -> None:
        """Wait for its exit status; where whoever would tell it is gone, for its end."""
        with channel:
            try:
                code = json.loads(channel.recv(256))["status"]
            except (OSError, ValueError):
                with contextlib.suppress(psutil.Error):
                    if self._process is not None:
                        self._process.wait()
                code = 1
        self.returncode = code
        self._ended.set()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status. Raises subprocess.TimeoutExpired."""
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(psutil.Error):  # which knows a number that is used again
            if self._process is not None:
                self._process.send_signal(number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_) -> None:
        for stream in (self.stdin, self.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self.wait()


Started = subprocess.Popen | Forked


def start_worker(arguments: list[str], environment: dict[str, str], *, stdin: int, stdout: int | IO,
                 stderr: int | IO, session: bool = False, anew: bool = False) -> Started:
    """`python -m lab.worker ARGUMENTS` with streams as subprocess.Popen takes them; `session`: in a
    session of its own, which outlives this process. `anew`: not forked."""
    place = os.environ.get(WARM, OFF)
    if not anew and place != OFF:
        with contextlib.suppress(OSError, psutil.Error, ValueError, LookupError):
            return _fork(place, arguments, environment, stdin, stdout, stderr, session)
    return subprocess.Popen(
        [sys.executable, "-m", "lab.worker", *arguments], cwd=PROJECT, env=environment,
        stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=session)


def _fork(place: str, arguments: list[str], environment: dict[str, str], stdin: int,
          stdout: int | IO, stderr: int | IO, session: bool) -> Forked:
    """Raises OSError, ValueError or LookupError where nobody forks there, or not such a worker."""
    with contextlib.ExitStack() as opened:
        def kept(number: int) -> int:
            opened.callback(os.close, number)
            return number

        ours: list[IO[bytes] | None] = [None, None]
        theirs = [0, 0]
        for at, wanted in enumerate((stdin, stdout)):
            if wanted == subprocess.DEVNULL:
                theirs[at] = kept(os.open(os.devnull, os.O_RDWR))
            elif wanted == subprocess.PIPE:
                reads, writes = os.pipe()
                theirs[at] = kept(reads if at == 0 else writes)
                ours[at] = os.fdopen(writes if at == 0 else reads, "wb" if at == 0 else "rb")
            else:
                theirs[at] = wanted if isinstance(wanted, int) else wanted.fileno()
        last = theirs[1] if stderr == subprocess.STDOUT else (
            kept(os.open(os.devnull, os.O_RDWR)) if stderr == subprocess.DEVNULL
            else stderr if isinstance(stderr, int) else stderr.fileno())
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            channel.connect(place)
            request = {"arguments": arguments, "environment": environment, "folder": str(PROJECT),
                       "session": session}
            socket.send_fds(channel, [json.dumps(request).encode()], [*theirs, last])
            pid = json.loads(channel.recv(256))["pid"]
        except BaseException:
            channel.close()
            for stream in filter(None, ours):
                stream.close()
            raise
        return Forked(arguments, pid, channel, *ours)


class Warm:
    """The process that forks this app's workers."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="grpo-lab-"))  # nobody else may enter
        self.place = self.folder / "workers"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lab.warm", str(self.place)], cwd=PROJECT,
            env=worker_environment(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.environ[WARM] = str(self.place)

    @property
    def is_ready(self) -> bool:
        return self.place.exists()

    def close(self) -> None:
        """Its workers go on without it."""
        os.environ.pop(WARM, None)
        self.process.stdin.close()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def warm_up(facts: Machine) -> Warm | None:
    """Import the libraries ahead of the first worker, where that is possible and not turned off."""
    able = sys.platform == "linux" and hasattr(os, "pidfd_open") and not facts.gpus
    if not able or "vllm" in facts.packages or os.environ.get(WARM) or \
            psutil.virtual_memory().available < NEEDED:
        return None
    return Warm()
