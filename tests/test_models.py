"""What is known of a model: catalogue, folder, Hub cache; and what is said where nothing is."""

import json
import re
from dataclasses import fields

import httpx
import pytest
from huggingface_hub import constants, errors

from lab.core.catalog import RECIPES
from lab.core.hardware.machine import Gpu, Machine
from lab.core.problems import BadModel, BadSettings
from lab.core.settings import STARTER, Settings
from lab.services import models
from lab.services.models import ModelFacts, look_at
from lab.ui.tabs import model

LAPTOP = Machine("Linux", "3.12", 2, 8.0, 4.0, 10.0)
CONFIG = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
          "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100,
          "max_position_embeddings": 512}
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


def with_gpu(gb: float) -> Machine:
    return Machine("Linux", "3.12", 8, 64.0, 60.0, 100.0, (Gpu("RTX", gb, gb, "580.1", 8.9),),
                   {"unsloth": "1", "vllm": "1", "torch": "2.11.0"})


@pytest.fixture
def folder(tmp_path):
    """A folder with a model in it, with the files given by name."""
    def made(config=CONFIG, **files):
        (tmp_path / "model.safetensors").write_bytes(b"")
        (tmp_path / "config.json").write_text(json.dumps(config))
        for name, text in files.items():
            (tmp_path / name.replace("__", ".")).write_text(text)
        return str(tmp_path)
    return made


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A Hub cache of one's own, with one downloaded model in it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    there = tmp_path / "models--somebody--small"
    (there / "refs").mkdir(parents=True)
    (there / "refs" / "main").write_text("abc")
    (there / "snapshots" / "abc").mkdir(parents=True)
    (there / "snapshots" / "abc" / "config.json").write_text(json.dumps(CONFIG))
    return there / "snapshots" / "abc"


def settings(name: str, **values) -> Settings:
    return Settings().with_values({"model.name": name, **values})


def refusal(error_class, status: int = 404):
    """A real error of huggingface_hub, as it raises it for an answer of this status."""
    response = httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/x"))
    return error_class("what the Hub said", response=response)


def test_the_starter_is_known_and_fits_on_a_laptop():
    facts = look_at(STARTER)
    assert (facts.source, facts.licence, facts.gated) == ("catalogue", "Apache-2.0", False)
    assert models.model_problems(RECIPES["starter"].settings(), LAPTOP) == []


def test_a_row_of_the_catalogue_needs_no_file():
    facts = look_at(LLAMA)
    assert (facts.parameters, facts.gated, facts.chat_template) == (8030, True, True)
    assert facts.in_4bit == "unsloth/Llama-3.1-8B-Instruct-bnb-4bit"


def test_the_models_that_are_offered_say_size_licence_and_whether_they_fit(cache):
    said = {name: title for title, name in models.offered(LAPTOP)}
    assert said["starter"] == "Starter (ships with the lab, learns on a laptop)"
    assert said["Qwen/Qwen2.5-0.5B-Instruct"] == "Qwen2.5 0.5B Instruct · 1.0 GB to download"
    assert "gated" in said["google/gemma-3-1b-it"] and "gated" not in said["Qwen/Qwen3-0.6B"]
    assert "too big here: needs" in said["Qwen/Qwen3-14B"]
    assert "too big" not in said["HuggingFaceTB/SmolLM2-135M-Instruct"]


def test_the_twin_in_4_bit_is_not_gated():
    facts = look_at("unsloth/Llama-3.1-8B-Instruct-bnb-4bit")
    assert (facts.parameters, facts.gated) == (8030, False)


def test_a_folder_tells_its_shape_and_that_nothing_else_is_known(folder):
    facts = look_at(folder())
    assert (facts.source, facts.longest, facts.licence) == ("folder", 512, "")
    assert facts.parameters == pytest.approx(facts.shape.parameters() / 1e6)
    assert facts.gated is None
    assert facts.chat_template is None


@pytest.mark.parametrize(("files", "there"), [
    ({"tokenizer_config__json": '{"chat_template": "{{ x }}"}'}, True),
    ({"tokenizer_config__json": '{"chat_template": null}'}, False),
    ({"tokenizer_config__json": "{}"}, False),
    ({"tokenizer_config__json": "{}", "chat_template__jinja": "{{ x }}"}, True),
    ({"tokenizer_config__json": "[not json"}, False),
    ({}, None),
])
def test_a_chat_template_is_found_in_either_file(folder, files, there):
    assert look_at(folder(**files)).chat_template is there


