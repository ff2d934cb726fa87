"""Opens the lab: `python app.py`. This process serves the page and never imports torch."""

import argparse
import errno
import os
import signal
import socket
import sys
import threading

from lab.core.problems import LabError, RunError
from lab.services.reach import (
    NAMES,
    ROOT_PATH,
    TOKEN,
    Reach,
    environment_before_gradio,
    reach_from,
)
from lab.services.space import Space, serves_at


def main() -> int:
    options = read_options()
    end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end.set())
    environment_before_gradio(options.host)
    from lab.services import machine
    from lab.services.data.places import limit_files
    from lab.services.lab import Lab
    from lab.services.starting import warm_up

    space = Space.from_environment(os.environ)
    lab = Lab.at(options.root or (space and space.root()), options.allow_code)
    try:
        reach = reach_from(os.environ, options.host, options.port, options.share,
                           options.allow_host, options.root_path, options.token,
                           guarded=space is not None)
        lab.workspace.make()
        if not reach.is_local and (space is None or space.open):
            limit_files(lab.workspace.uploads, options.data_dir)
        check_port(reach.host, reach.port)
        from lab.ui.build import launch  # takes seconds: what can be said before is said

        page = launch(lab, reach)
    except LabError as error:
        print(f"GRPO Lab cannot start. {error}", file=sys.stderr)
        return 1
    first, *others = [f"https://{space.hosts[0]}"] if space is not None else (
        [page.share_url] if page.share_url else reach.addresses())
    also = f" and from other machines at {' or '.join(map(reach.link, others))}" if others else ""
    print(f"GRPO Lab is open at {reach.link(first)}{also} "
          "(Ctrl-C ends it; a run that trains goes on)", flush=True)
    if space is not None:
        print(f"This is the Space {space.id}; its runs are in {lab.workspace.root}.", flush=True)
    elif not reach.is_local:
        print(warning(reach, options.data_dir), file=sys.stderr)
    warm = warm_up(machine.look(lab.workspace.root))
    while not end.wait(1):  # in turns, since Windows delivers no signal during a wait
        pass
    lab.chat.close()
    page.close(verbose=False)
    if warm is not None:
        warm.close()
    return 0


def warning(reach: Reach, data_folders: list[str]) -> str:
    """What others can do who reach the page."""
    who = ("Whoever has the token can" if reach.token else
           "No token is asked for: whoever can reach this address can")
    files = " and ".join(["files that were uploaded", *data_folders])
    return (f"{who} train on this machine, use its models, read its runs and {files}, and delete "
            "runs. What is sent is not encrypted, unless a proxy in front of the lab does it."
            if not reach.share else
            f"{who} train on this machine, use its models, read its runs and {files}, and delete "
            "runs.")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="GRPO Lab: teach a language model by rewards.")
    host, number = serves_at(os.environ)
    parser.add_argument("--host", default=host, help="address to serve at (%(default)s)")
    parser.add_argument("--port", type=port, default=number, help="port (%(default)s)")
    parser.add_argument("--root", help="folder of all runs ($GRPO_LAB_HOME, else ./runs)")
    parser.add_argument("--allow-code", action="store_true",
                        help="let reward code of your own run, in a limited child: this limits "
                             "accidents and is no sandbox")
    parser.add_argument("--share", action="store_true", help="also open a public link")
    parser.add_argument("--allow-host", metavar="NAME", action="append", default=[],
                        help="a name by which a proxy or another machine asks for the page, or "
                             f"*.example.org; may be given again (${NAMES}, with commas)")
    parser.add_argument("--root-path", metavar="PATH",
                        help="path under which a reverse proxy shows the page, for example /lab "
                             f"(${ROOT_PATH})")
    parser.add_argument("--token", help="what others must know to come in: by default a new one at "
                        "each start where others can reach the page; 'none' asks nobody "
                        f"(${TOKEN}, which other users of this machine do not see)")
    parser.add_argument("--data-dir", metavar="DIR", action="append", default=[],
                        help="folder whose files those can train on who are not at this machine, "
                             "beside their uploads; may be given again")
    return parser.parse_args()


def port(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 1 to 65535")


def check_port(host: str, port: int) -> None:
    """Raise RunError if the page cannot be served there."""
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
