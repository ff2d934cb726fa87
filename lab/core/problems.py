"""What a person is told when something goes wrong: what happened, why, what to do next."""

import contextlib
import re
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

PASSING = "gpu_unsettled"  # the kind of what may work a moment later


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, in three parts. `field` names the setting to look at, if any.

    `level` is "error" (cannot go on) or "warning" (can, but should know). `kind` names the cause
    for a reader that acts on it: "out_of_memory", "gpu_busy", "gpu_unsettled", "no_gpu", "driver",
    "engine_died", "non_finite", "damaged_adapter".
    """

    what: str
    why: str = ""
    next: str = ""
    field: str = ""
    level: str = "error"
    kind: str = ""
    # What would cure it, each as (what to press, the settings that it changes).
    cures: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.why, self.next) if part)

    def to_dict(self) -> dict:
        return asdict(self)

    @property
    def is_passing(self) -> bool:
        """Whether the same may work a moment later."""
        return self.kind == PASSING


class LabError(Exception):
    """Every failure that the lab explains. The tree:

    LabError
    ├── BadSettings     a setting or a combination that cannot work (exit status 2)
    ├── BadData         rows that cannot be read or used
    ├── BadModel        a model or adapter that cannot be loaded
    ├── RunError        a run that cannot be started, found, stopped or resumed
    └── WorkFailed      work that was started and failed
    """

    def __init__(self, what: str, why: str = "", next: str = "", field: str = "",
                 kind: str = "") -> None:
        self.problem = Problem(what, why, next, field, kind=kind)
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
    kind: str = ""


# The first row that fits wins. Class names are compared as text, so that nothing heavy is imported.
TRANSLATIONS = (
    Translation((), r"Free memory on device .* is less than desired GPU memory utilization",
                "The GPU is not free.", "Another process holds its memory, or vLLM's share is more "
                "than what is left.", "End the other process (`nvidia-smi` names it), or lower "
                "'GPU share of vLLM'.", "gpu_busy"),
    Translation((), r"Error in memory profiling|memory profiling", "vLLM could not measure the "
                "GPU's memory.", "Another process took or gave back memory in that moment.",
                "Wait until nothing else starts or ends on the GPU, then try again.",
                PASSING),
    Translation((), r"No available memory for the cache blocks|KV cache is needed, which is larger "
                r"than|enough KV cache|Engine core initialization failed.*memory",
                "vLLM has no room for the answers.",
                "Its share of the GPU holds the model, but not the answers beside it.",
                "Raise 'GPU share of vLLM', shorten 'Longest sequence', or load the model in 4 "
                "bit.", "out_of_memory"),
    Translation((), r"CUDA out of memory|OutOfMemoryError|CUDA error: out of memory|"
                r"CUBLAS_STATUS_ALLOC_FAILED", "The GPU ran out of memory.",
                "Model, answers and gradients together need more than this GPU has free.",
                "Lower 'Answers at once' or 'Longest answer', or load the model in 4 bit.",
                "out_of_memory"),
    Translation((), r"Engine core initialization failed", "vLLM's engine did not start.",
                "Its own reason is in the log.", "Try again; if it fails again, lower 'GPU share "
                "of vLLM' or take another engine.", "engine_died"),
    Translation((), r"EngineDeadError|EngineCore encountered an issue|Engine core (proc\S* )?died",
                "vLLM's engine ended.", "Its own reason is in the log above this line.",
                "Try again: a new engine is started. If it ends again, lower 'GPU share of vLLM'.",
                "engine_died"),
    Translation((), r"driver version is insufficient|driver on your system is too old",
                "The NVIDIA driver is too old.", "The gpu stack is built for CUDA 13.",
                "Install driver 580 or newer, or set 'Stack' to cpu.", "driver"),
    Translation((), r"No CUDA GPUs are available|no CUDA-capable device|Torch not compiled with "
                r"CUDA|cannot find any torch accelerator|CUDA unknown error",
                "torch cannot use the GPU.", "No CUDA device is visible to it.",
                "See to the driver (`python -m lab doctor`) and to CUDA_VISIBLE_DEVICES, or set "
                "'Stack' to cpu.", "no_gpu"),
    Translation((), r"Failed to find C compiler", "There is no C compiler.",
                "Triton builds the launchers of its GPU kernels with one.",
                "Install gcc (Debian: `apt install gcc`), or name another in CC.", "no_compiler"),
    Translation(("VLLMValidationError",), r"", "vLLM refuses this question.", "",
                "Change the sampling, or ask something shorter."),
    Translation((), r"No adapter found for|LoRAAdapterNotFoundError", "The adapter was not found.",
                "Its folder is gone, or not written yet.", "Choose another checkpoint."),
    Translation((), r"LoRA rank \d+ is greater than max_lora_rank", "This adapter's rank is higher "
                "than the engine was started for.", "", "Ask again: the engine is started anew."),
    Translation((), r"Call to add_lora method failed", "This adapter cannot be loaded.", "",
                "Choose another checkpoint, and the model that its run was trained on."),
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
    Translation(("TemplateError", "TemplateSyntaxError", "UndefinedError", "SecurityError"), r"",
                "The model's chat template refuses this conversation.", "",
                "Empty the system prompt, or choose another model."),
    Translation(("NoMatchingPeftModuleError", "ValueError"),
                r"target.modules.*not found|No matching|no modules were targeted",
                "None of the target modules exists in this model.", "",
                "Set 'Target modules' to all-linear."),
    Translation(("ValueError",), r"Target module .* is not supported",
                "A target module is no layer that LoRA can change.", "",
                "Set 'Target modules' to all-linear."),
    Translation(("ValueError", "OSError", "EOFError"),
                r"contains custom code|trust_remote_code|custom code which must be executed",
                "This model comes with Python code of its own.",
                "The lab does not run the code of a model.",
                "Choose a model that transformers knows by itself."),
    Translation(("ValueError", "KeyError"),
                r"does not recognize this architecture|Unrecognized (model|configuration)|"
                r"Unrecognized processing class",
                "This version of transformers does not know the model's architecture.", "",
                "Choose another model, or update transformers (`make setup`)."),
    Translation(("OSError", "ValueError", "TypeError", "ImportError"),
                r"Can't load tokenizer|couldn't instantiate the backend tokenizer|sentencepiece|"
                r"requires the (tiktoken|protobuf)",
                "The model's tokenizer cannot be loaded.", "",
                "Choose a version of the model with tokenizer.json, or get its files anew."),
    Translation(("IndexError", "RuntimeError", "AcceleratorError"),
                r"index out of range in self|device-side assert|indexSelectLargeIndex",
                "A token is outside the model's embedding.", "The tokenizer has tokens that the "
                "model has no row for.", "Get the tokenizer that belongs to this model."),
    Translation(("RuntimeError", "ValueError"),
                r"Error\(s\) in loading state_dict|size mismatch|mismatched sizes",
                "The weights do not fit this model's config.json.", "", "Get the model's files "
                "anew."),
    Translation(("SafetensorError",), r"", "A file of weights is damaged.", "",
                "Get the model's files anew."),
    Translation(("JSONDecodeError", "UnicodeDecodeError"), r"",
                "A file of this model cannot be read.", "", "Get the model's files anew."),
    Translation(("OSError",), r"is not a valid JSON file",
                "A file of this model cannot be read.", "", "Get the model's files anew."),
    Translation(("StrictDataclassFieldValidationError", "StrictDataclassClassValidationError",
                 "StrictDataclassError"), r"",
                "The model's config.json holds values that cannot be.", "",
                "Get the model's files anew."),
    Translation(("UsageError", "AuthenticationError"), r"api.?key|login|wandb",
                "wandb is not logged in.", "It has no key on this machine.",
                "Run `wandb login`, or set WANDB_MODE=offline, or 'Report to' to none."),
    Translation(("CommError",), r"", "wandb could not be reached.", "",
                "Check the network, or set WANDB_MODE=offline."),
    Translation(("UnicodeEncodeError",), r"", "A text that was given is no text.", "It holds half "
                "of a character, which no file or name can.", "Write it anew, in UTF-8."),
    Translation(("PermissionError",), r"", "A file or folder may not be written or read.", "",
                "Choose another folder with --root, or change its permissions."),
)


def explained_by_log(problem: Problem, log: str) -> Problem:
    """A better Problem for an engine that died, if its log's last errors are known.

    vLLM's engine is a process of its own: the caller only hears that it is gone.
    """
    if problem.kind != "engine_died":
        return problem
    for line in reversed(log.splitlines()):
        for row in TRANSLATIONS:
            if (row.kind and row.kind != "engine_died" and not row.kinds
                    and re.search(row.words, line, re.IGNORECASE)):
                return Problem(row.what, row.why, row.next, kind=row.kind)
    return problem


UNKNOWN = "Something failed that the lab does not know."


# Functions of TRL, Unsloth and ours, from the outermost in, that tell what a step was busy with.
MOMENTS = (({"_generate", "_generate_single_turn", "rollout"}, "while it answered"),
           ({"compute_loss", "training_step", "backward"}, "while it learnt"))


def explain_in_training(error: BaseException) -> Problem:
    """`explain`, and for a lack of memory also what the step was busy with."""
    problem = explain(error)
    if problem.kind != "out_of_memory":
        return problem
    names = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    for functions, moment in MOMENTS:
        if names & functions:
            return replace(problem, what=f"{problem.what.rstrip('.')} {moment}.")
    return problem


def explain(error: BaseException) -> Problem:
    """The Problem for any exception; an unknown one keeps its own words and points to the log."""
    return known(error) or Problem(UNKNOWN, _own_words(error), "More is in the run's worker.log, "
                                   "or where the app was started.")


def known(error: BaseException) -> Problem | None:
    """The Problem for an exception of ours or of `TRANSLATIONS`."""
    if isinstance(error, LabError):
        return error.problem
    names = {cls.__name__ for cls in type(error).__mro__}
    text = str(error)
    for row in TRANSLATIONS:
        if (not row.kinds or names & set(row.kinds)) and re.search(
            row.words, f"{type(error).__name__}: {text}", re.IGNORECASE
        ):
            detail = text.strip().splitlines()[0][:300] if text.strip() else ""
            return Problem(row.what, row.why or detail, row.next, kind=row.kind)
    return None


def _own_words(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:300] if text else 'no message'}"


@contextlib.contextmanager
def reading_files_of_a_model(part: str) -> Iterator[None]:
    """Raise BadModel, with its own words, for an error that `TRANSLATIONS` does not know: there is
    no end of what a library can say of a file that holds what it does not expect. A package that
    is missing and what fails on a device are not the files' fault."""
    try:
        yield
    except (ImportError, RuntimeError):
        raise
    except Exception as error:
        if known(error) is None:
            raise BadModel(f"The {part} cannot be loaded.", f"{_own_words(error).rstrip('.')}.",
                           "Get the model's files anew, or choose another model.") from error
        raise
