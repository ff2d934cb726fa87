"""GGUF through llama.cpp's converter, where it is at hand (LLAMA_CPP, package gguf): a model whose
tokenizer it knows is converted and loaded again; the starter's it does not know."""

import io
import json
import shutil
from importlib.util import find_spec

import pytest

from lab.services.export import gguf
from lab.services.export.state import DONE, FAILED, Asked
from lab.services.lab import Lab

pytestmark = pytest.mark.skipif(
    gguf.converter() is None or not all(map(find_spec, ("gguf", "sentencepiece", "google"))),
    reason="needs llama.cpp's converter, gguf, sentencepiece and protobuf")
TEMPLATE = ("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}")


@pytest.fixture(scope="module")
def copied(finished, tmp_path_factory):
    """(lab, id of a starter's run, id of a run on a small model with a sentencepiece tokenizer)."""
    lab, run_id = finished
    root = tmp_path_factory.mktemp("gguf")
    model = small_model(root / "small-model")
    for name in (run_id, "small"):
        shutil.copytree(lab.workspace.run(run_id).path, root / name)
    record = json.loads((root / "small" / "settings.json").read_text())
    record["settings"]["model"]["name"] = record["effective"]["model"] = str(model)
    (root / "small" / "settings.json").write_text(json.dumps(record))
    shutil.rmtree(root / "small" / "checkpoints")
    place = root / "small" / "adapter"
    told = (place / "lab.json").read_text()
    shutil.rmtree(place)
    small_adapter(model, place)
    (place / "lab.json").write_text(told)
    return Lab.at(root), run_id, "small"


def small_model(folder):
    import sentencepiece
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder.mkdir()
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([f"user: Tom has {i} apples and buys {i + 3} more.\nassistant: {i}"
                                for i in range(400)]), model_writer=made, vocab_size=320,
        model_type="bpe", byte_fallback=True, character_coverage=1.0, pad_id=3)
    (folder / "tokenizer.model").write_bytes(made.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
        "unk_token": "<unk>", "pad_token": "<pad>", "add_bos_token": False, "legacy": False,
        "chat_template": TEMPLATE}))
    LlamaForCausalLM(LlamaConfig(
        vocab_size=320, hidden_size=256, intermediate_size=512, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, bos_token_id=1, eos_token_id=2,
        pad_token_id=3, max_position_embeddings=1024, initializer_range=0.1)).to(
            torch.bfloat16).save_pretrained(folder)
    return folder


def small_adapter(model, place) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), LoraConfig(
        r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "up_proj"],
        init_lora_weights=False, task_type="CAUSAL_LM")).save_pretrained(place)


@pytest.mark.parametrize("quant", ["f16", "q8_0", pytest.param("q4_k_m", marks=pytest.mark.skipif(
    gguf.quantiser() is None, reason="needs llama-quantize or llama-cpp-python"))])
def test_a_model_that_it_knows_is_converted_and_answers_as_in_the_lab(copied, quant, tmp_path):
    lab, _, run_id = copied
    export = lab.exports.wait(lab.exports.start(
        Asked(run_id, "gguf", quant=quant, questions=4, out=str(tmp_path / "home"))))
    assert export.status == DONE, export.log()
    assert {path.suffix for path in export.path.iterdir()} >= {".gguf", ".md", ""}
    (file,) = export.path.glob("*.gguf")
    assert file.read_bytes()[:4] == b"GGUF"
    modelfile = (export.path / "Modelfile").read_text()
    assert modelfile.startswith(f"FROM ./{file.name}\n") and "SYSTEM" in modelfile
    assert export.check.get("passed"), export.check
    loader = "llama-cpp-python" if find_spec("llama_cpp") else "transformers"
    assert loader in export.check["how"]
    card = (export.path / "README.md").read_text()
    assert f"llama-cli -m {file.name}" in card and "ollama create" in card


def test_a_tokenizer_that_it_does_not_know_is_said_in_words(copied):
    lab, run_id, _ = copied
    export = lab.exports.wait(lab.exports.start(Asked(run_id, "gguf", quant="q8_0")))
    assert export.status == FAILED and export.path is None
    assert "does not know the tokenizer" in str(export.problem)
    assert "Export it merged" in str(export.problem)
