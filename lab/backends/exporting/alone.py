"""Loads an export as anybody would, without the lab: `python -I alone.py ASKED ANSWERED`.

ASKED is JSON:
    kind      "adapter", "merged" or "gguf"
    path      the export: a folder, or a .gguf file
    base      the base model, for an adapter and for the tokenizer of a GGUF
    dtype     of the weights while they compute: "float32" or "bfloat16"
    in_4bit, on_gpu, threads (0: as many as torch takes)
    conversations   what is asked, as lists of messages
    forced    for the first of them: token ids of answers, to read the logits along
    longest   tokens of an answer at most
    stops     token ids that end an answer
ANSWERED is written as JSON: {"answers": [[ids]], "prompts": [[ids]], "how"}, and beside it
ANSWERED.safetensors with "0", "1", ...: (tokens + 1, V) logits along each of the forced answers.

It imports torch, transformers, peft and safetensors alone; where they are there, vllm on a GPU and
llama_cpp for GGUF.
"""

import gc
import importlib.util
import json
import os
import sys
from pathlib import Path

BATCH = 16
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # vLLM's; written again, for nothing of the lab is here
SHARE = 0.8  # of the GPU's free memory, for vLLM
WORDS = 300  # of a refusal of vLLM, at most


def main(asked_file, answered_file):
    asked = json.loads(Path(asked_file).read_text(encoding="utf-8"))
    side = side_of(asked)
    prompts = [side.prompt(one) for one in asked["conversations"]]
    answers = []
    for start in range(0, len(prompts), BATCH):
        answers += side.answers(prompts[start:start + BATCH])
        print(json.dumps({"done": len(answers), "of": len(prompts)}), flush=True)
    from safetensors.torch import save_file

    save_file({str(i): side.logits(prompts[i], ids).float().cpu().contiguous()
               for i, ids in enumerate(asked["forced"])}, f"{answered_file}.safetensors")
    Path(answered_file).write_text(json.dumps(
        {"answers": answers, "prompts": prompts, "how": side.how}), encoding="utf-8")


def side_of(asked):
    """What most people will serve it with, of what is there."""
    if asked["kind"] == "gguf":
        return LlamaCpp(asked) if has("llama_cpp") else Transformers(asked)
    # In 4 bit vLLM has kernels of its own, whose rounding is not the one that was trained with.
    if not asked["on_gpu"] or asked["in_4bit"] or not has("vllm"):
        return Transformers(asked)
    try:
        return Vllm(asked)
    except Exception as error:  # whatever it says: transformers may load what vLLM does not
        side = Transformers(asked)
        side.how += f"; vLLM did not load it: {type(error).__name__}: {error}"[:WORDS]
        return side


def has(name):
    return importlib.util.find_spec(name) is not None


def tokenizer_of(asked):
    """The export's own tokenizer where it brings one, else the base's."""
    from transformers import AutoTokenizer

    folder = Path(asked["path"])
    own = asked["kind"] != "gguf" and any(
        (folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))
    return AutoTokenizer.from_pretrained(str(folder) if own else asked["base"])


class Transformers:
    """The export in transformers, with peft for an adapter."""

    def __init__(self, asked):
        import torch
        import transformers
        from transformers import AutoModelForCausalLM, GenerationConfig

        self.torch, self.asked = torch, asked
        if asked["threads"]:
            torch.set_num_threads(asked["threads"])
        self.tokenizer = tokenizer_of(asked)
        more = {"dtype": getattr(torch, asked["dtype"])}
        if asked["on_gpu"]:
            more["device_map"] = {"": 0}
        if asked["in_4bit"] and asked["kind"] == "adapter":
            from transformers import BitsAndBytesConfig

            more["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=more["dtype"])
        self.how = f"Loaded by transformers {transformers.__version__}"
        if asked["kind"] == "adapter":
            import peft

            model = peft.PeftModel.from_pretrained(
                AutoModelForCausalLM.from_pretrained(asked["base"], **more), asked["path"])
            self.how += f" and peft {peft.__version__}"
        elif asked["kind"] == "gguf":
            path = Path(asked["path"])
            model = AutoModelForCausalLM.from_pretrained(
                str(path.parent), gguf_file=path.name, **more)
            self.how += " from the GGUF file"
        else:
            model = AutoModelForCausalLM.from_pretrained(asked["path"], **more)
        self.model = model.eval()
        pad = self.tokenizer.pad_token_id
        self.pad = asked["stops"][0] if pad is None else pad
        # In place of the model's own, which may ask for penalties.
        self.model.generation_config = GenerationConfig(
            do_sample=False, max_new_tokens=asked["longest"], eos_token_id=asked["stops"],
            pad_token_id=self.pad)

    def prompt(self, conversation):
        text = self.tokenizer.apply_chat_template(conversation, tokenize=False,
                                                  add_generation_prompt=True)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def answers(self, prompts):
        torch, width = self.torch, max(map(len, prompts))
        ids = torch.tensor([[self.pad] * (width - len(one)) + one for one in prompts])
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts])
        with torch.inference_mode():
            out = self.model.generate(input_ids=ids.to(self.model.device),
                                      attention_mask=mask.to(self.model.device))
        return [ended(line, self.asked["stops"]) for line in out[:, width:].tolist()]

    def logits(self, prompt, answer):
        torch = self.torch
        with torch.inference_mode():
            ids = torch.tensor([prompt + answer], device=self.model.device)
            return self.model(input_ids=ids).logits[0, len(prompt) - 1:]


