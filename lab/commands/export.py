"""`export`: take the LoRA home."""

import argparse
from pathlib import Path

from lab.commands.settings import add_allow_code
from lab.commands.shown import (
    DONE,
    FAILED,
    Line,
    add_checkpoint,
    bar,
    better_one,
    complain,
    print_json,
    tell,
)
from lab.core.problems import LabError, WorkFailed
from lab.services.export.card import in_words
from lab.services.export.check import QUESTIONS, in_contract
from lab.services.export.hub import refuse_name
from lab.services.export.state import CANCELLED, KINDS, QUANTS, Asked, Export
from lab.services.lab import Lab


def add(command) -> None:
    sub = command("export", run, "Take the LoRA home.")
    sub.add_argument("which", metavar="RUN")
    add_checkpoint(sub)
    sub.add_argument("--as", dest="kind", choices=KINDS, default="adapter",
                     help="adapter: a zip that plain peft loads; merged: a 16-bit model; gguf: for "
                     "llama.cpp and Ollama; script: the run without the lab; card: the model card; "
                     "bundle: all of it")
    sub.add_argument("--out", type=Path, required=True, metavar="PATH",
                     help="a new folder (adapter: a zip); with .zip at its end one file")
    sub.add_argument("--quant", choices=QUANTS, default="q8_0", help="of gguf")
    sub.add_argument("--n", type=int, default=QUESTIONS, help="held-out questions that the export "
                     "is checked on; 0: none")
    sub.add_argument("--push", default="", metavar="OWNER/NAME", help="push it to the Hub as well, "
                     "with the local login")
    sub.add_argument("--public", action="store_true", help="of --push; else it is private")
    add_allow_code(sub)


def run(options: argparse.Namespace) -> int:
    lab = Lab.at(options.root, options.allow_code)
    run = lab.runs.get(options.which)
    # Once: a run that trains saves a newer one, or a better one.
    chosen = run.folder.saved_at(run.step_at(options.checkpoint))
    push = refuse_name(options.push) if options.push else ""
    line = Line(options.json)
    export = lab.exports.start(Asked(
        run.id, options.kind, chosen.step, options.quant, max(0, options.n),
        str(options.out.expanduser().absolute()), push, not options.public))
    try:
        export = lab.exports.wait(export, lambda now: line.show(
            f"{bar(now.done, now.of)} {now.doing}" if now.of else f"{now.doing} ..."))
    except KeyboardInterrupt:
        lab.exports.cancel(export)
        export = lab.exports.wait(export)
    if export.path is None or export.status == CANCELLED:
        problem = export.problem
        raise LabError(problem.what, problem.why, problem.next)
    _tell(options, export, chosen.title)
    if hint := better_one(run, options.checkpoint, chosen.step):
        tell(options, hint)
    if export.problem:
        raise LabError(export.problem.what, export.problem.why, export.problem.next)
    if export.failed_check:
        worst = in_words(export.check).replace("**", "")
        return complain(WorkFailed(worst, next=f"It is kept: {export.path}"), FAILED)
    return DONE


def _tell(options: argparse.Namespace, export: Export, title: str) -> None:
    check = export.check
    tell(options, f"\nWrote the {export.asked.kind} of {title} to {export.path} "
         f"({export.bytes / 1e6:.1f} MB)")
    for sentence in export.left_out:
        tell(options, sentence)
    for one in [check, *check.get("others", ())] if check else []:
        if one["passed"]:
            tell(options, in_words(one))
    if export.pushed:
        tell(options, f"It is at {export.pushed}")
    if options.json:
        print_json({"path": str(export.path), "bytes": export.bytes, "check": in_contract(check),
                    "step": export.asked.step} | ({"pushed": export.pushed} if export.pushed
                                                  else {}))
