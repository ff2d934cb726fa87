"""Merges an adapter into its base and writes a 16-bit model, sharded as the Hub likes it."""

import shutil
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from lab.backends import plain, wording
from lab.backends.serving import serve_once
from lab.core.problems import BadModel, RunError

SHARD = "5GB"
SPARE = 1.1  # of the weights' size: what must be free where they are written


def serve(request: dict, outgoing) -> int:
    """Merge as the request says (`model`, `adapter`, `template_arguments`, `out`); JSON lines out:
    {"doing"} on the way, at the end {"made": file names} or {"problem"}."""
    return serve_once(lambda *given: {"made": merge(*given)}, request, outgoing)


def merge(request: dict, say) -> list[str]:
    """On the CPU: what is merged need not fit beside a training run on its GPU."""
    model, out, adapter = request["model"], Path(request["out"]), Path(request["adapter"])
    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    if getattr(config, "quantization_config", None):
        raise BadModel("This base model is quantised.", "An adapter cannot be merged into weights "
                       "of 4 or 8 bit without loss.", "Export the adapter, or train on the 16-bit "
                       "version of the model.")
    say(doing="Loading the base model")
    plain.check_adapter(model, adapter)
    dtype = torch.float16 if config.dtype is torch.float16 else torch.bfloat16
    base = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, trust_remote_code=False)
    needed = SPARE * sum(p.numel() * p.element_size() for p in base.parameters())
    free = shutil.disk_usage(out).free
    if free < needed:
        raise RunError("The disk has no room for the merged model.", f"It takes "
                       f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free.",
                       "Free some space, or export to another disk.")
    say(doing="Merging")
    # peft adds the product in 32 bit and rounds once.
    merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload(safe_merge=True)
    say(doing="Writing the merged model")
    merged.save_pretrained(out, max_shard_size=SHARD)
    tokenizer = wording.load_tokenizer(model, request["template_arguments"])
    tokenizer.save_pretrained(out)
    return sorted(path.name for path in out.iterdir())
