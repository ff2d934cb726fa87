"""The Data tab: where the questions come from, their mapping, and what the model really sees."""

import asyncio
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median

import gradio as gr

from lab.core.problems import BadData
from lab.core.prompts import messages
from lab.core.settings import SOURCES, Data, Settings
from lab.core.task import LEVELS
from lab.services import datasets
from lab.services.datasets import Split
from lab.services.lab import Lab
from lab.ui.access import owner_only
from lab.ui.forms import Form
from lab.ui.widgets import QUIET, explained, table_html

FILE_KINDS = (".csv", ".json", ".jsonl", ".parquet")
SOURCE_TITLES = {"word-problems": "Word problems, made by the lab", "gsm8k": "GSM8K",
                 "hub": "A dataset of the Hub", "file": "A file"}
MEASURED = 500  # prompts whose length is counted
TABLE_ROWS = 8
BINS = 24


@dataclass
class DataTab:
    built_in: gr.Column
    outside: gr.Column
    mapping: gr.Column
    upload: gr.File
    read_columns: gr.Button
    columns: gr.HTML
    preview: gr.Button
    counts: gr.HTML
    row: gr.Number
    prompt: gr.Textbox
    lengths: gr.HTML

    def visible_for(self, source: str) -> dict:
        """Show what this source needs."""
        return {self.built_in: gr.update(visible=source == "word-problems"),
                self.outside: gr.update(visible=source != "word-problems"),
                self.mapping: gr.update(visible=source in ("hub", "file"))}


def build_tab(lab: Lab, form: Form) -> DataTab:
    source = form.first.data.source
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=5, min_width=320):
            gr.HTML("<h2>Where the questions come from</h2>")
            form.widget("data.source", choices=[(SOURCE_TITLES[s], s) for s in SOURCES])
            with gr.Column(visible=source == "word-problems", elem_id="built-in") as built_in:
                form.widget("data.level", choices=[(f"{n}: {text}", n)
                                                   for n, text in LEVELS.items()])
            with gr.Column(visible=source != "word-problems", elem_id="outside") as outside:
                upload = gr.File(label="Upload CSV, JSON, JSONL or Parquet", height=120,
                                 file_types=list(FILE_KINDS), elem_id="upload")
                form.widget("data.path")
            with gr.Column(visible=source in ("hub", "file"), elem_id="mapping") as mapping:
                with gr.Row():
                    read_columns = gr.Button("Read the columns", size="md", scale=0, min_width=180,
                                             elem_id="read-columns")
                    columns = gr.HTML(elem_id="columns-found")
                with gr.Row(elem_classes="fields"):
                    form.widget("data.question_column", choices=["question"],
                                allow_custom_value=True)
                    form.widget("data.answer_column", choices=["", "answer"],
                                allow_custom_value=True)
                    form.widget("data.answer_extraction")
                form.group("data", ("data.subset", "data.split"))
            form.group("data")
        with gr.Column(scale=4, min_width=300, elem_classes="side"), \
                gr.Column(elem_classes="sheet"):
            gr.HTML("<h3>What the model sees</h3>")
            preview = gr.Button("Preview", size="md", elem_id="preview")
            counts = gr.HTML("<p class='empty'>Press Preview for rows, the exact prompt and how "
                             "long the prompts are.</p>", elem_id="preview-counts")
            row = gr.Number(1, label="Row", info="Whose prompt is shown; press Preview again "
                            "for another.", step=1, visible=False, elem_id="preview-row")
            prompt = gr.Textbox(label="Exact prompt", lines=8, max_lines=24, buttons=["copy"],
                                interactive=False, visible=False, elem_id="preview-prompt")
            lengths = gr.HTML(elem_id="preview-lengths")
    return DataTab(built_in, outside, mapping, upload, read_columns, columns, preview, counts,
                   row, prompt, lengths)


def wire(tab: DataTab, lab: Lab, form: Form) -> None:
    mapping = [form.widgets[f"data.{name}"]
               for name in ("source", "path", "question_column", "answer_column")]

    def mapped(data: Data) -> list:
        columns = datasets.columns_of(data)
        question, answer = datasets.guess_mapping(columns)
        return [data.source, data.path, gr.Dropdown(choices=columns, value=question),
                gr.Dropdown(choices=["", *columns], value=answer),
                columns_html(columns, question, answer)]

    @explained
    @owner_only
    def take_upload(path: str) -> list:
        updates = mapped(Data(source="file", path=path))  # refuses what is no table
        updates[1] = str(keep_upload(Path(path), lab.workspace.make().uploads))
        return updates

    @explained
    @owner_only
    def read_columns(**values) -> list:
        where = ("data.source", "data.path", "data.subset", "data.split")
        return mapped(Settings().with_values({key: values[key] for key in where}).data)

    form.shown_by += [
        tab.upload.upload(take_upload, tab.upload, [*mapping, tab.columns], **QUIET),
        tab.read_columns.click(read_columns, None, [*mapping, tab.columns],
                               inputs_kwargs=form.inputs("data."), **QUIET)]

    @tab.preview.click(inputs=[tab.row], inputs_kwargs=form.inputs(),
                       outputs=[tab.preview, tab.counts, tab.row, tab.prompt, tab.lengths],
                       concurrency_id="preview", concurrency_limit=2, **QUIET)
    @explained
    @owner_only
    async def preview(row: float | None, **values):
        idle = gr.Button("Preview", interactive=True)
        try:
            settings = form.read(values)
            yield gr.Button("Loading …", interactive=False), *4 * [gr.skip()]
            split = await asyncio.to_thread(datasets.load, settings.data,
                                            settings.train.seed)
            there = bool(split.train)
            yield (gr.Button("Reading the tokenizer …"), counts_html(split),
                   gr.Number(visible=there), gr.Textbox(visible=there), "")
            if there:
                number = max(1, min(int(row or 1), len(split.train)))
                text, bars = await asyncio.to_thread(measure, lab, settings, split, number)
                yield gr.skip(), gr.skip(), number, text, bars
        except Exception:
            yield idle, *4 * [gr.skip()]
            raise
        yield idle, *4 * [gr.skip()]


