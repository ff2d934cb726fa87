"""How the page is reached: at which address, by which names, with which token."""

import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil

from lab.core.problems import BadSettings

LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::")
NO_TOKEN = "none"
NAMES = "GRPO_LAB_HOSTS"  # variables that stand for --allow-host, --root-path and --token
ROOT_PATH = "GRPO_LAB_ROOT_PATH"
TOKEN = "GRPO_LAB_TOKEN"
SHORTEST_TOKEN = 8  # characters of one that a person chose


@dataclass(frozen=True)
class Reach:
    """Where the page is served and how others come to it.

    `names` are further names by which it may be asked for, such as a reverse proxy's; one that
    begins with "*." stands for every name that ends so. `root_path` is the path under which a
    reverse proxy shows it, or its whole URL. Without a `token` nobody is asked for one.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    share: bool = False
    names: tuple[str, ...] = ()
    root_path: str = ""
    token: str = ""

    @property
    def is_local(self) -> bool:
        """Whether only people of this machine come to it."""
        return self.host in LOOPBACK and not self.share and not self.names

    @property
    def path(self) -> str:
        """The path part of `root_path`: "" or "/lab"."""
        return urlsplit(self.root_path).path.rstrip("/")

    def allows(self, name: str) -> bool:
        """Whether this is one of the further names."""
        return any(name == one or one.startswith("*.") and name.endswith(one[1:])
                   for one in self.names)

    def link(self, address: str) -> str:
        """An address with the token, to be opened by a click."""
        return f"{address.rstrip('/')}/?token={self.token}" if self.token else address

    def addresses(self) -> list[str]:
        """URLs that work as they stand, this machine's own first."""
        if "://" in self.root_path:
            return [self.root_path.rstrip("/")]
        first = {"0.0.0.0": "localhost", "::": "::1"}.get(self.host, self.host)
        others = _own_addresses(self.host == "::") if self.host in EVERYWHERE else []
        return [f"http://{bracketed(one)}:{self.port}{self.path}" for one in (first, *others)]


def reach_from(environment: Mapping[str, str], host: str, port: int, share: bool = False,
               names: Sequence[str] = (), root_path: str | None = None, token: str | None = None,
               guarded: bool = False) -> Reach:
    """What the options and these variables say together.

    Where others than people of this machine come to the page and nothing `guarded` it already (a
    Space does), a token is made, unless one was given or "none". Raises BadSettings.
    """
    told = [*names, *environment.get(NAMES, "").split(",")]
    found = Reach(host, port, share, tuple(dict.fromkeys(filter(None, map(_name, told)))),
                  _root_path(environment.get(ROOT_PATH, "") if root_path is None else root_path))
    token = environment.get(TOKEN, "").strip() if token is None else token.strip()
    if not token and not guarded and not found.is_local:
        token = secrets.token_urlsafe(24)
    elif token.lower() == NO_TOKEN:
        token = ""
    elif token and (len(token) < SHORTEST_TOKEN or not _is_plain(token)):
        raise BadSettings("This token cannot be used.", f"It must be at least {SHORTEST_TOKEN} "
                          "letters, digits, '-', '_', '.' or '~', so that it fits into an address "
                          "and is not guessed.", f"Give another one, or '{NO_TOKEN}' to ask nobody "
                          "for it.")
    return Reach(found.host, found.port, found.share, found.names, found.root_path, token)


def past_the_proxy(environment: Mapping[str, str], host: str) -> dict[str, str]:
    """Variables with which this machine's own addresses are asked without a proxy: gradio asks its
    own page whether it is up, and workers talk to each other."""
    told = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    listed = [one.strip() for one in told.split(",") if one.strip()]
    wanted = (*LOOPBACK, *([] if host in EVERYWHERE else [host]))
    value = ",".join(dict.fromkeys((*listed, *wanted)))
    return {"no_proxy": value, "NO_PROXY": value}


def bracketed(host: str) -> str:
    """A host as addresses write it."""
    return f"[{host}]" if ":" in host else host


def _name(told: str) -> str:
    """A host name as requests carry it: a URL or a port around it does no harm."""
    text = told.strip().lower()
    if not text:
        return ""
    try:
        name = urlsplit(text if "://" in text else f"//{text}").hostname or ""
    except ValueError:
        name = ""
    bare = name.removeprefix("*.")
    if not bare or "*" in bare or any(c.isspace() for c in bare) or (
            name.startswith("*.") and "." not in bare):
        raise BadSettings(f"'{told.strip()}' is no name of a host.", "",
                          "Give it as the browser shows it, for example lab.example.org, or "
                          "*.example.org for all that end so.")
    return name


def _root_path(told: str) -> str:
    text = told.strip().rstrip("/")
    if text and not text.startswith(("/", "http://", "https://")):
        raise BadSettings(f"'{told.strip()}' is no path.", "",
                          "Give it with a slash first, for example --root-path /lab.")
    return text


def _is_plain(text: str) -> bool:
    return all(c.isascii() and (c.isalnum() or c in "-_.~") for c in text)


def _own_addresses(of_ip6: bool) -> list[str]:
    """Addresses of this machine that others of its network may know; none where it tells none."""
    kind = socket.AF_INET6 if of_ip6 else socket.AF_INET
    try:
        up = {name for name, state in psutil.net_if_stats().items() if state.isup}
        found = [one.address for name, listed in psutil.net_if_addrs().items() if name in up
                 for one in listed if one.family == kind]
    except (OSError, psutil.Error):
        return []
    return [one for one in dict.fromkeys(found)
            if not one.startswith(("127.", "169.254.", "172.17.0.", "fe80", "::1"))][:3]


def environment_before_gradio(host: str) -> None:
    """Set what gradio reads when it is imported: nothing is sent anywhere, whatever the
    environment says, and its own page is asked without a proxy."""
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1",
                   "DO_NOT_TRACK": "1", "GRADIO_ANALYTICS_MAX_EVENTS": "100",
                   **past_the_proxy(os.environ, host)}
