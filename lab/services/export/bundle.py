"""Everything at once: adapter, merged model, script, and GGUF where a converter is at hand."""

from typing import Any

from lab.core.problems import LabError
from lab.services.export import adapter, gguf, merged, script
from lab.services.export.check import check_export
from lab.services.export.making import Work
from lab.services.export.state import ADAPTER, GGUF, MERGED, SCRIPT
from lab.services.one_job import Cancelled

QUANT = "q8_0"  # of the GGUF in a bundle: half of 16 bit, and hardly rounded


def write_bundle(work: Work) -> dict[str, Any] | None:
    """Write each part into a folder of its own; a sentence in `work.left_out` for each that could
    not be made. Returns the check that looks worst, with the "others"."""
    checks = []
    for name, made in ((ADAPTER, _adapter), (MERGED, _merged), (GGUF, _gguf), (SCRIPT, _script)):
        try:
            checks.append(made(work))
        except Cancelled:
            raise
        except LabError as error:
            work.left_out.append(f"Without {name}: {error.problem}")
    told = sorted((one for one in checks if one is not None),
                  key=lambda one: (one["passed"], one.get("parity") or 0.0))
    return told[0] | {"others": told[1:]} if told else None


def _adapter(work: Work) -> dict[str, Any] | None:
    target = work.draft / ADAPTER
    adapter.write_adapter(work.source, target)
    return check_export(work.source, work.worker, ADAPTER, target, work.asked.questions, True)


def _merged(work: Work) -> dict[str, Any] | None:
    target = work.draft / MERGED
    merged.write_merged(work, target)
    return check_export(work.source, work.worker, MERGED, target, work.asked.questions, False)


def _gguf(work: Work) -> dict[str, Any] | None:
    gguf.refuse_missing(QUANT)
    target = work.draft / GGUF
    target.mkdir()
    try:
        file = gguf.convert(work, work.draft / MERGED, target, QUANT)
    except LabError:
        target.rmdir()
        raise
    return gguf.advised(check_export(work.source, work.worker, GGUF, file, work.asked.questions,
                                     False), QUANT)


def _script(work: Work) -> None:
    work.say("Writing the script")
    script.script(work.source)  # before a folder is made for one that cannot be written
    script.write_script(work.source, work.draft / SCRIPT)
