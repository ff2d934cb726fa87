"""Answers held-out questions on two sides, each the base model or an adapter, and scores both."""

import asyncio
import random
from pathlib import Path

import torch

from lab.backends import plain, wording
from lab.backends.generate import Drawing, MergedCopy, complete
from lab.backends.serving import serve_once
from lab.core.prompts import prompt_of
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.scoring import score_all

BATCH = 64


def serve(request: dict, outgoing) -> int:
    """Answer one request; JSON lines out: {"done", "of"} on the way, at the end {"sides": [...],
    "effect": largest change of any next-token logit from the first side to the last}.

    The request has `threads`, `beside_training`, `model`, `template_arguments`, `in_4bit`,
    `on_gpu`, `engine` (what vLLM is started with, or None), `sides` (two, each with `adapter`, a
    folder or None for the base, and `system_prompt`), `rows`, `chosen`, `rewards_file`,
    `temperature`, `top_p`, `max_tokens`, `seed` and `seeds` (answers to each row on each side).
    Each side comes back as a list with {"text", "rewards", "errors", "total", "goal", "correct",
    "tokens", "cut"} for each answer, those of a row one after the other; the tokens are the
    answer's, its stop token among them.
    """
    def work(request: dict, say) -> dict:
        sides, effect = evaluate(request, say)
        return {"sides": sides, "effect": effect}

    return serve_once(work, request, outgoing)


def evaluate(request: dict, say) -> tuple[list[list[dict]], float]:
    if request.get("engine"):
        return asyncio.run(evaluate_with_vllm(request, say))
    plain.take_threads(request)
    tokenizer = wording.load_tokenizer(request["model"], request["template_arguments"])
    model = plain.load_model(request["model"], request["on_gpu"], request["in_4bit"])
    stops = wording.stop_tokens(model, tokenizer)
    rows, seeds, chosen = request["rows"], range(request["seeds"]), chosen_of(request)
    logits, sides, done = [], [], 0
    of = len(rows) * len(seeds) * len(request["sides"])
    for asked in request["sides"]:
        prompts = prompts_of(rows, asked["system_prompt"], tokenizer)
        answering = with_adapter(model, asked["adapter"], merged=not request["in_4bit"])
        logits.append(next_logits(answering, prompts[0]))
        side: list[dict] = []
        for start in range(0, len(rows), BATCH):
            lines = slice(start, start + BATCH)
            drawn = []
            for seed in seeds:
                answers = complete(answering, prompts[lines], Drawing(
                    request["max_tokens"], request["temperature"], request["top_p"],
                    seed_of(request["seed"] + seed, start)), stops)
                texts = [wording.to_text(tokenizer, ids) for ids in answers]
                judged = judged_all(texts, [len(ids) for ids in answers], rows[lines],
                                    asked["system_prompt"], chosen)
                drawn.append([one | {"cut": ids[-1] not in stops}
                              for ids, one in zip(answers, judged, strict=True)])
                done += len(answers)
                say(done=done, of=of)
            side += [one for row in zip(*drawn, strict=True) for one in row]
        sides.append(side)
        if answering is not model and request["in_4bit"]:
            answering.unload()  # the next side begins with the base again
    return sides, float((logits[-1] - logits[0]).abs().max())


async def evaluate_with_vllm(request: dict, say) -> tuple[list[list[dict]], float]:
    """The same through one vLLM engine: every question of every side in one batch."""
    from lab.backends.answering.vllm_answers import EngineSettings, VllmAnswers, rank_of

    tokenizer = wording.load_tokenizer(request["model"], request["template_arguments"])
    chosen, asked, seeds = chosen_of(request), request["engine"], range(request["seeds"])
    rows = [row for row in request["rows"] for _ in seeds]
    prompts = [prompts_of(request["rows"], side["system_prompt"], tokenizer)
               for side in request["sides"]]
    folders = [side["adapter"] for side in request["sides"]]
    answers = await VllmAnswers.start(EngineSettings(
        request["model"], request["in_4bit"], asked["max_model_len"], asked["share"],
        max(rank_of(folder) for folder in folders if folder), asked["cuda_graphs"]))
    try:
        adapters = [folder and await answers.adapter(folder) for folder in folders]
        done = 0

        async def one(prompt: list[int], seed: int, adapter) -> tuple[str, int, bool]:
            nonlocal done
            out = await answers.whole(prompt, answers.sampling(
                request["max_tokens"], request["temperature"], request["top_p"], seed), adapter)
            done += 1
            if done % BATCH == 0 or done == len(rows) * len(folders):
                say(done=done, of=len(rows) * len(folders))
            return (wording.to_text(tokenizer, list(out.token_ids)),
                    len(out.token_ids), out.finish_reason == "length")

        told = await asyncio.gather(*(
            asyncio.gather(*(one(prompt, seed_of(request["seed"] + seed, place), adapter)
                             for place, prompt in enumerate(of_side) for seed in seeds))
            for of_side, adapter in zip(prompts, adapters, strict=True)))
        sides = []
        for side, asking in zip(told, request["sides"], strict=True):
            texts, tokens, cut = map(list, zip(*side, strict=True))
            sides.append([one | {"cut": ended} for ended, one in zip(
                cut, judged_all(texts, tokens, rows, asking["system_prompt"], chosen),
                strict=True)])
        return sides, await answers.effect(prompts[-1][0], adapters[-1], adapters[0])
    finally:
        answers.close()


def seed_of(seed: int, place: int) -> int:
    """The seed for what is drawn for the question at this place. With one seed for all of them, all
    would begin with the same luck: their answers were not independent of each other, and no error
    bar would know. Both sides have the same, so that luck counts for neither."""
    return random.Random(f"{seed}, question {place}").getrandbits(31)


def chosen_of(request: dict) -> list[Chosen]:
    return [Chosen.from_dict(c, request.get("rewards_file", "")) for c in request["chosen"]]


def prompts_of(rows: list[dict], system_prompt: str, tokenizer) -> list[list[int]]:
    return [wording.to_tokens(tokenizer, wording.render(
        tokenizer, prompt_of(row, system_prompt))) for row in rows]


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


def judged_all(texts: list[str], tokens: list[int], rows: list[dict], system_prompt: str,
               chosen: list[Chosen]) -> list[dict]:
    """Answers, of so many tokens each, under the run's rewards; `correct` is whether their goals
    are reached."""
    prompts = [prompt_of(row, system_prompt) for row in rows]
    lines = [row | {"completion_tokens": count} for row, count in zip(rows, tokens, strict=True)]
    return [{"text": text, "rewards": scored.rewards, "errors": scored.errors,
             "total": scored.total, "goal": scored.goal, "correct": scored.reached,
             "tokens": count}
            for text, count, scored in zip(
                texts, tokens, score_all(texts, lines, chosen, prompts=prompts), strict=True)]
