"""The parts of the exported train.py that are the same for every run; script.py fills the rest."""

HEAD = '''# /// script
# requires-python = ">=3.11"
# dependencies = [
{dependencies}
# ]
# ///
"""Trains the run "{title}" again: GRPO with a LoRA adapter, without GRPO Lab.

    python train.py [--model MODEL] [--data data.jsonl] [--out out] [--steps N] [--push OWNER/NAME]

Data, rewards, settings and seed are those of the run. What is not the same:
{differs}
"""
'''

IMPORT_UNSLOTH = '''
from unsloth import FastLanguageModel  # first: it changes the libraries below
'''

IMPORTS = '''
import argparse
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset, load_dataset
from peft import LoraConfig, load_peft_weights, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer
'''

CONSTANTS = '''
MODEL = "{model}"
IS_LOCAL = {local}  # a folder, whose path --model has to give
SYSTEM_PROMPT = {system}
CHAT_TEMPLATE = {template}  # None: the model's own
LONGEST_PROMPT = {longest}  # tokens; questions with longer ones are left out
ADAPTER_SEED = {seed}
MODEL_ARGUMENTS = {model_kwargs}
ON_GPU = torch.cuda.is_available()
LORA = {lora}
CONFIG = {config}
'''

REWARD = '''

@dataclass
class Reward:
    """One reward as TRL calls it: lists in, a list out; None where an answer cannot be judged."""

    name: str
    function: object
    columns: list
    fallbacks: dict = field(default_factory=dict)
    params: dict = field(default_factory=dict)
    pays: float | None = None  # for True, where the function decides

    def __post_init__(self):
        self.__name__ = self.name

    def __call__(self, completions, completion_ids=None, **columns):
        return [self.score(i, completion[-1]["content"], completion_ids, columns)
                for i, completion in enumerate(completions)]

    def score(self, i, text, completion_ids, columns):
        row = {key: values[i] for key, values in columns.items() if isinstance(values, list)}
        row = {**self.fallbacks, **{key: value for key, value in row.items() if value is not None},
               "completion": OPENED + text}
        if completion_ids is not None:
            row["completion_tokens"] = len(completion_ids[i])
        if any(name not in row for name in self.columns):
            return None
        try:
            result = self.function(*(row[name] for name in self.columns), **self.params)
        except Exception as error:
            print(f"{self.name} failed on an answer: {error}")
            return None
        if result is None:
            return None
        return float(result) if self.pays is None else self.pays * bool(result)
'''

REST = '''


OPENED = ""  # what the prompt has begun of each answer, such as "<think>"


def conversation(row):
    """What a row asks, with the turns before its question."""
    turns = [dict(turn) for turn in row.get("history") or []]
    if SYSTEM_PROMPT.strip():
        turns = [{"role": "system", "content": SYSTEM_PROMPT},
                 *(turn for turn in turns if turn["role"] != "system")]
    return [*turns, {"role": "user", "content": row["question"]}]


def read(path):
    if "://" in path:
        return [dict(row) for row in load_dataset("json", data_files=path, split="train")]
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def prepared(rows, tokenizer):
    """The rows with their prompts, without those that are too long."""
    global OPENED
    kept = []
    for row in rows:
        prompt = conversation(row)
        text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        if len(tokenizer(text, add_special_tokens=False)["input_ids"]) <= LONGEST_PROMPT:
            kept.append({**row, "prompt": prompt})
        begun = re.search(r"<(reasoning|think)>\\s*$", text)
        OPENED = begun[0] if begun else ""
    return Dataset.from_list(kept)
'''

PLAIN_MODEL = '''

def load(name):
    """The base model and its tokenizer. On a CPU in 32 bit: 16 is slow or missing there."""
    more = {"dtype": torch.bfloat16 if ON_GPU else torch.float32}
    if MODEL_ARGUMENTS["in_4bit"]:
        from transformers import BitsAndBytesConfig

        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16)
    return AutoModelForCausalLM.from_pretrained(name, **more), AutoTokenizer.from_pretrained(name)


def trainer_arguments(model):
    return {"model": model, "peft_config": LoraConfig(task_type="CAUSAL_LM", **LORA)}
'''

UNSLOTH_MODEL = '''

def load(name):
    """The base model with vLLM inside, and its tokenizer."""
    return FastLanguageModel.from_pretrained(model_name=name, **MODEL_ARGUMENTS)


def trainer_arguments(model):
    return {"model": FastLanguageModel.get_peft_model(
        model, random_state=ADAPTER_SEED,
        use_gradient_checkpointing=MODEL_ARGUMENTS["use_gradient_checkpointing"], **LORA)}
'''

MAIN = '''

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=MODEL, help="a Hub id or a folder (%(default)s)")
    parser.add_argument("--data", default=str(Path(__file__).with_name("data.jsonl")))
    parser.add_argument("--out", default="out", help="folder for checkpoints, log and adapter")
    parser.add_argument("--steps", type=int, default=CONFIG["max_steps"])
    parser.add_argument("--push", default="", metavar="OWNER/NAME", help="push the adapter there")
    options = parser.parse_args()
    if IS_LOCAL and options.model == MODEL and not Path(MODEL).is_dir():
        parser.error(f"the base model was a folder named {MODEL!r}: give its path with --model")
    model, tokenizer = load(options.model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if CHAT_TEMPLATE:
        tokenizer.chat_template = CHAT_TEMPLATE
    rows = prepared(read(options.data), tokenizer)
    torch.manual_seed(ADAPTER_SEED)
    config = {**CONFIG, "max_steps": options.steps, "output_dir": f"{options.out}/checkpoints",
              "use_cpu": not ON_GPU, "bf16": ON_GPU, "fp16": False}
    trainer = GRPOTrainer(args=GRPOConfig(**config), processing_class=tokenizer,
                          reward_funcs=REWARDS, train_dataset=rows, **trainer_arguments(model))
    begin = Path(__file__).with_name("begin")
    if begin.is_dir():  # the adapter that the run began with
        set_peft_model_state_dict(trainer.model, load_peft_weights(str(begin), device="cpu"))
    trainer.train()
    trainer.save_model(f"{options.out}/adapter")
    with open(f"{options.out}/log.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(point) + "\\n" for point in trainer.state.log_history)
    print(f"The adapter is in {options.out}/adapter, the curves are in {options.out}/log.jsonl.")
    if options.push:
        trainer.model.push_to_hub(options.push, private=True)


if __name__ == "__main__":
    main()
'''
