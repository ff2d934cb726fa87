"""Unsloth checks its pass without padding once, but where angles depend on the length."""

import sys

import pytest
from transformers import LlamaConfig

from lab.backends import plain
from lab.backends.engines.checked_once import CheckedOnce, turns_by_length
from lab.services.workspace import STARTER_FOLDER
from tests.test_packed import trainer_of


@pytest.fixture
def trainer(tmp_path):
    return trainer_of(plain.load_model(str(STARTER_FOLDER)), tmp_path)


def step_ends(trainer) -> None:
    trainer.callback_handler.on_step_end(trainer.args, trainer.state, trainer.control)


def test_what_passed_holds_for_every_length_and_what_failed_is_left_alone(trainer):
    CheckedOnce(trainer)
    model = trainer.model
    model._unsloth_seq_packing_grad_ok = True
    model._unsloth_seq_packing_grad_verified_T = model._unsloth_seq_packing_grad_verified_seg = 90
    model._unsloth_seq_packing_nograd_ok = False
    step_ends(trainer)
    assert model._unsloth_seq_packing_grad_verified_T == sys.maxsize
    assert model._unsloth_seq_packing_grad_verified_seg == sys.maxsize
    assert not hasattr(model, "_unsloth_seq_packing_nograd_verified_T")


def test_before_a_check_nothing_is_trusted(trainer):
    CheckedOnce(trainer)
    step_ends(trainer)
    assert not any(name.startswith("_unsloth") for name in vars(trainer.model))


def test_a_model_whose_angles_depend_on_the_length_is_checked_each_time(trainer):
    trainer.model.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0}
    CheckedOnce(trainer)
    trainer.model._unsloth_seq_packing_grad_ok = True
    step_ends(trainer)
    assert not hasattr(trainer.model, "_unsloth_seq_packing_grad_verified_T")


@pytest.mark.parametrize(("told", "by_length"), [
    ({"rope_type": "default"}, False), ({"rope_type": "dynamic", "factor": 2.0}, True),
    ({"full_attention": {"rope_type": "longrope"}, "sliding_attention": {"rope_type": "default"}},
     True)])
def test_the_kind_of_rotary_embedding_tells(told, by_length):
    config = LlamaConfig()
    config.rope_parameters = told
    assert turns_by_length(config) is by_length
