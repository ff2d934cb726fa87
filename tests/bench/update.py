"""The learning pass alone, in turns inside one process: as TRL has it, and as the lab has it.

    python -m tests.bench.update [--model MODEL] [--prompts 4] [--answer 256] [--rounds 5]
                                 [--checkpointing] [--four-bit] [--profile FOLDER]

Hosts differ by a third from one minute to the next; ways that take turns do not. With a shape for a
model (tests/bench/shapes.py), random weights; answers are random tokens, all of one length.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig

from lab.backends.engines.packed import NAME, PackedPass
from lab.core.settings import STARTER
from lab.services.models import model_folder
from tests.bench import measure
from tests.bench.shapes import SHAPES

SIZE = 8  # answers of a group


class Ways:
    """One trainer, which learns in any of three ways: `padded` as TRL does, `packed` as the lab
    does, and `packed-peft` so with peft's and transformers' own layers."""

    def __init__(self, trainer) -> None:
        self.trainer = trainer
        self.base = trainer.model.get_base_model()
        self.padded_attention = self.base.config._attn_implementation
        self.all: dict[str, Callable[[], None]] = {
            "padded": self.padded, "packed-peft": self.packed, "packed": self.lean}

    def padded(self) -> None:
        give_back(self.trainer, self.padded_attention)

    def lean(self) -> None:
        self.padded()
        if why := PackedPass(self.trainer).take_over():
            raise SystemExit(f"It cannot learn packed: {why}.")
        assert self.base.config._attn_implementation == NAME

    def packed(self) -> None:
        self.lean()
        own_layers(self.base)


def own_layers(model: torch.nn.Module) -> None:
    """Let each layer compute as peft and transformers have it again."""
    for layer in model.modules():
        layer.__dict__.pop("forward", None)


def give_back(trainer, attention: str) -> None:
    """Undo what PackedPass took over: the trainer learns as TRL does, with this attention."""
    own_layers(trainer.model)
    for name in ("_get_per_token_logps_and_entropies", "_compute_loss"):
        trainer.__dict__.pop(name, None)
    trainer.model.get_base_model().set_attn_implementation(attention)


def make_ready(trainer) -> None:
    """What train() does before the first batch, and a batch's loss asks for."""
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    if trainer.args.gradient_checkpointing:
        trainer.model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=STARTER, help="a folder, or a shape by name")
    parser.add_argument("--prompts", type=int, default=4, help=f"each with {SIZE} answers")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--answer", type=int, default=256, help="tokens of an answer")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--four-bit", action="store_true", help="the base, on a GPU")
    parser.add_argument("--profile", type=Path, help="tables of kernels, a file for each way")
    parser.add_argument("--root", type=Path, help="where a model is made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = options.root or Path(scratch)
        name = (str(measure.model(options.model, root / "models")) if options.model in SHAPES
                else options.model)
        trainer = trainer_of(name, Path(scratch), options)
    inputs = batch(trainer, options)
    ways = Ways(trainer)
    seconds: dict[str, list[float]] = {name: [] for name in ways.all}
    peaks: dict[str, float] = {}
    for turn in range(options.rounds + 1):
        for name, take in ways.all.items():
            take()
            took, peaks[name] = timed(trainer, inputs)
            if turn:  # the first warms up
                seconds[name].append(took)
    for name, own in seconds.items():
        print(json.dumps({"way": name, "median": round(statistics.median(own), 4),
                          "all": [round(one, 4) for one in own], "peak_gb": round(peaks[name], 2)}))
    if options.profile:
        options.profile.mkdir(parents=True, exist_ok=True)
        for name, take in ways.all.items():
            take()
            (options.profile / f"{name}.txt").write_text(profiled(trainer, inputs))
    whole = statistics.median(seconds["packed"])
    print(*(f"packed / {name}: {whole / statistics.median(own):.2f}"
            for name, own in seconds.items() if name != "packed"), sep="\n")


def trainer_of(name: str, out: Path, options: argparse.Namespace):
    """TRL's trainer of this model in 16 bit on a GPU, in 32 on a CPU, as the lab's engines have it.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from lab.backends import plain, wording
    from lab.backends.train import arguments
    from lab.core.catalog import RECIPES

    on_gpu = torch.cuda.is_available()
    settings = RECIPES["starter"].settings().with_values({
        "train.num_generations": SIZE, "model.name": name})
    path = model_folder(settings)
    trainer = GRPOTrainer(
        model=plain.load_model(path, on_gpu, options.four_bit),
        processing_class=wording.load_tokenizer(path),
        args=GRPOConfig(**arguments(settings, out) | {
            "use_cpu": not on_gpu, "bf16": on_gpu, "reward_weights": None,
            "gradient_checkpointing": options.checkpointing}),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        train_dataset=Dataset.from_list([{"prompt": "a"}] * SIZE),
        peft_config=LoraConfig(r=options.rank, lora_alpha=options.rank,
                               target_modules="all-linear"))
    make_ready(trainer)
    return trainer


def batch(trainer, options: argparse.Namespace) -> dict:
    """What TRL hands to a loss: groups of answers of one length, each with an advantage."""
    chance = torch.Generator().manual_seed(3)
    rows, words = options.prompts * SIZE, trainer.model.config.vocab_size

    def tokens(*shape: int) -> torch.Tensor:
        return torch.randint(3, words, shape, generator=chance)

    made = {"prompt_ids": tokens(options.prompts, options.prompt).repeat_interleave(SIZE, 0),
            "completion_ids": tokens(rows, options.answer),
            "advantages": torch.randn(rows, generator=chance)}
    made |= {name.replace("ids", "mask"): torch.ones_like(made[name])
             for name in ("prompt_ids", "completion_ids")}
    made["num_items_in_batch"] = made["completion_mask"].sum()
    return {name: value.to(trainer.model.device) for name, value in made.items()}


def learn(trainer, inputs: dict) -> None:
    # accelerate lets what it trains compute in 16 bit
    with torch.autocast("cuda", torch.bfloat16, enabled=trainer.args.bf16):
        loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    trainer.model.zero_grad()


def timed(trainer, inputs: dict) -> tuple[float, float]:
    """(seconds, GB at the peak; 0 on a CPU) of one pass and its way back."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    learn(trainer, inputs)
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - begun, torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0


def profiled(trainer, inputs: dict) -> str:
    """A table of what took the time."""
    kinds = torch.profiler.ProfilerActivity
    on_gpu = torch.cuda.is_available()
    with torch.profiler.profile(activities=[kinds.CPU, *([kinds.CUDA] if on_gpu else [])]) as found:
        timed(trainer, inputs)
    by = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    return found.key_averages().table(sort_by=by, row_limit=60, max_name_column_width=110)


if __name__ == "__main__":
    main()
