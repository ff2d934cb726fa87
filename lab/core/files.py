"""Replaces a file in one move, so that no reader ever sees half of it; and what JSON can hold."""

import json
import math
import os
import threading
from pathlib import Path
from typing import Any


def write_whole(path: Path, text: str) -> None:
    """Raises OSError, or UnicodeError for what is no text; the file is then as it was."""
    draft = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_json(path: Path, body: Any) -> None:
    """The same with a JSON body."""
    write_whole(path, json.dumps(body, indent=1, ensure_ascii=False))


def finite(value: Any) -> Any:
    """The same with None for each number that JSON does not know: NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return value
