"""Advantages and pushes as the page tells them are those of TRL's own trainer."""

import json

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from lab.backends import plain, wording
from lab.backends.train import arguments
from lab.core import events
from lab.core.catalog import RECIPES
from lab.core.insight import losses
from lab.core.insight.advantages import AGGREGATIONS, SCALES, SUM_FIRST
from lab.core.insight.metrics import group_record
from lab.core.rewards.chosen import Chosen
from lab.services.lab import Lab
from lab.services.workspace import STARTER_FOLDER
from lab.ui.lesson import told

SIZE, LONGEST, LOW, HIGH, UP, DOWN = 4, 16, 0.15, 0.2, 0.8, 1.6
CHOSEN = (Chosen("correctness", 1.0), Chosen("int", 0.5))
# Raw scores of three groups by two rewards: mixed, dead, and one with answers nobody could judge.
SCORES = [[(2.0, 0.5), (0.0, 0.5), (0.0, 0.0), (2.0, 0.0)],
          [(2.0, 0.5)] * 4,
          [(None, None), (0.0, 0.25), (2.0, 0.5), (None, None)]]
TOKENS = [[5, 1, 16, 7], [3, 3, 3, 3], [2, 9, 4, 4]]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """TRL's trainer of the starter, whose rewards are those of the table."""
    def reward_of(place):
        def reward(completions, row, **_):
            lines = {one: iter(SCORES[one]) for one in row}
            return [next(lines[one])[place] for one in row]
        reward.__name__ = CHOSEN[place].name
        return reward

    made = GRPOTrainer(
        model=plain.load_model(str(STARTER_FOLDER)),
        processing_class=wording.load_tokenizer(str(STARTER_FOLDER)),
        args=GRPOConfig(**arguments(RECIPES["starter"].settings(), tmp_path_factory.mktemp("t")) | {
            "use_cpu": True, "bf16": False, "reward_weights": [one.weight for one in CHOSEN],
            "num_generations": SIZE, "max_completion_length": LONGEST,
            "per_device_train_batch_size": SIZE * len(SCORES), "gradient_accumulation_steps": 1}),
        reward_funcs=[reward_of(0), reward_of(1)],
        train_dataset=Dataset.from_list([{"prompt": "a", "row": 0}] * 8))
    made.current_gradient_accumulation_steps = 1  # train() would count them
    made.model.train()
    return made


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A run that recorded these groups."""
    lab = Lab.at(tmp_path_factory.mktemp("lab"))
    folder = lab.workspace.make().new_run("by hand")
    settings = RECIPES["starter"].settings().with_values({
        "rewards.chosen": CHOSEN, "train.prompts_per_step": len(SCORES),
        "train.max_completion_length": LONGEST, "train.epsilon": LOW, "train.epsilon_high": HIGH,
        "train.sapo_temperature_pos": UP, "train.sapo_temperature_neg": DOWN})
    folder.settings.write_text(json.dumps({"settings": settings.to_dict(), "name": "by hand"}))
    groups = [group_record("user: 2 + 2?", {"question": "2 + 2?", "answer": "4"}, [
        {"text": "4", "tokens": size, "cut": False, "errors": {}, "total": None, "advantage": 0.0,
         "rewards": dict(zip(("correctness", "int"), line, strict=True))}
        for line, size in zip(group, sizes, strict=True)])
        for group, sizes in zip(SCORES, TOKENS, strict=True)]
    write = events.EventWriter(folder.events)
    write(events.Started(9, 0, {}))
    write(events.Step(1, {"loss": 0.0}))
    write(events.Samples(1, groups))
    write.close()
    return lab


def shown(lab: Lab, **moves) -> list[dict]:
    """What the page shows of each group."""
    (folder,) = lab.workspace.folders()
    return [told(lab, {"run": folder.id, "at": [1, place], **moves})["figures"]
            for place in range(len(SCORES))]


def advantages(lab: Lab, **moves) -> list[float]:
    return [gain for one in shown(lab, **moves) for gain in one["advantages"]]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("scale", SCALES)
def test_the_advantages_on_the_page_are_those_that_the_trainer_computes(
        trainer, lab, monkeypatch, scale, aggregation):
    monkeypatch.setattr(trainer, "scale_rewards", scale)
    monkeypatch.setattr(trainer, "multi_objective_aggregation", aggregation)
    asked = [{"prompt": [{"role": "user", "content": "2 + 2?"}], "row": row}
             for row in range(len(SCORES)) for _ in range(SIZE)]
    theirs = trainer._generate_and_score_completions(asked)["advantages"].tolist()
    ours = advantages(lab, scale=scale, aggregation=aggregation)
    assert ours == pytest.approx(theirs, abs=2e-4)
    assert max(ours) > 0.5 and ours[8] == ours[11] == 0
    if aggregation == SUM_FIRST:
        assert ours[4:8] == [0] * 4 and shown(lab)[1]["dead"] is True


def gradients(trainer, gains: list[float], ratio: float, likelier: float) -> list[list[float]]:
    """What TRL's loss asks of each token's log-probability: minus its gradient."""
    sizes = [size for group in TOKENS for size in group]
    rows, width = len(sizes), max(sizes)
    mask = torch.tensor([[int(at < size) for at in range(width)] for size in sizes])
    now = torch.full((rows, width), -1.5, requires_grad=True)
    trainer._get_per_token_logps_and_entropies = lambda *a, **k: (now, torch.zeros(rows, width),
                                                                  None)
    ids = torch.ones(rows, width, dtype=torch.long)
    try:
        trainer._compute_loss(trainer.model, {
            "prompt_ids": ids[:, :1], "prompt_mask": mask[:, :1], "completion_ids": ids,
            "completion_mask": mask, "advantages": torch.tensor(gains),
            "num_items_in_batch": mask.sum(),
            "old_per_token_logps": now.detach() - torch.tensor(ratio).log(),
            "ref_per_token_logps": now.detach() - torch.tensor(likelier).log()}).backward()
    finally:
        del trainer._get_per_token_logps_and_entropies
    return [(-line[:size]).tolist() for line, size in zip(now.grad, sizes, strict=True)]


@pytest.mark.parametrize(("beta", "ratio"), [(0.0, 0.5), (0.0, 0.9), (0.0, 1.0), (0.3, 1.0),
                                             (0.3, 1.25), (0.0, 3.0)])
@pytest.mark.parametrize("loss", losses.ALL)
def test_the_pushes_on_the_page_are_the_gradients_of_the_trainers_loss(
        trainer, lab, monkeypatch, loss, beta, ratio):
    monkeypatch.setattr(trainer.args, "sapo_temperature_pos", UP)
    monkeypatch.setattr(trainer.args, "sapo_temperature_neg", DOWN)
    for name, value in {"loss_type": loss, "beta": beta, "epsilon_low": LOW,
                        "epsilon_high": losses.highest_ratio(loss, HIGH)}.items():
        monkeypatch.setattr(trainer, name, value)
    moves = {"beta": beta, "ratio": ratio, "likelier": 1.7}
    theirs = gradients(trainer, advantages(lab, **moves), ratio, 1.7)
    ours = [(push, whole) for one in shown(lab, **moves) for push, whole in zip(
        one["losses"][loss]["push"], one["losses"][loss]["whole"], strict=True)]
    assert any(push for push, _ in ours)
    for (push, whole), tokens in zip(ours, theirs, strict=True):
        assert tokens == pytest.approx([push] * len(tokens), rel=1e-4, abs=1e-7)
        assert sum(tokens) == pytest.approx(whole, rel=1e-4, abs=1e-6)


def test_what_the_losses_say_of_trl_is_so():
    assert (GRPOConfig.sapo_temperature_pos, GRPOConfig.sapo_temperature_neg) == (
        losses.SAPO_UP, losses.SAPO_DOWN)
    assert losses.highest_ratio("dapo", 0.2) == 0.2 and losses.highest_ratio("cispo", 3.0) == 3.0
    assert losses.highest_ratio("cispo", 0.2) == losses.CISPO_HIGH
    text = GRPOConfig.__doc__  # names the paper of each
    assert all(one.paper.arxiv in text for one in losses.ALL.values() if one.name != "grpo")
