"""The import directions: ui and commands -> services -> core, worker -> backends -> core."""

import ast
import sys
from functools import cache
from pathlib import Path

LAB = Path(__file__).resolve().parents[1] / "lab"
HEAVY = {"torch", "trl", "transformers", "peft", "accelerate", "unsloth", "vllm", "bitsandbytes"}
# What each layer of lab/ may import of lab/, and of the packages that are kept out elsewhere.
MAY = {
    "core": {"core"},
    "services": {"core", "services"},
    "backends": {"core", "backends"},
    "ui": {"core", "services", "ui"},
    "commands": {"core", "services", "commands"},
    "cli.py": {"core", "commands"},
    "worker.py": {"core", "backends"},
    "warm.py": {"core", "backends", "worker"},
    "__main__.py": {"cli"},
    "__init__.py": set(),
    "bootstrap.py": set(),
}
OPTIONAL = {"math_verify", "jsonschema", "referencing", "reasoning_gym"}
IN_A_CHILD = {"checker.py", "gym_child.py"}  # where they may be imported
FILES = sorted(LAB.rglob("*.py"))


def layer_of(path: Path) -> str:
    return path.relative_to(LAB).parts[0]


@cache
def imports_of(path: Path) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """Every import of the file, anywhere in it."""
    return tuple(node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                 if isinstance(node, ast.Import | ast.ImportFrom))


def imported(path: Path) -> set[str]:
    """Every module that the file imports, by its full name."""
    found = set()
    for node in imports_of(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def packages_of(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def breaking(rule) -> dict[str, object]:
    """{file: what breaks the rule there}; `rule` gives it, or something empty."""
    return {str(path.relative_to(LAB)): found for path in FILES if (found := rule(path))}


def test_a_file_imports_only_the_layers_below_it():
    assert not breaking(lambda path: {
        name for name in imported(path)
        if name.startswith("lab.") and name.split(".")[1] not in MAY[layer_of(path)]})


def test_what_a_file_imports_of_a_folder_of_ours_is_there():
    """Also where it is imported late, on a machine that the tests do not run on."""
    def missing(path: Path) -> list[str]:
        found = []
        for node in imports_of(path):
            module = getattr(node, "module", None) or ""
            if not module.startswith("lab."):
                continue
            place = LAB.parent.joinpath(*module.split("."))
            if not is_there(place):
                found.append(module)
            elif place.is_dir() and not (place / "__init__.py").read_text(encoding="utf-8").strip():
                found += [f"{module}.{alias.name}" for alias in node.names
                          if not is_there(place / alias.name)]
        return found

    def is_there(place: Path) -> bool:
        return place.is_dir() or place.with_suffix(".py").is_file()

    assert not breaking(missing)


def test_heavy_packages_stay_in_the_backends_and_gradio_in_the_ui():
    assert not breaking(lambda path: layer_of(path) != "backends" and packages_of(path) & HEAVY)
    assert not breaking(lambda path: layer_of(path) != "ui" and packages_of(path) & {"gradio"})


def test_core_needs_the_standard_library_only():
    standard = set(sys.stdlib_module_names) | {"lab"}
    assert not breaking(lambda path: layer_of(path) == "core" and packages_of(path) - standard - (
        OPTIONAL if path.name in IN_A_CHILD else set()))


def test_every_file_says_its_job_in_its_first_line():
    def silent(path: Path) -> bool:
        lines = path.read_text(encoding="utf-8").splitlines()
        return path.name != "__init__.py" and not (
            lines and lines[0].startswith(('"""', "#!")) and len(lines[0]) > 12)

    assert not breaking(silent)
