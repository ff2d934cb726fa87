"""Models of a real shape with random weights: sizes, tokenizer, and that they load and answer."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lab.backends import wording
from lab.core.prompts import messages
from tests.bench import shapes


@pytest.mark.parametrize("name", ["tiny", "tiny-llama"])
def test_a_tiny_shape_loads_and_answers_with_every_row_of_its_vocabulary(tmp_path, name):
    shapes.make(name, tmp_path / name)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / name)
    shape = shapes.SHAPES[name]
    assert [p.name for p in tmp_path.iterdir()] == [name]  # no draft stays behind
    assert len(tokenizer) == shape.vocab_size == model.config.vocab_size
    assert model.dtype == torch.bfloat16
    assert 0.019 < model.get_input_embeddings().weight.float().std() < 0.021
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    text = wording.render(tokenizer, messages("2 + 2?", "<answer>\n4\n</answer>"))
    ids = wording.to_tokens(tokenizer, text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.convert_tokens_to_ids("<answer>") in ids
    assert max(ids) < tokenizer.convert_tokens_to_ids(shapes.QWEN_UNKNOWN)  # no filler word
    answer = model.generate(torch.tensor([ids]), max_new_tokens=5, do_sample=False)
    assert answer.shape[1] <= len(ids) + 5
    assert len(tokenizer.batch_decode(torch.arange(len(tokenizer)).unsqueeze(1))) == len(tokenizer)


def test_the_shapes_have_the_published_sizes():
    sizes = {name: parameters(shape) / 1e6 for name, shape in shapes.SHAPES.items()}
    assert round(sizes["qwen2.5-0.5b"]) == 494
    assert round(sizes["qwen2.5-1.5b"]) == 1544
    assert round(sizes["llama-3.1-8b"]) == 8030


def parameters(shape) -> int:
    numbers = {name: value for name, value in vars(shape).items() if name != "kind"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape.kind(**numbers))
    return model.num_parameters()
