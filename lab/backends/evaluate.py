"""Answers held-out questions with the base model and with the adapter, and scores both."""

import asyncio
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

    The request has `model`, `in_4bit`, `on_gpu`, `engine` (what vLLM is started with, or None),
    `adapters` (a folder, or None for the base), `rows`, `system_prompt`, `chosen`,
    `temperature`, `top_p`, `max_tokens` and `seed`. Each side comes back
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
    if request.get("engine"):
        return asyncio.run(evaluate_with_vllm(request, say))
    tokenizer = plain.load_tokenizer(request["model"])
    model = plain.load_model(request["model"], request["on_gpu"], request["in_4bit"])
    stops = plain.stop_tokens(model, tokenizer)
    rows, chosen = request["rows"], chosen_of(request)
    prompts = prompts_of(request, tokenizer)
    drawing = Drawing(request["max_tokens"], request["temperature"], request["top_p"],
                      request["seed"])
    logits, sides, done, of = [], [], 0, len(rows) * len(request["adapters"])
    for folder in request["adapters"]:
        answering = with_adapter(model, folder, merged=not request["in_4bit"])
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


async def evaluate_with_vllm(request: dict, say) -> tuple[list[list[dict]], float]:
    """The same through one vLLM engine: every question of every side in one batch."""
    from lab.backends.vllm_answers import EngineSettings, VllmAnswers, rank_of

    tokenizer = plain.load_tokenizer(request["model"])
    rows, chosen, asked = request["rows"], chosen_of(request), request["engine"]
    prompts = prompts_of(request, tokenizer)
    folders = request["adapters"]
    answers = await VllmAnswers.start(EngineSettings(
        request["model"], request["in_4bit"], asked["max_model_len"], asked["share"],
        max(rank_of(folder) for folder in folders if folder), asked["cuda_graphs"]))
    try:
        adapters = [folder and await answers.adapter(folder) for folder in folders]
        done = 0

        async def one(row: dict, prompt: list[int], adapter) -> dict:
            nonlocal done
            out = await answers.whole(prompt, answers.sampling(
                request["max_tokens"], request["temperature"], request["top_p"],
                request["seed"]), adapter)
            done += 1
            if done % BATCH == 0 or done == len(rows) * len(folders):
                say(done=done, of=len(rows) * len(folders))
            text = tokenizer.decode(list(out.token_ids), skip_special_tokens=True)
            return judged(text, row, chosen) | {"cut": out.finish_reason == "length"}

        sides = await asyncio.gather(*(
            asyncio.gather(*(one(row, prompt, adapter)
                             for row, prompt in zip(rows, prompts, strict=True)))
            for adapter in adapters))
        return list(map(list, sides)), await answers.effect(prompts[0], adapters[-1])
    finally:
        answers.close()


def chosen_of(request: dict) -> list[Chosen]:
    return [Chosen.from_dict(c) for c in request["chosen"]]


def prompts_of(request: dict, tokenizer) -> list[list[int]]:
    return [plain.to_tokens(tokenizer, plain.render(
        tokenizer, messages(row["question"], request["system_prompt"]))) for row in request["rows"]]


@torch.inference_mode()
def next_logits(model, prompt: list[int]) -> torch.Tensor:
    """(V,) logits of the first token of an answer."""
    ids = torch.tensor([prompt], device=model.device)
    return model(input_ids=ids, logits_to_keep=1).logits[0, -1]


def with_adapter(model, folder: str | None, merged: bool):
    """The base model itself, or one with the adapter: a merged copy, except of 4-bit weights."""
    if folder is None:
        return model
    wrapped = plain.load_adapter(model, Path(folder), "tuned")
    if not merged:
        return wrapped
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
