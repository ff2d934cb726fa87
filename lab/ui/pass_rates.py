"""A histogram of pass rates, drawn by the plotly.js that the live view brings."""

import json
from collections.abc import Sequence
from typing import Any

import gradio as gr

from lab.ui.door import PLOTLY_PATH
from lab.ui.panel import ASSETS

# Never and always are columns of their own: such questions teach nothing.
COLUMNS = ("never", "to 20 %", "to 40 %", "to 60 %", "to 80 %", "below all", "always")

TEMPLATE = ("<figure class='pass-rates'><figcaption class='help'></figcaption>"
            "<div class='plot' role='img'></div></figure>")


def pass_rate_chart(**look: Any) -> gr.HTML:
    """The component; its value is what `histogram` gives."""
    return gr.HTML("", html_template=TEMPLATE, apply_default_css=False, js_on_load=(
        ASSETS / "pass_rates.js").read_text(encoding="utf-8").replace(
            "@plotly", PLOTLY_PATH), **look)


def histogram(rates: Sequence[float | None]) -> str:
    """The rates in columns, as JSON; empty where none is known."""
    known = [rate for rate in rates if rate is not None]
    if not known:
        return ""
    counts = [0] * len(COLUMNS)
    for rate in known:
        counts[column_of(rate)] += 1
    share = sum(known) / len(known)
    return json.dumps({"x": COLUMNS, "y": counts, "caption": f"How often the base model is right, "
                       f"question by question: {share:.0%} of all answers."})


def column_of(rate: float) -> int:
    """The place of a rate in `COLUMNS`."""
    if rate <= 0 or rate >= 1:
        return 0 if rate <= 0 else len(COLUMNS) - 1
    return 1 + next(i for i, end in enumerate((0.2, 0.4, 0.6, 0.8, 1.0)) if rate <= end)
