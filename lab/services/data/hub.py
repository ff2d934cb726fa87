"""A dataset of the Hugging Face Hub as a table, and what is said when it cannot be had."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from lab.core.problems import UNKNOWN, BadData, explain
from lab.services.data.places import check_place
from lab.services.data.table import BATCH, Table, joined
from lab.services.data.tables import read_table

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
CONNECT_SECONDS = 10.0
TEXT = ("csv", "json")  # the readers of datasets that guess kinds: 007 becomes 7, a text a date
UNREACHABLE = {"ConnectionError", "TransportError", "LocalEntryNotFoundError"}  # with subclasses


def read_hub(path: str, subset: str, split: str) -> Table:
    """The rows of one split. `path` is owner/name, or a folder with a copy. Raises BadData.

    No code of the dataset is ever run. What was loaded once is found again without a network.
    """
    _check_path(path)
    import datasets

    try:
        _refuse_if_out_of_reach(path)
        if _is_folder(path) and (table := _own_reading(path, subset, split or "train")):
            return table
        if _is_saved(path):
            found = datasets.load_from_disk(path)
            if isinstance(found, dict):
                if (split or "train") not in found:
                    _refuse_split(path, split, found)
                found = found[split or "train"]
        else:
            found = datasets.load_dataset(path, subset or None, split=split or "train")
        # As Arrow, because plain rows would decode images and sounds, and that may import torch.
        table = Table(path, found.column_names)
        for batch in found.with_format("arrow").iter(BATCH):
            for part in batch.to_batches():
                table.add_arrow(part)
    except BadData:
        raise
    except Exception as error:
        raise _explained(error, path, subset, split) from error
    if not len(table):
        raise BadData(f"The split {split!r} of {path} has no rows.", "", "Choose another split.",
                      "data.split")
    return table


def hub_columns(path: str, subset: str, split: str) -> list[str]:
    """The columns of a dataset: from its description, or where that has none, by loading it."""
    _check_path(path)
    import datasets

    if _is_folder(path):
        return read_hub(path, subset, split).columns
    try:
        _refuse_if_out_of_reach(path)
        described = datasets.load_dataset_builder(path, subset or None).info.features
    except Exception as error:
        raise _explained(error, path, subset, split) from error
    return list(described) if described else read_hub(path, subset, split).columns


def _own_reading(path: str, subset: str, split: str) -> Table | None:
    """The rows of a folder with text files, by our own reader; None for one of another kind.

    Which files belong to which split, datasets says.
    """
    import datasets

    if _is_saved(path):
        return None
    builder = datasets.load_dataset_builder(path, subset or None)
    if type(builder).__module__.split(".")[-1] not in TEXT:
        return None
    files = builder.config.data_files or {}
    if split not in files:
        _refuse_split(path, split, files)
    for file in files[split]:
        check_place(Path(file))  # it may be a link
    return joined(path, [read_table(Path(file), split) for file in files[split]])


def _refuse_split(path: str, split: str, there: Iterable[str]) -> NoReturn:
    raise BadData(f"{path} has no split {split!r}.", f"There are {', '.join(map(str, there))}.",
                  "Write one of them under 'Split'.", "data.split")


def _is_saved(path: str) -> bool:
    """Whether this is what `save_to_disk` of datasets writes."""
    return any((Path(path) / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _check_path(path: str) -> None:
    if not path.strip():
        raise BadData("No Hub dataset was chosen.", "", "Give owner/name under Data.", "data.path")
    if _is_folder(path):
        check_place(Path(path))
        return
    if not HUB_ID.fullmatch(path):
        raise BadData(f"{path!r} is not a Hub dataset.",
                      "It is neither owner/name nor a folder on this machine.",
                      "Check the spelling. For a file, choose the source 'file'.", "data.path")


def _is_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):  # a name that is too long, or has a NUL character
        return False


def _refuse_if_out_of_reach(path: str) -> None:
    """Ask the Hub once whether it has the dataset, where nothing of it is in the local cache.

    Without a network, load_dataset would try again for half a minute before it gives up.
    """
    import huggingface_hub

    if _is_folder(path) or huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    if huggingface_hub.try_to_load_from_cache(path, "README.md", repo_type="dataset") is None:
        huggingface_hub.HfApi().dataset_info(path, timeout=CONNECT_SECONDS)


def _explained(error: Exception, path: str, subset: str, split: str) -> BadData:
    text = str(error)
    if "Config name is missing" in text:
        return BadData(f"{path} has several configurations.", _there_are(text),
                       "Write one of them under 'Configuration'.", "data.subset")
    if "BuilderConfig" in text and "not found" in text:
        return BadData(f"{path} has no configuration {subset!r}.", _there_are(text),
                       "Write one of them under 'Configuration'.", "data.subset")
    if "Unknown split" in text:
        return BadData(f"{path} has no split {split!r}.", _there_are(text),
                       "Write one of them under 'Split'.", "data.split")
    if "Unrecognized instruction format" in text:
        return BadData(f"{split!r} is not a split.", "", "Write a name such as train, or a part of "
                       "one such as train[:1000].", "data.split")
    if UNREACHABLE & {kind.__name__ for kind in type(error).__mro__}:
        return BadData(f"{path} could not be loaded.",
                       "The Hub could not be reached, and there is no copy in the local cache.",
                       "Check the network, or choose a file on this machine.", "data.path")
    problem = explain(error)
    if problem.what == UNKNOWN:
        return BadData(f"{path} could not be loaded.", problem.why,
                       "Look at the dataset's page, or choose a file on this machine.",
                       "data.path")
    return BadData(f"{path} could not be loaded.", f"{problem.what} {problem.why}".strip(),
                   problem.next, "data.path")


def _there_are(text: str) -> str:
    """"There are a, b." from an error text that ends with ['a', 'b']."""
    found = re.search(r"\[(.*?)\]", text, re.DOTALL)
    names = re.findall(r"'([^']*)'", found[1]) if found else []
    return f"There are {', '.join(names)}." if names else ""
