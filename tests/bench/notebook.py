"""The classic notebook as a script: Unsloth's own calls, at the settings of a run of the lab.

    python -m tests.bench.notebook RUN_FOLDER [--steps N] [--compile on|off] [--eager]

Prints as its last line {"steps": [{"step": seconds, ...}], "ready": seconds}.
"""

import argparse
import os
import tempfile
from pathlib import Path

CHECKPOINTING = {"off": False, "on": True, "unsloth": "unsloth"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with settings.json and data.jsonl")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--compile", choices=("on", "off"), default="off",
                        help="Unsloth's compiled loss; it can compile for minutes")
    parser.add_argument("--eager", action="store_true", help="vLLM without CUDA graphs")
    options = parser.parse_args()
    folder = options.folder.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # Unsloth writes adapters for vLLM where it stands
        os.environ |= {
            "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1",
            "UNSLOTH_DISABLE_STATISTICS": "1", "VLLM_USE_FLASHINFER_SAMPLER": "0",
            "UNSLOTH_COMPILE_LOCATION": f"{scratch}/unsloth_compiled_cache"}
        if options.compile == "off":
            os.environ["UNSLOTH_COMPILE_DISABLE"] = "1"
        print(train(folder, Path(scratch), options.steps, options.eager), flush=True)
    os._exit(0)  # vLLM's threads must not keep the process, nor its memory


def train(folder: Path, scratch: Path, steps: int | None, eager: bool) -> str:
    # unsloth first: it changes trl, transformers and peft as they are imported
    from unsloth import FastLanguageModel  # isort: skip
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    from tests.bench import given

    settings, path = given.read(folder, steps)
    lora = settings.lora
    clock = given.Clock()
    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=path, max_seq_length=settings.model.max_seq_length,
        load_in_4bit=settings.model.load_in_4bit, fast_inference=True, max_lora_rank=lora.rank,
        gpu_memory_utilization=settings.hardware.gpu_memory_utilization,
        random_state=lora.random_state, **({"enforce_eager": True} if eager else {}))
    if not hasattr(model, "vllm_engine"):
        raise SystemExit("Unsloth loaded the model without vLLM.")
    model = FastLanguageModel.get_peft_model(
        model, r=lora.rank, target_modules=list(lora.target_modules), lora_alpha=lora.alpha,
        use_gradient_checkpointing=CHECKPOINTING[lora.gradient_checkpointing],
        random_state=lora.random_state)
    trainer = GRPOTrainer(
        model=model, processing_class=tokenizer, reward_funcs=given.rewards(settings),
        args=GRPOConfig(**given.arguments(settings, scratch / "out"), **given.with_vllm(settings),
                        bf16=True, fp16=False),
        train_dataset=given.dataset(folder, tokenizer, settings))
    trainer.remove_callback(PrinterCallback)
    clock.watch(trainer)
    trainer.train()
    return clock.report()


if __name__ == "__main__":
    main()
