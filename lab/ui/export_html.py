"""Exports as the page shows them: how far one is, what was made, whether it passed its check."""

from html import escape

from lab.core.words import duration
from lab.services.export.card import in_words
from lab.services.export.state import DONE, Export
from lab.ui.widgets import problems_html, when

NOTHING = "Nothing of this run was exported yet. Choose what to take home, then press Export."
SHARED = "The page offers files up to 2 GB."
CSS = """
.exports { list-style: none; margin: 0; padding: 0; display: grid; gap: 8px; }
.exports li { border: 1px solid var(--block-border-color); border-radius: var(--block-radius);
  padding: 10px 12px; background: var(--block-background-fill); }
.exports p { display: block; margin: 4px 0 0; overflow-wrap: anywhere; }
.exports .ok { color: var(--good); }
.exports .bad { color: var(--bad); font-weight: 700; }
.exports details { margin-top: 6px; }
.exports summary { cursor: pointer; }
.exports pre { max-height: 220px; overflow: auto; font-family: var(--font-mono); font-size: 12px;
  white-space: pre-wrap; color: inherit; }
.bar { height: 8px; border-radius: 4px; overflow: hidden; margin: 8px 0;
  background: var(--border-color-primary); }
.bar i { display: block; height: 100%; background: var(--primary-500); }"""


def progress_html(export: Export, run_id: str) -> str:
    """What it does now, with a bar where it can be counted, and its log."""
    whose = "" if export.asked.run == run_id else f" (run {escape(export.asked.run)})"
    counted = f": {export.done} of {export.of}" if export.of else ""
    share = round(100 * export.done / export.of) if export.of else 0
    return (f"<p class='busy' role='status'>{escape(export.asked.heading)}{whose}: "
            f"{escape(export.doing)}{counted} …</p>"
            f"<div class='bar' role='progressbar' aria-label='Export' aria-valuemin='0' "
            f"aria-valuemax='100' aria-valuenow='{share}'><i style='width:{share}%'></i></div>")


def made_html(exports: list[Export], saved: bool) -> str:
    """What was made, the newest first, each with its check."""
    if not exports:
        return f"<p class='empty'>{escape(NOTHING)}</p>" if saved else ""
    return f"<ul class='exports'>{''.join(map(_item, exports))}</ul>"


def _item(export: Export) -> str:
    head = (f"<b>{escape(export.asked.heading)}</b> <span class='status "
            f"{'finished' if export.status == DONE and not export.failed_check else 'failed'}'>"
            f"{escape('check failed' if export.failed_check else export.status)}</span>")
    if export.path:
        head += (f" · {export.bytes / 1e6:.1f} MB · {when(export.made)}, "
                 f"{duration(export.seconds)}")
    parts = [f"<p>{head}</p>"]
    for one in [export.check, *export.check.get("others", ())] if export.check else []:
        parts.append(f"<p class='{'ok' if one.get('passed') else 'bad'}'"
                     f"{'' if one.get('passed') else ' role=alert'}>"
                     f"{escape(in_words(one).replace('**', ''))}</p>")
    parts += [f"<p>{escape(sentence)}</p>" for sentence in export.left_out]
    if export.pushed:
        parts.append(f"<p>Pushed: <a href='{escape(export.pushed)}' target='_blank' "
                     f"rel='noreferrer'>{escape(export.pushed)}</a></p>")
    own = export.path and export.path.is_relative_to(export.folder.path)
    if export.path and (export.path.is_dir() or not own):
        where = (f"in the run's folder, under <code>exports/{escape(export.folder.path.name)}"
                 f"</code>. {SHARED}" if own else f"in <code>{escape(str(export.path))}</code>.")
        parts.append(f"<p>It lies {where}</p>")
    if export.problem:
        parts.append(problems_html([export.problem]))
    if log := export.log().strip():
        parts.append(f"<details><summary>Log</summary><pre tabindex='0'>{escape(log)}</pre>"
                     "</details>")
    return f"<li>{''.join(parts)}</li>"
