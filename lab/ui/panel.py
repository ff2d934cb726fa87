"""A panel that the browser draws: assets/NAME.html, .css and .js, and what it may ask."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from lab.core.problems import explain
from lab.services.workspace import PROJECT
from lab.ui.door import PLOTLY_PATH

ASSETS = PROJECT / "assets"
Answer = Callable[[Any], dict]


def panel(name: str, elem_id: str, nothing: dict, **answers: Answer) -> gr.HTML:
    """`answers` are what its script calls as server.NAME(asked), by anyone and with anything: where
    one fails, `nothing` comes back with "problem"."""
    def text(kind: str) -> str:
        file = ASSETS / f"{name}.{kind}"
        return file.read_text(encoding="utf-8") if file.exists() else ""

    # Not a subclass: gradio writes a .pyi file beside each module that has one.
    return gr.HTML("", html_template=text("html"), css_template=text("css"),
                   js_on_load=text("js").replace("@plotly", PLOTLY_PATH), apply_default_css=False,
                   elem_id=elem_id, server_functions=[
                       _guarded(called, answer, nothing) for called, answer in answers.items()])


def _guarded(called: str, answer: Answer, nothing: dict) -> Answer:
    def guarded(asked: Any) -> dict:
        try:
            return answer(asked)
        except Exception as error:  # no words of an unforeseen error go to whoever asks
            return nothing | {"problem": explain(error).what}

    guarded.__name__ = called
    return guarded
