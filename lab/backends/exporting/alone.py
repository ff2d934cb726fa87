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

It imports torch, transformers, peft and safetensors alone; for GGUF llama_cpp where that is there.
"""

import json
import sys
from pathlib import Path

BATCH = 16


def main(asked_file, answered_file):
    asked = json.loads(Path(asked_file).read_text(encoding="utf-8"))
    sides = LlamaCpp if asked["kind"] == "gguf" and has_llama_cpp() else Transformers
    side = sides(asked)
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


def has_llama_cpp():
    try:
        import llama_cpp  # noqa: F401
    except ImportError:
        return False
    return True


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
