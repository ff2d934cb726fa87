"""What is known about the Hugging Face Space that this is, if it is one: from its environment."""

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

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
    creator: str = ""  # user id of who made it: a person, also where an organisation owns it
    hosts: tuple[str, ...] = ()
    home: Path | None = None  # $GRPO_LAB_HOME
    volume: Path | None = None  # its storage, where there is one
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
        home = environment.get("GRPO_LAB_HOME", "").strip()
        return cls(name, owner, environment.get("SPACE_CREATOR_USER_ID", "").strip(), hosts,
                   Path(home).expanduser().resolve() if home else None, _volume(environment),
                   on_zero_gpu(environment), _is_on(environment, "GRPO_LAB_OPEN"),
                   tuple(one for one in SIGN_IN if not environment.get(one)))

    @property
    def page(self) -> str:
        return f"https://huggingface.co/spaces/{self.id}"

    def lets(self, username: str, user_id: str) -> bool:
        """Whether this person, signed in, may train here."""
        return self.open or bool(
            (username and username.lower() == self.owner.lower())
            or (user_id and user_id == self.creator))

    def root(self) -> Path | None:
        """Where its runs belong; None for the lab's default, which a restart empties."""
        if self.home or self.volume is None or not holds_runs(self.volume):
            return self.home
        return self.volume / FOLDER

    def keeps(self, root: Path) -> bool:
        """Whether runs in this folder outlive a restart."""
        root = root.resolve()
        if self.volume and root.is_relative_to(self.volume.resolve()):
            return True
        return root == self.home and any(os.path.ismount(path) for path in (root, *root.parents)
                                         if path != path.parent)


def holds_runs(volume: Path) -> bool:
    """Whether runs can be written there: storage that is mounted may lack what files need."""
    try:
        with tempfile.TemporaryDirectory(prefix=".grpo-lab-", dir=volume) as folder:
            first, second = Path(folder, "first"), Path(folder, "second")
            for word in ("a", "b"):
                with first.open("a") as file:
                    file.write(word)
            first.replace(second)
            with FileLock(Path(folder, "lock"), timeout=1):
                return second.read_text() == "ab"
    except (OSError, NotImplementedError, Timeout):  # the last two: files cannot be locked there
        return False


def on_zero_gpu(environment: Mapping[str, str]) -> bool:
    return _is_on(environment, "SPACES_ZERO_GPU")


def serves_at(environment: Mapping[str, str]) -> tuple[str, str]:
    """Host and port to serve at where no option says so: every address of a Space, else this
    machine only."""
    if Space.from_environment(environment) is None:
        return "127.0.0.1", PORT
    return "0.0.0.0", environment.get("GRADIO_SERVER_PORT", "").strip() or PORT


def _volume(environment: Mapping[str, str]) -> Path | None:
    told = environment.get("GRPO_LAB_DATA_VOLUME", "").strip()
    volume = Path(told or VOLUME)
    return volume if volume.is_dir() and (told or os.path.ismount(volume)) else None


def _is_on(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").strip().lower() in TRUE
