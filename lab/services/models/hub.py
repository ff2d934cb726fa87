"""Models of the Hub: what was downloaded before, what is asked of it, and what its refusals mean.

huggingface_hub finds a token by itself (HF_TOKEN, or what `hf auth login` has kept); the lab never
reads, shows or keeps one.
"""

from pathlib import Path

from lab.core.problems import UNKNOWN, BadModel, explain
from lab.core.settings import STARTER
from lab.services.data.hub import CONNECT_SECONDS, UNREACHABLE
from lab.services.models.facts import FIELD, ModelFacts, facts_of
from lab.services.models.files import CONFIG, SMALL

LOG_IN = "log in with `hf auth login` (or set HF_TOKEN)"


def page_of(name: str) -> str:
    return f"https://huggingface.co/{name}"


def folder_in_cache(name: str) -> Path | None:
    """The folder of the local cache with what was downloaded of a model."""
    import huggingface_hub

    try:
        found = huggingface_hub.try_to_load_from_cache(name, CONFIG)
    except ValueError:  # the Hub has no such names
        return None
    return Path(found).parent if isinstance(found, str) else None


def cached(name: str) -> ModelFacts | None:
    """The facts of a model of the Hub that was downloaded before."""
    folder = folder_in_cache(name)
    return facts_of(name, "hub cache", folder) if folder else None


def fetched(name: str) -> ModelFacts:
    import huggingface_hub

    try:
        info = huggingface_hub.HfApi().model_info(name, timeout=CONNECT_SECONDS)
        there = {file.rfilename for file in info.siblings or ()}
        # Known by what it is called now: the Hub leads from old names to new ones.
        paths = {file: Path(huggingface_hub.hf_hub_download(info.id, file,
                                                            etag_timeout=CONNECT_SECONDS))
                 for file in SMALL if file == CONFIG or file in there}
    except Exception as error:
        raise explained(error, name) from error
    licences = [tag.removeprefix("license:") for tag in info.tags or ()
                if tag.startswith("license:")]
    renamed = "" if info.id == name else f"The Hub calls it {info.id} now; write that."
    return facts_of(info.id, "hub cache", paths[CONFIG].parent, ", ".join(licences),
                    bool(info.gated), renamed)


def explained(error: Exception, name: str) -> BadModel:
    """What is said where the Hub does not give a model, with what to do."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)

    def because(what: str, why: str, next: str) -> BadModel:
        return BadModel(what, why, next, FIELD)

    if "GatedRepoError" in kinds:
        if logged_in():
            return because(f"{name} is gated.", "Your login has no access to it: its licence is "
                           "not accepted yet, or its owner has not answered.",
                           f"Accept it on {page_of(name)}, then try again.")
        return because(f"{name} is gated.", "Its owner asks you to accept a licence first.",
                       f"Accept it on {page_of(name)}, {LOG_IN}, then try again.")
    if "RepositoryNotFoundError" in kinds:
        return because(f"There is no model {name!r} on the Hub.",
                       "It never was, has another name now, or is private.",
                       f"Look for it on {page_of('models')}; if it is private, {LOG_IN}.")
    if "DisabledRepoError" in kinds:
        return because(f"{name} cannot be downloaded.", "The Hub has taken it offline.",
                       "Choose another model.")
    if kinds & {"RemoteEntryNotFoundError", "RevisionNotFoundError"}:
        return because(f"{name} is no model for transformers.", "There is no config.json in its "
                       "repository: it may hold an adapter, or a GGUF file.",
                       "Choose the repository of the model itself.")
    if kinds & UNREACHABLE:
        return because(f"{name} is not on this machine.", "The Hub could not be reached, and there "
                       "is no copy in the local cache.", "Check the network (and HF_HUB_OFFLINE), "
                       f"or give a folder on this machine, or '{STARTER}'.")
    if status in (401, 403):
        return because(f"The Hub refuses {name}.", "Your login is not valid, or may not read it.",
                       f"Run `hf auth whoami`, and {LOG_IN} anew.")
    if status == 429 or (status or 0) >= 500:
        return because(f"The Hub did not give {name}.", f"It answered with status {status}.",
                       "Wait a minute, then try again.")
    if "HFValidationError" in kinds:
        return because(f"There is no model {name!r}.", "A Hub id is owner/name, of letters, "
                       "digits, '-', '_' and '.'.", f"Try '{STARTER}', which ships with the lab.")
    problem = explain(error)
    what = f"{name} could not be looked up."
    if problem.what == UNKNOWN:
        return because(what, problem.why, "Try again, or give a folder on this machine.")
    return because(what, f"{problem.what} {problem.why}".strip(), problem.next)


def logged_in() -> bool:
    """Whether huggingface_hub has a token; which one is not looked at."""
    import huggingface_hub

    return huggingface_hub.get_token() is not None
