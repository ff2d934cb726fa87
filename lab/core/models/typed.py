"""What people type for a model: an address of the Hub, quotes around a path, file://."""

import re
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb"}
HUBS = ("huggingface.co", "www.huggingface.co", "hf.co")
_ADDRESS = re.compile(rf"(?:https?://|hf://|)(?:{'|'.join(map(re.escape, HUBS))})/(.*)", re.I)


def tidied(typed: str) -> str:
    """The name or path that is meant; what is none of these stays as it is, without the blanks
    around it."""
    name = typed.strip()
    while len(name) > 1 and QUOTES.get(name[0]) == name[-1]:
        name = name[1:-1].strip()
    if name.lower().startswith("file://"):
        try:
            return url2pathname(unquote(urlsplit(name).path))
        except ValueError:
            return name
    if found := _ADDRESS.fullmatch(name):
        return _repository(found[1])
    if name.lower().startswith("hf://"):
        return _repository(name[5:])
    return name


def _repository(path: str) -> str:
    """owner/name of an address of the Hub, or a name alone for what has no owner (gpt2)."""
    parts = [unquote(part) for part in re.split(r"[?#]", path)[0].split("/") if part]
    if parts[:1] == ["models"]:
        parts = parts[1:]
    if parts[:1] and parts[0] in ("datasets", "spaces"):
        return "/".join(parts[:3])  # refused by its three parts
    if len(parts) > 1 and parts[1] in ("tree", "blob", "resolve", "raw"):
        return parts[0]
    return "/".join(parts[:2])
