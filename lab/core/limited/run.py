"""Runs Python code of others in a limited child: a fresh process that can do little, and not long.

What is covered: an endless loop or a long wait (the process is killed after its time), processor
time, memory, the size of files, writing outside its own empty folder, reading other people's files
(tokens, data, this process's environment), the network, other processes (a fork bomb, signals),
output without end, and secrets of the environment (it has a bare one). On Linux the kernel keeps
these; elsewhere some of them only Python does, and `missing` says which.

What is not covered: this limits accidents and cheap tricks and is no sandbox. The child runs as the
same user under the same kernel, and whoever finds a hole in Python or the kernel is through. It can
use all of one core while its time lasts. Code under test shares its process with the tests: what
is out to forge its result may find a way. Run code of strangers on a machine that you can lose.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lab.core.limited import fence

LAB = Path(__file__).resolve().parents[2]
BEGIN = "from lab.core.limited.child import main; main()"
LONGEST_LINE = 16_000_000  # bytes of one reply
WAITING_LINES = 1000
START = 30.0  # seconds that a busy machine may take to start it
PASSED_ON = ("LD_LIBRARY_PATH", "SYSTEMROOT")  # what Python may need to start at all


@dataclass(frozen=True)
class Limits:
    """How much one child may take. `seconds` are of the clock and of the processor, for each
    reply; memory is its address space; `output_kb` is what is kept of what it prints."""

    seconds: float = 5.0
    memory_mb: int = 2000
    file_mb: int = 10
    output_kb: int = 64


class Ended(Exception):
    """The child ended, or was ended, before it replied. Its text says why."""


class Child:
    """One limited child that serves `module`: JSON objects in, JSON objects out.

    It takes tens of milliseconds to start. It ends with `close`, or when this process does. Not
    for two threads at once.
    """

    def __init__(self, module: str, setup: dict[str, Any], limits: Limits | None = None) -> None:
        """Raises Ended where the child does not start."""
        self.limits = limits or Limits()
        self._folder = tempfile.TemporaryDirectory(prefix="grpo-lab-child-",
                                                   ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [sys.executable, "-c", BEGIN], cwd=self._folder.name,
            env=_bare(self._folder.name), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True)
        self._lines: queue.Queue[bytes | None] = queue.Queue(WAITING_LINES)
        self._asked: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._printed = bytearray()
        self._closed = False
        for work in (self._write, self._read, self._drain):
            threading.Thread(target=work, daemon=True, name="limited child").start()
        self.send(module=module, limits=asdict(self.limits), reads=[str(LAB)], **setup)
        self.fences: list[str] = self.receive(START)["fences"]

    def send(self, **message: Any) -> None:
        """Ask it something; never waits, whether it reads or not."""
        self._asked.put(json.dumps(message, default=str).encode() + b"\n")

    def receive(self, seconds: float | None = None) -> dict[str, Any]:
        """The next reply. Raises Ended, with the child and all it holds gone, where none comes in
        `seconds` (its limit, where they are not given)."""
        patience = self.limits.seconds if seconds is None else seconds
        try:
            line = self._lines.get(timeout=patience)
        except queue.Empty:
            self.close()
            raise Ended(f"It did not end within {patience:g} s.") from None
        if line is None:
            raise Ended(self._end())
        try:
            return json.loads(line)
        except ValueError:
            self.close()
            raise Ended("It wrote over its own reply, or replied with more than "
                        f"{LONGEST_LINE // 1_000_000} MB.") from None

    @property
    def alive(self) -> bool:
        return not self._closed and self._process.poll() is None

    @property
    def printed(self) -> str:
        """What the code printed, up to `output_kb`."""
        return self._printed.decode("utf-8", errors="replace")

    def close(self) -> None:
        """End it at once, and what it started. Its folder is deleted."""
        if self._closed:
            return
        self._closed = True
        if os.name == "nt":
            self._process.kill()
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._asked.put(None)
        self._folder.cleanup()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # Each channel has a thread, so that no child can hold up who asks it: it may read nothing, or
    # print without end. Each ends with its channel, which only it closes.

    def _write(self) -> None:
        with contextlib.suppress(OSError), self._process.stdin as channel:  # `receive` says why
            while line := self._asked.get():
                channel.write(line)
                channel.flush()

    def _read(self) -> None:
        with self._process.stdout as channel:
            while (line := channel.readline(LONGEST_LINE)) and not self._closed:
                self._lines.put(line)
        self._lines.put(None)

    def _drain(self) -> None:
        """Read all that is printed, and keep the beginning."""
        with self._process.stderr as channel:
            while chunk := channel.read1(65536):
                room = self.limits.output_kb * 1000 - len(self._printed)
                self._printed += chunk[:max(0, room)]

    def _end(self) -> str:
        """Why the process is gone."""
        try:
            code = self._process.wait(self.limits.seconds)
        except subprocess.TimeoutExpired:
            code = None  # it has closed its channel and goes on
        self.close()
        if code is None:
            return "It closed the channel that its reply comes by."
        if os.name != "nt" and code == -signal.SIGXCPU:
            return f"It used more than {self.limits.seconds:g} s of the processor."
        if code == -getattr(signal, "SIGKILL", 9):
            return "It was killed, perhaps for lack of memory."
        said = self.printed.strip().splitlines()
        why = f"ended by signal {-code}" if code < 0 else f"ended by itself with status {code}"
        return f"It {why}{f': {said[-1][:300]}' if said else ''}."


def _bare(folder: str) -> dict[str, str]:
    """The environment of a child: nothing of ours. The seed of hashes is fixed, so that the order
    of a set is the same in training and in evaluation."""
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {**kept, "PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder, "TEMP": folder,
            "LANG": "C.UTF-8", "PYTHONPATH": str(LAB.parent), "PYTHONHASHSEED": "0",
            "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1",
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")}


_LACKS = {
    fence.MEMORY: "Memory is not limited.",
    fence.PROCESSOR: "Processor time is not limited by itself; the clock is.",
    fence.FILES: "The size of files is not limited.",
    fence.PROCESSES: "Only Python refuses other processes, and the user's limit of them.",
    fence.NETWORK: "Only Python refuses the network.",
    fence.FOLDER: "Only Python refuses to write outside the child's folder; it can read whatever "
                  "you can read.",
}


@cache
def missing() -> tuple[str, ...]:
    """What the system of this machine does not keep, a sentence each; empty where it keeps all."""
    try:
        with Child("lab.core.limited.trial", {}) as child:
            kept = child.fences
    except Ended as error:
        return (f"The limited child does not start here. {error}",)
    return tuple(text for name, text in _LACKS.items() if name not in kept)
