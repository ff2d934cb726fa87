"""Asks the child of `checker.py`, and ends it when it takes too long: no answer hangs a run.

Covered: a regular expression or a formula that takes for ever, one that fills the memory (Linux), a
parser that crashes. It is not a sandbox, and it runs no program: only what `checker.CHECKS` names.
"""

import atexit
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

PATIENCE = 60.0  # seconds for a child to start and to import a package
ON_POSIX = os.name == "posix"
IDLE = 10  # a busy machine may give the child a tenth of a processor; seconds are the processor's
OUT_OF_TIME = -signal.SIGPROF if ON_POSIX else None  # exit status of a child that used them up
KEPT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "SYSTEMROOT", "TEMP", "TMP")
INSTALL = {"math_verify": "math-verify", "jsonschema": "jsonschema", "referencing": "jsonschema"}

_lock = threading.Lock()
_child: "_Child | None" = None


def ask(check: str, seconds: float, *arguments: Any) -> Any:
    """The verdict of one check of `checker.py`, within so many seconds of the processor (on Windows
    of the clock).

    Raises TimeoutError, ImportError where a package is missing, ValueError where the check itself
    refuses its arguments, and RuntimeError where the child died of them. The next call gets a new
    child where this one is lost.
    """
    with _lock:
        child = _living()
        if check not in child.ready:
            child.ask(check, PATIENCE, None)
            child.ready.add(check)
        return child.ask(check, seconds, arguments)


def _living() -> "_Child":
    global _child
    if _child is None or not _child.lives():
        _child = _Child()
    return _child


class _Child:
    """One process, and a thread that waits for what it says (pipes cannot be waited for on
    Windows)."""

    def __init__(self) -> None:
        self.owner = os.getpid()  # after a fork the pipe is the parent's
        self.ready: set[str] = set()
        self.said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.process = subprocess.Popen(
            # -P: the folder of the script has a `numbers` that is not the standard library's.
            [sys.executable, "-P", str(Path(__file__).with_name("checker.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            encoding="utf-8", env={name: os.environ[name] for name in KEPT if name in os.environ}
            | {"PYTHONIOENCODING": "utf-8:surrogatepass"})
        threading.Thread(target=self._listen, daemon=True).start()

    def lives(self) -> bool:
        return self.owner == os.getpid() and self.process.poll() is None

    def _listen(self) -> None:
        with self.process.stdout as lines:
            for line in lines:
                self.said.put(line)
        self.said.put("")  # it is gone

    def ask(self, check: str, seconds: float, arguments: tuple | None) -> Any:
        try:
            print(json.dumps({"check": check, "seconds": seconds, "arguments": arguments}),
                  file=self.process.stdin, flush=True)
            line = self.said.get(timeout=seconds * (IDLE if ON_POSIX else 1) + 1)
        except queue.Empty:
            self.end()
            raise TimeoutError(f"no verdict within {seconds:g} s") from None
        except OSError:
            line = ""
        if not line:  # it closed its pipe, and is about to be gone
            status = self.process.wait()
            self.end()
            if status == OUT_OF_TIME:
                raise TimeoutError(f"no verdict within {seconds:g} s")
            raise RuntimeError("the process that judges it died")
        answer = json.loads(line)
        if "error" not in answer:
            return answer["verdict"]
        if answer["kind"] in ("ImportError", "ModuleNotFoundError"):
            missing = next((name for module, name in INSTALL.items() if module in answer["error"]),
                           "")
            raise ImportError(f"{answer['error']}" + (f"; run `pip install {missing}`" if missing
                                                      else ""))
        raise ValueError(answer["error"] if answer["kind"] == "ValueError"
                         else f"{answer['kind']}: {answer['error']}")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):  # what could not be written any more
            self.process.stdin.close()


@atexit.register
def _end() -> None:
    if _child is not None and _child.lives():
        _child.end()
