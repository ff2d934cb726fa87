"""The table of runs: what they are, how they went, which are ticked; and that of deleted ones."""

import json
from collections.abc import Collection, Mapping, Sequence
from html import escape

import gradio as gr

from lab.core.words import data_named, duration
from lab.services.history import NEWEST_FIRST
from lab.services.lineage import origin_of
from lab.services.runs import Run
from lab.services.summary import Spark
from lab.services.trash import KEPT_DAYS, Deleted
from lab.services.workspace import PROJECT
from lab.ui.widgets import moved, when

NO_RUNS = "No runs yet. Pick a recipe on the Start tab and press Start; it will be listed here."
NONE_FITS = "No run fits {words}. Look for a name, model, data, tag or note, or clear the search."
NONE_ARCHIVED = "No run is archived. What you archive is out of the way, and stays as it is."
NONE_DELETED = f"No deleted runs. What you delete is kept here for {KEPT_DAYS} days."
AT_ONCE = 50  # rows that are shown before one asks for more
NOTE_SHOWN = 70  # characters of the notes
WIDE, HIGH = 96, 26  # of a small curve
# head, the order that its button asks for, class
HEADS = (("Run", "name", ""), ("Curve", "", ""), ("Goal: answers right", "goal", ""),
         ("Verdict", "", ""), ("Model and data", "model", ""), ("Status", "status", ""),
         ("Newest adapter", "", "number"), ("Reward, first → last", "reward", "number"),
         ("Took", "took", "number"), ("Started", NEWEST_FIRST, ""))
SAID = {"held out": "Goal on held-out questions", "goal": "Goal in training", "reward": "Reward"}


def run_table() -> gr.HTML:
    """The component. Its events: `pick` {"run"}, `tick` {"run", "on"}, `order` {"by"}, `more`,
    `restore` {"key"}."""
    # Not a subclass: gradio writes a .pyi file beside each module that has one.
    return gr.HTML("", apply_default_css=False, elem_id="runs-table",
                   js_on_load=(PROJECT / "assets" / "history.js").read_text(encoding="utf-8"))


def table_of(runs: Sequence[Run], chosen: str, ticked: Collection[str] = (),
             order: str = NEWEST_FIRST, limit: int = AT_ONCE,
             known: Mapping[str, Run] | None = None, none: str = NO_RUNS) -> str:
    """The rows of these runs; `known` are all there are, by id, for where one begins from."""
    if not runs:
        return f"<p class='empty'>{escape(none)}</p>"
    known = {run.id: run for run in runs} if known is None else known
    rows = "".join(_row(run, run.id == chosen, run.id in ticked, known) for run in runs[:limit])
    heads = "".join(_head(*head, order) for head in HEADS)
    more = (f"<p class='more'><button type='button' class='tool wide' data-more data-key='more'>"
            f"Show all {len(runs)}</button></p>" if len(runs) > limit else "")
    return ("<div class='table' tabindex='0' role='region' aria-label='Runs'><table><thead><tr>"
            f"<th><span class='unseen'>Compare</span></th>{heads}</tr></thead>"
            f"<tbody>{rows}</tbody></table></div>{more}")


def _head(title: str, by: str, kind: str, order: str) -> str:
    klass = f" class='{kind}'" if kind else ""
    if not by:
        return f"<th{klass}>{escape(title)}</th>"
    sort = f" aria-sort='{'ascending' if by in ('name', 'model', 'status') else 'descending'}'" \
        if by == order else ""
    return (f"<th{klass}{sort}><button type='button' class='order' data-order='{by}' "
            f"data-key='order {by}'>{escape(title)}</button></th>")


