"""Unsloth with vLLM inside: one copy of the base, in 4 or 16 bit, learns and answers.

Import this before trl, transformers and peft: Unsloth changes them.
"""

import os
from collections.abc import Sequence
from typing import Any

from unsloth import FastLanguageModel  # isort: skip  first: it changes the libraries below

from lab.backends import plain, wording
from lab.backends.engines.base import Engine, timed_generation
from lab.backends.engines.checked_once import CheckedOnce
from lab.backends.engines.trl_vllm import TOKENS_ONLY, as_started, sampling
from lab.backends.generate import Drawing
from lab.backends.scoreboard import Scoreboard
from lab.core.hardware.engines import chunks_of_an_answer
from lab.core.problems import WorkFailed

CHECKPOINTING = {"off": False, "on": True, "unsloth": "unsloth"}


class UnslothEngine(Engine):
    """FastLanguageModel with `fast_inference`, and Unsloth's version of GRPOTrainer."""

    def load(self) -> None:
        settings, lora = self.settings, self.settings.lora
        checkpointing = CHECKPOINTING[lora.gradient_checkpointing]
        self.model, self.tokenizer = FastLanguageModel.from_pretrained(
            model_name=self.path, max_seq_length=settings.model.max_seq_length, dtype=None,
            load_in_4bit=settings.model.load_in_4bit, fast_inference=True,
            max_lora_rank=lora.rank, gpu_memory_utilization=self.plan.share,
            use_gradient_checkpointing=checkpointing, random_state=lora.random_state,
            max_num_seqs=self.plan.max_num_seqs, disable_log_stats=True, **self.graphs())
        if not hasattr(self.model, "vllm_engine"):
            raise WorkFailed("Unsloth loaded the model without vLLM.", "Its reason is in "
                             "worker.log.", "See to vLLM, or take another engine.")
        self.started = as_started(self.model.vllm_engine)
        self.room()
        wording.prepare(self.tokenizer, self.path, settings.model.chat_template_kwargs)
        self.model = FastLanguageModel.get_peft_model(
            self.model, r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0, bias="none",
            target_modules=plain.named_targets(self.model, lora.target_modules),
            use_gradient_checkpointing=checkpointing, random_state=lora.random_state)

    def room(self) -> None:
        """Unsloth shortens the longest sequence to what its share of the GPU holds, and only
        prints it: rollouts would fail, or end early, at some later step."""
        train, has = self.settings.train, self.started["max_model_len"]
        needs = train.max_prompt_length + train.max_completion_length
        if has < needs:
            raise WorkFailed("vLLM has no room for the answers.", "In its share of the GPU fit "
                             f"sequences of {has} tokens; prompt and answer have up to {needs}.",
                             "Raise 'GPU share of vLLM', shorten 'Longest answer', or load the "
                             "model in 4 bit.", kind="out_of_memory")

    def graphs(self) -> dict[str, Any]:
        """Arguments of vLLM for the CUDA graphs of the plan."""
        if self.plan.cuda_graphs == "decode":
            from lab.backends.graphs import decode_graphs

            return {"compilation_config": decode_graphs(self.plan.max_num_seqs)}
        return {"enforce_eager": self.plan.cuda_graphs == "off"}

    def arguments(self) -> dict[str, Any]:
        return super().arguments() | {
            "use_vllm": True, "vllm_mode": "colocate", "vllm_enable_sleep_mode": False,
            "vllm_gpu_memory_utilization": self.plan.share,
            "vllm_max_model_length": self.settings.model.max_seq_length,
            "vllm_importance_sampling_correction": False,
            "unsloth_logit_chunk_multiplier":
                chunks_of_an_answer(self.settings, self.plan.compile_loss)}

    def trainer_arguments(self, score: Scoreboard) -> dict[str, Any]:
        self.score = score
        return {"model": self.model}

    def bind(self, trainer) -> None:
        self.trainer = trainer
        self.stops = wording.stop_tokens(self.model, self.tokenizer)
        self.score.stops = {*self.stops, self.tokenizer.pad_token_id}
        rollouts = trainer.vllm_generation
        if rollouts.llm is not self.model.vllm_engine or not getattr(
                rollouts, "unsloth_fast_inference_lora", False):
            # Unsloth only logs it when its patch of TRL misses: rollouts would be the base's.
            raise WorkFailed("Unsloth's changes to TRL did not take hold.",
                             "The rollouts would come from the base model, without the adapter.",
                             "Install the versions of requirements.txt.")
        rollouts.generation_kwargs |= TOKENS_ONLY
        timed_generation(trainer, self.score, self.doing)
        CheckedOnce(trainer)

    def facts(self) -> dict[str, Any]:
        # Read off a weight: the configuration does not always say how they were loaded.
        kind = next((weight.quant_state.quant_type for weight in self.model.parameters()
                     if getattr(weight, "quant_state", None) is not None), None)
        return {"rollouts": "vLLM inside Unsloth", **self.started,
                "dtype": kind or str(self.model.dtype).removeprefix("torch."),
                "compiled_loss": os.environ.get("UNSLOTH_COMPILE_DISABLE", "0") != "1",
                "cuda_graphs": self.plan.cuda_graphs}

    def at_once(self) -> int:
        return 0  # vLLM schedules them

    def draw(self, prompts: Sequence[Sequence[int]], drawing: Drawing, copies: int = 1,
             tuned: bool = True) -> list[list[int]]:
        """In the trainer's thread only: two threads would take each other's answers."""
        from vllm import SamplingParams

        # Its own folder: the trainer's rollouts write theirs under Unsloth's name for it.
        adapter = self.model.load_lora("ask_lora", load_tensors=True) if tuned else None
        done = self.model.vllm_engine.generate(
            [{"prompt_token_ids": list(p)} for p in prompts for _ in range(copies)],
            sampling_params=sampling(SamplingParams, drawing), lora_request=adapter,
            use_tqdm=False)
        return [list(out.outputs[0].token_ids) for out in done]

