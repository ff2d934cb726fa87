"""Pushes an export to the Hub: private unless said otherwise, with a token that is kept nowhere."""

import re
from pathlib import Path

from lab.core.problems import RunError, WorkFailed

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
LOGIN = ("Log in with `hf auth login`, or set HF_TOKEN to a token that may write; on a Space put "
         "`hf_oauth_scopes: [manage-repos]` into its README's head and sign in anew.")


def refuse_name(name: str) -> str:
    """The repository's name. Raises RunError for what is none."""
    name = name.strip()
    if not NAME.fullmatch(name) or ".." in name or "--" in name:
        raise RunError("This is no name of a repository." if name else
                       "The repository has no name yet.",
                       next="Write it as OWNER/NAME, with letters, digits, - and _.")
    return name


def push(folder: Path, name: str, private: bool, token: str) -> str:
    """Make the repository where it is not there, upload the folder, and return its address.

    An empty token takes the local login. A repository that is there keeps its visibility. Raises
    a LabError.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    api = HfApi(token=token or None)
    try:
        made = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder,
                          commit_message="Trained with GRPO Lab")
        return f"{constants.ENDPOINT}/{made.repo_id}"
    except OfflineModeIsEnabled as error:
        raise WorkFailed("The Hub was not asked.", "HF_HUB_OFFLINE is set: this lab stays off the "
                         "network.", "Unset it, then push again. " + KEPT) from error
    except LocalTokenNotFoundError as error:
        raise WorkFailed("Nobody is logged in at the Hub here.", next=f"{LOGIN} {KEPT}") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise WorkFailed(f"The Hub does not let you write to {name}.", _words(error, token),
                             f"{LOGIN} {KEPT}") from error
        raise WorkFailed(f"The Hub refused the push to {name}.", _words(error, token),
                         f"Try again. {KEPT}") from error
    except Exception as error:  # no network, or whatever the Hub's client finds wrong
        raise WorkFailed(f"{name} could not be pushed to the Hub.", _words(error, token),
                         f"Look at the network, then try again. {KEPT}") from error


KEPT = "What was made is kept."


def _words(error: Exception, token: str) -> str:
    """Its first line, without the token whatever it says."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (text.replace(token, "…") if token else text)[:300]
