"""GGUF for llama.cpp and Ollama: the merged model, converted by llama.cpp's own script."""

import os
import re
import shutil
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lab.core.problems import RunError, WorkFailed
from lab.services import processes
from lab.services.environment import worker_environment
from lab.services.export.making import Work
from lab.services.export.merged import write_merged
from lab.services.one_job import Cancelled
from lab.services.workspace import PROJECT

CONVERTER, QUANTISER = "convert_hf_to_gguf.py", "llama-quantize"
BY_PACKAGE = PROJECT / "lab" / "backends" / "exporting" / "quantise.py"
BY_CONVERTER = ("f16", "q8_0")  # what the script writes by itself; the rest is made from f16
ROUNDS_LESS = {"q4_k_m": "q8_0", "q8_0": "f16"}
VARIABLE = "LLAMA_CPP"  # a folder with llama.cpp
GET = ("git clone --depth 1 https://github.com/ggml-org/llama.cpp && pip install gguf && export "
       f"{VARIABLE}=$PWD/llama.cpp")
BUILD = (f"cmake -B ${VARIABLE}/build -S ${VARIABLE} && cmake --build ${VARIABLE}/build "
         "-t llama-quantize")
UNKNOWN = re.compile(r"pre-tokenizer was not recognized|Model .* is not supported|"
                     r"architecture .* not supported", re.IGNORECASE)


def write_gguf(work: Work, target: Path, quant: str) -> Path:
    """Merge, convert, and write a Modelfile beside it; the .gguf file. Raises a LabError."""
    refuse_missing(quant)
    merged = target / ".merged"
    write_merged(work, merged)
    try:
        return convert(work, merged, target, quant)
    finally:
        shutil.rmtree(merged, ignore_errors=True)


def refuse_missing(quant: str) -> None:
    """Raise RunError, with the one line that helps, where what converts is not at hand."""
    if converter() is None:
        raise RunError("GGUF cannot be written here.", f"llama.cpp's {CONVERTER} was not found "
                       f"(in ${VARIABLE}, on PATH, in ~/.unsloth/llama.cpp, in ./llama.cpp).",
                       f"Get it with: {GET}")
    if find_spec("gguf") is None:
        raise RunError("GGUF cannot be written here.", "The package gguf is not installed.",
                       "Get it with: pip install gguf")
    if quant not in BY_CONVERTER and quantiser() is None:
        raise RunError(f"GGUF cannot be written as {quant} here.",
                       f"Neither llama.cpp's {QUANTISER} nor the package llama-cpp-python is "
                       "here.", f"Take q8_0, or get one of them: pip install llama-cpp-python, "
                       f"or {BUILD}")


def convert(work: Work, merged: Path, target: Path, quant: str) -> Path:
    """Convert a merged model. Raises WorkFailed with the converter's own words."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", work.source.folder.id)
    file, first = target / f"{name}-{quant}.gguf", quant if quant in BY_CONVERTER else "f16"
    whole = file if first == quant else target / f".{name}-f16.gguf"
    work.say("Converting to GGUF")
    _run(work, [sys.executable, str(converter()), str(merged), "--outfile", str(whole),
                "--outtype", first], "conversion")
    if whole != file:
        work.say(f"Quantising to {quant}")
        try:
            _run(work, [*quantiser(), str(whole), str(file), quant.upper()], "quantisation")
        finally:
            whole.unlink(missing_ok=True)
    (target / "Modelfile").write_text(modelfile(work, file.name), encoding="utf-8")
    return file


def advised(check: dict[str, Any] | None, quant: str) -> dict[str, Any] | None:
    """The check of a rounded file; where it failed, with what to take instead."""
    if not check or check["passed"] or "why" not in check or quant not in ROUNDS_LESS:
        return check
    return check | {"why": f"{check['why']} Rounding alone can do that, to a small model most of "
                           f"all: {ROUNDS_LESS[quant]} rounds less."}


def modelfile(work: Work, file: str) -> str:
    """For Ollama. The chat template is read from the GGUF; the system prompt is the run's."""
    settings = work.source.run.settings
    lines = [f"FROM ./{file}", "PARAMETER temperature 0",
             f"PARAMETER num_predict {settings.train.max_completion_length}"]
    if prompt := settings.data.system_prompt.strip():
        lines.append(f'SYSTEM """{prompt.replace(chr(34) * 3, chr(39) * 3)}"""')
    return "\n".join([*lines, ""])


def converter() -> Path | None:
    on_path = shutil.which(CONVERTER)
    return next((path for path in [*(place / CONVERTER for place in _places()),
                                   *([Path(on_path)] if on_path else [])] if path.is_file()), None)


def quantiser() -> list[str] | None:
    """The command of what quantises, before its arguments: llama.cpp's program, or its package."""
    on_path = shutil.which(QUANTISER)
    program = next((path for path in [*(place / part / QUANTISER for place in _places()
                                        for part in ("build/bin", "")),
                                      *([Path(on_path)] if on_path else [])] if path.is_file()),
                   None)
    if program:
        return [str(program)]
    return [sys.executable, str(BY_PACKAGE)] if find_spec("llama_cpp") else None


def _places() -> list[Path]:
    told = os.environ.get(VARIABLE, "").strip()
    return [*([Path(told).expanduser()] if told else []), Path.home() / ".unsloth" / "llama.cpp",
            Path("llama.cpp")]


def _run(work: Work, command: list[str], what: str) -> None:
    work.refuse_cancelled()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, errors="replace",
                               env=worker_environment() | {"CUDA_VISIBLE_DEVICES": ""})
    threading.Thread(target=_end_at, args=(work, process), daemon=True).start()
    said = []
    for line in process.stdout:
        print(line, end="", flush=True)  # into the export's log
        said = [*said[-40:], line.strip()]
    if process.wait() and work.stop.is_set():
        raise Cancelled("export")
    if process.returncode:
        words = next((line for line in reversed(said) if UNKNOWN.search(line)), "")
        if words:
            raise WorkFailed("llama.cpp cannot convert this model.", "Its converter does not know "
                             f"the tokenizer or the architecture: {words[:300]}",
                             "Export it merged: transformers and vLLM load that.")
        last = next(filter(None, reversed(said)), "")
        raise WorkFailed(f"The {what} to GGUF failed.", last[:300], "Its own words are in the log.")


def _end_at(work: Work, process: subprocess.Popen) -> None:
    while process.poll() is None:
        if work.stop.wait(0.1):
            processes.end(process, patience=0)