def keep_upload(path: Path, folder: Path) -> Path:
    """Copy an upload into the lab's own folder, under a plain name that no other content has."""
    suffix = path.suffix.lower()
    if suffix not in FILE_KINDS:
        raise BadData(f"{path.name} cannot be used.", f"Its name ends in {suffix or 'nothing'}.",
                      f"Upload a file that ends in {', '.join(FILE_KINDS)}.", "data.path")
    stem = re.sub(r"[^A-Za-z0-9_]+", "-", path.stem).strip("-")[:60] or "upload"
    folder.mkdir(parents=True, exist_ok=True)
    attempt = 1
    while (kept := folder / f"{stem}{f'-{attempt}' if attempt > 1 else ''}{suffix}").exists():
        if path.read_bytes() == kept.read_bytes():
            return kept
        attempt += 1
    shutil.copyfile(path, kept)
    return kept


def measure(lab: Lab, settings: Settings, split: Split, row: int) -> tuple[str, str]:
    """The exact prompt of one row (from 1), and a histogram of the lengths of the first ones."""
    questions = [r["question"] for r in split.train[:MEASURED]]
    asked = [messages(text, settings.data.system_prompt)
             for text in (split.train[row - 1]["question"], *questions)]
    shown, *rest = lab.chat.render(settings, asked)
    return shown.text, lengths_html([r.tokens for r in rest], settings.train.max_prompt_length)


def columns_html(columns: Sequence[str], question: str, answer: str) -> str:
    return (f"<p class='facts' role='status'>Columns: {escape(', '.join(columns))}. Question: "
            f"<b>{escape(question)}</b>; reference answer: <b>{escape(answer or 'none')}</b>.</p>")


def counts_html(split: Split) -> str:
    """How many rows there are, what was left out, and the first of them."""
    notes = "".join(f"<li>{escape(note)}</li>" for note in split.notes)
    head = [*split.train[0]] if split.train else []
    rows = [[i, *(_cell(row.get(column)) for column in head)]
            for i, row in enumerate(split.train[:TABLE_ROWS], 1)]
    return (f"<p class='counts'><b>{len(split.train):,}</b> rows to train on, "
            f"<b>{len(split.held_out):,}</b> held out.</p>"
            + (f"<ul class='notes'>{notes}</ul>" if notes else "")
            + (table_html(["", *head], rows, numbers=[0]) if rows else ""))


def _cell(value: object) -> str:
    text = "" if value is None else " ".join(str(value).split())
    return text if len(text) <= 160 else f"{text[:159]}…"


def lengths_html(tokens: Sequence[int], longest: int) -> str:
    """A histogram of prompt lengths; bars of what is left out as too long are marked."""
    low, high = min(tokens), max(tokens)
    width = max(1, -(-(high - low + 1) // BINS))
    counts: dict[int, int] = {}
    for count in tokens:
        counts[(count - low) // width] = counts.get((count - low) // width, 0) + 1
    tallest = max(counts.values())
    bars = []
    for i in range((high - low) // width + 1):
        start, end = low + i * width, low + (i + 1) * width - 1
        share = 100 * counts.get(i, 0) / tallest
        name = f"{start}" if start == end else f"{start} to {end}"
        bars.append(f"<i style='height:{share:.1f}%' class='{'long' if start > longest else ''}' "
                    f"title='{name} tokens: {counts.get(i, 0)}'></i>")
    long = sum(count > longest for count in tokens)
    verdict = (f"<b class='wrong'>{long:,} of {len(tokens):,} are longer than the longest prompt, "
               f"{longest}, and are left out of training.</b>" if long else
               f"All fit in the longest prompt, {longest}.")
    text = (f"Prompts have {low} to {high} tokens, half of them at most "
            f"{median(tokens):.0f} ({len(tokens):,} measured).")
    return (f"<h4>Prompt lengths</h4><div class='bars' role='img' aria-label='{text}'>"
            f"{''.join(bars)}</div><div class='axis'><span>{low}</span><span>{high} tokens</span>"
            f"</div><p class='facts'>{text} {verdict}</p>")
