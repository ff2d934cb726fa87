"""What the import of gradio costs is what it needs, as long as gradio does more than that."""

import subprocess
import sys

import pytest

from lab.services.workspace import PROJECT

COUNT = """
import ast, sys
parsed = 0
parse = ast.parse
def counted(*args, **kwargs):
    global parsed
    parsed += sys._getframe(1).f_globals["__name__"] == "gradio.component_meta"
    return parse(*args, **kwargs)
ast.parse = counted
import {name}
import gradio, inspect
assert gradio.Textbox(label="x").label == "x" and inspect.getfile(gradio.Textbox)
print(parsed)
"""


@pytest.mark.parametrize("name, stubs", [("gradio", True), ("lab.ui", False)])
def test_the_lab_does_not_let_gradio_write_stubs(name, stubs):
    """Where the first case fails, gradio does so no more, and lab/ui/__init__.py can go."""
    done = subprocess.run([sys.executable, "-c", COUNT.format(name=name)], cwd=PROJECT,
                          capture_output=True, text=True, check=True)
    assert (int(done.stdout) > 0) is stubs
