"""What a person is told when something goes wrong: what happened, why, what to do next."""

import re
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, in three parts. `field` names the setting to look at, if any.

    `level` is "error" (cannot go on) or "warning" (can, but should know).
    """

    what: str
    why: str = ""
    next: str = ""
    field: str = ""
    level: str = "error"

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.why, self.next) if part)

    def to_dict(self) -> dict:
        return asdict(self)


class LabError(Exception):
    """Every failure that the lab explains. The tree:

    LabError
    ├── BadSettings     a setting or a combination that cannot work (exit status 2)
    ├── BadData         rows that cannot be read or used
    ├── BadModel        a model or adapter that cannot be loaded
    ├── RunError        a run that cannot be started, found, stopped or resumed
    └── WorkFailed      work that was started and failed
    """

    def __init__(self, what: str, why: str = "", next: str = "", field: str = "") -> None:
        self.problem = Problem(what, why, next, field)
        super().__init__(str(self.problem))


class BadSettings(LabError):
    pass


class BadData(LabError):
    pass


class BadModel(LabError):
    pass


class RunError(LabError):
    pass


class WorkFailed(LabError):
    pass


@dataclass(frozen=True)
class Translation:
    """A foreign error, known by its class name and words in its text, and what we say instead."""

    kinds: tuple[str, ...]  # names of exception classes; () for any
    words: str  # a regular expression searched in the text, ignoring case
    what: str
    why: str
    next: str


# The first row that fits wins. Class names are compared as text, so that nothing heavy is imported.
TRANSLATIONS = (
    Translation((), r"CUDA out of memory|OutOfMemoryError", "The GPU ran out of memory.",
                "Model, answers and gradients together need more than this GPU has free.",
                "Lower 'Answers at once' or 'Longest answer', or load the model in 4 bit."),
    Translation(("OSError", "RuntimeError", "SafetensorError"), r"No space left on device|errno 28",
                "The disk is full.", "A checkpoint or log could not be written.",
                "Free some space, then resume the run from its last checkpoint."),
    Translation(("MemoryError", "RuntimeError"), r"can't allocate memory|MemoryError|bad alloc",
                "The machine ran out of memory.", "",
                "Lower 'Answers at once' or 'Longest answer', or take a smaller model."),
    Translation(("GatedRepoError",), r"", "This model is gated.",
                "Its owner asks you to accept a licence first.",
                "Accept it on the model's page, log in with `hf auth login`, then try again."),
    Translation(("DatasetNotFoundError",), r"gated", "This dataset is gated.",
                "Its owner asks you to accept terms first.",
                "Accept them on the dataset's page, log in with `hf auth login`, then try again."),
    Translation(("DatasetNotFoundError",), r"", "There is no such dataset on the Hub.",
                "It does not exist, or it is private.",
                "Check the spelling of the id (owner/name), or log in if it is private."),
    Translation(("RuntimeError",), r"Dataset scripts are no longer supported",
                "This dataset is made by a script of its own.", "Code of a dataset is never run.",
                "Choose a dataset of plain files, or convert this one to Parquet."),
    Translation(("DataFilesNotFoundError", "EmptyDatasetError"), r"",
                "This dataset has no files that can be read.", "",
                "Choose one of CSV, JSON, JSONL or Parquet files."),
    Translation(("RepositoryNotFoundError",), r"", "There is no such model or dataset on the Hub.",
                "", "Check the spelling of the id (owner/name), or log in if it is private."),
    Translation(("LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError",
                 "TimeoutException", "NetworkError"), r"",
                "The Hub could not be reached.", "It is not in the local cache either.",
                "Check the network, or give a folder on this machine instead of a Hub id."),
    Translation(("OSError",), r"couldn't connect to|offline mode",
                "The Hub could not be reached.", "It is not in the local cache either.",
                "Check the network, or give a folder on this machine instead of a Hub id."),
    Translation(("OSError",), r"not a local folder and is not a valid model identifier",
                "There is no such model.", "It is neither a folder here nor an id on the Hub.",
                "Check the spelling, or choose a model from the catalogue."),
    Translation(("OSError",),
                r"no file named .*(safetensors|pytorch_model)|does not appear to have",
                "This folder has no model weights.",
                "There is no model.safetensors or index of it in the folder.",
                "Point to the folder that holds config.json and model.safetensors."),
    Translation(("PermissionError",), r"", "A file or folder may not be written or read.", "",
                "Choose another folder with --root, or change its permissions."),
)


UNKNOWN = "Something failed that the lab does not know."


def explain(error: BaseException) -> Problem:
    """The Problem for any exception; an unknown one keeps its own words and points to the log."""
    if isinstance(error, LabError):
        return error.problem
    names = {cls.__name__ for cls in type(error).__mro__}
    text = str(error)
    for row in TRANSLATIONS:
        if (not row.kinds or names & set(row.kinds)) and re.search(
            row.words, f"{type(error).__name__}: {text}", re.IGNORECASE
        ):
            detail = text.strip().splitlines()[0][:300] if text.strip() else ""
            return Problem(row.what, row.why or detail, row.next)
    first = text.strip().splitlines()[0][:300] if text.strip() else "no message"
    return Problem(
        UNKNOWN,
        f"{type(error).__name__}: {first}",
        "More is in the run's worker.log, or where the app was started.",
    )