def test_a_base_model_is_told_to_be_one(folder):
    name = folder(tokenizer_config__json="{}")
    problem, = models.model_problems(settings(name), LAPTOP)
    assert (problem.what, problem.level) == ("This model has no chat template.", "error")
    assert "instruct" in problem.next


@pytest.mark.parametrize("config", [
    {**CONFIG, "model_type": "mamba"}, {**CONFIG, "model_type": ["llama"]},
    {"model_type": "llama"}, []])
def test_an_architecture_that_cannot_be_read_warns_and_does_not_refuse(folder, config):
    name = folder(config)
    problem, = models.model_problems(settings(name), LAPTOP)
    assert (problem.level, problem.field) == ("warning", "model.name")
    assert problem.next
    assert models.memory_of(settings(name), LAPTOP) is None


def test_what_the_hub_cache_has_is_known_without_a_network(cache):
    facts = look_at("somebody/small")
    assert (facts.source, facts.longest, facts.chat_template) == ("hub cache", 512, None)
    (cache / "tokenizer_config.json").write_text("{}")
    assert look_at("somebody/small", fetch=True).chat_template is False


def test_what_is_nowhere_is_unknown_until_it_is_asked_for(cache):
    assert look_at("somebody/else") == ModelFacts("somebody/else")
    assert models.memory_of(settings("somebody/else"), LAPTOP) is None
    with pytest.raises(BadModel, match="could not be reached") as refused:
        look_at("somebody/else", fetch=True)
    assert "HF_HUB_OFFLINE" in refused.value.problem.next


@pytest.mark.parametrize("name", ["", "   ", "nothing", "a/b/c", "a b/c", "x/" + "y" * 5000,
                                  "a\0/b", "/no/such/folder", "~nobody-here/model", "./", "a/b$"])
@pytest.mark.parametrize("fetch", [False, True])
def test_a_bad_name_is_refused_or_unknown_and_never_crashes(cache, name, fetch):
    try:
        assert look_at(name, fetch).shape is None
    except (BadSettings, BadModel) as refused:
        assert refused.problem.next
        assert refused.problem.field == "model.name"
    models.model_problems(settings(name), LAPTOP)


def test_a_gated_model_without_a_login_says_how_to_get_it(cache, monkeypatch):
    found = models.model_problems(RECIPES["notebook"].settings(), with_gpu(80))
    assert [(p.level, p.what) for p in found] == [("warning", f"{LLAMA} is gated.")]
    assert f"https://huggingface.co/{LLAMA}" in found[0].next
    assert "hf auth login" in found[0].next
    monkeypatch.setenv("HF_TOKEN", "hf_not_a_real_one")
    assert models.model_problems(RECIPES["notebook"].settings(), with_gpu(80)) == []


def test_a_model_that_is_too_big_for_the_gpu_is_refused_with_the_figures(cache):
    changed = RECIPES["notebook"].settings().with_values({"model.load_in_4bit": False})
    found = [p for p in models.model_problems(changed, with_gpu(12)) if p.level == "error"]
    assert [p.what for p in found] == [
        "vLLM's share of the GPU is too small.",
        "This run does not fit in the memory of this GPU."]
    assert "0.6 of 12 GB is 7.2 GB" in found[0].why
    assert "there are 12.0 GB" in found[1].why
    assert "'Load in 4 bit' to on" in found[1].next


def test_a_sequence_longer_than_the_model_was_made_for_is_refused(cache):
    found = models.model_problems(settings("google/gemma-3-1b-it", **{
        "model.max_seq_length": 65_536}), with_gpu(80))
    assert "32768 or less" in next(p for p in found if p.field == "model.max_seq_length").next


def test_memory_is_that_of_the_engine_that_will_run():
    notebook = RECIPES["notebook"].settings()
    on_gpu, on_cpu = (models.memory_of(notebook, machine) for machine in (with_gpu(80), LAPTOP))
    assert (on_gpu.on_gpu, on_gpu.memory_gb) == (True, 80)
    assert (on_cpu.on_gpu, on_cpu.memory_gb) == (False, 8.0)


