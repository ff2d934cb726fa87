"""What is known about the Hugging Face Space that this is, if it is one: from its environment."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

VOLUME = "/data"  # where a Space's storage is mounted, unless GRPO_LAB_DATA_VOLUME says otherwise
FOLDER = "grpo-lab"  # of the volume
PORT = "7860"
SIGN_IN = ("OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES", "OPENID_PROVIDER_URL")
TRUE = ("1", "t", "true", "yes", "on")


@dataclass(frozen=True)
class Space:
    """One Space: whose it is, by which names it is reached, and what stays after a restart."""

    id: str  # owner/name
    owner: str
    creator: str = ""  # user id of who made it, which is a person where the owner is not
    hosts: tuple[str, ...] = ()
    root: Path | None = None  # folder of the runs; None for the lab's default
    persistent: bool = False
    zero_gpu: bool = False
    open: bool = False  # the owner lets everybody do everything
    without: tuple[str, ...] = ()  # variables of the sign-in that are not set

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Space | None":
        """The Space that these variables tell of; None on any other machine."""
        name = environment.get("SPACE_ID", "").strip()
        if environment.get("SYSTEM") != "spaces" or "/" not in name:
            return None
        owner = environment.get("SPACE_AUTHOR_NAME", "").strip() or name.split("/")[0]
        # Its own address, and a domain of the owner's beside it.
        told = (host.strip().lower() for host in environment.get("SPACE_HOST", "").split(","))
        own = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".hf.space"
        hosts = tuple(dict.fromkeys(host for host in (*told, own) if host))
        root, persistent = _root(environment)
        return cls(name, owner, environment.get("SPACE_CREATOR_USER_ID", "").strip(), hosts, root,
                   persistent, on_zero_gpu(environment), _is_on(environment, "GRPO_LAB_OPEN"),
                   tuple(one for one in SIGN_IN if not environment.get(one)))

    @property
    def page(self) -> str:
        return f"https://huggingface.co/spaces/{self.id}"

    def lets(self, username: str, user_id: str) -> bool:
        """Whether this person, signed in, may train here."""
        return self.open or bool(
            (username and username.lower() == self.owner.lower())
            or (user_id and user_id == self.creator))


def on_zero_gpu(environment: Mapping[str, str]) -> bool:
    return _is_on(environment, "SPACES_ZERO_GPU")


def serves_at(environment: Mapping[str, str]) -> tuple[str, str]:
    """Host and port to serve at where no option says so: all addresses on a Space, else this
    machine only."""
    if Space.from_environment(environment) is None:
        return "127.0.0.1", PORT
    return "0.0.0.0", environment.get("GRADIO_SERVER_PORT", "").strip() or PORT


def _root(environment: Mapping[str, str]) -> tuple[Path | None, bool]:
    """Where the runs go, and whether that outlives a restart of the Space."""
    told = environment.get("GRPO_LAB_DATA_VOLUME", "").strip()
    volume = Path(told or VOLUME)
    mounted = volume.is_dir() and os.access(volume, os.W_OK) and (
        bool(told) or os.path.ismount(volume))
    if home := environment.get("GRPO_LAB_HOME", "").strip():
        folder = Path(home).expanduser().resolve()
        inside = mounted and folder.is_relative_to(volume.resolve())
        return folder, inside or any(os.path.ismount(path) for path in (folder, *folder.parents)
                                     if path != path.parent)
    return (volume / FOLDER, True) if mounted else (None, False)


def _is_on(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").strip().lower() in TRUE
