"""Plain TRL with vLLM: on the GPUs that train, or as a server on others."""

import math
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from lab.backends import wording
from lab.backends.engines.base import Engine, timed_generation
from lab.backends.generate import Drawing
from lab.backends.scoreboard import Scoreboard

# TRL and the lab make the text themselves, from the tokens: vLLM would do it token by token, in the
# process that learns.
TOKENS_ONLY = {"detokenize": False}
# What stands in an answer of vLLM for a token of which it was not asked how likely it was.
UNKNOWN = {0: SimpleNamespace(logprob=math.nan, rank=1)}


class VllmEngine(Engine):
    """TRL's own rollouts through vLLM. The adapter reaches vLLM merged, the base never changes."""

    def load(self) -> None:
        if "WORLD_SIZE" not in os.environ:
            # A process alone makes a group of one too. TRL looks first whether the usual port is
            # free, and two runs that start together both find that it is.
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                os.environ.setdefault("MASTER_PORT", str(probe.getsockname()[1]))
        super().load()

    def arguments(self) -> dict[str, Any]:
        hardware = self.settings.hardware
        host, _, port = hardware.vllm_server.rpartition(":")
        return super().arguments() | {
            "use_vllm": True, "vllm_mode": hardware.vllm_mode,
            "vllm_gpu_memory_utilization": self.plan.share,
            "vllm_max_model_length": self.settings.model.max_seq_length,
            "vllm_tensor_parallel_size": 1, "vllm_enable_sleep_mode": False,
            "vllm_importance_sampling_correction": False,
            "vllm_server_host": host or "127.0.0.1",
            "vllm_server_port": int(port) if port.isdecimal() else 8000}

    def trainer_arguments(self, score: Scoreboard) -> dict[str, Any]:
        self.score = score
        return {"model": self.model, "peft_config": self.lora()}

    def bind(self, trainer) -> None:
        self.trainer, self.model = trainer, trainer.model
        self.stops = wording.stop_tokens(self.model, self.tokenizer)
        self.score.stops = {*self.stops, self.tokenizer.pad_token_id}
        timed_generation(trainer, self.score, self.doing)
        if self.whole:
            self.hand_weights_to(trainer.vllm_generation)
        if self.settings.hardware.vllm_mode == "colocate":
            trainer.vllm_generation.generation_kwargs |= TOKENS_ONLY
            llm = trainer.vllm_generation.llm
            llm.generate = telling_some(llm.generate, self.settings.train.num_generations)
        if self.whole:
            self.learn_packed()

    def hand_weights_to(self, rollouts) -> None:
        """Let vLLM have what the adapter changes, in the place of TRL's own way: that merges the
        adapter into the base and takes it out again at each step. In bf16 this does not come out
        even, and the base drifts (huggingface/trl#6688)."""
        rollouts._iter_named_params = lambda: merged_parameters(self.model, every=True)
        if self.settings.hardware.vllm_mode == "colocate":
            rollouts.sync_weights = self.hand_over

    def hand_over(self) -> None:
        """What the adapter changes, in one call: TRL makes one for each weight of the model, and
        in each of them vLLM lists its own."""
        llm = self.trainer.vllm_generation.llm
        llm.llm_engine.model_executor.driver_worker.model_runner.model.load_weights(
            merged_parameters(self.model))
        llm.reset_prefix_cache()

    def facts(self) -> dict[str, Any]:
        mode = self.settings.hardware.vllm_mode
        own = as_started(self.trainer.vllm_generation.llm) if mode == "colocate" else {}
        return super().facts() | {"rollouts": f"vLLM, {mode}", **own}

    def at_once(self) -> int:
        """Everything: vLLM schedules it. A server does not answer beside the trainer: see draw."""
        return super().at_once() if self.settings.hardware.vllm_mode == "server" else 0

    def draw(self, prompts: Sequence[Sequence[int]], drawing: Drawing, copies: int = 1,
             tuned: bool = True) -> list[list[int]]:
        if not tuned or self.settings.hardware.vllm_mode == "server":
            return super().draw(prompts, drawing, copies, tuned)
        from vllm import SamplingParams

        self.trainer.vllm_generation.sync_weights()
        done = self.trainer.vllm_generation.llm.generate(
            [{"prompt_token_ids": list(p)} for p in prompts for _ in range(copies)],
            sampling_params=sampling(SamplingParams, drawing), use_tqdm=False)
        return [list(out.outputs[0].token_ids) for out in done]


def telling_some(generate: Callable, every: int) -> Callable:
    """vLLM's `generate`, which tells how likely its tokens were for one answer of `every`.

    TRL asks it for all of them, each of which is Python's work in the process that draws: a tenth
    of the drawing with 128 answers. What it serves is a mean, for which one of each group will do.
    The others have NaN, for which TRL has a way: vLLM gives such numbers too.
    """
    def generating(prompts, sampling_params, **kwargs):
        if sampling_params.logprobs is None:
            return generate(prompts, sampling_params=sampling_params, **kwargs)
        silent = sampling_params.clone()
        silent.logprobs = None
        each = [silent if place % every else sampling_params for place in range(len(prompts))]
        done = generate(prompts, sampling_params=each, **kwargs)
        for answer in (out.outputs[0] for out in done):
            if answer.logprobs is None:
                answer.logprobs = [UNKNOWN] * len(answer.token_ids)
        return done

    return generating


def as_started(llm) -> dict[str, Any]:
    """With what a `vllm.LLM` runs, off the engine itself: what starts it may give way."""
    config = llm.llm_engine.vllm_config
    return {"vllm_share": round(config.cache_config.gpu_memory_utilization, 3),
            "max_model_len": config.model_config.max_model_len,
            "max_num_seqs": config.scheduler_config.max_num_seqs}


def sampling(cls, drawing: Drawing):
    """vLLM's SamplingParams of a drawing. `cls` is vllm's class: this file imports no vllm."""
    return cls(max_tokens=drawing.max_new_tokens, temperature=drawing.temperature,
               top_p=drawing.top_p, seed=drawing.seed, **TOKENS_ONLY)


@torch.no_grad()
def merged_parameters(peft_model, every: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
    """(name in the base model, weight plus adapter) one at a time; the base stays as it is.

    Only weights that an adapter changes, or `every` one of the model.
    """
    base = peft_model.get_base_model()
    lora = {name: layer for name, layer in base.named_modules() if isinstance(layer, LoraLayer)}
    own = tuple(f"{name}." for name in lora)  # theirs and, under base_layer, the model's
    for name, weight in base.named_parameters():
        owner, _, leaf = name.rpartition(".")
        plain_name = name.replace(".base_layer.", ".")
        layer = lora.get(owner.removesuffix(".base_layer"))
        if layer is not None and plain_name != name and leaf == "weight":
            total = weight.data.float()
            for adapter in layer.active_adapters:
                low, high = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
                if getattr(layer, "fan_in_fan_out", False):  # GPT-2's, the other way round
                    low, high = high.T, low.T
                total = total.addmm(high.float(), low.float(), alpha=layer.scaling[adapter])
            yield plain_name, total.to(weight.dtype)
        elif every and (plain_name != name or not name.startswith(own)):
            yield plain_name, weight.data
