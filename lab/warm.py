"""A process that has imported the libraries and forks workers: `python -m lab.warm SOCKET`.

Nine of a worker's first ten seconds are imports. Here they are over once; each worker after that is
a fork, which shares the memory of the libraries and begins at once. Who has a worker started so
(services/starting.py) sends its arguments, environment and three streams, and hears its process
number and, at its end, its exit status. Linux only, and not for a GPU: CUDA cannot be used in a
fork of a process that has looked for it. Ends with the process that holds its stdin.
"""

import contextlib
import gc
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import traceback
from pathlib import Path

from lab import worker
from lab.core.hardware import allocator

# What may differ between this process and a worker: read when it is used, or set in the fork.
LATE = ("MALLOC_", "GRPO_LAB_", "GRADIO_", "PYTEST_", "NO_PROXY", "no_proxy")
THREADS = "OMP_NUM_THREADS"
LARGEST = 1 << 20  # bytes of a request


def main(place: str) -> list[str]:
    """Fork workers until stdin closes. Returns in each fork, with the arguments of its worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at the app is for the app to handle
    own = fixed(os.environ)
    importlib.import_module("lab.backends.libraries")
    gc.collect()
    gc.freeze()  # its objects are not touched again: forks share their memory
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(place + ".new")
        listener.listen()
        os.rename(place + ".new", place)  # who finds it there will be answered
        try:
            arguments = serve(listener, own)
        except SystemExit:
            shutil.rmtree(Path(place).parent, ignore_errors=True)
            raise
    return arguments


def serve(listener: socket.socket, own: dict[str, str]) -> list[str]:
    """Answer requests and tell ends. Returns in a fork; raises SystemExit when stdin closes."""
    waiting = selectors.DefaultSelector()
    waiting.register(0, selectors.EVENT_READ, None)
    waiting.register(listener, selectors.EVENT_READ, None)
    while True:
        for key, _ in waiting.select():
            if key.fileobj == 0:
                raise SystemExit(0)
            if key.fileobj is listener:
                client, _ = listener.accept()
                if (arguments := answer(client, own, waiting)) is not None:
                    return arguments
            else:
                tell_end(key.fd, *key.data, waiting)


def answer(client: socket.socket, own: dict[str, str],
           waiting: selectors.BaseSelector) -> list[str] | None:
    """Fork a worker as the client wants it; None here, its arguments in the fork."""
    client.settimeout(5)
    message, streams = b"", []
    with contextlib.suppress(OSError):
        message, streams, _, _ = socket.recv_fds(client, LARGEST, 3)
    try:
        request = json.loads(message)
        if not fits(request["environment"], own) or len(streams) != 3:
            client.send(b'{"refused": "its environment is another"}')
            client.close()
            return None
        if (pid := os.fork()) == 0:
            streams, theirs = [], streams
            try:
                leave(waiting, client)
                become(request, theirs, own)
            except BaseException:
                traceback.print_exc()
                os._exit(1)  # it must not go on as a second one that forks
            return request["arguments"]
        waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, client))
        client.send(json.dumps({"pid": pid}).encode())
    except (OSError, ValueError, LookupError, TypeError):  # the client is gone, or it is no client
        client.close()
    finally:
        for stream in streams:
            os.close(stream)
    return None


def leave(waiting: selectors.BaseSelector, client: socket.socket) -> None:
    """In a fork: give up what is between this process and those that it serves."""
    for key in list(waiting.get_map().values()):
        if isinstance(key.fileobj, socket.socket):
            key.fileobj.close()
        elif key.data is not None:
            os.close(key.fd)
            key.data[1].close()
    waiting.close()
    client.close()


def become(request: dict, streams: list[int], own: dict[str, str]) -> None:
    """In a fork: the process that the client wants, as if it had been started anew."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["session"]:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["lab.worker", *request["arguments"]]
    if (threads := os.environ.get(THREADS)) != own.get(THREADS):
        from lab.backends.libraries import compute_with

        compute_with(int(threads))
    allocator.tell(os.environ)


def tell_end(handle: int, pid: int, client: socket.socket,
             waiting: selectors.BaseSelector) -> None:
    waiting.unregister(handle)
    os.close(handle)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(OSError), client:
        client.send(json.dumps({"status": status}).encode())


def fits(environment: dict[str, str], own: dict[str, str]) -> bool:
    """Whether a new process of this environment would have imported what is imported here. A number
    of threads can be set later; not a list of them, nor what is taken where none is given."""
    theirs, ours = fixed(environment), dict(own)
    asked, given = theirs.pop(THREADS, ""), ours.pop(THREADS, "")
    settable = asked.isdecimal() and int(asked) > 0
    return theirs == ours and (asked == given or settable)


def fixed(environment) -> dict[str, str]:
    """Of an environment, what the libraries may have read when they were imported."""
    return {name: value for name, value in environment.items() if not name.startswith(LATE)}


if __name__ == "__main__":
    worker.work(main(sys.argv[1]))