class Vllm(Transformers):
    """Answers by vLLM. It tells the likeliest tokens only: for the logits transformers follows."""

    def __init__(self, asked):
        os.environ |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_USE_FLASHINFER_SAMPLER": "0"}
        import torch
        import vllm
        from vllm.lora.request import LoRARequest

        self.asked, self.tokenizer = asked, tokenizer_of(asked)
        longest = max(len(self.prompt(one)) for one in asked["conversations"])
        free, total = torch.cuda.mem_get_info()
        self.adapter, more = None, {}
        if asked["kind"] == "adapter":
            self.adapter = LoRARequest("export", 1, asked["path"])
            config = json.loads(Path(asked["path"], "adapter_config.json").read_text())
            more = {"enable_lora": True,
                    "max_lora_rank": next(rank for rank in RANKS if rank >= config["r"])}
        self.sampling = vllm.SamplingParams(
            temperature=0.0, max_tokens=asked["longest"], stop_token_ids=asked["stops"],
            detokenize=False)
        self.llm = vllm.LLM(
            asked["base"] if self.adapter else asked["path"], dtype=asked["dtype"],
            skip_tokenizer_init=True, max_model_len=longest + asked["longest"],
            max_num_seqs=BATCH, gpu_memory_utilization=SHARE * free / total, enforce_eager=True,
            **more)
        self.how = f"Loaded by vLLM {vllm.__version__}"

    def answers(self, prompts):
        done = self.llm.generate([{"prompt_token_ids": one} for one in prompts], self.sampling,
                                 lora_request=self.adapter, use_tqdm=False)
        return [ended(list(one.outputs[0].token_ids), self.asked["stops"]) for one in done]

    def logits(self, prompt, answer):
        if self.llm is not None:
            engine, self.llm = self.llm.llm_engine.engine_core, None
            engine.shutdown()  # the memory is wanted
            gc.collect()
            vllms = self.how
            super().__init__(self.asked)
            self.how = f"{vllms}; its logits: {self.how[0].lower()}{self.how[1:]}"
        return super().logits(prompt, answer)


class LlamaCpp:
    """A GGUF file in llama.cpp."""

    def __init__(self, asked):
        import llama_cpp

        self.asked, self.tokenizer = asked, tokenizer_of(asked)
        self.llama = llama_cpp.Llama(asked["path"], n_ctx=asked["longest"] + 2048, logits_all=True,
                                     n_threads=asked["threads"] or None, verbose=False,
                                     n_gpu_layers=-1 if asked["on_gpu"] else 0)
        self.how = f"Loaded by llama-cpp-python {llama_cpp.__version__}"

    prompt = Transformers.prompt

    def answers(self, prompts):
        found = []
        for prompt in prompts:
            answer = []
            for token in self.llama.generate(prompt, top_k=1, temp=0.0, repeat_penalty=1.0):
                answer.append(token)
                if token in self.asked["stops"] or len(answer) == self.asked["longest"]:
                    break
            found.append(answer)
        return found

    def logits(self, prompt, answer):
        import torch

        self.llama.reset()
        self.llama.eval(prompt + answer)
        end = len(prompt) + len(answer)
        return torch.from_numpy(self.llama.scores[len(prompt) - 1:end].copy())


def ended(ids, stops):
    """Up to its first stop token, which is kept."""
    place = next((i for i, one in enumerate(ids) if one in stops), len(ids) - 1)
    return ids[:place + 1]


if __name__ == "__main__":
    main(*sys.argv[1:])
