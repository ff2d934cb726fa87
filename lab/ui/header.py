"""The header: the name, what trains now, light or dark, and a few words of help."""

import secrets
from html import escape
from zlib import crc32

import gradio as gr

from lab.services.lab import Lab
from lab.services.runs import Run
from lab.services.summary import stamp_of
from lab.services.version import version
from lab.ui.panel import ASSETS

APP = secrets.token_hex(8)  # of this process; a page that is older loads itself anew
CHIP = ("<span class='anew' role='status'></span>"
        "<button type='button' id='active-run' class='chip' data-status='' data-step='' "
        "title='Go to the Train tab'><span class='dot'></span><span class='text'>…</span></button>")
STEPS = (
    ("Start", "Take a recipe, look at what speaks against it, press Start. While a run trains, "
              "the next ones wait in a queue."),
    ("Model & LoRA, Data, Rewards", "What learns, from which questions, and what for. Every field "
                                    "says what it does."),
    ("Preflight", "The base model answers a few questions first: would it learn anything, how long "
                  "would it take?"),
    ("Train", "The curves, what the doctor sees in them, and the newest answers."),
    ("Compare", "Base and tuned answer side by side; the held-out verdict says whether it got "
                "better."),
    ("Runs & export", "Every run there was, and what can be taken home."),
    ("How GRPO works", "A group of your run in five steps: move a figure and see what follows."),
)
KEYS = ("Arrow keys move along the tabs; Shift and Enter sends a question under Compare. "
        "Each tab, and each run under Train, has an address of its own that can be kept.")
MOON = ("<svg viewBox='0 0 24 24' width='18' height='18' aria-hidden='true'><path fill='none' "
        "stroke='currentColor' stroke-width='2' stroke-linejoin='round' "
        "d='M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5Z'/></svg>")


def build(lab: Lab) -> gr.HTML:
    """The header's row; returns the chip. It pulls by itself, triggers `change` when a run starts,
    ends, or saves its first adapter, or the queue moves, and `select` when it is pressed."""
    mark = (ASSETS / "favicon.svg").read_text().replace("<svg ", "<svg aria-hidden='true' ")

    def newest_run(*_) -> dict:
        return chip_of(lab)

    with gr.Row(elem_classes="header"):
        gr.HTML(f"<div class='brand'>{mark}<div><h1>GRPO Lab</h1><p>Teach a language model by "
                "rewards, and watch it learn.</p></div></div>")
        # Not a subclass: gradio writes a .pyi file beside each module that has one.
        chip = gr.HTML("", html_template=CHIP, apply_default_css=False, elem_classes="chip-box",
                       js_on_load=(ASSETS / "chip.js").read_text(encoding="utf-8"),
                       server_functions=[newest_run])
        gr.HTML(_tools(), elem_classes="tools-box")
    return chip


def _tools() -> str:
    steps = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in STEPS)
    return (f"<button type='button' id='look' class='tool' aria-pressed='false' "
            f"aria-label='Dark' title='Light or dark'>{MOON}</button>"
            "<button type='button' id='help' class='tool' aria-haspopup='dialog' "
            "aria-label='Help' title='Help'><span aria-hidden='true'>?</span></button>"
            "<dialog id='help-text' aria-labelledby='help-title'><h2 id='help-title'>How to use "
            f"the lab</h2><dl>{steps}</dl><p>{escape(KEYS)}</p><p>More stands in README.md and in "
            "the folder docs/ of the lab.</p>"
            f"<form method='dialog'><span class='version'>GRPO Lab, {escape(version())}</span>"
            "<button class='tool wide'>Close</button></form></dialog>")


def chip_of(lab: Lab) -> dict:
    """What the chip shows: {"app", "run", "status", "step", "text", "saved", "queue", "history"}.
    `queue` changes whenever the queue does, `history` when a run is added, deleted or labelled."""
    waiting = lab.queue.all()
    told = {"app": APP, "queue": " ".join(f"{one.id}{'!' * bool(one.problem)}" for one in waiting)}
    folders = lab.workspace.folders()
    # With the deleted ones: a run that is deleted, brought back and deleted again is other news
    # each time, also to a page that has seen only the first.
    told["history"] = crc32(repr([*((one.id, stamp_of(one.label)) for one in folders),
                                  *(one.key for one in lab.trash.all())]).encode())
    if not folders:
        return told | {"run": "", "status": "idle", "step": 0, "text": "No run yet", "saved": False}
    run = lab.runs.active() or lab.runs.get(folders[0].id)
    text = _about(run) + (f", {len(waiting)} waiting" if waiting else "")
    return told | {"run": run.id, "status": run.status, "step": run.step, "text": text,
                   "saved": run.folder.newest() is not None}


def _about(run: Run) -> str:
    text = f"{run.name}: {run.status}"
    return text if run.status == "starting" else f"{text}, step {run.step} of {run.steps}"
