"""The page. Here gradio is imported, without what it does for those who write code with it.

At each import gradio writes type stubs of all its components anew, or finds that they have not
changed, which takes half of the import's time. It leaves out a component that has no source file;
while it is imported, none has.
"""

import contextlib
import inspect
import sys
from collections.abc import Iterator

WRITER = "gradio.component_meta"


@contextlib.contextmanager
def no_stubs() -> Iterator[None]:
    getfile = inspect.getfile

    def none_for_stubs(thing):
        if sys._getframe(1).f_globals.get("__name__") == WRITER:
            raise OSError("no stubs")
        return getfile(thing)

    inspect.getfile = none_for_stubs
    try:
        yield
    finally:
        inspect.getfile = getfile


with no_stubs():
    import gradio  # noqa: F401
