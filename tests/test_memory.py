"""Shapes, the catalogue's figures, and the memory estimate: what grows, what fits, what cures."""

import json
from dataclasses import replace

import pytest
import transformers

from lab.core.catalog import MODELS, RECIPES, known_model
from lab.core.hardware.cures import cures, memory_problems, roomier
from lab.core.hardware.engines import MOST_SEQUENCES
from lab.core.hardware.memory import (
    CHECKPOINTING,
    decided,
    estimate,
    smallest_share,
    weights_gb,
)
from lab.core.hardware.shapes import FAMILIES, Shape
from lab.core.problems import BadModel
from lab.core.settings import (
    CPU,
    PROJECTIONS,
    STARTER,
    TRL,
    TRL_VLLM,
    UNSLOTH,
    Settings,
    setting_named,
)
from lab.services.models import decided_for
from lab.services.workspace import STARTER_FOLDER
from tests.test_engines import WITH_GPU

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


# the estimate

QWEN = known_model("Qwen/Qwen2.5-1.5B-Instruct").shape
LLAMA = known_model("meta-llama/Llama-3.1-8B-Instruct").shape
ENGINES = (CPU, TRL, TRL_VLLM, UNSLOTH)
H200_GB = 150.8


def notebook(**values) -> Settings:
    """The recipe on a card that is small for it, as it was measured."""
    changed = {key.replace("__", "."): value for key, value in values.items()}
    return RECIPES["notebook"].settings().with_values({CHECKPOINTING: "unsloth", **changed})


def with_smallest_share(shape: Shape, settings: Settings, gpu_gb: float) -> Settings:
    share = smallest_share(shape, settings, UNSLOTH, gpu_gb)
    return settings.with_values({"hardware.gpu_memory_utilization": share})


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("key", "values"), [
    ("train.max_completion_length", (256, 512, 768)),
    ("train.answers_at_once", (1, 2, 3, 6)),
    ("lora.rank", (8, 16, 64)),
])
def test_more_of_it_needs_more_memory(engine, key, values):
    settings = notebook(model__load_in_4bit=False)
    totals = [estimate(QWEN, settings.with_values({key: v}), engine, H200_GB).total_gb
              for v in values]
    assert totals == sorted(totals)
    assert len(set(totals)) == len(totals)


@pytest.mark.parametrize("shape", [QWEN, LLAMA], ids=["1.5B", "8B"])
def test_4_bit_is_less_than_16(shape):
    half = weights_gb(shape, False)
    assert 0.25 * half < weights_gb(shape, True) < 0.5 * half
    in_4bit, in_16bit = (estimate(shape, notebook(model__load_in_4bit=on), TRL, H200_GB)
                         for on in (True, False))
    assert in_4bit.total_gb < in_16bit.total_gb


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("how", ["off", "on", "unsloth"])
def test_parts_are_named_once_are_above_0_and_sum_to_the_total(engine, how):
    found = estimate(LLAMA, notebook(lora__gradient_checkpointing=how), engine, H200_GB)
    assert sum(part.gb for part in found.parts) == pytest.approx(found.total_gb)
    assert all(part.gb > 0 for part in found.parts)
    assert len({part.name for part in found.parts}) == len(found.parts)


def test_each_step_of_checkpointing_needs_less():
    totals = [estimate(QWEN, notebook(lora__gradient_checkpointing=how), UNSLOTH, H200_GB).total_gb
              for how in ("off", "on", "unsloth")]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == 3


def test_activations_are_kept_where_there_is_room_for_them():
    settings = notebook(lora__gradient_checkpointing="auto",
                        hardware__gpu_memory_utilization=0.3)
    for shape, engine, gb, how in (
            (QWEN_SMALL, UNSLOTH, H100_GB, "off"), (QWEN_SMALL, UNSLOTH, 8.0, "unsloth"),
            (LLAMA, UNSLOTH, H100_GB, "off"), (LLAMA, UNSLOTH, 24.0, "unsloth"),
            (QWEN, TRL, 15.8, "on"), (None, UNSLOTH, H100_GB, "unsloth")):
        found = decided(shape, settings, engine, gb)
        assert found == settings.with_values({CHECKPOINTING: how}), (shape, gb)
        if shape:
            assert estimate(shape, settings, engine, gb) == estimate(shape, found, engine, gb)
            assert how == "on" or estimate(shape, found, engine, gb).fits_well
    asked = notebook(lora__gradient_checkpointing="on")
    assert decided(QWEN_SMALL, asked, UNSLOTH, H100_GB) is asked  # a person's choice stays


