"""Every field of the settings, whatever is put in: kept as it is, or refused by name."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.core.checks import each_setting
from lab.core.hardware.machine import Machine
from lab.core.problems import BadSettings
from lab.core.settings import ALL, Settings, read_assignment

REPEATABLE = settings(max_examples=25)
MACHINE = Machine("Linux", "3.11", 2, 8.0, 8.0, 100.0)
PLAIN = [setting for setting in ALL if setting.key != "rewards.chosen"]

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=2), max_leaves=4)


def likely(setting) -> st.SearchStrategy:
    """Anything, and values close to those that it takes."""
    look, near = setting.knob, []
    if look.choices:
        near.append(st.sampled_from(look.choices))
        near.append(st.lists(st.sampled_from(look.choices), max_size=3))
    bounds = [b for b in (look.low, look.high, look.above) if b is not None]
    if bounds:
        near.append(st.sampled_from([b + d for b in bounds for d in (-1, 0, 0.5, 1)]))
        near.append(st.floats(min(bounds), max(bounds)))
        near.append(st.integers(int(min(bounds)), int(max(bounds))))
    return st.one_of(ANYTHING, *near)


@pytest.mark.parametrize("setting", PLAIN, ids=lambda setting: setting.key)
@REPEATABLE
@given(data=st.data())
def test_any_value_of_a_field_is_kept_or_refused_by_the_field_s_name(setting, data):
    value = data.draw(likely(setting))
    try:
        kept = Settings().with_values({setting.key: value})
    except BadSettings as refused:
        assert refused.problem.field == setting.key and setting.key in str(refused.problem)
        return
    now = kept.get(setting.key)
    assert now == (tuple(value) if isinstance(value, list) else value)
    kind = setting.kind if isinstance(setting.kind, type) else tuple
    assert type(now) is kind
    assert each_setting(kept, MACHINE) == []
    assert Settings.from_dict(json.loads(json.dumps(kept.to_dict()))) == kept


@pytest.mark.parametrize("setting", PLAIN, ids=lambda setting: setting.key)
@REPEATABLE
@given(text=st.text(max_size=20) | st.integers().map(str) | st.floats().map(str)
       | st.sampled_from(["on", "off", "TRUE", " 1 ", "1_000", "1e3", "q_proj,k_proj", ",", "="]))
def test_any_text_after_set_is_read_or_refused(setting, text):
    try:
        key, value = read_assignment(f"{setting.key}={text}")
        kept = Settings().with_values({key: value})
    except BadSettings as refused:
        assert refused.problem.field == setting.key
        return
    assert key == setting.key and each_setting(kept, MACHINE) == []


@REPEATABLE
@given(value=st.one_of(ANYTHING, st.lists(st.fixed_dictionaries({}, optional={
    "name": st.sampled_from(["number", "thinking", "nonsense", 3]), "weight": ANYTHING,
    "params": ANYTHING, "kind": st.sampled_from(["goal", "shape", "both", 1])}), max_size=3)))
def test_any_list_of_rewards_is_kept_or_refused(value):
    try:
        kept = Settings().with_values({"rewards.chosen": value})
    except BadSettings as refused:
        assert refused.problem.field == "rewards.chosen"
        return
    assert Settings.from_dict(json.loads(json.dumps(kept.to_dict()))) == kept
    assert each_setting(kept, MACHINE) == []


@REPEATABLE
@given(tree=ANYTHING | st.dictionaries(st.sampled_from(["train", "lora", "nonsense"]), ANYTHING))
def test_any_json_is_settings_or_refused(tree):
    try:
        assert isinstance(Settings.from_dict(tree), Settings)
    except BadSettings as refused:
        assert refused.problem.what
