"""Lets the base model answer some questions as the first step of a run would, and times it."""

import asyncio
import time

import torch
from peft import get_peft_model

from lab.backends import wording
from lab.backends.answering.evaluate import with_adapter
from lab.backends.engines.base import Engine
from lab.backends.engines.packed import fit, pack, read
from lab.backends.generate import Drawing, complete
from lab.backends.serving import serve_once
from lab.core.hardware.engines import Plan
from lab.core.problems import BadData
from lab.core.prompts import prompt_of
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.scoring import score_all
from lab.core.settings import CPU, TRL, Settings

QUICK = 15.0  # seconds; an update that took no longer is timed again, now that memory is there


def serve(request: dict, outgoing) -> int:
    """Answer one request; JSON lines out: {"phase"} and {"done", "of"} on the way, at the end
    {"sample": see `core.insight.preflight.Sample`}.

    The request has `settings`, `model` (folder or Hub id), `adapter` (a folder, or None),
    `engine` (what vLLM is started with, or None), `on_gpu`, `trains_with` (the run's engine),
    `rows` (all that the run would have), `copies` (answers to each), `least` and `most` questions,
    `patience` (seconds after which no more than the least are begun), `other` (reward forms that
    are only looked at) and `seed`.
    """
    return serve_once(lambda *given: {"sample": asyncio.run(sample(*given))}, request, outgoing)


async def sample(request: dict, say) -> dict:
    settings = Settings.from_dict(request["settings"])
    if settings.hardware.threads:
        torch.set_num_threads(settings.hardware.threads)
    say(phase="Loading the model")
    source = await (WithVllm if request["engine"] else WithTransformers).start(request, settings)
    try:
        tokenizer, train = source.tokenizer, settings.train
        prompts = [wording.to_tokens(tokenizer, wording.render(
            tokenizer, prompt_of(row, settings.data.system_prompt)))
            for row in request["rows"]]
        lengths = [len(prompt) for prompt in prompts]
        kept = [(row, prompt) for row, prompt in zip(request["rows"], prompts, strict=True)
                if len(prompt) <= train.max_prompt_length]
        if not kept:
            raise BadData("No question is left.", f"All {len(lengths)} that were tried have "
                          f"prompts of more than {train.max_prompt_length} tokens.",
                          "Raise 'Longest prompt', or shorten the system prompt.")
        # As TRL's RepeatSampler shuffles: the questions that the run begins with.
        order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(train.seed))
        kept = [kept[place] for place in order.tolist()]
        copies, most = request["copies"], min(request["most"], len(kept))
        least = min(request["least"], most)
        at_once = max(1, train.answers_per_step() // copies)
        chosen, other = settings.rewards.chosen, [Chosen.from_dict(c) for c in request["other"]]
        groups, drawn, spent = [], [], {"generation": 0.0, "reward": 0.0}
        begun = time.perf_counter()
        say(done=0, of=least * copies)
        while len(groups) < least or (
                len(groups) < most and time.perf_counter() - begun < request["patience"]):
            lines = kept[len(groups):min(len(groups) + at_once, most)]
            since = time.perf_counter()
            answers = await source.draw([prompt for _, prompt in lines], copies,
                                        request["seed"] + len(groups))
            spent["generation"] += time.perf_counter() - since
            for place, (row, prompt) in enumerate(lines):
                own = answers[place * copies:(place + 1) * copies]
                texts = [wording.to_text(tokenizer, ids) for ids, _ in own]
                known = [{**row, "completion_tokens": len(ids)} for ids, _ in own]
                asked = [prompt_of(row, settings.data.system_prompt)] * len(own)
                since = time.perf_counter()
                scored = score_all(texts, known, chosen, prompts=asked)
                spent["reward"] += time.perf_counter() - since
                others = score_all(texts, known, other)
                groups.append({"columns": row, "answers": [
                    {"text": text, "tokens": len(ids), "cut": cut, "rewards": told.rewards,
                     "errors": told.errors, "total": told.total, "reached": told.reached,
                     "other": besides.rewards}
                    for text, (ids, cut), told, besides in zip(texts, own, scored, others,
                                                               strict=True)]})
                drawn += [(prompt, ids) for ids, _ in own[:train.num_generations]]
            pace = len(groups) / (time.perf_counter() - begun)
            expected = min(most, max(least, len(groups), int(pace * request["patience"])))
            say(done=len(groups) * copies, of=expected * copies)
        say(phase="Timing an update")
        update = source.update_seconds(drawn)
    finally:
        source.close()
    return {"groups": groups, "prompt_tokens": lengths, "generation_seconds": spent["generation"],
            "reward_seconds": spent["reward"], "update_seconds": update,
            "engine": request["trains_with"]}


class WithTransformers:
    """The base model itself, and the adapter that a run would put on it."""

    def __init__(self, request: dict, settings: Settings) -> None:
        name = TRL if request["on_gpu"] else CPU
        self.settings = settings
        self.engine = Engine(Plan(name, "", on_gpu=request["on_gpu"]), settings, request["model"])
        self.engine.load()
        self.tokenizer = self.engine.tokenizer
        self.stops = wording.stop_tokens(self.engine.model, self.tokenizer)
        if request["adapter"]:  # the run begins with it: that is who answers first
            self.engine.model = with_adapter(self.engine.model, request["adapter"],
                                             merged=not settings.model.load_in_4bit)

    @classmethod
    async def start(cls, request: dict, settings: Settings) -> "WithTransformers":
        return cls(request, settings)

    async def draw(self, prompts: list[list[int]], copies: int,
                   seed: int) -> list[tuple[list[int], bool]]:
        """[(tokens, whether it was cut)], `copies` for each prompt in a block."""
        train = self.settings.train
        answers = complete(self.engine.model, prompts, Drawing(
            train.max_completion_length, train.temperature, train.top_p, seed), self.stops, copies)
        return [(ids, ids[-1] not in self.stops) for ids in answers]

    def update_seconds(self, drawn: list[tuple[list[int], list[int]]]) -> float:
        """Seconds of one whole update of a step, from a pass over one batch of these answers.

        The work of TRL's: logits of the answers, their log-probabilities and entropy, and the way
        back to the adapter. The optimiser's own step is too short to count.
        """
        settings, model = self.settings, self.engine.model
        model = get_peft_model(model, self.engine.lora()).train()
        base, pad = model.get_base_model(), self.tokenizer.pad_token_id
        packed = settings.hardware.processes() == 1 and not fit(base)
        if settings.lora.gradient_checkpointing != "off":
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        size = settings.train.per_device_train_batch_size()
        batch = drawn[:size]
        seconds = 0.0
        for _ in range(2):
            begun = time.perf_counter()
            if packed:
                _packed_pass(base, batch, settings.train.temperature)
            else:
                _pass(model, batch, settings.train.temperature, pad)
            model.zero_grad(set_to_none=True)
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - begun
            if seconds > QUICK:
                break
        # A reference is one more pass without a way back, which is about a third of both.
        passes = 4 / 3 if settings.train.beta > 0 else 1.0
        return seconds * passes * settings.train.answers_per_step() / len(batch)

    def close(self) -> None:
        """Nothing is held that does not end with the process."""


def _pass(model, batch: list[tuple[list[int], list[int]]], temperature: float, pad: int) -> None:
    """Forward and backward over prompts (padded left) and answers (padded right)."""
    before = max(len(prompt) for prompt, _ in batch)
    after = max(len(answer) for _, answer in batch)
    ids = torch.full((len(batch), before + after), pad)
    mask = torch.zeros_like(ids)
    for line, (prompt, answer) in enumerate(batch):
        ids[line, before - len(prompt):before + len(answer)] = torch.tensor([*prompt, *answer])
        mask[line, before - len(prompt):before + len(answer)] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=after + 1,
                   use_cache=False).logits[:, :-1].float() / temperature
    chances = logits.log_softmax(-1)
    with torch.no_grad():
        (chances.exp() * chances).sum(-1)
    told = chances.gather(-1, ids[:, -after:, None]).squeeze(-1)
    (told * mask[:, -after:]).sum().neg().backward()


