"""The Data tab: where the questions come from, their mapping, and what the model really sees."""

import asyncio
import atexit
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import gradio as gr

from lab.core.problems import BadData, LabError, explain
from lab.core.prompts import with_its_turns
from lab.core.settings import (
    AUTO,
    MADE,
    REASONING_GYM,
    SOURCES,
    WORD_PROBLEMS,
    Data,
    Settings,
)
from lab.core.task import LEVELS
from lab.services.data import load as datasets
from lab.services.data.fields import fields_in
from lab.services.data.lengths import at_hand, lengths_of
from lab.services.data.mapping import Mapped, mapped
from lab.services.data.places import allow_file
from lab.services.data.report import Report, describe
from lab.services.data.table import watched
from lab.services.data.uploads import clear_out, keep_upload
from lab.services.lab import Lab
from lab.ui.access import may_train, owner_only
from lab.ui.data_view import columns_html, lengths_html, report_html
from lab.ui.forms import Form
from lab.ui.widgets import FREE, QUIET, explained, problem_in_place, problems_html

LARGEST_UPLOAD = "200 MB"
PATIENCE = 60.0  # seconds that the first rows of an upload may take
UNSEEN = ("<p class='empty'>Press Preview for rows, the exact prompt and how long the prompts are."
          "</p>")
SOURCE_TITLES = {WORD_PROBLEMS: "Word problems, made by the lab", "gsm8k": "GSM8K",
                 REASONING_GYM: "Tasks of reasoning-gym",
                 "hub": "A dataset of the Hub", "file": "A file"}
PATH_LABELS = {"hub": "Hub dataset (owner/name)", "file": "File", "gsm8k": "Local copy, if any"}
MAPPING = ("question_column", "answer_column", "answer_extraction", "template")
# A change of one of these is shown at once, where nothing has to be fetched for it.
WATCHED = ("source", "level", "tasks", "difficulty", "path", *MAPPING, "system_prompt",
           "held_out", "held_out_share", "rows")


@dataclass
class DataTab:
    built_in: gr.Column
    gym: gr.Column
    outside: gr.Column
    mapping: gr.Column
    path: gr.Textbox
    upload: gr.File
    refused: gr.HTML
    read_columns: gr.Button
    columns: gr.HTML
    preview: gr.Button
    counts: gr.HTML
    held_out: gr.Button
    left_out: gr.DownloadButton
    row: gr.Number
    prompt: gr.Textbox
    lengths: gr.HTML
    longest: gr.Button

    def visible_for(self, source: str) -> dict:
        """Show what this source needs, and call its field by its name."""
        return {self.built_in: gr.update(visible=source == WORD_PROBLEMS),
                self.gym: gr.update(visible=source == REASONING_GYM),
                self.outside: gr.update(visible=source not in MADE),
                self.mapping: gr.update(visible=source in ("hub", "file"))}


def build_tab(lab: Lab, form: Form) -> DataTab:
    source = form.first.data.source
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=5, min_width=320):
            gr.HTML("<h2>Where the questions come from</h2>")
            form.widget("data.source", choices=[(SOURCE_TITLES[s], s) for s in SOURCES])
            with gr.Column(visible=source == WORD_PROBLEMS, elem_id="built-in") as built_in:
                form.widget("data.level", choices=[(f"{n}: {text}", n)
                                                   for n, text in LEVELS.items()])
            with gr.Column(visible=source == REASONING_GYM, elem_id="gym") as gym:
                form.widget("data.tasks")
                form.widget("data.difficulty")
            with gr.Column(visible=source not in MADE, elem_id="outside") as outside:
                upload = gr.File(label="Upload CSV, JSON, JSONL, Parquet or Excel, also as .gz: up "
                                 f"to {LARGEST_UPLOAD} (larger ones by their path)", height=120,
                                 elem_id="upload")
                refused = gr.HTML(visible=False, elem_id="upload-refused")
                path = form.widget("data.path")
            with gr.Column(visible=source in ("hub", "file"), elem_id="mapping") as mapping:
                with gr.Row():
                    read_columns = gr.Button("Read the columns", size="md", scale=0, min_width=180,
                                             elem_id="read-columns")
                    columns = gr.HTML(elem_id="columns-found")
                with gr.Row(elem_classes="fields"):
                    form.widget("data.question_column", choices=[AUTO], allow_custom_value=True)
                    form.widget("data.answer_column", choices=[AUTO, ("none", "")],
                                allow_custom_value=True)
                    form.widget("data.answer_extraction")
                form.widget("data.template")
                form.group("data", ("data.subset", "data.split"))
            form.group("data")
        with gr.Column(scale=4, min_width=300, elem_classes="side"), \
                gr.Column(elem_classes="sheet"):
            gr.HTML("<h3>What the model sees</h3>")
            preview = gr.Button("Preview", size="md", elem_id="preview")
            counts = gr.HTML(UNSEEN, elem_id="preview-counts")
            with gr.Row():
                held_out = gr.Button("Set 'Held-out rows'", size="md", visible=False,
                                     elem_id="fit-held-out")
                left_out = gr.DownloadButton("Rows not used (CSV)", size="md", visible=False,
                                             elem_id="left-out")
            row = gr.Number(1, label="Row", info="Whose prompt is shown.", step=1, visible=False,
                            elem_id="preview-row")
            prompt = gr.Textbox(label="Exact prompt", lines=8, max_lines=24, buttons=["copy"],
                                interactive=False, visible=False, elem_id="preview-prompt")
            lengths = gr.HTML(elem_id="preview-lengths")
            longest = gr.Button("Set 'Longest prompt'", size="md", visible=False,
                                elem_id="fit-longest")
    return DataTab(built_in, gym, outside, mapping, path, upload, refused, read_columns, columns,
                   preview, counts, held_out, left_out, row, prompt, lengths, longest)


