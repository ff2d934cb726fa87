"""Make the starter model: train its tokenizer and its weights from scratch, with a seed.

    python assets/starter/make.py [--out DIR] [--steps N] [--seed S]

Two phases. In the first, most answers work in steps, so the model learns to calculate one step at
a time. In the second, most answers blurt out a number, so that becomes the habit while the skill
stays. What is left to learn, by rewards, is to use the skill.

The share of bare answers in the first phase sets how good blurting gets: greedy accuracy on level 2
was 0.26 with a share of 0.21, 0.28 with 0.25, 0.41 with 0.28 and 0.51 with 0.35 (one seed each).
Tried and dropped: no bare answers at all in the first phase, which left blurting at 0.10.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from lab.core.task import (  # noqa: E402
    LEVELS,
    RESERVED_COUNT,
    RESERVED_SEEDS,
    SYSTEM_PROMPT,
    WordProblem,
    problems,
)

STEPS = 1200
BATCH = 128
SEED = 3407
PEAK_MATRIX_RATE = 0.02  # Muon, for the matrices of the layers
PEAK_OTHER_RATE = 3e-3  # AdamW, for embeddings and norms
SECOND_PHASE = 0.7  # share of the steps after which blurting takes over

# Share of each kind of answer in the two phases.
#   bare      <answer> with the number and nothing else
#   sentence  The answer is N.
#   format    steps, then the answer, exactly as asked
#   worked    steps, then a sentence
FIRST_HABITS = {"bare": 0.28, "sentence": 0.05, "format": 0.43, "worked": 0.24}
SECOND_HABITS = {"bare": 0.52, "sentence": 0.18, "format": 0.17, "worked": 0.13}
LEVEL_SHARES = {1: 0.25, 2: 0.5, 3: 0.15, 4: 0.1}
SYSTEM_SHARE = 0.5  # of the prompts begin with the system prompt
FLAT_SHARE = 0.25  # of the worked answers put all steps on one line

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
END_OF_TURN, START_OF_TURN, PADDING, BEGIN = "<|im_end|>", "<|im_start|>", "<|pad|>", "<|begin|>"
TAGS = ["<reasoning>", "</reasoning>", "<answer>", "</answer>"]


def answer_text(problem: WordProblem, habit: str, generator: random.Random) -> str:
    """Write the answer to `problem` in one of the habits."""
    separator = ", " if generator.random() < FLAT_SHARE else "\n"
    steps = separator.join(problem.steps)
    if habit == "bare":
        return f"<answer>\n{problem.answer}\n</answer>\n"
    if habit == "sentence":
        return f"The answer is {problem.answer}."
    if habit == "format":
        return f"<reasoning>\n{steps}\n</reasoning>\n<answer>\n{problem.answer}\n</answer>\n"
    return f"{steps}\nThe answer is {problem.answer}."


def prompt_messages(problem: WordProblem, with_system: bool) -> list[dict[str, str]]:
    """The chat messages that ask `problem`."""
    system = [{"role": "system", "content": SYSTEM_PROMPT}] if with_system else []
    return [*system, {"role": "user", "content": problem.question}]


def render(messages: list[dict[str, str]]) -> str:
    """What TEMPLATE makes of `messages` with a generation prompt, without the cost of Jinja."""
    turns = (f"{START_OF_TURN}{m['role']}\n{m['content']}{END_OF_TURN}\n" for m in messages)
    return "".join(turns) + f"{START_OF_TURN}assistant\n"


# --- the tokenizer -------------------------------------------------------------------------------


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the task's words: any text can be written, and digits stand alone."""
    generator = random.Random(seed)
    # Often enough that each word of these becomes one token: they are in every prompt.
    corpus = [SYSTEM_PROMPT, "system\n", "user\n", "assistant\n", "The answer is "] * 100
    for level in LEVELS:
        for problem in problems(level, 1500, seed=1_000_000 + seed):
            habit = generator.choice(list(FIRST_HABITS))
            corpus += [problem.question, answer_text(problem, habit, generator)]
    tokenizer = Tokenizer(models.BPE())
    # A word before a number takes the blank between them along, and so does a sign between two
    # numbers: a blank as a token of its own would be a third of every worked answer.
    pieces = Regex(r" [-+*/=] |\d| ?\p{L}+ (?=\d)| ?\p{L}+| ?[^\s\p{L}\d]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        min_frequency=20,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[PADDING, BEGIN, START_OF_TURN, END_OF_TURN],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    # Not special: a decoder that skips special tokens must keep them.
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PADDING,
        bos_token=BEGIN,
        eos_token=END_OF_TURN,
        additional_special_tokens=[START_OF_TURN],
        chat_template=TEMPLATE,
        model_max_length=2048,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


# --- the model -----------------------------------------------------------------------------------


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A small Llama with fresh weights, in float32."""
    torch.manual_seed(seed)
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        **ids,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=True, temperature=1.0, **ids)
    return model


# --- the data ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt and of the answer to learn."""

    prompt: list[int]
    answer: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def examples(
    tokenizer: PreTrainedTokenizerFast, habits: list[dict[str, float]], seed: int
) -> Iterator[list[Example]]:
    """Yield BATCH examples for each mixture in `habits`, never with a reserved question."""
    generator = random.Random(seed)
    reserved = {
        level: {p.question for s in RESERVED_SEEDS for p in problems(level, RESERVED_COUNT, s)}
        for level in LEVELS
    }
    encode = tokenizer.backend_tokenizer.encode_batch
    for number, habit_shares in enumerate(habits):
        levels = generator.choices(list(LEVEL_SHARES), list(LEVEL_SHARES.values()), k=BATCH)
        batch = [
            problem
            for level in LEVELS
            for problem in problems(
                level, levels.count(level), 1_000_000 * (seed + 1) + number, reserved[level]
            )
        ]
        kinds = generator.choices(list(habit_shares), list(habit_shares.values()), k=BATCH)
        asked = [render(prompt_messages(p, generator.random() < SYSTEM_SHARE)) for p in batch]
        answers = [
            answer_text(problem, kind, generator) + END_OF_TURN
            for problem, kind in zip(batch, kinds, strict=True)
        ]
        pairs = zip(encode(asked), encode(answers), strict=True)
        yield [Example(prompt.ids, answer.ids) for prompt, answer in pairs]


def tensors(batch: list[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad on the right: ids and labels, both (rows, length), with label -100 off the answers."""
    length = max(len(example) for example in batch)
    ids = torch.full((len(batch), length), pad)
    labels = torch.full((len(batch), length), -100)
    for row, example in enumerate(batch):
        start, end = len(example.prompt), len(example)
        ids[row, :end] = torch.tensor(example.prompt + example.answer)
        labels[row, start:end] = torch.tensor(example.answer)
    return ids, labels


# --- the training --------------------------------------------------------------------------------


def rate(step: int, steps: int) -> float:
    """Share of the peak rate: a short warm-up, then a cosine down to a fiftieth."""
    warm = min(1.0, (step + 1) / max(1, steps // 20))
    return warm * (0.51 + 0.49 * math.cos(math.pi * step / steps))


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int, seed: int):
    """Train `model` in place on `steps` batches."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).train()
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    inner_ids = {id(p) for p in inner}
    other = [p for p in model.parameters() if id(p) not in inner_ids]
    optimizers = [
        (torch.optim.Muon(inner, lr=PEAK_MATRIX_RATE, weight_decay=0.01), PEAK_MATRIX_RATE),
        (torch.optim.AdamW(other, lr=PEAK_OTHER_RATE, weight_decay=0.01), PEAK_OTHER_RATE),
    ]
    first = round(steps * SECOND_PHASE)
    habits = [FIRST_HABITS] * first + [SECOND_HABITS] * (steps - first)
    started = time.monotonic()
    for step, batch in enumerate(examples(tokenizer, habits, seed)):
        # Short and long examples apart: less padding, the same gradient.
        batch.sort(key=len)
        total = sum(len(example.answer) for example in batch)
        summed = 0.0
        for half in (batch[: BATCH // 2], batch[BATCH // 2 :]):
            ids, labels = (t.to(device) for t in tensors(half, tokenizer.pad_token_id))
            with torch.autocast(device, torch.bfloat16):
                hidden = model.model(ids).last_hidden_state[:, :-1]
            wanted = labels[:, 1:]
            # Only answers are learnt, so only they are worth a row of logits.
            logits = model.lm_head(hidden[wanted >= 0].float())
            loss = torch.nn.functional.cross_entropy(logits, wanted[wanted >= 0], reduction="sum")
            (loss / total).backward()
            summed += loss.item()
        for optimizer, peak in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * rate(step, steps)
            optimizer.step()
            optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            seconds = time.monotonic() - started
            print(f"step {step:5d}  loss {summed / total:.4f}  {seconds:6.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the starter model.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write (default: beside)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps ({STEPS})")
    parser.add_argument("--seed", type=int, default=SEED, help=f"seed ({SEED})")
    options = parser.parse_args()
    tokenizer = make_tokenizer(options.seed)
    model = make_model(tokenizer, options.seed)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
    train(model, tokenizer, options.steps, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    model.to("cpu", torch.bfloat16).save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)


if __name__ == "__main__":
    main()
