"""The tab that tells how GRPO works, on a group of a run."""

import gradio as gr

from lab.services.lab import Lab
from lab.ui.lesson import lesson_view


def build_tab(lab: Lab) -> None:
    gr.HTML("<h2>How GRPO works</h2><p class='help'>One question, several answers, and the "
            "difference between them is all there is to learn from. Move a reward or a weight, and "
            "see what follows.</p>")
    lesson_view(lab)
