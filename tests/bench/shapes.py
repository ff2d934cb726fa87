"""Makes a model folder of a real model's shape with random weights: for measuring, not for talking.

    python -m tests.bench.shapes qwen2.5-1.5b OUT

Speed and memory depend on the shape and not on what the weights know, so no download is needed.
Answers hardly ever end before their limit, since each token is about as likely as any other: every
side of a comparison then does the same work. Random words earn nothing from a recipe's rewards, and
the lab leaves groups without signal out of the update: `SIGNAL` is what answers differ in.
"""

import argparse
import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from lab.core.rewards.chosen import Chosen
from lab.services.workspace import STARTER_FOLDER

# Counts the words: random tokens make more or fewer of them, and hardly ever all alike.
SIGNAL = {"rewards.chosen": (Chosen("length", params={"at_least": 400, "at_most": 800}),)}
SEED = 3407
SHARD = "4GB"
QWEN_UNKNOWN = "<|endoftext|>"  # the Qwen2 tokenizer class adds a row for it if it is absent


@dataclass(frozen=True)
class Shape:
    """The numbers of a model's config.json that decide its size and speed."""

    kind: type
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tie_word_embeddings: bool
    max_position_embeddings: int
    rms_norm_eps: float
    rope_parameters: dict = field(default_factory=dict)


QWEN_ROPE = {"rope_type": "default", "rope_theta": 1_000_000.0}
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0,
               "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192}

SHAPES = {
    "tiny": Shape(Qwen2Config, 2, 128, 256, 2, 1, 1024, True, 2048, 1e-6, QWEN_ROPE),
    "tiny-llama": Shape(LlamaConfig, 2, 128, 256, 2, 1, 1024, False, 16_384, 1e-5, LLAMA3_ROPE),
    "qwen2.5-0.5b": Shape(Qwen2Config, 24, 896, 4864, 14, 2, 151_936, True, 32_768, 1e-6,
                          QWEN_ROPE),
    "qwen2.5-1.5b": Shape(Qwen2Config, 28, 1536, 8960, 12, 2, 151_936, True, 32_768, 1e-6,
                          QWEN_ROPE),
    "llama-3.1-8b": Shape(LlamaConfig, 32, 4096, 14_336, 32, 8, 128_256, False, 131_072, 1e-5,
                          LLAMA3_ROPE),
}


def make(name: str, out: Path) -> None:
    """Write the folder `out`, whole or not at all."""
    shape = SHAPES[name]
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    tokenizer = tokenizer_of(shape)
    tokenizer.save_pretrained(draft)
    model_of(shape, tokenizer).save_pretrained(draft, max_shard_size=SHARD)
    shutil.rmtree(out, ignore_errors=True)
    draft.rename(out)


def tokenizer_of(shape: Shape) -> PreTrainedTokenizerFast:
    """The starter's tokenizer, with filler words up to the shape's vocabulary.

    The fillers stand in the vocabulary of the BPE model: as added tokens, 150,000 of them would be
    searched for in every text. No merge leads to one, so no prompt contains one; an answer does,
    since the sampler may draw every row of the output layer.
    """
    starter = AutoTokenizer.from_pretrained(STARTER_FOLDER)
    tree = json.loads((STARTER_FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tree["model"]["vocab"]
    # An added token keeps its number only if the model knows it, or if no number follows it.
    vocabulary |= {token["content"]: token["id"] for token in tree["added_tokens"]}
    vocabulary[QWEN_UNKNOWN] = len(vocabulary)
    vocabulary |= {f"\u0120filler{n}": n for n in range(len(vocabulary), shape.vocab_size)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(tree)), chat_template=starter.chat_template,
        unk_token=QWEN_UNKNOWN,
        bos_token=starter.bos_token, eos_token=starter.eos_token, pad_token=starter.pad_token,
        model_max_length=shape.max_position_embeddings, padding_side="left",
        clean_up_tokenization_spaces=False)


def model_of(shape: Shape, tokenizer: PreTrainedTokenizerFast):
    """Random weights in bf16, drawn on the GPU where there is one."""
    torch.manual_seed(SEED)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
           "pad_token_id": tokenizer.pad_token_id}
    numbers = {name: value for name, value in vars(shape).items() if name != "kind"}
    config = shape.kind(**numbers, **ids, initializer_range=0.02)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.generation_config = GenerationConfig(do_sample=True, temperature=1.0, **ids)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    begun = time.monotonic()
    make(options.shape, options.out.resolve())
    size = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"{options.out}: {size / 1e9:.2f} GB in {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