def wire(tab: DataTab, lab: Lab, form: Form) -> None:
    mapping = [*(form.widgets[f"data.{name}"] for name in ("source", "path", *MAPPING)),
               tab.columns]
    tables = Path(tempfile.mkdtemp(prefix="grpo-lab-data-"))
    atexit.register(shutil.rmtree, tables, ignore_errors=True)

    clear_out(lab.workspace)

    def guess(data: Data) -> list:
        columns, rows = datasets.sample_of(data)
        offered = fields_in(columns, rows)
        # Of the Hub no row is known yet, and names alone do not tell a conversation from a text.
        found = mapped(data, columns, rows) if rows else Mapped(*4 * [AUTO])
        return [data.source, data.path,
                gr.Dropdown(choices=[AUTO, *offered], value=found.question),
                gr.Dropdown(choices=[AUTO, ("none", ""), *offered], value=found.answer),
                found.extraction, found.template, columns_html(offered, found)]

    @explained
    @owner_only
    def take_upload(path: str) -> dict:
        """One that cannot be read leaves nothing of an earlier file in force, nor shown."""
        allow_file(Path(path))  # gradio takes none but one that was just handed in
        try:
            with watched(patience(PATIENCE)):
                updates = guess(Data(source="file", path=path))  # refuses what is no table
            updates[1] = str(keep_upload(Path(path), lab.workspace))
            return dict(zip(mapping, updates, strict=True)) | {tab.refused: problem_in_place(None)}
        except Exception as error:
            Path(path).unlink(missing_ok=True)
            cleared = ["file", "", AUTO, AUTO, Data().answer_extraction, Data().template, ""]
            return dict(zip(mapping, cleared, strict=True)) | _nothing(tab) | {
                tab.counts: UNSEEN, tab.upload: None,
                tab.refused: problem_in_place(explain(error))}

    @explained
    @owner_only
    def read_columns(**values) -> list:
        where = ("data.source", "data.path", "data.subset", "data.split")
        return guess(Settings().with_values({key: values[key] for key in where}).data)

    filled = [tab.upload.upload(take_upload, tab.upload, [*mapping, tab.upload, tab.refused,
                                                          tab.counts, *_nothing(tab)], **QUIET),
              tab.read_columns.click(read_columns, None, mapping,
                                     inputs_kwargs=form.inputs("data."), **QUIET)]
    form.shown_by += filled

    @form.widgets["data.source"].change(inputs=form.widgets["data.source"], outputs=tab.path,
                                        **FREE)
    def name_path(source: str):
        return gr.update(label=PATH_LABELS.get(source, PATH_LABELS["file"]))

    question, answer = (form.widgets[f"data.{name}"] for name in MAPPING[:2])
    shown = [question, answer, tab.preview, tab.counts, tab.held_out, tab.left_out, tab.row,
             tab.prompt, tab.lengths, tab.longest]

    def fields_of(found: Report) -> dict:
        """What is inside the columns can be chosen, once the rows are known."""
        offered = found.split.fields
        return {} if not offered else {
            question: gr.update(choices=[AUTO, *offered]),
            answer: gr.update(choices=[AUTO, ("none", ""), *offered])}

    async def look(row: float | None, values: dict):
        """The rows at once, then what needs the tokenizer."""
        idle = {tab.preview: gr.Button("Preview", interactive=True)}
        try:
            settings = form.read(values)
            yield {tab.preview: gr.Button("Loading …", interactive=False)}
            share: list[float] = []
            with watched(share.append):
                loading = asyncio.create_task(asyncio.to_thread(
                    datasets.load, settings.data, settings.train.seed))
            while not (await asyncio.wait([loading], timeout=0.5))[0]:
                if share:
                    yield {tab.preview: gr.Button(f"Loading … {share[-1]:.0%}")}
            split = await loading
            number = max(1, min(int(row or 1), len(split.train) or 1))
            found = await asyncio.to_thread(describe, settings, split)
            measuring = asyncio.create_task(asyncio.to_thread(
                lengths_of, lab.chat, settings, split, number - 1)) \
                if split.train and at_hand(settings) else None
            # Not where they come at once: of two values in a row the page may keep the first.
            if not measuring or not (await asyncio.wait([measuring], timeout=1))[0]:
                yield _counted(tab, found, number, tables) | fields_of(found)
            if measuring:
                yield {tab.preview: gr.Button("Reading the tokenizer …")}
                measured = await measuring
                yield _counted(tab, replace(found, lengths=measured), number, tables) | \
                    fields_of(found) | {
                    tab.lengths: lengths_html(measured.tokens, measured.longest),
                    tab.longest: gr.update(
                        value=f"Set 'Longest prompt' to {_fitting(measured.percentile(95))}: 95 % "
                        "of the prompts fit", visible=True)}
            elif split.train:
                yield {tab.lengths: "<p class='facts'>The model's tokenizer is not on this machine "
                       "yet: lengths are counted when it is.</p>", tab.longest: gr.update(
                           visible=False)}
        except LabError as error:  # in place: what is shown of another file would mislead
            yield idle | _nothing(tab) | {tab.counts: problems_html([error.problem])}
            return
        except Exception as error:
            yield idle | _nothing(tab) | {tab.counts: problems_html([explain(error)])}
            raise
        yield idle

    @explained
    @owner_only
    async def preview(row: float | None, **values):
        async for update in look(row, values):
            yield update

    called = {"inputs": [tab.row], "inputs_kwargs": form.inputs(), "outputs": shown,
            "concurrency_id": "preview", "concurrency_limit": 2, **QUIET}
    tab.preview.click(preview, **called)

    @explained
    async def follow(row: float | None, **values):
        """The same at each change, of who may; of the Hub nothing is fetched without being asked
        to."""
        source, path = values["data.source"], values["data.path"]
        fetches = source == "hub" or not path and source not in MADE
        if fetches or not may_train() or form.problems(values):
            return
        async for update in look(row, values):
            yield update

    changed = [form.widgets[f"data.{name}"].input for name in WATCHED]
    for when in (*(event.then for event in filled),
                 lambda *a, **k: gr.on([*changed, tab.row.input], *a, **k)):
        when(follow, trigger_mode="always_last", **called)

    fit = form.widgets["data.held_out"], form.widgets["train.max_prompt_length"]
    form.shown_by += [
        tab.held_out.click(lambda label: int(label.rsplit(" ", 1)[-1].replace(",", "")),
                           tab.held_out, fit[0], **FREE),
        tab.longest.click(lambda label: int(re.search(r"to ([\d,]+)", label)[1].replace(",", "")),
                          tab.longest, fit[1], **FREE)]


