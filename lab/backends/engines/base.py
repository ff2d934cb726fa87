"""How a run's model is loaded, answers and is set up for TRL; the engine of transformers and peft.

Three engines share this interface: this one (on the CPU and on a GPU), TRL with vLLM
(trl_vllm.py), and Unsloth with vLLM inside (unsloth.py).
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil
import torch
from peft import LoraConfig

from lab.backends import gpu, plain, wording
from lab.backends.engines.packed import PackedPass
from lab.backends.generate import Drawing, MergedCopy, complete
from lab.backends.scoreboard import Scoreboard
from lab.core.doing import Doing
from lab.core.hardware.engines import Plan
from lab.core.hardware.memory import COPY_SHARE
from lab.core.problems import WorkFailed
from lab.core.settings import Settings

BATCH = 64  # prompts that are answered together where no engine schedules them


class Engine:
    """transformers loads the base, peft wraps it, and the lab's own loop draws the answers."""

    def __init__(self, plan: Plan, settings: Settings, path: str) -> None:
        self.plan, self.settings, self.path = plan, settings, path
        self.on_gpu = plan.on_gpu
        # Each process has the whole base. Where it is cut in parts only TRL can draw answers.
        self.whole = settings.hardware.whole()
        self.copy: MergedCopy | None = None
        self.doing = Doing(None)  # the run's, once it trains
        self.told: Callable[[int], None] = lambda done: None  # how many answers have ended
        self.packed = False  # whether it learns without padding
        self.notes: list[str] = []  # what a person should know once it stands

    def load(self) -> None:
        """Fill `tokenizer` and `model`."""
        self.tokenizer = wording.load_tokenizer(self.path,
                                                self.settings.model.chat_template_kwargs)
        self.model = plain.load_model(self.path, self.on_gpu, self.settings.model.load_in_4bit)

    def arguments(self) -> dict[str, Any]:
        """What GRPOConfig gets besides the settings: where and in which precision it runs."""
        if not self.on_gpu:
            return {"use_cpu": True, "bf16": False, "fp16": False, "use_vllm": False}
        half = gpu.dtype()
        return {"use_cpu": False, "bf16": half is torch.bfloat16, "fp16": half is torch.float16,
                "use_vllm": False}

    def trainer_arguments(self, score: Scoreboard) -> dict[str, Any]:
        """What GRPOTrainer gets besides config, data and rewards."""
        self.score = score
        own = {"rollout_func": self.rollout} if self.whole else {}
        return {"model": self.model, "peft_config": self.lora(), **own}

    def lora(self) -> LoraConfig:
        lora = self.settings.lora
        return LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, bias="none",
                          target_modules=plain.targets(lora.target_modules), task_type="CAUSAL_LM")

    def bind(self, trainer) -> None:
        """The trainer stands. Decide once which weights answer: a merged copy where memory
        allows, else the model with its adapter; and how it learns."""
        self.trainer = trainer
        self.model = trainer.model
        self.stops = wording.stop_tokens(self.model, self.tokenizer)
        self.score.stops = {*self.stops, self.tokenizer.pad_token_id}
        if not self.whole:
            timed_generation(trainer, self.score, self.doing)
            return
        size = sum(p.numel() * p.element_size() for p in self.model.parameters())
        free = (torch.cuda.mem_get_info()[0] if self.on_gpu
                else psutil.virtual_memory().available)
        if size < COPY_SHARE * free and not self.settings.model.load_in_4bit:
            self.copy = MergedCopy(self.model)
        self.learn_packed()

    def learn_packed(self) -> None:
        """Read each prompt once and pad nothing, where that is the same; else say why not."""
        why = PackedPass(self.trainer).take_over()
        self.packed = not why
        if why:
            self.notes.append("It learns as TRL does, each answer behind a copy of its prompt, "
                              f"which takes longer, because {why}.")

    def facts(self) -> dict[str, Any]:
        """What the `started` event tells of this engine."""
        drawn = "merged copy" if self.copy else "adapter"
        return {"rollouts": drawn if self.whole else "transformers, through TRL",
                "dtype": str(self.model.dtype).removeprefix("torch."),
                "learning": "packed" if self.packed else "padded"}

    def rollout(self, prompts: list, trainer) -> dict:
        """TRL's `rollout_func`. The same seed and step draw the same answers, also resumed."""
        train = self.settings.train
        size = train.num_generations
        unique = prompts[::size]  # TRL hands every prompt over once per answer, in blocks
        ids = [wording.to_tokens(self.tokenizer, wording.render(self.tokenizer, p)) for p in unique]
        seed = (train.seed + 1_000_003 * trainer.state.global_step
                + 7_919 * trainer.accelerator.process_index)
        begun, of = time.perf_counter(), len(prompts)
        self.told = lambda done: self.doing("answering", done, of)
        answers = self.draw(ids, Drawing(train.max_completion_length, train.temperature,
                                         train.top_p, seed=seed), copies=size)
        self.told = lambda done: None
        self.score.drew(answers, time.perf_counter() - begun)
        self.doing("scoring")
        return {"prompt_ids": [line for line in ids for _ in range(size)],
                "completion_ids": answers, "logprobs": None}

    def at_once(self) -> int:
        """The most prompts that one `draw` should get; 0 where there is no limit.

        No more answers than a rollout has: they are known to fit.
        """
        train = self.settings.train
        return min(BATCH, train.answers_of_a_process(self.settings.hardware.processes()))

    def draw(self, prompts: Sequence[Sequence[int]], drawing: Drawing, copies: int = 1,
             tuned: bool = True) -> list[list[int]]:
        """Answers to tokenised prompts, `copies` each in a block, with the adapter or without."""
        if not self.whole:
            raise WorkFailed("This run cannot answer while it trains.", "Its base model is cut in "
                             "parts over several GPUs.", "Ask its checkpoint under Compare.")
        was_training = self.model.training
        if not tuned:
            with self.model.disable_adapter():
                answers = complete(self.model.eval(), prompts, drawing, self.stops, copies,
                                   self.told)
        elif self.copy:
            self.copy.refresh()
            answers = complete(self.copy.model, prompts, drawing, self.stops, copies,
                                   self.told)
        else:
            answers = complete(self.model.eval(), prompts, drawing, self.stops, copies,
                                   self.told)
        self.model.train(was_training)
        return answers


def timed_generation(trainer, score: Scoreboard, doing: Doing) -> None:
    """Note what TRL's own generation takes and draws, where the trainer does it itself."""
    generate = trainer._generate_single_turn

    def timed(*args, **kwargs):
        begun = time.perf_counter()
        doing("answering")  # all at once, and not counted
        answers, logprobs = generate(*args, **kwargs)
        score.drew(answers, time.perf_counter() - begun, logprobs)
        doing("scoring")
        return answers, logprobs

    trainer._generate_single_turn = timed