def test_each_engine_that_is_tried_has_its_own_way_of_making_them_again():
    asked = RECIPES["notebook"].settings()
    small = replace(WITH_GPU, gpus=(replace(WITH_GPU.gpus[0], memory_gb=24.0),))
    for machine, engine, how in ((WITH_GPU, "", "off"), (small, "", "unsloth"),
                                 (small, TRL, "on")):
        assert decided_for(asked, machine, engine) == asked.with_values({CHECKPOINTING: how})


def test_each_of_several_processes_needs_what_one_alone_does():
    asked = notebook(model__load_in_4bit=False, train__num_generations=8,
                     train__answers_at_once=32, train__prompts_per_step=16)
    four = asked.with_values({"hardware.num_processes": 4, "train.prompts_per_step": 64})
    assert (estimate(QWEN, asked, TRL_VLLM, H100_GB).total_gb
            == pytest.approx(estimate(QWEN, four, TRL_VLLM, H100_GB).total_gb))


def test_an_8_bit_optimiser_needs_a_quarter():
    whole, eight_bit, paged = (
        next(p.gb for p in estimate(QWEN, notebook(train__optim=optim), TRL, H200_GB).parts
             if p.name == "Optimiser")
        for optim in ("adamw_torch", "adamw_8bit", "paged_adamw_8bit"))
    assert whole == pytest.approx(4 * eight_bit) and paged == eight_bit


def test_vllm_fills_its_share_whatever_the_model_needs():
    parts = {p.name: p.gb for p in estimate(QWEN, notebook(), UNSLOTH, H200_GB).parts}
    inside = ("Base model, 4 bit", "vLLM itself", "KV cache of vLLM")
    assert sum(parts[name] for name in inside) == pytest.approx(0.6 * H200_GB, rel=0.02)


def test_without_shared_weights_the_base_is_held_twice():
    names = [p.name for p in estimate(QWEN, notebook(model__load_in_4bit=False), TRL_VLLM,
                                      H200_GB).parts]
    assert {"Base model, 16 bit", "Base model again, of vLLM"} <= set(names)


@pytest.mark.parametrize(("engine", "model", "there"), [
    (CPU, STARTER, True), (CPU, "Qwen/Qwen2.5-1.5B-Instruct", False), (TRL, STARTER, True)])
def test_a_merged_copy_is_held_where_it_is_small(engine, model, there):
    settings = RECIPES["starter"].settings()
    names = [p.name for p in estimate(known_model(model).shape, settings, engine, 16.0).parts]
    assert ("Merged copy that draws the answers" in names) is there


def test_a_vllm_server_takes_nothing_of_the_gpu_that_trains():
    here, there = (estimate(QWEN, notebook(hardware__vllm_mode=mode), TRL_VLLM, H200_GB)
                   for mode in ("colocate", "server"))
    assert there.vllm_gb == 0 < here.vllm_gb
    assert there.total_gb < here.total_gb - 0.5 * here.vllm_gb


def test_a_base_cut_in_parts_needs_less_on_each_gpu():
    whole, cut = (estimate(LLAMA, notebook(hardware__num_processes=4, model__load_in_4bit=False,
                                           train__num_generations=8, hardware__sharding=how),
                           TRL_VLLM, H200_GB).total_gb for how in ("ddp", "fsdp"))
    assert cut < whole - 10


def test_a_pass_that_is_not_packed_keeps_more_of_each_token():
    """A base that is cut in parts learns through TRL's pass, with peft's own layers."""
    packed, padded = (next(part.gb for part in estimate(QWEN, notebook(
        hardware__num_processes=2, hardware__sharding=how, model__load_in_4bit=False,
        train__max_prompt_length=16, train__answers_at_once=6, train__prompts_per_step=2,
        lora__gradient_checkpointing="off"), TRL, H200_GB).parts
        if part.name == "Activations kept for the backward pass") for how in ("ddp", "fsdp"))
    assert packed < padded


def test_a_16_gb_model_of_8b_parameters_is_16_gb():
    assert weights_gb(LLAMA, False) == pytest.approx(16.06, abs=0.01)


# what people know of these models, and what was measured

def test_a_1_5b_model_in_4_bit_learns_in_5_gb():
    settings = notebook(train__answers_at_once=1)
    for gpu_gb in (6.0, H200_GB):
        found = estimate(QWEN, with_smallest_share(QWEN, settings, gpu_gb), UNSLOTH, gpu_gb)
        assert found.fits
        assert 2.5 < found.total_gb < 5


def test_llama_8b_in_4_bit_learns_in_15_gb():
    for gpu_gb in (16.0, H200_GB):
        found = estimate(LLAMA, with_smallest_share(LLAMA, notebook(), gpu_gb), UNSLOTH, gpu_gb)
        assert found.fits
        assert 8 < found.total_gb < 15


