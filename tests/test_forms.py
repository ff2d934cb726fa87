"""The form: one widget for every setting, and values that are read back as they are or refused."""

import json
import re
from collections import Counter

import gradio as gr
import pytest

from lab.core.catalog import RECIPES
from lab.core.checks import Machine
from lab.core.problems import BadSettings, Problem
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.registry import GOAL, REWARDS, SHAPE
from lab.core.settings import ALL, GROUPS, Settings
from lab.services.lab import Lab
from lab.ui import data_view, summary
from lab.ui.build import build
from lab.ui.forms import REWARD_LIST, Form
from lab.ui.rewards import cards
from lab.ui.tabs import start

WIDGETS = [s for s in ALL if s.key != REWARD_LIST]


@pytest.fixture(scope="module")
def form() -> Form:
    form = Form()
    with gr.Blocks():
        for group in GROUPS:
            form.group(group)
        cards.build(form)
    return form


@pytest.fixture
def values(form) -> dict:
    return form.values(form.first)


def with_fields(values: dict, changes: dict) -> dict:
    """The values of a page in which these were typed; "rewards.int.weight" is a field of a card."""
    changed, held = dict(values), json.loads(values[REWARD_LIST])
    for key, value in changes.items():
        if key.count(".") == 2:
            held.setdefault(key.split(".")[1], {})[key.split(".")[2]] = value
        else:
            changed[key] = value
    return changed | {REWARD_LIST: json.dumps(held)}


def test_the_page_has_exactly_one_widget_for_every_setting(tmp_path):
    page = build(Lab.at(tmp_path))
    components = page.get_config_file()["components"]
    found = Counter(c["props"].get("elem_id") for c in components)
    editor, = (c for c in components if c["props"].get("elem_id") == "reward-editor")
    found += Counter(re.findall(r" id='(set-[^']+)'", editor["props"]["html_template"]))
    wanted = [f"set-{s.group}-{s.name}" for s in WIDGETS]
    wanted += [f"set-rewards-{name}-{part}" for name, reward in REWARDS.items()
               for part in ("on", "weight", "kind", *reward.knobs)]
    wanted.append("set-rewards-own")  # the choice of one's own rewards, as text
    assert {id: found[id] for id in wanted} == dict.fromkeys(wanted, 1)
    assert {id for id in found if id and id.startswith("set-")} == set(wanted)


@pytest.mark.parametrize("setting", WIDGETS, ids=lambda s: s.key)
def test_a_widget_says_what_its_knob_says(form, setting):
    widget = form.widgets[setting.key]
    assert (widget.label, widget.info) == (setting.knob.label, setting.knob.help)
    if setting.knob.choices:
        assert [value for _, value in widget.choices] == list(setting.knob.choices)


def test_a_setting_cannot_have_two_widgets(form):
    with gr.Blocks(), pytest.raises(ValueError, match="train.beta has a widget already"):
        form.widget("train.beta")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_what_is_shown_is_read_back_the_same(form, recipe):
    assert form.read(form.values(recipe.settings())) == recipe.settings()


def test_weights_and_knobs_of_rewards_are_read_back_the_same(form):
    chosen = (Chosen("strict_format", 0.25, {"multiline": False}),
              Chosen("correctness", 3.0, kind=SHAPE))
    settings = Settings().with_values({REWARD_LIST: chosen})
    assert form.read(form.values(settings)).rewards.chosen == chosen


def test_show_updates_every_widget(form):
    shown = form.show(RECIPES["notebook"].settings())
    assert set(shown) == set(form.outputs())
    assert shown[form.widgets["train.num_generations"]]["value"] == 6


def test_rewards_alone_can_be_shown(form, values):
    (shown,) = form.show_rewards([Chosen("int", 2.0, kind=GOAL)]).values()
    changed = values | {REWARD_LIST: shown["value"]}
    assert form.chosen(changed) == (Chosen("int", 2.0, kind=GOAL),)
    assert form.read(changed).train == form.first.train


@pytest.mark.parametrize("text", ["[]", "{", "7", '{"int": 7}', "[" * 100_000])
def test_cards_that_no_page_of_ours_sends_are_refused(form, values, text):
    with pytest.raises(BadSettings, match="cannot be read"):
        form.read(values | {REWARD_LIST: text})


def test_a_field_that_no_card_has_changes_nothing(form, values):
    more = {"rewards.int.colour": "red", "rewards.nothing.on": True}
    assert form.read(with_fields(values, more)) == form.read(values)


