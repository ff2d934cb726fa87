"""Models that are not as the lab's own: the starter with one thing changed, and other kinds."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from lab.services.workspace import STARTER_FOLDER

CHATML = (STARTER_FOLDER / "chat_template.jinja").read_text(encoding="utf-8")
ANSWERS = "assistant\n' }}"  # where the starter's template ends


def edited(path: Path, change: Callable[[dict], object]) -> None:
    told = json.loads(path.read_text(encoding="utf-8"))
    change(told)
    path.write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")


def copied(to: Path, name: str) -> Path:
    folder = to / name
    shutil.copytree(STARTER_FOLDER, folder, ignore=shutil.ignore_patterns("make.py"))
    return folder


def with_template(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def no_system(folder: Path) -> None:
    with_template(folder, "{% if messages[0]['role'] == 'system' %}"
                  "{{ raise_exception('System role not supported') }}{% endif %}" + CHATML)


def silent_system(folder: Path) -> None:
    """Leaves a system turn out without a word."""
    with_template(folder, "{% set messages = messages | rejectattr('role', 'equalto', 'system') "
                  "| list %}" + CHATML)


def opens_think(folder: Path) -> None:
    with_template(folder, CHATML.replace(ANSWERS, "assistant\n<think>\n' }}"))


def may_think(folder: Path) -> None:
    with_template(folder, CHATML.replace(
        ANSWERS, "assistant\n' }}{% if enable_thinking is not defined or enable_thinking %}"
        "{{ '<think>\n' }}{% endif %}"))


def special_tags(folder: Path) -> None:
    def change(told: dict) -> None:
        for token in told["added_tokens"]:
            token["special"] = True
    edited(folder / "tokenizer.json", change)


def pad_outside(folder: Path) -> None:
    edited(folder / "tokenizer.json", lambda told: told["added_tokens"].append(
        {**told["added_tokens"][0], "id": 571, "content": "[PAD]"}))
    edited(folder / "tokenizer_config.json", lambda told: told.update(pad_token="[PAD]"))


def no_eos(folder: Path) -> None:
    edited(folder / "tokenizer_config.json",
           lambda told: (told.pop("eos_token"), told.pop("pad_token")))


def no_end_at_all(folder: Path) -> None:
    no_eos(folder)
    for name in ("generation_config.json", "config.json"):
        edited(folder / name, lambda told: told.pop("eos_token_id", None))


def endless(folder: Path) -> None:
    with_template(folder, "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}"
                  "{% endfor %}{% endfor %}" + CHATML)


def filling(folder: Path) -> None:
    with_template(folder, "{{ 'a' * 2000000000 }}" + CHATML)


def broken_template(folder: Path) -> None:
    with_template(folder, "{% if messages %}" + CHATML)


def deep(folder: Path) -> None:
    edited(folder / "config.json", lambda told: told.update(num_hidden_layers=10**9))


def too_many_weights(folder: Path) -> None:
    edited(folder / "config.json", lambda told: told.update(num_hidden_layers=4000))


def own_code(folder: Path) -> None:
    edited(folder / "config.json", lambda told: told.update(
        model_type="my_own_kind", auto_map={"AutoModelForCausalLM": "modeling_x.X"}))
    (folder / "modeling_x.py").write_text("raise SystemExit('it ran')\n")


def own_tokenizer(folder: Path) -> None:
    edited(folder / "config.json", lambda told: told.update(model_type="my_own_kind"))
    edited(folder / "tokenizer_config.json", lambda told: told.update(
        tokenizer_class="XTokenizer", auto_map={"AutoTokenizer": ["tokenization_x.X", None]}))
    (folder / "tokenization_x.py").write_text("raise SystemExit('it ran')\n")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def gpt2(folder: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    _another(folder, GPT2LMHeadModel(GPT2Config(
        n_embd=32, n_layer=2, n_head=2, n_positions=1024, **ENDS)))


def phi3(folder: Path) -> None:
    from transformers import Phi3Config, Phi3ForCausalLM

    _another(folder, Phi3ForCausalLM(Phi3Config(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=1024,
        original_max_position_embeddings=1024, **ENDS)))


ENDS = dict(vocab_size=571, bos_token_id=1, eos_token_id=3, pad_token_id=0)


def _another(folder: Path, model) -> None:
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
