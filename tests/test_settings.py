"""Settings: defaults that hold, values refused with a sentence, nothing silently changed."""

import json
import math

import pytest

from lab.core import knobs
from lab.core.catalog import RECIPES
from lab.core.checks import Machine, errors_of, problems_of
from lab.core.problems import BadSettings
from lab.core.rewards.chosen import parse_chosen
from lab.core.settings import ALL, Settings, Train, problem_of, read_assignment

LAPTOP = Machine("Linux x86_64", "3.12.1", 4, 16.0, 8.0, 50.0)
STARTER = RECIPES["starter"].settings()


@pytest.mark.parametrize("setting", ALL, ids=lambda s: s.key)
def test_every_setting_has_its_facts_and_a_default_that_may_be(setting):
    assert setting.knob.label and setting.knob.help.endswith(".")
    assert problem_of(setting, setting.default) is None


@pytest.mark.parametrize("setting", ALL, ids=lambda s: s.key)
def test_a_value_out_of_range_is_refused_by_name(setting):
    look, kind = setting.knob, setting.kind
    bad = []
    if kind in (int, float) and not look.choices:
        bad = [math.nan, math.inf, "8", None, True]
        bad += [look.low - 1] if look.low is not None else []
        bad += [look.above] if look.above is not None else []
        bad += [look.high * 2 + 1] if look.high is not None else []
        bad += [1.5] if kind is int else []
    elif kind is bool:
        bad = [1, "yes", None]
    elif look.choices:
        bad = (["nonsense", None] if not knobs.is_list(kind) else
                   [("no name",) if look.open else ("nonsense",), ()])
    elif kind is str:
        bad = [1, None]
    for value in bad:
        with pytest.raises(BadSettings, match=setting.key):
            Settings().with_values({setting.key: value})


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda r: r.key)
def test_every_recipe_survives_json_and_back(recipe):
    settings = recipe.settings()
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_the_starter_recipe_has_nothing_against_it_on_a_laptop():
    assert problems_of(STARTER, LAPTOP) == []


@pytest.mark.parametrize("key", [k for k, r in RECIPES.items() if r.needs_gpu])
def test_a_gpu_recipe_is_refused_on_a_laptop_with_the_reason(key):
    errors = errors_of(RECIPES[key].settings(), LAPTOP)
    assert errors and all("no CUDA device was found" in e.why for e in errors)


def test_the_notebook_recipe_sets_what_the_notebook_sets():
    s = RECIPES["notebook"].settings()
    assert (s.model.name, s.model.max_seq_length) == ("meta-llama/Llama-3.1-8B-Instruct", 1024)
    assert (s.lora.rank, s.lora.alpha, s.lora.random_state) == (32, 32, 3407)
    assert len(s.lora.target_modules) == 7 and s.lora.gradient_checkpointing == "auto"
    t = s.train
    assert (t.learning_rate, t.adam_beta1, t.adam_beta2, t.weight_decay) == (5e-6, 0.9, 0.99, 0.1)
    assert (t.warmup_ratio, t.lr_scheduler_type, t.optim) == (0.1, "cosine", "paged_adamw_8bit")
    assert (t.num_generations, t.prompts_per_step, t.max_prompt_length) == (6, 1, 256)
    assert (t.max_completion_length, t.max_steps, t.save_steps) == (768, 250, 250)
    assert (t.max_grad_norm, t.logging_steps, t.report_to) == (0.1, 1, "none")
    assert (s.sampling.temperature, s.sampling.top_p, s.sampling.max_tokens) == (0.8, 0.95, 1024)
    assert [c.name for c in s.rewards.chosen] == [
        "xmlcount", "soft_format", "strict_format", "int", "correctness"]
    assert not any(dict(c.params).get("multiline") for c in s.rewards.chosen)


@pytest.mark.parametrize("group", range(2, 20))
def test_no_group_size_reaches_a_divisibility_error(group):
    for prompts in (1, 2, 3, 5, 7, 8, 12):
        for at_once in (1, 3, 8, 64, 4096):
            t = Train(num_generations=group, prompts_per_step=prompts, answers_at_once=at_once)
            batch = t.per_device_train_batch_size()
            assert batch <= at_once
            assert batch * t.gradient_accumulation_steps() == group * prompts


@pytest.mark.parametrize("text, words", [
    ("train.lr=1", "There is no setting 'train.lr'. There are train.max_steps"),
    ("nonsense.x=1", "There are model, lora, data"),
    ("train.beta", "must be written group.field=value"),
    ("train.beta=much", "must be a number, not 'much'"),
    ("train.max_steps=1.5", "must be a whole number"),
    ("model.load_in_4bit=maybe", "must be true or false"),
    ("rewards.chosen=corectness", "There is no reward 'corectness'"),
])
def test_a_bad_assignment_says_what_exists(text, words):
    with pytest.raises(BadSettings) as error:
        read_assignment(text)
    assert words in str(error.value)


def test_assignments_are_read_in_the_settings_own_type():
    pairs = dict(read_assignment(t) for t in (
        "train.max_steps=7", "train.learning_rate=1e-3", "model.load_in_4bit=yes",
        "lora.target_modules=q_proj, v_proj", "rewards.chosen=correctness:weight=2,int"))
    s = Settings().with_values(pairs)
    assert s.train.max_steps == 7 and s.train.learning_rate == 1e-3 and s.model.load_in_4bit
    assert s.lora.target_modules == ("q_proj", "v_proj")
    assert s.rewards.chosen == parse_chosen("correctness:weight=2,int")


@pytest.mark.parametrize("changes, words", [
    ({"train.max_prompt_length": 500}, "do not fit in the sequence"),
    ({"model.name": "  "}, "No model is chosen"),
    ({"data.source": "file"}, "No file is chosen"),
    ({"data.source": "hub"}, "No Hub dataset is chosen"),
    ({"data.rows": 4}, "fewer rows than questions per step"),
    ({"data.source": "file", "data.path": "x.csv", "data.answer_column": ""},
     "'correctness' needs a reference answer"),
    ({"train.report_to": "wandb"}, "wandb is not installed"),
    ({"train.optim": "paged_adamw_8bit"}, "needs a GPU"),
    ({"hardware.stack": "gpu"}, "needs a GPU"),
])
def test_combinations_that_cannot_work_are_found_before_the_start(changes, words):
    errors = errors_of(STARTER.with_values(changes), LAPTOP)
    assert any(words in str(e) for e in errors)
    assert all(e.field for e in errors)


def test_few_rows_are_a_warning_and_no_error():
    found = problems_of(STARTER.with_values({"data.rows": 100}), LAPTOP)
    assert [p.level for p in found] == ["warning"]


def test_unknown_groups_and_wrong_shapes_of_a_file_are_refused():
    for tree in ([], {"nonsense": {}}, {"train": 3}, {"rewards": {"chosen": [{"nam": "int"}]}}):
        with pytest.raises(BadSettings):
            Settings.from_dict(tree)


def test_differences_name_both_values():
    other = STARTER.with_values({"train.beta": 0.04})
    assert STARTER.differences(other) == {"train.beta": (0.0, 0.04)}


def test_a_cap_that_would_cut_every_push_is_refused_with_the_value_to_take():
    cispo = STARTER.with_values({"train.loss_type": "cispo"})
    (found,) = errors_of(cispo, LAPTOP)
    assert found.field == "train.epsilon_high" and "largest ratio itself" in found.why
    ((_, changes),) = found.cures
    assert errors_of(cispo.with_values(dict(changes)), LAPTOP) == []
    assert errors_of(STARTER.with_values({"train.loss_type": "sapo"}), LAPTOP) == []
