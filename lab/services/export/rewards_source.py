"""The rewards of a run as plain Python: each function, with what it needs of the lab's own code.

The text is cut out of the lab's files by name: there is one place where a reward is written.
What asks a child process, another machine, or runs code is not plain, and is refused.
"""

import ast
import functools
import importlib
import inspect
import re
from collections.abc import Sequence

from lab.core.knobs import settle
from lab.core.problems import RunError
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.registry import Reward
from lab.core.rewards.validators import VALIDATORS

OURS = "lab.core."
# They start processes, ask who may, or know every reward: no script can do without the lab there.
NOT_PLAIN = ("lab.core.limited", "lab.core.rewards.limited", "lab.core.rewards.permission",
             "lab.core.rewards.judge", "lab.core.rewards.gym", "lab.core.rewards.registry",
             "lab.core.rewards.own")


def plain_rewards(chosen: Sequence[Chosen]) -> tuple[str, list[dict]]:
    """(source, one entry for each reward: "name", "function", "columns" it needs in order,
    "fallbacks", "params", "pays" for True, "lists").

    Raises RunError for one that only the lab can run.
    """
    cutting = Cutting()
    entries = []
    for one in chosen:
        known = one.reward
        if known.source != "built in" or known.runs_code or known.remote:
            raise _not_plain(one.name, "it runs code of its own, or asks another machine")
        function = inspect.unwrap(known.function)
        name = cutting.take(function.__module__, function.__name__, one.name)
        params = {key: parameter.default for key, parameter in known.knobs.items()} | {
            key: settle(value, known.knobs[key].kind) for key, value in one.params}
        entries.append({
            "name": one.name, "function": name, "columns": list(known.needs),
            "fallbacks": dict(known.fallbacks), "params": params, "lists": known.batch,
            "pays": _pays(known)})
    return cutting.text(), entries


def _pays(known: Reward) -> float | None:
    return known.max_score if known.name in VALIDATORS else None


def _not_plain(name: str, why: str) -> RunError:
    return RunError(f"The reward '{name}' cannot be put into a script.", f"{why}.".capitalize(),
                    "Train with the lab, or without this reward.")


@functools.cache
def _module(name: str) -> tuple[str, dict[str, tuple[ast.stmt, ast.alias | None]]]:
    """(source, {name: the statement that binds it, and its alias in an import})."""
    text = inspect.getsource(importlib.import_module(name))
    bound: dict[str, tuple[ast.stmt, ast.alias | None]] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound[node.name] = (node, None)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                bound[alias.asname or alias.name.split(".")[0]] = (node, alias)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for part in ast.walk(target):
                    if isinstance(part, ast.Name):
                        bound[part.id] = (node, None)
    return text, bound


class Cutting:
    """What was cut out so far: definitions in the order in which they are needed."""

    def __init__(self) -> None:
        self.imports: dict[str, None] = {}
        self.parts: list[str] = []
        self.called: dict[tuple[str, int], dict[str, str]] = {}  # statement -> its names here
        self.taken: set[str] = set()

    def text(self) -> str:
        return "\n".join(sorted(self.imports)) + "\n\n\n" + "\n\n\n".join(self.parts)

    def take(self, module: str, name: str, reward: str) -> str:
        """Cut out one name of a module with what it needs; what it is called in the text."""
        if module.startswith(NOT_PLAIN):
            raise _not_plain(reward, "the lab asks a limited process for it")
        text, bound = _module(module)
        node, alias = bound[name]
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lab."):
            whole = f"{node.module}.{alias.name}"
            if whole.startswith(NOT_PLAIN):
                raise _not_plain(reward, "the lab asks a limited process for it")
            return self.take(node.module, alias.name, reward)
        if alias is not None:
            start = f"from {node.module} import " if isinstance(node, ast.ImportFrom) else "import "
            called = f" as {alias.asname}" if alias.asname else ""
            self.imports[start + alias.name + called] = None
            return name
        key = (module, node.lineno)
        if key in self.called:
            return self.called[key][name]
        own = [one for one, (where, _) in bound.items() if where is node]
        self.called[key] = {one: self._free(one) for one in own}
        bare = _bare(node)
        wanted = dict.fromkeys(
            part.id for part in ast.walk(bare) if isinstance(part, ast.Name)
            and part.id in bound and part.id not in own)
        renamed = {old: new for old, new in
                   [*((one, self.take(module, one, reward)) for one in wanted),
                    *self.called[key].items()] if old != new}
        self.parts.append(_written(bare, node, text, renamed))
        return self.called[key][name]

    def _free(self, name: str) -> str:
        free = next(found for found in (name, *(f"{name}_{i}" for i in range(2, 100)))
                    if found not in self.taken)
        self.taken.add(free)
        return free


def _bare(node: ast.stmt) -> ast.stmt:
    """Without what the lab alone reads: a reward's decorator and the looks of its knobs."""
    bare = ast.parse(ast.unparse(node)).body[0]
    if isinstance(bare, ast.FunctionDef):
        bare.decorator_list = [one for one in bare.decorator_list
                               if not re.match(r"(reward|validator)\(", ast.unparse(one))]
        for argument in bare.args.kwonlyargs:
            argument.annotation = None
        bare.returns = None
        for argument in bare.args.args:
            argument.annotation = None
    return bare


def _written(bare: ast.stmt, node: ast.stmt, text: str, renamed: dict[str, str]) -> str:
    """The statement as it stands in the file, comments and all, where nothing of it changed."""
    if not renamed and ast.unparse(bare) == ast.unparse(node):
        lines = text.splitlines()
        first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))])
        while first > 1 and lines[first - 2].startswith("#"):
            first -= 1
        return "\n".join(lines[first - 1:node.end_lineno])
    if not renamed and isinstance(node, ast.FunctionDef):  # its head anew, its body as it stands
        bare.body = [ast.Pass()]
        head = ast.unparse(bare).rpartition("\n")[0]
        return "\n".join([head, *text.splitlines()[node.body[0].lineno - 1:node.end_lineno]])
    return ast.unparse(_Renaming(renamed).visit(bare))


class _Renaming(ast.NodeTransformer):
    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.Name:
        node.id = self.names.get(node.id, node.id)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.name = self.names.get(node.name, node.name)
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        node.name = self.names.get(node.name, node.name)
        return self.generic_visit(node)
