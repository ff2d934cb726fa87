"""Finds the rewards in a Python file of one's own without running it: names, signature, mistakes.

Two forms are rewards. With our decorator, for one completion or, with `completions`, for many:

    @reward("Short", max_score=1.0, kind="shape")
    def short(completion, *, limit: Annotated[int, Knob("Limit", "Characters.", 1)] = 200): ...

And TRL's plain function (`reward_funcs` of its GRPOTrainer), lists in and a list out, where
`NAME.max_score = 2.0`, `NAME.kind` and `NAME.label` may follow:

    def tidy(completions, **kwargs): ...
"""

import ast
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lab.core.knobs import Knob, problem_with
from lab.core.rewards.registry import FROM_TRL, GOAL, KINDS, REWARDS, Parameter

LONGEST = 200_000  # characters of a file
TYPES = {"bool": bool, "int": int, "float": float, "str": str}
DECORATOR = '@reward("Label", max_score=1.0)'
IMPORT = "from lab.core.rewards import Knob, reward"
PLAIN = "def name(completions, **kwargs)"


@dataclass(frozen=True)
class Mistake:
    """What is wrong at which line (from 1), and what to do."""

    line: int
    what: str
    next: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (f"Line {self.line}: {self.what}", self.next) if part)


@dataclass(frozen=True)
class Declared:
    """One reward as its file declares it. `function` is the def's name. `many`: it is called once
    for many answers, since it takes lists or is async."""

    name: str
    function: str
    line: int
    label: str
    help: str
    needs: tuple[str, ...]
    knobs: dict[str, Parameter]
    max_score: float
    kind: str
    many: bool


@dataclass(frozen=True)
class Scan:
    """Of a file with mistakes nothing can be used: it could not be imported."""

    rewards: tuple[Declared, ...]
    mistakes: tuple[Mistake, ...]


class _Wrong(Exception):
    def __init__(self, node: ast.AST, what: str, next: str = "") -> None:
        self.mistake = Mistake(node.lineno, what, next)


def scan(text: str) -> Scan:
    """Every reward in this text, in its order, and every mistake. Never raises."""
    if len(text) > LONGEST:
        return Scan((), (Mistake(1, f"The file has more than {LONGEST:,} characters."),))
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        return Scan((), (Mistake(error.lineno or 1, f"This is no Python: {error.msg}."),))
    except (ValueError, RecursionError, MemoryError) as error:
        return Scan((), (Mistake(1, f"This is no Python: {error or type(error).__name__}."),))
    module = _Module(tree)
    found: dict[str, Declared] = {}
    mistakes = []
    for node in tree.body:
        try:
            for one in module.declared(node):
                if one.name in found:
                    raise _Wrong(node, f"There are two rewards {one.name!r}.", "Rename one.")
                found[one.name] = one
        except _Wrong as wrong:
            mistakes.append(wrong.mistake)
    if not found and not mistakes:
        mistakes.append(Mistake(1, "There is no reward in this file.",
                                f"Write {DECORATOR} above a function of `completion`, or "
                                f"`{PLAIN}`."))
    return Scan(tuple(found.values()), tuple(mistakes))


