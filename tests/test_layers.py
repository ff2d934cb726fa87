"""The import directions: ui and commands -> services -> core, worker -> backends -> core."""

import ast
import sys
from pathlib import Path

import pytest

LAB = Path(__file__).resolve().parents[1] / "lab"
HEAVY = {"torch", "trl", "transformers", "peft", "accelerate", "unsloth", "vllm", "bitsandbytes"}
# What each layer of lab/ may import of lab/, and of the packages that are kept out elsewhere.
MAY = {
    "core": {"core"},
    "services": {"core", "services"},
    "backends": {"core", "backends"},
    "ui": {"core", "services", "ui"},
    "cli.py": {"core", "services"},
    "worker.py": {"core", "backends"},
    "__main__.py": {"cli"},
    "__init__.py": set(),
    "bootstrap.py": set(),
}
FILES = sorted(LAB.rglob("*.py"))


def layer_of(path: Path) -> str:
    return path.relative_to(LAB).parts[0]


def imported(path: Path) -> set[str]:
    """Every module that the file imports, anywhere in it, by its full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(LAB)))
def test_a_file_imports_only_the_layers_below_it(path):
    ours = {name.split(".")[1] for name in imported(path) if name.startswith("lab.")}
    assert ours <= MAY[layer_of(path)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(LAB)))
def test_heavy_packages_stay_in_the_backends(path):
    packages = {name.split(".")[0] for name in imported(path)}
    if layer_of(path) != "backends":
        assert not packages & HEAVY
    if layer_of(path) != "ui":
        assert "gradio" not in packages


@pytest.mark.parametrize("path", [p for p in FILES if layer_of(p) == "core"],
                         ids=lambda p: str(p.relative_to(LAB)))
def test_core_needs_the_standard_library_only(path):
    packages = {name.split(".")[0] for name in imported(path)} - {"lab"}
    assert packages <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", [p for p in FILES if p.name != "__init__.py"],
                         ids=lambda p: str(p.relative_to(LAB)))
def test_every_file_says_its_job_in_its_first_line(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(('"""', "#!")) and len(first) > 12
