"""The section "Your own reward" of the Rewards tab: write or upload Python, check it, use it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from html import escape
from typing import Any

import gradio as gr

from lab.core import knobs
from lab.core.knobs import Knob
from lab.core.limited.run import missing
from lab.core.problems import BadData, BadSettings, LabError, Problem
from lab.core.rewards import own, permission
from lab.core.rewards.chosen import Chosen, format_chosen, parse_chosen
from lab.core.rewards.own import Source
from lab.core.rewards.registry import GOAL
from lab.core.settings import Settings
from lab.services.data import load as datasets
from lab.services.lab import Lab
from lab.services.own_rewards import RIGHT, Trial, dry_run, keep_upload
from lab.ui.access import owner_only
from lab.ui.forms import OWN_FILE, OWN_LIST, Form
from lab.ui.widgets import (
    FREE,
    QUIET,
    counted,
    explained,
    number,
    one_line,
    problems_html,
    table_html,
)

TEMPLATE = '''\
from typing import Annotated

from lab.core.rewards import Knob, final_answer, reward


@reward("Right at last", max_score=1.0, kind="goal")
def right_at_last(completion, answer, *,
                  words: Annotated[int, Knob("Words", "How many at the end.", low=1)] = 1):
    """1 when the reference is among the last words of the answer, else 0."""
    return 1.0 if answer in final_answer(completion).split()[-words:] else 0.0


# TRL's plain form is taken too: lists in, a list out.
def polite(completions, **kwargs):
    """1 when the answer says please."""
    return [1.0 if "please" in c[0]["content"].lower() else 0.0 for c in completions]

polite.kind = "shape"
'''
ABOUT = ("A reward is a Python function that scores an answer. It takes <code>completion</code> "
         "and any column of the data by name, as in the template; <code>None</code> means that it "
         "cannot judge.")
LIMITED = ("Your code runs in a child process of its own, with no network, no secrets, little "
           "memory and a time limit. That limits accidents; it is no sandbox.")
STAND_IN = {"question": "What is 6 * 7?", "answer": "42"}
LONGEST = 60  # characters of a question that are shown
PRINTED = 2000  # characters of what the code printed


def build(lab: Lab, form: Form) -> None:
    form.root = lab.workspace.root
    with gr.Accordion("Your own reward", open=False, elem_id="own-rewards"):
        gr.HTML(f"<p class='help'>{ABOUT} {LIMITED}</p>{off_html()}", elem_id="own-about")
        code = gr.Code(TEMPLATE, language="python", label="Python", lines=12, max_lines=30,
                       elem_id="own-code")
        name = gr.Textbox("rewards.py", visible="hidden", label="Name of the file")
        with gr.Row():
            upload = gr.UploadButton("Open a file", file_types=[own.SUFFIX], size="md", scale=0,
                                     min_width=140, elem_id="own-upload")
            check = gr.Button("Try it on rows", size="md", scale=0, min_width=140,
                              elem_id="own-check")
            use = gr.Button("Use it", variant="primary", size="md", scale=0, min_width=140,
                            elem_id="own-use")
            drop = gr.Button("Use none", size="md", scale=0, min_width=140, elem_id="own-drop")
        told = gr.HTML(scan_html(own.source_of("rewards.py", TEMPLATE)), elem_id="own-told")
        with gr.Row(elem_classes="fields"):
            chosen = form._make(
                OWN_LIST, Knob("Rewards of your file that count", "NAME[:weight=W][:kind=goal|"
                               "shape][:param=V],... Empty: none."), str,
                format_chosen(form.first.rewards.own), elem_classes="wide")
            file = form.widget(OWN_FILE, label="File in use", info=None, interactive=False,
                               placeholder="none", elem_classes="wide")

    @code.change(inputs=[name, code], outputs=told, trigger_mode="always_last", **FREE)
    @explained
    @owner_only
    def look(name: str, text: str) -> str:
        return scan_html(own.source_of(name, text or ""))

    @upload.upload(inputs=upload, outputs=[name, code], **QUIET)
    @explained
    @owner_only
    def take(path: str) -> tuple[str, str]:
        source = own.read(path)
        return source.name, source.text

    @file.change(inputs=[file, code], outputs=[code, name], **FREE)
    @explained
    def show(path: str, shown: str) -> tuple:
        path = form.own_file({OWN_FILE: path})
        if not path or permission.against_visitors():
            return gr.skip(), gr.skip()
        source = own.read(path)
        return (gr.skip() if source.text == shown else source.text), source.name

    @check.click(inputs=[name, code], outputs=[told, check], inputs_kwargs=form.inputs("data."),
                 concurrency_id="own-check", concurrency_limit=1, **QUIET)
    @explained
    @owner_only
    async def try_out(name: str, text: str, **values) -> AsyncIterator[tuple]:
        idle = gr.update(value="Try it on rows", interactive=True)
        source = own.source_of(name, text or "")
        yield (scan_html(source) + "<p class='busy' role='status'>Running it on rows …</p>",
               gr.update(value="Running …", interactive=False))
        try:
            yield await asyncio.to_thread(checked_html, source, values), idle
        except LabError as error:
            yield scan_html(source) + problems_html([error.problem]), idle
        except Exception:
            yield gr.skip(), idle
            raise

    @explained
    @owner_only
    def take_in_use(name: str, text: str, before: str) -> tuple:
        if why := permission.against_code():
            raise BadSettings("Your reward cannot be used here.", why)
        path = keep_upload(text or "", name, lab.workspace.make().uploads / "rewards")
        return str(path), format_chosen(choice_of(str(path), before))

    form.shown_by += [
        use.click(take_in_use, [name, code, chosen], [file, chosen], **QUIET),
        drop.click(explained(lambda: ("", "")), outputs=[file, chosen], **QUIET)]


def choice_of(path: str, before: str) -> list[Chosen]:
    """All rewards of a file, those that were chosen before with their weights and parameters."""
    known, why = own.known(path)
    if why:
        raise BadData("The file cannot be used.", why)
    chosen = {}
    for entry in before.split(","):
        with contextlib.suppress(ValueError):  # of a file with other rewards
            chosen |= {one.name: one for one in parse_chosen(entry, path)}
    return [chosen.get(name) or Chosen(name, file=path) for name in known]


def not_told_apart(tried: list[Trial], source: Source) -> list[tuple[str, str, str, float]]:
    """(reward, what answer, question, score) where a goal gives a bad answer as much as the right
    one; once for each reward and kind of answer."""
    found, right = {}, None
    for one in tried:
        if one.what == RIGHT:
            right = one.score
        elif (source.rewards[one.reward].kind == GOAL and right is not None
              and one.score is not None and one.score >= right):
            found.setdefault((one.reward, one.what), (one.reward, one.what,
                                                      one_line(one.question, LONGEST), one.score))
    return list(found.values())


def off_html() -> str:
    """That no code may run here, and how to change it."""
    if permission.code_allowed():
        return ""
    return problems_html([Problem("Reward code is off.", "You can write and check the form of a "
                                  "reward, but not run or use it.", permission.HOW,
                                  level="warning")])


def scan_html(source: Source) -> str:
    """What the scan found: each reward, or each mistake with its line."""
    if source.mistakes:
        return problems_html(Problem(f"Line {one.line}: {one.what}", next=one.next)
                             for one in source.mistakes)
    rows = [(one.name, one.label, one.kind, knobs.plain(one.max_score),
             ", ".join(one.columns) or "–", ", ".join(one.knobs) or "–")
            for one in source.rewards.values()]
    return table_html(("Name", "Label", "Kind", "At most", "Columns", "Parameters"), rows,
                      numbers=[3])


def checked_html(source: Source, values: Mapping[str, Any]) -> str:
    """The dry run on the first rows of the data that the form names."""
    note = ""
    try:
        settings = Settings().with_values(values)
        rows = datasets.load(settings.data, settings.train.seed).train
    except LabError as error:
        rows = [STAND_IN]
        note = problems_html([Problem("The rows of the data cannot be had, so a made-up one is "
                                      "used.", str(error.problem), level="warning")])
    tried, printed = dry_run(source, rows)
    lacks = "".join(f"<li>{escape(text)}</li>" for text in missing())
    return (scan_html(source) + note + tried_html(tried, source)
            + (f"<details><summary>What it printed</summary><pre tabindex='0'>"
               f"{escape(printed[:PRINTED])}</pre></details>" if printed.strip() else "")
            + (f"<p class='help'>On this machine the limits have gaps:</p><ul>{lacks}</ul>"
               if lacks else ""))


def tried_html(tried: list[Trial], source: Source) -> str:
    """Each reward's scores of the tried answers; where it failed, the person's own lines."""
    failed = [one for one in tried if one.error]
    above = [one for one in tried if one.score is not None
             and one.score > source.rewards[one.reward].max_score + 1e-9]
    found = {(one.reward, one.error): one for one in failed}  # one of each kind is enough
    problems = [Problem(one.error, ("Your lines, from the outside in: " + " → ".join(one.lines)
                                    if len(one.lines) > 1 else ""), level="error")
                for one in found.values()]
    problems += [Problem(f"'{one.reward}' gave {number(one.score)}, and its highest score is "
                         f"{knobs.plain(source.rewards[one.reward].max_score)}.",
                         "Goals, dead groups and bests are counted by the highest score.",
                         "Raise max_score, or give less.", level="warning")
                 for one in {one.reward: one for one in above}.values()]
    problems += [Problem(f"'{name}' is a goal, and gives {what} as much as the right one.",
                         f"Both got {number(score)} on: {question}", "Look for what tells them "
                         "apart, or call it a shape.", level="warning")
                 for name, what, question, score in not_told_apart(tried, source)]
    names = list(source.rewards)
    shown: dict[tuple[str, str], dict[str, str]] = {}
    for place, one in enumerate(tried):
        row = place % (len(tried) // len(names))  # the same answers again for each reward
        shown.setdefault((row, one.question, one.what), {})[one.reward] = \
            "failed" if one.error else number(one.score)
    rows = [(one_line(question, LONGEST), what, *(scores[name] for name in names))
            for (_, question, what), scores in shown.items()]
    words = (f"{counted(len(tried), 'score')} of real rows, {len(failed)} failed."
             if failed else f"{counted(len(tried), 'score')} of real rows, none failed.")
    return (problems_html(problems) + f"<p class='facts' role='status'>{words}</p>"
            + table_html(("Question", "Answer", *names), rows,
                         numbers=range(2, 2 + len(names))))

