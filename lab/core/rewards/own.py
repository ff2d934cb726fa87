"""Rewards of one's own: a Python file, known by a scan, scored in a limited child, never imported.

The file is `rewards.file` of the settings. Its rewards are known by its text: what was read once
for a choice stays what that choice means, whatever becomes of the file.
"""

import contextlib
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lab.core.limited.run import Child, Ended, Limits
from lab.core.problems import BadData
from lab.core.rewards import permission
from lab.core.rewards.calling import CannotScore
from lab.core.rewards.registry import Reward
from lab.core.rewards.scan import Declared, Mistake, scan

SUFFIX = ".py"
LARGEST = 1_000_000  # bytes of a file
LOADING = 30.0  # seconds that a file may take to be imported: it may import packages
EACH = Limits(seconds=5.0)  # for one answer
MANY = 30.0  # seconds for a function of lists, and
MORE = 0.5  # so many for each answer of them
LOST = 3  # answers of one call on which the child may be lost before the others are given up
KEPT = 2  # children that stay for the next call


@dataclass(frozen=True)
class Source:
    """The text of a file and what the scan found in it. It has no `rewards` while it has mistakes.
    """

    name: str  # of the file
    text: str
    declared: tuple[Declared, ...]
    mistakes: tuple[Mistake, ...]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property
    def rewards(self) -> Mapping[str, Reward]:
        if self.mistakes:
            return MappingProxyType({})
        return MappingProxyType({one.name: _reward(self, one) for one in self.declared})


def _reward(source: Source, one: Declared) -> Reward:
    return Reward(one.name, one.label, one.help, OwnFunction(source.name, source.text, one.name),
                  one.needs, one.knobs, one.max_score, (), one.kind, batch=True, runs_code=True,
                  source=source.name)


@lru_cache(64)
def source_of(name: str, text: str) -> Source:
    found = scan(text)
    return Source(name, text, found.rewards, found.mistakes)


def read(path: Path | str) -> Source:
    """The file as it is now. Raises BadData where it cannot be read as text."""
    path = Path(path).expanduser()
    try:
        if path.suffix != SUFFIX:
            raise ValueError(f"its name does not end in {SUFFIX}")
        if not path.is_file():
            raise ValueError("it is no file" if path.exists() else "it is not there")
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST // 1000:,} kB")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadData(f"The file of rewards {path.name or path} cannot be read.", f"{reason}.",
                      "Give a Python file of yours.", "rewards.file") from error
    return source_of(path.name, text)


def known(file: str) -> tuple[Mapping[str, Reward], str]:
    """The rewards of this file, and a sentence for why there are none."""
    try:
        source = read(file)
    except BadData as error:
        return {}, str(error)
    if source.mistakes:
        return {}, f"{source.name} cannot be used. {source.mistakes[0]}"
    return source.rewards, ""


@dataclass(frozen=True)
class OwnFunction:
    """One reward of a file, as TRL calls its functions: lists in, a list out. Each call goes to a
    limited child that has imported the file.

    Entries of the list are scores, None, or `CannotScore`. Raises CannotScore where none can be
    scored: code is off here, or the file cannot be imported.
    """

    file: str
    text: str
    name: str

    def __call__(self, completions: Sequence[list[dict]], **columns: Any) -> list:
        if why := permission.against_code():
            raise CannotScore(f"{self.name} was not run. {why}")
        with server_of(self.file, self.text) as server:
            knobs = server.source.rewards[self.name].knobs
            params = {key: columns.pop(key) for key in knobs if key in columns}
            return server.score(self.name, {**columns, "completions": list(completions)}, params)


class Server:
    """The limited child of one file. It imports the file once and lives until it is closed, or an
    answer costs its life; then the next one starts. One call at a time."""

    def __init__(self, file: str, text: str) -> None:
        self.source = source_of(file, text)
        self.lock = threading.Lock()
        self.printed = ""
        self._child: Child | None = None

    def score(self, name: str, columns: Mapping[str, Any], params: Mapping[str, Any]) -> list:
        """A score, None or a CannotScore for each of `columns["completions"]`. Raises CannotScore
        where the file cannot be imported."""
        one = next(found for found in self.source.declared if found.name == name)
        results: list = [None] * len(columns["completions"])
        left, lost = list(range(len(results))), 0
        while left:
            child = self.load()
            seconds = MANY + MORE * len(left) if one.many else EACH.seconds
            child.send(call=name, params=params, many=one.many, seconds=seconds, columns={
                key: [values[i] for i in left] if isinstance(values, list) else _plain(values)
                for key, values in columns.items()})
            try:
                if one.many:
                    for place, told in zip(left, child.receive(seconds)["results"], strict=True):
                        results[place] = _result(name, told)
                    left = []
                while left:
                    results[left[0]] = _result(name, child.receive(seconds))
                    del left[0]
            except Ended as error:
                lost += 1
                given_up = len(left) if one.many or lost > LOST else 1
                for place in left[:given_up]:
                    results[place] = CannotScore(f"{name} failed. {error}")
                left = left[given_up:]
            self.printed = child.printed
        return results

    def load(self) -> Child:
        """The child, with the file imported. Raises CannotScore."""
        if self._child and self._child.alive:
            return self._child
        self.close()
        what = f"{self.source.name} cannot be imported"
        try:
            self._child = Child("lab.core.rewards.own_child", {
                "file": self.source.name, "text": self.source.text, "seconds": LOADING,
                "functions": {one.name: one.function for one in self.source.declared}}, EACH)
            told = self._child.receive(LOADING)
        except Ended as error:
            raise CannotScore(f"{what}. {error}") from None
        if "error" in told:
            self.printed = self._child.printed
            self.close()
            raise CannotScore(f"{what}: {told['error']}", told["lines"])
        return self._child

    def close(self) -> None:
        if self._child:
            self._child.close()


_servers: OrderedDict[tuple[str, str], Server] = OrderedDict()
_lock = threading.Lock()


@contextlib.contextmanager
def server_of(file: str, text: str) -> Iterator[Server]:
    """The server of this file, for one caller. Few are kept, those used last."""
    with _lock:
        server = _servers.setdefault((file, text), Server(file, text))
        _servers.move_to_end((file, text))
        for key, old in list(_servers.items())[:-KEPT]:
            if old.lock.acquire(blocking=False):  # nobody waits for its answer
                del _servers[key]
                old.close()
                old.lock.release()
    with server.lock:
        yield server
        if server not in _servers.values():  # it was left out while this caller waited
            server.close()


def _result(name: str, told: dict) -> float | CannotScore | None:
    if "error" in told:
        return CannotScore(f"{name} failed: {told['error']}", told["lines"])
    return told["score"]


def _plain(value: Any) -> Any:
    """What is handed over beside lists: of TRL's state, the numbers."""
    if hasattr(value, "global_step"):
        return {key: getattr(value, key, None) for key in ("global_step", "max_steps", "epoch")}
    return None
