"""Answers held-out questions with the base model and with the adapter, and scores both."""

import json
from pathlib import Path

import torch

from lab.backends import plain
from lab.backends.generate import Drawing, MergedCopy, complete
from lab.core.problems import explain
from lab.core.prompts import messages
from lab.core.rewards.registry import Chosen, score

BATCH = 64


def serve(request: dict, outgoing) -> int:
    """Answer one request; JSON lines out: {"done", "of"} on the way, at the end {"sides": [...],
    "effect": largest change of any next-token logit from the first side to the last}.

    The request has `model`, `adapters` (a folder, or None for the base), `rows`, `system_prompt`,
    `chosen`, `temperature`, `top_p`, `max_tokens`, `max_length` and `seed`. Each side comes back
    as a list with {"text", "rewards", "errors", "total", "correct", "cut"} for each row.
    """
    def say(**body) -> None:
        outgoing.write(json.dumps(body).encode() + b"\n")

    try:
        sides, effect = evaluate(request, say)
        say(sides=sides, effect=effect)
        return 0
    except Exception as error:
        say(problem=explain(error).to_dict())
        return 1


def evaluate(request: dict, say) -> tuple[list[list[dict]], float]:
    tokenizer = plain.load_tokenizer(request["model"])
    model = plain.load_model(request["model"])
    stops = plain.stop_tokens(model, tokenizer)
    rows, chosen = request["rows"], [Chosen.from_dict(c) for c in request["chosen"]]
    prompts = [plain.to_tokens(tokenizer, plain.render(
        tokenizer, messages(row["question"], request["system_prompt"]))) for row in rows]
    drawing = Drawing(request["max_tokens"], request["temperature"], request["top_p"],
                      request["seed"])
    logits, sides, done, of = [], [], 0, len(rows) * len(request["adapters"])
    for folder in request["adapters"]:
        answering = with_adapter(model, folder)
        logits.append(next_logits(answering, prompts[0]))
        side = []
        for start in range(0, len(rows), BATCH):
            lines = slice(start, start + BATCH)
            answers = complete(answering, prompts[lines], drawing, stops)
            for row, ids in zip(rows[lines], answers, strict=True):
                side.append(judged(tokenizer.decode(ids, skip_special_tokens=True), row, chosen)
                            | {"cut": ids[-1] not in stops})
            done += len(answers)
            say(done=done, of=of)
        sides.append(side)
    return sides, float((logits[-1] - logits[0]).abs().max())


@torch.inference_mode()
def next_logits(model, prompt: list[int]) -> torch.Tensor:
    """(V,) logits of the first token of an answer."""
    return model(input_ids=torch.tensor([prompt]), logits_to_keep=1).logits[0, -1]


def with_adapter(model, folder: str | None):
    """The base model itself, or a merged copy of it with the adapter."""
    if folder is None:
        return model
    wrapped = plain.load_adapter(model, Path(folder), "tuned")
    merged = MergedCopy(wrapped)
    merged.refresh()
    wrapped.unload()
    return merged.model


def judged(text: str, row: dict, chosen: list[Chosen]) -> dict:
    """One answer under the run's rewards, and whether it is right (None without a reference)."""
    scored = score(text, row, chosen)
    correct = None
    if row.get("answer") is not None:
        correct = bool(score(text, row, [Chosen("correctness")]).total)
    return {"text": text, "rewards": scored.rewards, "errors": scored.errors,
            "total": scored.total, "correct": correct}