def test_20_000_tokens_on_llama_8b_need_less_than_54_gb():
    settings = notebook(model__max_seq_length=20_480, train__max_completion_length=20_000,
                        train__num_generations=8, train__answers_at_once=1)
    found = estimate(LLAMA, with_smallest_share(LLAMA, settings, H200_GB), UNSLOTH, H200_GB)
    assert found.fits
    assert 30 < found.total_gb < 54


H100_GB = 85.5
AT_ONCE = {"model__load_in_4bit": False, "train__prompts_per_step": 4,
           "train__num_generations": 8, "train__answers_at_once": 32,
           "train__max_completion_length": 256, "lora__gradient_checkpointing": "on",
           "hardware__cuda_graphs": "full"}
QWEN_SMALL = known_model("Qwen/Qwen2.5-0.5B-Instruct").shape
REAL = {"model__load_in_4bit": False, "train__prompts_per_step": 32, "train__num_generations": 8,
        "train__max_completion_length": 400, "train__optim": "adamw_torch",
        "lora__gradient_checkpointing": "off", "hardware__cuda_graphs": "full"}
SMALL_CARD = {"train__prompts_per_step": 4, "train__num_generations": 8,
              "train__answers_at_once": 1, "train__optim": "adamw_8bit"}
LONG = {"model__max_seq_length": 20_480, "train__max_prompt_length": 19_456,
        "train__max_completion_length": 1024, "train__num_generations": 8,
        "train__answers_at_once": 1}
MEASURED = (  # shape, engine, GB of the GPU, share of vLLM, settings, peak in GB; see docs/gpu.md
    (QWEN, TRL_VLLM, H100_GB, 0.3, AT_ONCE, 34.2),
    (QWEN, TRL_VLLM, H100_GB, 0.3, AT_ONCE | {"lora__gradient_checkpointing": "off"}, 55.1),
    (QWEN, TRL_VLLM, H100_GB, 0.3, AT_ONCE | {
        "train__prompts_per_step": 16, "train__answers_at_once": 128}, 43.4),
    (QWEN_SMALL, TRL_VLLM, H100_GB, 0.15, REAL | {  # of at most 400 tokens, 290 on average
        "train__max_completion_length": 290, "train__answers_at_once": 256,
        "lora__gradient_checkpointing": "on"}, 29.3),
    (QWEN, UNSLOTH, H100_GB, 0.3, AT_ONCE, 29.1),
    (QWEN_SMALL, UNSLOTH, H100_GB, 0.3, {
        "lora__gradient_checkpointing": "off", "hardware__cuda_graphs": "full"}, 32.3),
    (QWEN, UNSLOTH, H100_GB, 0.02, SMALL_CARD, 4.35),
    (LLAMA, TRL_VLLM, H100_GB, 0.35, AT_ONCE | {"train__optim": "adamw_torch"}, 53.5),
    (LLAMA, UNSLOTH, H100_GB, 0.09, {}, 12.1),
    (LLAMA, UNSLOTH, H100_GB, 0.363, LONG, 40.7),
)


@pytest.mark.parametrize(("shape", "engine", "gpu_gb", "share", "values", "peak"), MEASURED)
def test_each_measured_run_is_met_within_15_percent(shape, engine, gpu_gb, share, values, peak):
    graphs = {"hardware__cuda_graphs": "decode"} | values
    found = estimate(shape, notebook(hardware__gpu_memory_utilization=share, **graphs), engine,
                     gpu_gb)
    assert found.total_gb == pytest.approx(peak, rel=0.15)


# the share, cures and problems

@pytest.mark.parametrize("shape", [QWEN, LLAMA], ids=["1.5B", "8B"])
@pytest.mark.parametrize("prompts", [1, 8, 64])
def test_the_smallest_share_holds_the_answers_of_a_step_and_no_smaller_one_does(shape, prompts):
    settings = notebook(train__prompts_per_step=prompts)
    share = smallest_share(shape, settings, UNSLOTH, H200_GB)
    answers = min(MOST_SEQUENCES, settings.train.answers_per_step())
    needed = answers * 1024 * shape.kv_per_token() * 2 / 1e9

    def cache(share: float) -> float:
        changed = settings.with_values({"hardware.gpu_memory_utilization": share})
        return next((p.gb for p in estimate(shape, changed, UNSLOTH, H200_GB).parts
                     if p.name == "KV cache of vLLM"), 0.0)

    assert smallest_share(shape, settings, UNSLOTH, H200_GB, together=1) < share
    assert cache(share) >= needed
    assert cache(0.9 * share) < 1.05 * needed


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gpu_gb", [6.0, 12.0, 24.0])
@pytest.mark.parametrize("shape", [QWEN, LLAMA], ids=["1.5B", "8B"])
def test_every_cure_fits_and_the_first_costs_least(shape, gpu_gb, engine):
    settings = notebook(model__load_in_4bit=False, lora__gradient_checkpointing="off",
                        train__prompts_per_step=4, train__answers_at_once=24)
    found = cures(shape, settings, engine, gpu_gb)
    for cure in found:
        after = estimate(shape, settings.with_values(cure.changes), engine, gpu_gb)
        assert after.fits
        assert after.total_gb == cure.total_gb < gpu_gb
        assert f"about {cure.total_gb:.1f} GB" in cure.sentence
        for key in cure.changes:
            assert setting_named(key).knob.label in cure.sentence
    if len(found) > 1:
        assert "train.answers_at_once" in found[0].changes