def test_whole_numbers_from_the_browser_are_whole(form, values):
    settings = form.read(values | {"train.num_generations": 16.0, "train.learning_rate": 1})
    assert settings.train.num_generations == 16
    assert isinstance(settings.train.num_generations, int)
    assert isinstance(settings.train.learning_rate, float)


@pytest.mark.parametrize(("key", "value", "sentence"), [
    ("train.num_generations", 1, "'Answers per question (group size)' must be at least 2, not 1."),
    ("train.num_generations", 2.5, "must be a whole number, not 2.5."),
    ("train.learning_rate", 0, "'Learning rate' must be above 0, not 0."),
    ("train.top_p", 1.01, "'Rollout top-p' must be at most 1, not 1.01."),
    ("train.max_steps", None, "'Steps' needs a number."),
    ("train.beta", float("nan"), "must be a finite number"),
    ("lora.target_modules", [], "'Target modules' needs at least one entry."),
    ("rewards.int.weight", -1, "'Weight' of 'Whole number' must be at least 0, not -1."),
    ("rewards.int.weight", None, "'Weight' of 'Whole number' needs a number."),
])
def test_a_bad_value_is_refused_with_a_sentence(form, values, key, value, sentence):
    with pytest.raises(BadSettings) as refused:
        form.read(with_fields(values, {key: value}))
    assert sentence in refused.value.problem.what
    assert refused.value.problem.field == key


def test_every_bad_value_is_found_at_once(form, values):
    bad = {"train.max_steps": 0, "lora.rank": -3, "rewards.int.weight": None}
    assert {p.field for p in form.problems(with_fields(values, bad))} == set(bad)


def test_a_reward_that_is_off_may_be_unfinished(form, values):
    settings = form.read(with_fields(values, {"rewards.int.on": False,
                                               "rewards.int.weight": None}))
    assert "int" not in [c.name for c in settings.rewards.chosen]


@pytest.mark.parametrize(("change", "sentence"), [
    ({f"rewards.{name}.on": False for name in REWARDS}, "No reward is chosen."),
    ({f"rewards.{name}.weight": 0 for name in REWARDS}, "All weights are 0"),
])
def test_rewards_that_teach_nothing_are_refused(form, values, change, sentence):
    with pytest.raises(BadSettings, match=sentence):
        form.read(with_fields(values, change))


def test_a_mark_stands_at_its_field_and_nowhere_else(form):
    marks = form.mark([Problem("It is too small.", "Because.", "Raise it.", "lora.rank")])
    rank, alpha = form.widgets["lora.rank"], form.widgets["lora.alpha"]
    assert marks[rank]["info"] == "It is too small. Because. Raise it."
    assert marks[rank]["elem_classes"] == ["wrong-field"]
    assert marks[alpha]["info"] == alpha.info
    assert marks[alpha]["elem_classes"] == []
    doubt = Problem("It is large.", field="lora.rank", level="warning")
    doubtful = form.mark([doubt])[rank]
    assert (doubtful["info"], doubtful["elem_classes"]) == ("It is large.", ["doubtful-field"])
    both = form.mark([doubt, Problem("It is no number.", field="lora.rank")])[rank]
    assert (both["info"], both["elem_classes"]) == ("It is no number.", ["wrong-field"])
    assert form.mark([])[rank]["info"] == rank.info


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_summary_names_what_was_changed(recipe):
    settings = recipe.settings()
    assert "Changed" not in summary.summary_html(settings, recipe.key)
    changed = settings.with_values({"train.max_steps": 7})
    assert "Steps: <b>7</b>" in summary.summary_html(changed, recipe.key)


def test_a_recipe_that_needs_a_gpu_says_so_where_there_is_none():
    machine = Machine("Linux", "3.12", 2, 8.0, 4.0, 10.0)
    cards = start.cards_html(machine).split("</button>")
    assert ["needs a GPU" in card for card in cards[:-1]] == [r.needs_gpu
                                                              for r in RECIPES.values()]


def test_text_of_others_never_becomes_markup():
    settings = Settings().with_values({"model.name": "<script>alert(1)</script>"})
    assert "<script>" not in summary.summary_html(settings, "starter")


def test_the_histogram_counts_what_is_too_long():
    assert "All fit" in data_view.lengths_html([10, 12, 12], 12)
    assert "2 of 3 are longer than the longest prompt, 11" in data_view.lengths_html(
        [10, 12, 12], 11)
