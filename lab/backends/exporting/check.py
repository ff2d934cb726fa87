"""Checks an export: the lab answers with the run's own adapter, a clean process with what was
exported, and both are scored alike."""

import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from lab.backends import gpu, plain, wording
from lab.backends.answering.evaluate import chosen_of, judged_all
from lab.backends.generate import Drawing, MergedCopy, complete
from lab.backends.serving import serve_once
from lab.core.insight.parity import Compared, parity
from lab.core.problems import WorkFailed
from lab.core.prompts import prompt_of

ALONE = Path(__file__).with_name("alone.py")
BATCH = 16
READ, LONG = 8, 32  # answers along which logits are read, and tokens of each
KEPT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TEMP", "TMP", "HOME", "USERPROFILE", "HF_HOME",
        "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "CUDA_VISIBLE_DEVICES",
        "CUDA_DEVICE_ORDER", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "HF_HUB_DISABLE_TELEMETRY",
        "DO_NOT_TRACK")
BEGINS = 600.0  # of the clean process's last words, what is told


def serve(request: dict, outgoing) -> int:
    """Check one export. JSON lines out: {"doing", "done", "of"}, at the end {"check"} (what
    `core/insight/parity.py` finds) or {"problem"}.

    The request has `kind`, `path`, `exact` (whether nothing was rounded), `model`, `in_4bit`,
    `on_gpu`, `threads`, `beside_training`, `template_arguments`, `adapter`, `rows`,
    `system_prompt`, `chosen`, `rewards_file` and `max_tokens`.
    """
    return serve_once(lambda *given: {"check": check(*given)}, request, outgoing)


def check(request: dict, say) -> dict:
    plain.take_threads(request)
    tokenizer = wording.load_tokenizer(request["model"], request["template_arguments"])
    rows = request["rows"]
    asked = [prompt_of(row, request["system_prompt"]) for row in rows]
    prompts = [wording.to_tokens(tokenizer, wording.render(tokenizer, one)) for one in asked]
    say(doing="Asking the run's own adapter", done=0, of=len(rows))
    own, tuned, base, stops = the_labs(request, tokenizer, prompts, say)
    with tempfile.TemporaryDirectory() as scratch:
        answered = Path(scratch, "answered.json")
        Path(scratch, "asked.json").write_text(json.dumps({
            "kind": request["kind"], "path": request["path"], "base": request["model"],
            "dtype": "float32" if not request["on_gpu"] else str(gpu.dtype()).split(".")[-1],
            "in_4bit": request["in_4bit"], "on_gpu": request["on_gpu"],
            "threads": torch.get_num_threads(), "conversations": asked,
            "forced": [one[:LONG] for one in own[:READ]], "longest": request["max_tokens"],
            "stops": stops}), encoding="utf-8")
        run_alone(Path(scratch, "asked.json"), answered, say, len(rows))
        told = json.loads(answered.read_text(encoding="utf-8"))
        theirs = load_file(f"{answered}.safetensors")
    theirs = [theirs[str(place)] for place in range(len(tuned))]
    words = [[wording.to_text(tokenizer, ids) for ids in side] for side in (own, told["answers"])]
    chosen = chosen_of(request)
    scores = [[one["total"] for one in judged_all(side, [len(ids) for ids in answers], rows,
                                                  request["system_prompt"], chosen)]
              for side, answers in zip(words, (own, told["answers"]), strict=True)]
    compared = Compared(
        *scores, *words, max(furthest(a, b) for a, b in zip(tuned, theirs, strict=True)),
        max(furthest(a, b) for a, b in zip(tuned, base, strict=True)),
        mean(tuned, theirs), mean(tuned, base), told["prompts"] == prompts)
    return parity(compared, request["exact"]) | {"how": told["how"]}


def the_labs(request: dict, tokenizer, prompts, say):
    """(answers as ids, logits along the first of them with the adapter, without it, stop tokens).
    The model is gone when this returns: the clean process needs its memory."""
    model = plain.load_model(request["model"], request["on_gpu"], request["in_4bit"])
    stops = wording.stop_tokens(model, tokenizer)
    wrapped = plain.load_adapter(model, Path(request["adapter"]), "tuned")
    if request["on_gpu"]:
        answering = wrapped  # a merged copy in 16 bit would be rounded itself
    else:
        merged = MergedCopy(wrapped)
        merged.refresh()
        answering = merged.model
        del merged
    own = []
    for start in range(0, len(prompts), BATCH):
        own += complete(answering, prompts[start:start + BATCH],
                        Drawing(request["max_tokens"], temperature=0.0), stops)
        say(doing="Asking the run's own adapter", done=len(own), of=len(prompts))
    tuned = [logits(answering, p, a) for p, a in zip(prompts[:READ], own[:READ], strict=True)]
    with wrapped.disable_adapter():
        base = [logits(wrapped, p, a) for p, a in zip(prompts[:READ], own[:READ], strict=True)]
    del model, wrapped, answering
    gc.collect()
    if request["on_gpu"]:
        torch.cuda.empty_cache()
    return own, tuned, base, stops


@torch.inference_mode()
def logits(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """(tokens + 1, V) logits along the begin of an answer."""
    ids = torch.tensor([prompt + answer[:LONG]], device=next(model.parameters()).device)
    return model(input_ids=ids).logits[0, len(prompt) - 1:].float().cpu()


def furthest(one: torch.Tensor, other: torch.Tensor) -> float:
    wide = min(one.shape[-1], other.shape[-1])  # a converter may pad or cut the vocabulary
    return float((one[:, :wide] - other[:, :wide]).abs().max())


def mean(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    wide = min(one[0].shape[-1], other[0].shape[-1])
    return float(torch.cat([(a[:, :wide] - b[:, :wide]).abs().mean(-1)
                            for a, b in zip(one, other, strict=True)]).mean())


def run_alone(asked: Path, answered: Path, say, count: int) -> None:
    """Run the plain script in isolation: no folder of ours is on its path. Raises WorkFailed."""
    say(doing="Loading the export in a process without the lab", done=0, of=count)
    with tempfile.TemporaryFile() as log, subprocess.Popen(
            [sys.executable, "-I", str(ALONE), str(asked), str(answered)], stdout=subprocess.PIPE,
            stderr=log, stdin=subprocess.DEVNULL, cwd=asked.parent,
            env={name: os.environ[name] for name in KEPT if name in os.environ}) as process:
        for line in process.stdout:
            try:
                told = json.loads(line)
                say(doing="Asking the export", done=told["done"], of=told["of"])
            except (ValueError, TypeError, KeyError):
                continue  # a library printed something
        code = process.wait()
        log.seek(0)
        words = log.read().decode("utf-8", errors="replace").strip()
    if code:
        print(words, file=sys.stderr, flush=True)
        last = words.splitlines()[-1] if words else f"Its exit status was {code}."
        raise WorkFailed("The export could not be loaded without the lab.", last[:int(BEGINS)],
                         "Its own words are in the log.")
