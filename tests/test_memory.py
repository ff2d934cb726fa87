"""Shapes, the catalogue's figures, and the memory estimate: what grows, what fits, what cures."""

import json

import pytest
import transformers

from lab.core.catalog import MODELS, known_model
from lab.core.problems import BadModel
from lab.core.settings import PROJECTIONS, STARTER
from lab.core.shapes import FAMILIES, Shape
from lab.services.workspace import STARTER_FOLDER

SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160,
         "max_position_embeddings": 128, "pad_token_id": 0}


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_a_shape_has_the_published_number_of_parameters(model):
    assert model.shape.parameters() / 1e6 == pytest.approx(model.parameters, rel=0.02)


def test_the_starters_row_is_its_configuration():
    config = json.loads((STARTER_FOLDER / "config.json").read_text())
    assert known_model(STARTER).shape == Shape.from_config(config)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_shape_counts_what_transformers_builds(family, tied):
    config = transformers.AutoConfig.for_model(family, **SMALL, tie_word_embeddings=tied)
    model = transformers.AutoModelForCausalLM.from_config(config)
    shape = Shape.from_config(config.to_dict())
    assert shape.parameters() == sum(p.numel() for p in model.parameters())
    in_layers = sum(p.numel() for name, p in model.named_parameters()
                    if "layers" in name and name.endswith("_proj.weight"))
    assert shape.linear_parameters() == in_layers
    assert shape.embedding_parameters() == 160 * 64 * (1 if tied else 2)


@pytest.mark.parametrize("targets", [PROJECTIONS, ("q_proj",), ("k_proj", "down_proj")])
def test_lora_weights_are_those_that_peft_adds(targets):
    from peft import LoraConfig, get_peft_model

    config = transformers.AutoConfig.for_model("qwen3", **SMALL, head_dim=32)
    model = get_peft_model(transformers.AutoModelForCausalLM.from_config(config),
                           LoraConfig(r=4, target_modules=list(targets), task_type="CAUSAL_LM"))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert Shape.from_config(config.to_dict()).lora_parameters(4, targets) == trained


def test_the_text_part_of_a_model_that_sees_images_is_read():
    nested = {"model_type": "gemma3", "vision_config": {"hidden_size": 9},
              "text_config": {"hidden_size": 2560, "intermediate_size": 10_240,
                              "num_hidden_layers": 34}}
    assert Shape.from_config(nested).parameters() / 1e6 == pytest.approx(3880, rel=0.02)


@pytest.mark.parametrize(("config", "sentence"), [
    ([], "It is no JSON object."),
    ({}, "The architecture 'None' is not known"),
    ({"model_type": "mamba"}, "The architecture 'mamba' is not known"),
    ({"model_type": "llama"}, "num_attention_heads must be a whole number above 0, and is None."),
    ({"model_type": "llama", **SMALL, "hidden_size": "64"}, "hidden_size must be a whole number"),
    ({"model_type": "llama", **SMALL, "num_attention_heads": 0}, "and is 0."),
    ({"model_type": "llama", **SMALL, "vocab_size": True}, "vocab_size must be"),
])
def test_a_configuration_that_cannot_be_read_is_refused_with_a_sentence(config, sentence):
    with pytest.raises(BadModel, match=sentence):
        Shape.from_config(config)


def test_a_twin_in_4_bit_is_found_and_nothing_is_found_by_no_name():
    assert known_model("unsloth/Qwen3-4B-bnb-4bit").name == "Qwen/Qwen3-4B"
    assert known_model("") is None