def _row(run: Run, chosen: bool, ticked: bool, known: Mapping[str, Run]) -> str:
    name, run_id = escape(run.name), escape(run.id)
    settings = run.settings
    model = "" if settings is None else (
        f"{escape(settings.model.name)}<small>{escape(data_named(settings.data))}</small>")
    origin = origin_of(run, known)
    below = [f"begins from {escape(str(origin))}"] if origin else []
    below += [f"<span class='tag'>{escape(tag)}</span>" for tag in run.label.tags]
    note = " ".join(run.label.notes.split())
    if note:
        below.append(escape(note if len(note) <= NOTE_SHOWN else f"{note[:NOTE_SHOWN - 1]}…"))
    about = f"<small>{' '.join(below)}</small>" if below else ""
    return (
        f"<tr data-run='{run_id}' data-status='{escape(run.status)}' "
        f"aria-selected='{str(chosen).lower()}'>"
        f"<td class='tick'><input type='checkbox' data-tick data-key='tick {run_id}' "
        f"aria-label='Compare {name}'{' checked' if ticked else ''}></td>"
        f"<th scope='row'><button type='button' class='run' data-key='run {run_id}' "
        f"title='{run_id}'>{name}</button>{about}</th>"
        f"<td class='curve' data-label='Curve'>{spark_html(run.spark)}</td>"
        f"<td class='goal' data-label='Goal: answers right'>{escape(_known(run.goal_told))}</td>"
        f"<td data-label='Verdict'>{_verdict(run)}</td>"
        f"<td class='about' data-label='Model and data'>{model}</td>"
        f"<td data-label='Status'><span class='status {escape(run.status)}'>{escape(run.status)}"
        f"</span><small>{run.step} / {run.steps}</small></td>"
        f"<td class='number' data-label='Newest adapter'>{_adapter_of(run)}</td>"
        f"<td class='number' data-label='Reward, first → last'>{_known(moved(run))}</td>"
        f"<td class='number' data-label='Took'>{duration(run.seconds)}</td>"
        f"<td data-label='Started'>{_known(when(run.created))}</td></tr>")


def _known(text: str) -> str:
    """Nothing instead of a dash: the style draws one, or leaves the line out on a narrow page."""
    return "" if text == "–" else text


def _verdict(run: Run) -> str:
    if run.verdict is None:
        return ""
    step = "" if run.verdict["step"] is None else f"<small>step {run.verdict['step']}</small>"
    return (f"<span class='judged {escape(run.verdict['level'])}' "
            f"title='{escape(run.verdict['headline'])}'>{escape(run.verdict['judgement'])}"
            f"</span>{step}")


def _adapter_of(run: Run) -> str:
    newest = run.folder.newest()
    best = f" (best: {run.best.step})" if run.best and run.best.step != newest.step else ""
    return f"{newest.title}{best}" if newest else ""


def spark_html(spark: Spark | None) -> str:
    """A curve in small; a share is drawn between nothing and all, a reward between its ends."""
    if spark is None or len(spark.values) < 2:
        return ""
    values = spark.values
    low, high = (min(values), max(values)) if spark.kind == "reward" else (0.0, 1.0)
    span = (high - low) or 1.0
    points = " ".join(f"{i * WIDE / (len(values) - 1):.1f},"
                      f"{HIGH - 2 - (HIGH - 4) * (value - low) / span:.1f}"
                      for i, value in enumerate(values))
    ends = [f"{value:.0%}" if spark.kind != "reward" else f"{value:.3g}"
            for value in (values[0], values[-1])]
    said = f"{SAID.get(spark.kind, spark.kind)}: from {ends[0]} to {ends[1]}"
    return (f"<svg class='spark {'out' if spark.kind == 'held out' else ''}' role='img' "
            f"aria-label='{escape(said)}' viewBox='0 0 {WIDE} {HIGH}' width='{WIDE}' "
            f"height='{HIGH}'><title>{escape(said)}</title><polyline points='{points}'/></svg>")


def deleted_html(deleted: Sequence[Deleted], size: str) -> str:
    """The runs that can be brought back."""
    if not deleted:
        return f"<p class='empty'>{escape(NONE_DELETED)}</p>"
    rows = "".join(
        f"<li><div><b>{escape(one.name)}</b> <span class='help'>deleted {when(one.when)}</span>"
        f"</div><button type='button' class='tool wide' data-restore='{one.key}' "
        f"data-key='restore {one.key}' aria-label='Bring back {escape(one.name)}'>Bring back"
        "</button></li>" for one in deleted)
    return (f"<p class='help'>Kept for {KEPT_DAYS} days, then gone for good. They take {size} of "
            f"the disk.</p><ol class='queue'>{rows}</ol>")


def read_ticked(text: str | None) -> list[str]:
    """The ids that the page says are ticked; none where it says what no page of ours does."""
    try:
        given = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return []
    return [one for one in given if isinstance(one, str)] if isinstance(given, list) else []