def test_one_change_is_offered_where_it_is_enough_and_several_where_not():
    big = notebook(train__prompts_per_step=8, train__answers_at_once=48)
    assert [list(c.changes) for c in cures(LLAMA, big, UNSLOTH, 48.0)][0] == [
        "train.answers_at_once"]
    hard = notebook(model__load_in_4bit=False, lora__gradient_checkpointing="off",
                    train__prompts_per_step=8, train__answers_at_once=48)
    joined = cures(LLAMA, hard, UNSLOTH, 16.0)
    assert len(joined) == 1
    assert len(joined[0].changes) > 2


def test_a_share_in_which_vllm_cannot_start_is_part_of_every_cure():
    settings = notebook(train__optim="adamw_8bit")
    found = cures(LLAMA, settings, UNSLOTH, 10.5)
    assert found
    share = settings.hardware.gpu_memory_utilization
    assert all(cure.changes["hardware.gpu_memory_utilization"] > share for cure in found)
    assert "train.answers_at_once" in found[0].changes


def test_what_fits_needs_no_cure_and_has_no_problem():
    for engine in (UNSLOTH, TRL):
        assert cures(QWEN, notebook(), engine, 80.0) == []
        assert memory_problems(QWEN, notebook(), engine, 80.0) == []


def test_with_room_to_spare_more_answers_at_once_are_named_and_no_more_than_fit():
    settings = RECIPES["gsm8k"].settings().with_values({
        "train.prompts_per_step": 4, "train.num_generations": 8,
        "train.max_completion_length": 768, "lora.gradient_checkpointing": "off"})
    assert settings.train.per_device_train_batch_size() == 8
    for gb, most in ((120.0, 32), (60.0, 16), (40.0, None)):
        found = roomier(QWEN, settings, TRL, gb)
        assert (found and found.changes) == (most and {"train.answers_at_once": most}), gb
        if found:
            assert estimate(QWEN, settings.with_values(found.changes), TRL, gb).fits_well
    two = settings.with_values({"hardware.num_processes": 2, "lora.gradient_checkpointing": "on"})
    assert roomier(QWEN, two, TRL, 80.0).changes == {"train.answers_at_once": 16}
    assert roomier(QWEN, settings.with_values({"train.answers_at_once": 32}), TRL, 120.0) is None
    many = settings.with_values({"train.prompts_per_step": 1024})  # the field takes 4,096
    assert roomier(QWEN, many, TRL, 1e6).changes == {"train.answers_at_once": 4096}


def test_an_estimate_near_the_limit_warns_and_one_far_above_refuses():
    settings = RECIPES["gsm8k"].settings().with_values({CHECKPOINTING: "on"})
    total = estimate(QWEN, settings, TRL, H200_GB).total_gb
    for share, levels in ((0.85, []), (0.95, ["warning"]), (1.1, ["warning"]), (1.2, ["error"])):
        assert [p.level for p in memory_problems(QWEN, settings, TRL, total / share)] == levels


def test_a_problem_has_the_figures_and_a_way_out():
    settings = RECIPES["gsm8k"].settings().with_values({
        "train.answers_at_once": 32, "lora.gradient_checkpointing": "off"})
    problem, = memory_problems(QWEN, settings, TRL, 24.0)
    assert "GPU" in problem.what
    assert "there are 24.0 GB" in problem.why
    assert problem.next.startswith("Set 'Answers at once' to ")
    assert problem.field == "train.answers_at_once"


def test_a_share_of_vllm_that_cannot_hold_the_weights_is_refused():
    settings = notebook(hardware__gpu_memory_utilization=0.1)
    problem = memory_problems(LLAMA, settings, UNSLOTH, 24.0)[0]
    assert (problem.level, problem.field) == ("error", "hardware.gpu_memory_utilization")
    assert "2.4 GB" in problem.why
    assert "'GPU share of vLLM' to 0." in problem.next


def test_what_never_fits_says_so_without_a_cure():
    problem, = memory_problems(LLAMA, notebook(), CPU, 8.0)
    assert problem.what == "This run does not fit in the memory of this machine."
    assert problem.next == "Take a smaller model, or a machine with a GPU."
    assert problem.field == "model.name"
