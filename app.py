"""Opens the lab: `python app.py`. This process serves the page and never imports torch."""

import argparse
import errno
import os
import signal
import socket
import sys
import threading

from lab.services.space import Space, serves_at


def main() -> int:
    options = read_options()
    end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end.set())
    # Before gradio is imported: nothing is sent anywhere, whatever the environment says.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1",
                   "DO_NOT_TRACK": "1"}
    from lab.core.problems import LabError
    from lab.services.lab import Lab

    space = Space.from_environment(os.environ)
    lab = Lab.at(options.root or (space and space.root()), options.allow_code)
    try:
        lab.workspace.make()
        check_port(options.host, options.port)
        from lab.ui.build import launch  # takes seconds: what can be said before is said

        page, url = launch(lab, options.host, options.port, options.share)
    except LabError as error:
        print(f"GRPO Lab cannot start. {error}", file=sys.stderr)
        return 1
    print(f"GRPO Lab is open at {url} (Ctrl-C ends it; a run that trains goes on)", flush=True)
    if space is not None:
        print(f"This is the Space {space.id}; its runs are in {lab.workspace.root}.", flush=True)
    elif options.share or options.host not in ("127.0.0.1", "localhost", "::1"):
        print("Whoever can reach this address can train on this machine and read its data sets.",
              file=sys.stderr)
    while not end.wait(1):  # in turns, since Windows delivers no signal during a wait
        pass
    lab.chat.close()
    page.close(verbose=False)
    return 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="GRPO Lab: teach a language model by rewards.")
    host, number = serves_at(os.environ)
    parser.add_argument("--host", default=host, help="address to serve at (%(default)s)")
    parser.add_argument("--port", type=port, default=number, help="port (%(default)s)")
    parser.add_argument("--root", help="folder of all runs ($GRPO_LAB_HOME, else ./runs)")
    parser.add_argument("--allow-code", action="store_true",
                        help="allow own reward code; this version has none, so it changes nothing")
    parser.add_argument("--share", action="store_true",
                        help="also open a public link: who has it can train on this machine")
    return parser.parse_args()


def port(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 1 to 65535")


def check_port(host: str, port: int) -> None:
    """Raise RunError if the page cannot be served there."""
    from lab.core.problems import RunError

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if os.name != "nt":  # there it would allow to share a port that is taken
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise RunError(
                f"Port {port} is taken." if taken else f"{host}:{port} cannot be used.",
                "" if taken else f"{error.strerror or error}.",
                f"Take another one, for example --port {port % 65535 + 1}." if taken
                else "Give another address with --host, or another port with --port.") from error


if __name__ == "__main__":
    sys.exit(main())
