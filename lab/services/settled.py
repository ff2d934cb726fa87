"""What a person typed, as a run records it: names tidied, and paths that hold from any folder."""

from pathlib import Path

from lab.core.models.typed import tidied
from lab.core.problems import LabError
from lab.core.settings import STARTER, Settings
from lab.services import begin
from lab.services.models.places import folder_of, named
from lab.services.workspace import Workspace


def settled(settings: Settings, workspace: Workspace) -> Settings:
    """The same settings with absolute paths. What leads nowhere is left for the checks to name."""
    values = {"model.name": _model(settings.model.name)}
    if settings.data.source in ("file", "gsm8k") and settings.data.path.strip():
        values["data.path"] = _file(settings.data.path)
    elif settings.data.path.strip() != settings.data.path:
        values["data.path"] = settings.data.path.strip()
    if settings.lora.begin_from.strip():
        values[begin.FIELD] = begin.find(settings.lora.begin_from, workspace).setting
    return settings.with_values(values)


def _model(typed: str) -> str:
    name = named(typed)
    try:
        folder = None if name == STARTER else folder_of(name)
    except LabError:
        return typed
    return str(folder.resolve()) if folder else name


def _file(typed: str) -> str:
    """Where a file lies. What ships with the lab keeps its short path: the lab finds it itself."""
    name = tidied(typed)
    try:
        path = Path(name).expanduser()
        return str(path.resolve()) if path.exists() else name
    except (OSError, ValueError, RuntimeError):
        return name