def _counted(tab: DataTab, found: Report, number: int, tables: Path) -> dict:
    """Updates that show a report; the prompt is the rows' own text until a tokenizer wrote it."""
    split, left_out = found.split, bool(found.left_out)
    short = len(split.held_out) < split.held_out_wanted
    there = bool(split.train)
    if left_out:
        (tables / "rows-not-used.csv").write_text(found.table(), encoding="utf-8")
    text = (found.lengths.first if found.lengths else
            with_its_turns(split.train[number - 1]) if there else "")
    return {tab.counts: report_html(found),
            tab.held_out: gr.update(visible=short, value="Set 'Held-out rows' to "
                                    f"{len(split.held_out):,}"),
            tab.left_out: gr.update(visible=left_out, value=str(tables / "rows-not-used.csv")
                                    if left_out else None),
            tab.row: gr.update(visible=there, value=number),
            tab.prompt: gr.update(visible=there, value=text)}


def _nothing(tab: DataTab) -> dict:
    hidden = gr.update(visible=False)
    return {tab.held_out: hidden, tab.left_out: hidden, tab.row: hidden, tab.prompt: hidden,
            tab.lengths: "", tab.longest: hidden}


def _fitting(tokens: int) -> int:
    """The next length that the setting takes in its steps of 8."""
    return max(8, -(-tokens // 8) * 8)


def patience(seconds: float) -> Callable[[float], None]:
    """What gives up on a file that takes longer than this."""
    until = time.monotonic() + seconds

    def told(share: float) -> None:
        if time.monotonic() > until:
            raise BadData(f"Reading it took longer than {seconds:.0f} seconds.",
                          f"{share:.0%} of it was read.", "Keep fewer rows and columns, or save it "
                          "as Parquet.", "data.path")

    return told
