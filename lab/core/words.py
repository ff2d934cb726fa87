"""Figures and names as people say them."""

from pathlib import Path

from lab.core.settings import Data


def duration(seconds: float) -> str:
    """4.2 s, 48 s, 7 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def data_named(data: Data) -> str:
    """What a run's questions are, in a few words."""
    level = f", level {data.difficulty}" if data.difficulty >= 0 else ""
    return {"word-problems": f"Word problems, level {data.level}", "gsm8k": "GSM8K",
            "reasoning-gym": f"{data.tasks or 'Tasks'} of reasoning-gym{level}",
            "hub": data.path or "A Hub dataset",
            "file": Path(data.path).name or "A file of yours"}[data.source]