class _Module:
    """The names of a module that can be known without running it."""

    def __init__(self, tree: ast.Module) -> None:
        self.values: dict[str, ast.expr] = {}
        self.attributes: dict[tuple[str, str], ast.expr] = {}
        self.decorators = set()
        for node in tree.body:
            if isinstance(node, ast.ImportFrom):
                self.decorators |= {a.asname or a.name for a in node.names if a.name == "reward"}
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name):
                        self.values[target.id] = node.value
                    elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                        self.attributes[target.value.id, target.attr] = node.value

    def declared(self, node: ast.stmt) -> Iterator[Declared]:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        for decorator in node.decorator_list:
            call = decorator if isinstance(decorator, ast.Call) else None
            name = call.func if call else decorator
            if not self._is_ours(name):
                continue
            if isinstance(name, ast.Name) and name.id not in self.decorators:
                raise _Wrong(decorator, "The decorator is not imported.", f"Write `{IMPORT}`.")
            if call is None:
                raise _Wrong(decorator, "The decorator lacks its label and highest score.",
                             f"Write {DECORATOR}.")
            yield self._decorated(node, call)
            return
        parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if not node.name.startswith("_") and any(p.arg == "completions" for p in parameters):
            yield self._plain(node)

    def _is_ours(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Attribute):
            return node.attr == "reward"
        return isinstance(node, ast.Name) and node.id in {"reward", *self.decorators}

    def _decorated(self, node, call: ast.Call) -> Declared:
        given = {k.arg: k.value for k in call.keywords}
        unknown = set(given) - {"label", "max_score", "kind", "name", "examples"}
        if unknown:
            raise _Wrong(call, f"The decorator has no {sorted(map(str, unknown))[0]!r}.",
                         "It takes a label, max_score, kind, name and examples.")
        label = call.args[0] if call.args else given.get("label")
        if len(call.args) > 1 or label is None:
            raise _Wrong(call, "The decorator takes one label and keywords.", f"Write {DECORATOR}.")
        if "max_score" not in given:
            raise _Wrong(call, "The decorator lacks max_score, the highest score it gives.",
                         f"Write {DECORATOR}.")
        name = self._text(given["name"], "name") if "name" in given else node.name
        kind = self._kind(given["kind"]) if "kind" in given else GOAL
        return self._made(node, name, self._text(label, "label"), self._score(given["max_score"]),
                          kind)

    def _plain(self, node) -> Declared:
        def told(attribute: str) -> ast.expr | None:
            return self.attributes.get((node.name, attribute))

        label = self._text(told("label"), "label") if told("label") else \
            node.name.replace("_", " ").strip().capitalize()
        return self._made(node, node.name, label,
                          self._score(told("max_score")) if told("max_score") else 1.0,
                          self._kind(told("kind")) if told("kind") else GOAL)

    def _made(self, node, name: str, label: str, max_score: float, kind: str) -> Declared:
        if name in REWARDS:
            raise _Wrong(node, f"There is a reward {name!r} in the lab already.",
                         "Give yours another name.")
        if not name.isidentifier():
            raise _Wrong(node, f"{name!r} cannot be the name of a reward.",
                         "Take letters, digits and underscores.")
        needs, knobs, batch = self._signature(node)
        return Declared(name, node.name, node.lineno, label,
                        " ".join((ast.get_docstring(node) or "").split()), needs, knobs, max_score,
                        kind, batch or isinstance(node, ast.AsyncFunctionDef))

    def _signature(self, node) -> tuple[tuple[str, ...], dict[str, Parameter], bool]:
        args = node.args
        positional = [*args.posonlyargs, *args.args]
        names = {p.arg for p in (*positional, *args.kwonlyargs)}
        batch = "completions" in names
        if batch == ("completion" in names):
            raise _Wrong(node, f"{node.name} takes neither `completion` (one answer) nor "
                         "`completions` (a list of them)." if not batch else
                         f"{node.name} takes both `completion` and `completions`.",
                         "It needs one of the two to judge.")
        if args.posonlyargs:
            raise _Wrong(node, f"{node.name} is called by name, and `/` forbids that.",
                         "Leave the `/` out.")
        if not batch and (args.vararg or args.kwarg):
            star = f"*{args.vararg.arg}" if args.vararg else f"**{args.kwarg.arg}"
            raise _Wrong(node, f"{node.name} must name what it needs; {star} does not.",
                         f"Name the columns, as in `def {node.name}(completion, answer)`.")
        optional = {p.arg for p in positional[len(positional) - len(args.defaults):]}
        needs = [p.arg for p in positional if p.arg not in optional]
        knobs = {}
        for parameter, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
            look = self._knob(parameter, default)
            if look is not None:
                knobs[parameter.arg] = look
            elif not batch:
                raise _Wrong(parameter, f"{parameter.arg!r} of {node.name} does not say what it "
                             "is.", f"Write `{parameter.arg}: Annotated[int, Knob(\"Label\", "
                             "\"What it does.\")] = 1`, or put it before the `*` if it is a "
                             "column.")
            elif default is None:
                needs.append(parameter.arg)  # TRL calls by name
        return tuple(n for n in needs if n not in FROM_TRL or n == "completions"), knobs, batch

    def _knob(self, parameter: ast.arg, default: ast.expr | None) -> Parameter | None:
        """What is written `Annotated[type, Knob(...)] = default`; None for anything else."""
        note = self._followed(parameter.annotation)
        if not (isinstance(note, ast.Subscript) and _name(note.value) == "Annotated"
                and isinstance(note.slice, ast.Tuple)):
            return None
        kind = TYPES.get(_name(note.slice.elts[0]))
        call = next((e for extra in note.slice.elts[1:] if isinstance(
            e := self._followed(extra), ast.Call) and _name(e.func) == "Knob"), None)
        if kind is None or call is None:
            return None
        try:
            knob = Knob(*map(self._value, call.args),
                        **{k.arg: self._value(k.value) for k in call.keywords})
        except (TypeError, ValueError) as error:
            raise _Wrong(parameter, f"The Knob of {parameter.arg!r} cannot be read: {error}.",
                         'Write Knob("Label", "What it does.", low=0, high=10).') from None
        if default is None or parameter.arg in ("weight", "kind"):
            raise _Wrong(parameter, f"{parameter.arg!r} needs a default value, and any name but "
                         "'weight' and 'kind', which every reward has.")
        try:
            value = self._value(default)
        except ValueError:
            raise _Wrong(parameter,
                         f"The default of {parameter.arg!r} is no plain value.") from None
        if wrong := problem_with(value, kind, knob):
            raise _Wrong(parameter, f"The default of {parameter.arg!r} {wrong}.")
        return Parameter(knob, value, kind)

    def _followed(self, node: ast.expr | None) -> ast.expr | None:
        """What a name of this module stands for."""
        for _ in range(10):
            if not (isinstance(node, ast.Name) and node.id in self.values):
                break
            node = self.values[node.id]
        return node

    def _value(self, node: ast.expr) -> Any:
        """A plain value. Raises ValueError."""
        try:
            return ast.literal_eval(self._followed(node))
        except (TypeError, ValueError, SyntaxError, MemoryError, RecursionError):
            raise ValueError("it is no plain value") from None

    def _text(self, node: ast.expr, what: str) -> str:
        try:
            value = self._value(node)
        except ValueError:
            value = None
        if not isinstance(value, str) or not value.strip():
            raise _Wrong(node, f"The {what} must be text in quotes.")
        return value

    def _score(self, node: ast.expr) -> float:
        try:
            value = self._value(node)
        except ValueError:
            value = None
        if isinstance(value, bool) or not isinstance(value, int | float) \
                or not math.isfinite(value) or value <= 0:
            raise _Wrong(node, "max_score must be a number above 0.")
        return float(value)

    def _kind(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name) and node.id.lower() in KINDS:
            return node.id.lower()  # GOAL and SHAPE, imported
        try:
            value = self._value(node)
        except ValueError:
            value = None
        if value not in KINDS:
            raise _Wrong(node, f"kind must be {' or '.join(map(repr, KINDS))}.")
        return value


def _name(node: ast.expr) -> str:
    return getattr(node, "id", getattr(node, "attr", ""))
