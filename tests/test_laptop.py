"""A real model on a laptop: the sums it learns from, the recipe, two steps of it on the CPU."""

import pytest

from lab.core.catalog import RECIPES
from lab.services.data import load as datasets
from lab.services.jobs import speaks_against
from lab.services.machine import look
from tests import smollm

RECIPE = RECIPES["laptop"].settings()


def test_the_sums_are_right_and_no_question_is_there_twice():
    split = datasets.load(RECIPE.data, seed=1)
    rows = [*split.train, *split.held_out]
    assert len(rows) == len({row["question"] for row in rows}) == 532
    for row in rows:
        one, sign, other = row["question"].removeprefix("What is ").rstrip("?").split()
        assert str(int(one) + int(other) * (1 if sign == "+" else -1)) == row["answer"]


def test_the_sums_are_found_wherever_the_lab_is_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(datasets.load(RECIPE.data, seed=1).held_out) == 60


def test_nothing_speaks_against_the_recipe(tmp_path):
    assert [p for p in speaks_against(RECIPE, look(tmp_path)) if "Hub" not in p.what] == []


@pytest.fixture(scope="module")
def model():
    try:
        return smollm.folder()
    except smollm.NotHere as error:
        pytest.skip(f"SmolLM2-135M-Instruct cannot be had here: {error}")


@pytest.mark.slow
def test_a_real_model_trains_for_two_steps(lab, model):
    folder = lab.jobs.start(RECIPE.with_values({
        "model.name": str(model), "train.max_steps": 2, "train.prompts_per_step": 2,
        "train.num_generations": 4, "train.eval_steps": 2, "train.eval_questions": 4}))
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished", folder.log.read_text()[-4000:]
    log = lab.runs.log(folder.id)
    curves = log.curves()
    assert all(0 <= right <= 1 for right in curves["goal/reached"])
    assert 1 <= curves["completions/mean_length"][-1] <= 48
    assert set(log.held_out) == {0, 2}
    assert (folder.adapter / "adapter_model.safetensors").is_file()
    answers = log.groups_at(2)[1][0]["answers"]
    assert len({answer["text"] for answer in answers}) > 1  # words of its own
