"""The starter model that ships with the lab: its files, its tokenizer, its habits, its recipe."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from lab.core.task import DEFAULT_LEVEL, RESERVED_SEEDS, SYSTEM_PROMPT, problems  # noqa: E402

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "starter"
ASKED = re.compile(r"<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n", re.DOTALL)
HELD_OUT = problems(DEFAULT_LEVEL, 200, seed=RESERVED_SEEDS[-1])


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)


@pytest.fixture(scope="module")
def model():
    return transformers.AutoModelForCausalLM.from_pretrained(
        FOLDER, local_files_only=True, dtype=torch.float32
    ).eval()


def answers(model, tokenizer, sample: bool) -> list[str]:
    """One answer to each held-out problem, greedy or at temperature 1."""
    messages = [
        [
            {"role": "system", "content": SYSTEM_PROMPT},
            {"role": "user", "content": problem.question},
        ]
        for problem in HELD_OUT
    ]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    # All tokens, not the 50 likeliest: that is how GRPO draws.
    chosen = {"do_sample": True, "temperature": 1.0, "top_k": 0} if sample else {"do_sample": False}
    torch.manual_seed(0)
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=64, **chosen)
    start = inputs["input_ids"].shape[1]
    return tokenizer.batch_decode(output[:, start:], skip_special_tokens=True)


def accuracy(texts: list[str]) -> float:
    """Share of texts whose last <answer> holds the right number."""
    found = [text.rpartition("<answer>")[2].partition("</answer>")[0].strip() for text in texts]
    right = [given == problem.answer for given, problem in zip(found, HELD_OUT, strict=True)]
    return sum(right) / len(right)


def test_the_folder_is_small_and_the_weights_are_bfloat16_safetensors():
    assert sum(file.stat().st_size for file in FOLDER.iterdir() if file.is_file()) <= 16e6
    data = (FOLDER / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"BF16"}


def test_the_configuration_is_one_that_every_stack_can_load(model, tokenizer):
    config = model.config
    assert config.model_type == "llama"
    assert config.head_dim == 64
    assert config.hidden_size == config.head_dim * config.num_attention_heads
    assert config.vocab_size == len(tokenizer) == model.get_input_embeddings().num_embeddings
    assert config.max_position_embeddings >= 2048


def test_padding_end_and_begin_are_told_apart_everywhere(model, tokenizer):
    ids = [tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id]
    assert None not in ids and len(set(ids)) == 3
    for config in (model.config, model.generation_config):
        assert [config.pad_token_id, config.eos_token_id, config.bos_token_id] == ids


@pytest.mark.parametrize(
    "text",
    [
        "How many apples?",
        "  two  blanks, a tab\t and\n\nlines \n",
        "Grüße, 你好, مرحبا, 🙂👩‍🚀",
        "12 + 5 = 17\n17*3=51",
        "<reasoning>\n1\n</reasoning>\n<answer>\n1\n</answer>\n",
        "\x00\x7f~`<unk><answer",
        "",
    ],
)
def test_any_text_survives_the_tokenizer(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_digits_stand_alone_and_tags_are_single_tokens(tokenizer):
    assert tokenizer.tokenize("2048") == ["2", "0", "4", "8"]
    for tag in ("<reasoning>", "</reasoning>", "<answer>", "</answer>"):
        assert tokenizer.tokenize(tag) == [tag]


def test_the_template_is_chatml_with_an_optional_system_prompt(tokenizer):
    user = {"role": "user", "content": "Hi"}
    asked = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    assert asked == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    system = {"role": "system", "content": "Be brief."}
    both = tokenizer.apply_chat_template([system, user], tokenize=False)
    assert both == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"


def test_the_task_prompt_is_short(tokenizer):
    assert len(tokenizer.encode(SYSTEM_PROMPT)) <= 20


def test_greedy_answers_are_blurted_and_often_wrong(model, tokenizer):
    texts = answers(model, tokenizer, sample=False)
    assert 0.20 <= accuracy(texts) <= 0.55
    assert sum(text.startswith("<answer>") for text in texts) / len(texts) > 0.8


def test_sampled_answers_sometimes_reason_as_asked_and_are_then_right(model, tokenizer):
    texts = answers(model, tokenizer, sample=True)
    asked = [
        problem.answer == text.rpartition("<answer>")[2].partition("</answer>")[0].strip()
        for text, problem in zip(texts, HELD_OUT, strict=True)
        if ASKED.fullmatch(text)
    ]
    assert 0.08 <= len(asked) / len(texts) < 1 / 3
    assert sum(asked) / len(asked) >= 0.85
    assert accuracy(texts) < 0.45  # so that doubling it is possible


@pytest.mark.slow
def test_the_recipe_runs_and_writes_what_is_shipped(tmp_path):
    command = [sys.executable, str(FOLDER / "make.py"), "--out", str(tmp_path), "--steps", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    made = {file.name for file in tmp_path.iterdir()}
    shipped = {file.name for file in FOLDER.iterdir() if file.is_file()}
    assert made == shipped - {"make.py", "README.md"}
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    assert again.dtype == torch.bfloat16
    # The weights need all the steps. The rest does not, and must not drift from them.
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text(), name
    configs = [json.loads((folder / "config.json").read_text()) for folder in (tmp_path, FOLDER)]
    for config in configs:
        config.pop("transformers_version")
    assert configs[0] == configs[1]
