"""Whether the tracker that metrics are sent to is ready, as far as it is known before the start."""

import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

from lab.core.problems import Problem
from lab.core.settings import Settings

FIELD = "train.report_to"
WITHOUT = ("offline", "disabled", "dryrun")  # modes of wandb that need no login


def problems(settings: Settings) -> list[Problem]:
    """A warning where a login is missing: the run goes on without the tracker then."""
    if settings.train.report_to != "wandb" or _wandb_is_ready():
        return []
    return [Problem("wandb is not logged in.", "The run goes on without it.",
                    "Run `wandb login`, or start the lab with WANDB_MODE=offline.", FIELD,
                    "warning")]


def _wandb_is_ready() -> bool:
    """Whether there is a key, or none is needed; the key itself is not looked at."""
    if os.environ.get("WANDB_MODE", "").lower() in WITHOUT or os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    named = os.environ.get("NETRC")
    for path in ([Path(named)] if named else [Path("~/.netrc"), Path("~/_netrc")]):
        try:
            return host in netrc.netrc(path.expanduser()).hosts
        except (OSError, RuntimeError):
            continue
        except netrc.NetrcParseError:
            return True  # wandb itself says what is wrong with it
    return False
