"""Any instruct model: what its small files tell before the start, and that it trains all the same.
"""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer

from lab.backends import plain, wording
from lab.backends.engines.trl_vllm import merged_parameters
from lab.backends.generate import MergedCopy
from lab.core.catalog import RECIPES
from lab.core.models.template import template_arguments
from lab.core.models.typed import tidied
from lab.core.problems import LabError, explain
from lab.core.prompts import messages, split_reasoning
from lab.services import machine
from lab.services.jobs import speaks_against
from lab.services.models import model_folder
from lab.services.workspace import STARTER_FOLDER
from tests import odd_models
from tests.odd_models import copied

STARTER = RECIPES["starter"].settings()
# what is changed, settings, (level, field, words that are said); None: nothing is said
TOLD = [
    ("no_system", {}, ("warning", "data.system_prompt", "put before the question")),
    ("no_system", {"data.system_prompt": ""}, None),
    ("silent_system", {}, ("warning", "data.system_prompt", "takes no system turn")),
    ("opens_think", {}, ("warning", "rewards.chosen", "The prompt ends in <think>")),
    ("may_think", {}, ("warning", "rewards.chosen", "enable_thinking=false")),
    ("may_think", {"model.chat_template_kwargs": "enable_thinking=false"}, None),
    ("may_think", {"model.chat_template_kwargs": "enable_thinking=false, colour=red"},
     ("warning", "model.chat_template_kwargs", "colour. Template arguments that it knows: "
                                               "enable_thinking")),
    ("special_tags", {}, ("warning", "model.name", "<answer>, </answer>, <reasoning>")),
    ("pad_outside", {}, ("warning", "model.name", "[PAD] is token 571, and the embedding has 571")),
    ("no_eos", {}, ("warning", "model.name", "token 3 is taken")),
    ("no_end_at_all", {}, ("error", "model.name", "no end-of-text token")),
    ("endless", {}, ("error", "model.name", "does not end")),
    ("filling", {}, ("error", "model.name", "does not end")),
    ("broken_template", {}, ("error", "model.name", "cannot be used")),
    ("deep", {}, ("error", "model.name", "num_hidden_layers is 1000000000")),
    ("too_many_weights", {}, ("error", "model.name", "not those of this config.json")),
    ("own_code", {}, ("error", "model.name", "Python code of its own")),
    ("own_tokenizer", {}, ("error", "model.name", "Python code of its own")),
    ("pickled", {}, ("error", "model.name", "no weights as safetensors")),
    ("gpt2", {}, ("error", "lora.target_modules", "Its linear layers are c_attn, c_proj, c_fc")),
    ("gpt2", {"lora.target_modules": ("all-linear",)}, ("warning", "model.name", "'gpt2'")),
    ("phi3", {}, ("warning", "lora.target_modules", "2 of 7 target modules exist")),
    ("phi3", {"lora.target_modules": ("qkv_proj", "o_proj")}, None),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Makes a model by the name of its change, once."""
    root, made = tmp_path_factory.mktemp("models"), {}

    def of(change: str):
        if change not in made:
            made[change] = copied(root, change)
            getattr(odd_models, change)(made[change])
        return made[change]
    return of


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    return machine.look(tmp_path_factory.mktemp("root"))


@pytest.mark.parametrize(("change", "values", "said"), TOLD,
                         ids=[f"{name}-{len(values)}" for name, values, _ in TOLD])
def test_small_files_tell_it_before_the_start(model, facts, change, values, said):
    chosen = STARTER.with_values({"model.name": str(model(change)), **values})
    found = [p for p in speaks_against(chosen, facts)
             if "parameters may not learn" not in p.what and "'strict_format' wants" not in p.what]
    if said is None:
        assert found == []
        return
    level, field, words = said
    problem = next(p for p in found if words in str(p))
    assert (problem.level, problem.field) == (level, field)
    if level == "error" and field == "model.name" and change not in (
            "no_end_at_all", "broken_template"):  # these two are read, and refused by their loader
        with pytest.raises(LabError, match="."):  # so no worker meets it either
            model_folder(chosen)


@pytest.mark.parametrize(("typed", "meant"), [
    ("  starter ", "starter"), ('"/models/my model"', "/models/my model"),
    ("\u201c/models/x\u201d", "/models/x"), ("file:///models/my%20model", "/models/my model"),
    ("https://huggingface.co/Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
    ("huggingface.co/Qwen/Qwen3-0.6B/tree/main?x=1#y", "Qwen/Qwen3-0.6B"),
    ("https://hf.co/gpt2", "gpt2"), ("https://huggingface.co/gpt2/tree/main", "gpt2"),
    ("hf://Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"), ("https://example.org/a/b",
                                                   "https://example.org/a/b"), ("'", "'"),
])
def test_what_is_typed_is_read_as_it_is_meant(typed, meant):
    assert tidied(typed) == meant


def test_a_file_inside_the_folder_stands_for_the_folder(model, facts):
    folder = model("no_eos")
    chosen = STARTER.with_values({"model.name": f'"{folder / "config.json"}"'})
    assert model_folder(chosen) == str(folder.resolve())


@pytest.mark.parametrize(("files", "said"), [
    ({"adapter_config.json": '{"base_model_name_or_path": "Qwen/Qwen3-0.6B"}'},
     "is an adapter of Qwen/Qwen3-0.6B. It changes that model"),
    ({"adapter_config.json": "[]"}, "is an adapter of another model."),
    ({"x.Q4_K_M.gguf": "GGUF"}, "It is a GGUF file"),
    ({"settings.json": "{}", "events.jsonl": ""}, "It is the folder of a run."),
    ({"inner/config.json": "{}"}, "inner: give that"),
    ({"readme.txt": ""}, "There is no config.json in it."),
])
def test_what_is_no_model_is_named_for_what_it_is(tmp_path, files, said):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(LabError) as refused:
        model_folder(STARTER.with_values({"model.name": str(tmp_path)}))
    assert said in str(refused.value)


@pytest.mark.parametrize(("text", "value"), [
    ("", {}), ("enable_thinking=false", {"enable_thinking": False}),
    ("a=1, b=0.5,c=none,d='x y'", {"a": 1, "b": 0.5, "c": None, "d": "x y"}),
    ('{"enable_thinking": true}', {"enable_thinking": True}),
    ("messages=1", ValueError), ("a", ValueError), ("{", ValueError), ('{"a": []}', ValueError),
    ("a b=1", ValueError), ("a=", ValueError),
])
def test_template_arguments_are_names_with_values(text, value):
    if value is ValueError:
        with pytest.raises(ValueError, match="."):
            template_arguments(text)
    else:
        assert template_arguments(text) == value


# what the workers make of it

ASKED = messages("What is 1 + 1?", "Be brief.")


def test_a_prompt_is_what_the_template_writes_with_the_system_prompt_where_it_can_be(model):
    def prompt(change: str, arguments: str = "") -> str:
        return wording.render(wording.load_tokenizer(str(model(change)), arguments), ASKED)

    plain = AutoTokenizer.from_pretrained(STARTER_FOLDER).apply_chat_template(
        ASKED, tokenize=False, add_generation_prompt=True)
    assert prompt("special_tags") == plain
    moved = plain.replace("<|im_start|>system\nBe brief.<|im_end|>\n", "").replace(
        "What is", "Be brief.\n\nWhat is")
    assert prompt("no_system") == prompt("silent_system") == moved != plain
    assert prompt("opens_think") == prompt("may_think") == plain + "<think>\n"
    assert prompt("may_think", "enable_thinking=false") == plain


def test_a_tokenizer_ends_pads_and_keeps_tags_as_it_must(model):
    def loaded(change: str):
        return wording.load_tokenizer(str(model(change)))

    def text(change: str) -> str:
        tokenizer = loaded(change)
        return wording.to_text(tokenizer, wording.to_tokens(tokenizer, said) + [3])

    said = "<reasoning>\n1\n</reasoning>\n<answer>\n2\n</answer>"
    assert (loaded("no_eos").eos_token_id, loaded("no_eos").pad_token_id) == (3, 3)
    assert loaded("pad_outside").pad_token_id == loaded("pad_outside").eos_token_id == 3
    assert text("special_tags") == text("no_eos") == said
    assert text("opens_think") == "<think>\n" + said
    assert split_reasoning(wording.opened(loaded("opens_think"))) == ("", "")
    for change, words in (("no_end_at_all", "no end-of-text token"),
                          ("own_code", "does not know the model's architecture"),
                          ("own_tokenizer", "Python code of its own")):
        with pytest.raises(Exception, match=".") as refused:
            loaded(change)
        assert words in str(explain(refused.value)), refused.value


def test_a_merged_copy_of_gpt2_answers_as_its_adapter_does(model):
    base = plain.load_model(str(model("gpt2")))
    tuned = get_peft_model(base, LoraConfig(r=4, target_modules=plain.targets(("all-linear",)),
                                            init_lora_weights=False, task_type="CAUSAL_LM"))
    copy = MergedCopy(tuned)
    copy.refresh()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        wanted = tuned(ids).logits
        assert torch.allclose(copy.model(ids).logits, wanted, atol=1e-4)
        merged = dict(merged_parameters(tuned))
        assert set(merged) == {name for name, _ in copy.model.named_parameters()
                               if "attn.c" in name and "weight" in name
                               or "mlp.c" in name and "weight" in name}
        assert all(torch.allclose(merged[name], weight, atol=1e-5)
                   for name, weight in copy.model.named_parameters() if name in merged)
    assert plain.named_targets(plain.load_model(str(model("gpt2"))), ("all-linear",)) == [
        "c_attn", "c_fc", "c_proj"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10**12, 10**12) | st.floats() | st.text(max_size=8)
    | st.sampled_from([10**9, 10**30, "[PAD]", "{% for x in y %}", "{{ 1 / 0 }}", "<answer>"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner,
                                                                max_size=3), max_leaves=5)
FILES = {name: json.loads((STARTER_FOLDER / name).read_text(encoding="utf-8"))
         for name in ("config.json", "tokenizer_config.json", "generation_config.json")}
OTHERS = ["auto_map", "text_config", "chat_template", "added_tokens_decoder", "n_layer",
          "quantization_config", "rope_scaling"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_small_files_hold_is_told_in_sentences(data, facts, tmp_path_factory):
    folder = copied(tmp_path_factory.mktemp("fuzz"), "m")
    for name, told in FILES.items():
        changed = dict(told)
        for key in data.draw(st.lists(st.sampled_from([*told, *OTHERS]), max_size=3)):
            changed[key] = data.draw(JSON)
        text = json.dumps(data.draw(JSON) if data.draw(st.integers(0, 9)) == 0 else changed)
        cut = len(text) if data.draw(st.integers(0, 9)) else data.draw(st.integers(0, len(text)))
        (folder / name).write_text(text[:cut])
    if data.draw(st.booleans()):
        (folder / "chat_template.jinja").unlink()
    chosen = STARTER.with_values({"model.name": str(folder)})
    found = speaks_against(chosen, facts)
    assert all(p.what and p.what[0].isprintable() and p.field for p in found)
    assert not any("Traceback" in str(p) for p in found)
    try:
        model_folder(chosen)
    except LabError as error:
        assert error.problem.next


def test_a_model_like_gpt2_that_takes_no_system_turn_and_names_no_end_learns_all_the_same(
        lab, quick, tmp_path):
    folder = copied(tmp_path, "odd")
    for change in (odd_models.gpt2, odd_models.no_system, odd_models.no_eos):
        change(folder)
    run = lab.jobs.wait(lab.jobs.start(quick.with_values({
        "model.name": str(folder), "lora.target_modules": ("all-linear",), "train.max_steps": 1,
        "train.num_generations": 2, "data.held_out": 0, "train.max_prompt_length": 256})).id)
    assert run.status == "finished", run.problem
    _, groups = lab.runs.log(run.id).groups_at()
    assert "<|im_start|>system" not in groups[0]["prompt"]
    assert run.settings.data.system_prompt.strip()[:20] in groups[0]["prompt"]
    config = json.loads((run.folder.adapter / "adapter_config.json").read_text())
    assert {name.rpartition(".")[2] for name in config["target_modules"]} == {
        "c_attn", "c_proj", "c_fc"}