def _packed_pass(base, batch: list[tuple[list[int], list[int]]], temperature: float) -> None:
    """The same as the packed pass does it."""
    groups: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
    for row, (prompt, answer) in enumerate(batch):
        groups.setdefault(tuple(prompt), []).append((row, answer))
    read(base, pack(groups, base), temperature)[0].sum().neg().backward()


class WithVllm:
    """One vLLM engine that answers without an adapter."""

    def __init__(self, answers, tokenizer, settings: Settings, adapter=None) -> None:
        self.answers, self.tokenizer, self.settings = answers, tokenizer, settings
        self.adapter = adapter

    @classmethod
    async def start(cls, request: dict, settings: Settings) -> "WithVllm":
        from lab.backends.answering.vllm_answers import EngineSettings, VllmAnswers

        asked = request["engine"]
        tokenizer = wording.load_tokenizer(request["model"],
                                           settings.model.chat_template_kwargs)
        answers = await VllmAnswers.start(EngineSettings(
            request["model"], settings.model.load_in_4bit, asked["max_model_len"], asked["share"],
            asked["rank"], asked["cuda_graphs"]))
        adapter = request["adapter"] and await answers.adapter(request["adapter"])
        return cls(answers, tokenizer, settings, adapter or None)

    async def draw(self, prompts: list[list[int]], copies: int,
                   seed: int) -> list[tuple[list[int], bool]]:
        """As above. Each answer is a request with a seed of its own: vLLM reads a prompt once."""
        train = self.settings.train
        outs = await asyncio.gather(*(
            self.answers.whole(prompt, self.answers.sampling(
                train.max_completion_length, train.temperature, train.top_p,
                seed * 1_000_003 + place * copies + copy), self.adapter)
            for place, prompt in enumerate(prompts) for copy in range(copies)))
        return [(list(out.token_ids), out.finish_reason == "length") for out in outs]

    def update_seconds(self, drawn) -> None:
        """Not measured: the run's own engine is another process."""
        return None

    def close(self) -> None:
        self.answers.close()