@pytest.mark.parametrize(("error", "what", "next"), [
    (refusal(errors.GatedRepoError, 401), "a/b is gated.", "hf auth login"),
    (refusal(errors.RepositoryNotFoundError, 401), "There is no model 'a/b'", "huggingface.co/mod"),
    (refusal(errors.DisabledRepoError, 403), "cannot be downloaded", "another model"),
    (refusal(errors.RemoteEntryNotFoundError), "no model for transformers", "the model itself"),
    (refusal(errors.HfHubHTTPError, 401), "The Hub refuses a/b", "hf auth whoami"),
    (refusal(errors.HfHubHTTPError, 429), "The Hub did not give a/b", "Wait a minute"),
    (refusal(errors.HfHubHTTPError, 503), "The Hub did not give a/b", "Wait a minute"),
    (errors.LocalEntryNotFoundError("x"), "not on this machine", "Check the network"),
    (errors.OfflineModeIsEnabled("x"), "not on this machine", "HF_HUB_OFFLINE"),
    (httpx.ConnectTimeout("x"), "not on this machine", "Check the network"),
    (errors.HFValidationError("x"), "There is no model 'a/b'", "starter"),
    (OSError(28, "No space left on device"), "could not be looked up", "Free some space"),
    (RuntimeError("odd"), "could not be looked up", "Try again"),
], ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None)
def test_every_refusal_of_the_hub_says_what_to_do(cache, error, what, next):
    problem = models.explained(error, "a/b").problem
    assert what in problem.what
    assert next in problem.next
    assert problem.why
    assert problem.field == "model.name"


def test_a_gated_model_with_a_login_is_not_told_to_log_in(cache, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_not_a_real_one")
    problem = models.explained(refusal(errors.GatedRepoError, 403), "a/b").problem
    assert "log in" not in problem.next
    assert "https://huggingface.co/a/b" in problem.next
    assert "hf_not_a_real_one" not in str(problem)


# what the Model & LoRA tab makes of it

def test_the_panel_names_size_licence_and_weights():
    panel = model.about_html(look_at(LLAMA))
    for words in ("8.03 billion parameters", "5.7 GB in 4 bit, 16.1 GB in 16 bit",
                  "Llama 3.1 Community", f"href='https://huggingface.co/{LLAMA}'", "Has one."):
        assert words in panel
    assert "href" not in model.about_html(look_at(STARTER))
    assert "enable_thinking=false" in model.about_html(look_at("Qwen/Qwen3-4B"))


def test_the_panel_of_an_unknown_model_says_that_it_is_unknown(cache):
    assert "unknown until its config.json is downloaded" in model.about_html(look_at("a/b"))
    assert "unknown until" in model.memory_html(None, [])


def test_the_estimate_shows_its_parts_and_what_does_not_fit():
    notebook = RECIPES["notebook"].settings()
    for gb, level in ((80, "fits"), (14, "tight"), (9, "over")):
        found = models.memory_of(notebook, with_gpu(gb))
        shown = model.memory_html(found, models.model_problems(notebook, with_gpu(gb)))
        assert f"class='memory {level}'" in shown
        assert f"of {gb:.1f} GB of the GPU" in shown
        assert all(part.name in shown for part in found.parts)
        assert ("not fit in the memory" in shown) is (level != "fits")


def test_where_the_gpu_has_room_the_estimate_says_what_would_be_quicker():
    gsm8k = RECIPES["gsm8k"].settings().with_values({"train.prompts_per_step": 4})
    tab = model.ModelTab(*(field.name for field in fields(model.ModelTab)))
    shown = tab.updates(gsm8k, with_gpu(80))["memory"]
    assert "There is room to be quicker. Set &#x27;Answers at once&#x27; to 32: about" in shown
    assert "Gradient checkpointing: off, because" in tab.updates(gsm8k, with_gpu(80))["derived"]
    asked = gsm8k.with_values({"lora.gradient_checkpointing": "on"})
    assert "Gradient checkpointing" not in tab.updates(asked, with_gpu(80))["derived"]
    assert models.quicker(gsm8k, LAPTOP) is None
    assert models.quicker(settings("somebody/else"), with_gpu(80)) is None
    compiled = gsm8k.with_values({"hardware.compile_loss": "on"})
    assert models.quicker(compiled, with_gpu(80)) is None  # more would take minutes to compile


def test_names_of_others_never_become_markup():
    facts = ModelFacts("<b>x</b>/y", "hub cache", licence="<i>z</i>", gated=True,
                       note="<u>n</u>", in_4bit="<s>q</s>", chat_template=True)
    assert not {"<b>", "<i>", "<u>", "<s>"} & set(re.findall(r"<\w+>", model.about_html(facts)))
