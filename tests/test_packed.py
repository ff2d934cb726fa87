"""The packed learning pass against TRL's padded one: the same numbers, or it says why not."""

import contextlib
from functools import partial
from itertools import pairwise

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, LlamaModel
from trl import GRPOConfig, GRPOTrainer

from lab.backends import plain, wording
from lab.backends.engines import packed as passes
from lab.backends.engines.packed import (
    NAME,
    PIECE,
    LogProbabilities,
    PackedPass,
    Part,
    Rectangles,
    Sequences,
    pack,
)
from lab.backends.train import arguments
from lab.core.catalog import RECIPES
from lab.core.insight import losses
from lab.core.insight.metrics import DIFFERENCE
from lab.services.workspace import STARTER_FOLDER
from tests.bench.update import give_back, make_ready

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
# (prompt's length, lengths of the answers to it): prompts of several lengths, two of them of the
# same, a group of one, answers of one token.
GROUPS = ((9, (5, 1, 12, 7)), (3, (8, 2)), (21, (4,)), (9, (1, 1, 3)))
DEAD = (1, 3)  # groups whose answers all have advantage 0
TINY = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def trainer_of(model, folder, **changes) -> GRPOTrainer:
    """TRL's trainer of a model with an adapter that changes what it says."""
    settings = RECIPES["starter"].settings()
    torch.manual_seed(0)
    trainer = GRPOTrainer(
        model=model, processing_class=wording.load_tokenizer(str(STARTER_FOLDER)),
        args=GRPOConfig(**arguments(settings, folder) | {
            "use_cpu": True, "bf16": False, "reward_weights": None, **changes}),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 8),
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    move(trainer)
    make_ready(trainer)
    return trainer


@torch.no_grad()
def move(trainer, by: float = 0.05) -> None:
    """Change the adapter, as an update would."""
    for name, weight in trainer.model.named_parameters():
        if "lora_B" in name:
            weight += by * torch.randn(weight.shape).to(weight.device)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return trainer_of(plain.load_model(str(STARTER_FOLDER)), tmp_path_factory.mktemp("trainer"))


def batch(words: int, masked: tuple[int, ...] = (), dead: tuple[int, ...] = ()) -> dict:
    """What TRL hands to a loss: rows of GROUPS in no order, prompts left-padded, answers right."""
    chance = torch.Generator().manual_seed(3)
    lines = []
    for group, (length, sizes) in enumerate(GROUPS):
        prompt = torch.randint(3, words, (length,), generator=chance)
        lines += [(group, prompt, torch.randint(3, words, (size,), generator=chance))
                  for size in sizes]
    lines = [lines[i] for i in torch.randperm(len(lines), generator=chance)]
    before, after = (max(len(line[i]) for line in lines) for i in (1, 2))
    made = {name: torch.zeros(len(lines), width, dtype=torch.long) for name, width in (
        ("prompt_ids", before), ("prompt_mask", before),
        ("completion_ids", after), ("completion_mask", after))}
    for row, (_, prompt, answer) in enumerate(lines):
        made["prompt_ids"][row, before - len(prompt):] = prompt
        made["prompt_mask"][row, before - len(prompt):] = 1
        made["completion_ids"][row, :len(answer)] = answer
        made["completion_mask"][row, :len(answer)] = row not in masked
    gains = torch.randn(len(lines), generator=chance)
    gains[[group in dead for group, _, _ in lines]] = 0.0
    return made | {"advantages": gains, "num_items_in_batch": made["completion_mask"].sum()}


@contextlib.contextmanager
def packed(trainer):
    """Inside, the trainer's batches go through the packed pass."""
    was = trainer.model.get_base_model().config._attn_implementation
    assert PackedPass(trainer).take_over() == ""
    try:
        yield
    finally:
        give_back(trainer, was)


def log_probs(trainer, inputs, disable: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies as TRL asks for them before it learns."""
    ids, mask = (torch.cat([inputs["prompt_" + name], inputs["completion_" + name]], 1)
                 for name in ("ids", "mask"))
    off = trainer.model.disable_adapter() if disable else contextlib.nullcontext()
    with torch.no_grad(), off:
        return trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, inputs["completion_ids"].shape[1], batch_size=3,
            compute_entropy=True)[:2]


def learnt(trainer, inputs) -> tuple[torch.Tensor, dict, dict]:
    """(loss, gradients, metrics) of a batch."""
    trainer._metrics["train"].clear()
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    metrics = {name: torch.tensor(values) for name, values in trainer._metrics["train"].items()}
    return loss.detach(), {name: weight.grad for name, weight in trainer.model.named_parameters()
                           if weight.requires_grad}, metrics


def assert_alike(trainer, inputs) -> dict:
    """Both passes: the same log-probabilities, entropies, loss, gradients, metrics."""
    theirs, told = learnt(trainer, inputs), log_probs(trainer, inputs)
    with packed(trainer):
        ours = learnt(trainer, inputs)
        torch.testing.assert_close(log_probs(trainer, inputs), told, **CLOSE)
    assert theirs[1].keys() == ours[1].keys()
    torch.testing.assert_close(ours, theirs, equal_nan=True, **CLOSE)
    return theirs[1]


@pytest.mark.parametrize("changes", [
    *({"loss_type": loss, "importance_sampling_level": level}
      for loss in losses.ALL for level in ("token", "sequence")),
    {"delta": 1.2, "epsilon_high": 0.05},
    {"beta": 0.3}, {"beta": 0.3, "loss_type": "grpo", "importance_sampling_level": "sequence"},
    {"temperature": 0.7}, {"top_entropy_quantile": 0.5},
], ids=lambda changes: " ".join(map(str, changes.values())))
@pytest.mark.parametrize("again", [False, True], ids=["first use", "second use of a rollout"])
def test_log_probabilities_gradients_and_metrics_are_those_of_trls_pass(
        trainer, monkeypatch, changes, again):
    for name, value in changes.items():
        monkeypatch.setattr(trainer, name, value, raising=name not in ("delta", "epsilon_high"))
    monkeypatch.setattr(trainer.args, "delta", changes.get("delta"))
    inputs = batch(400, masked=(2, 5))
    if "beta" in changes:
        inputs["ref_per_token_logps"] = log_probs(trainer, inputs, disable=True)[0]
        with packed(trainer):
            again_told = log_probs(trainer, inputs, disable=True)[0]
        torch.testing.assert_close(again_told, inputs["ref_per_token_logps"], **CLOSE)
        assert not torch.allclose(again_told, log_probs(trainer, inputs)[0], atol=1e-3)
    if again:
        inputs["old_per_token_logps"] = log_probs(trainer, inputs)[0]
        before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
        torch.manual_seed(1)
        move(trainer)
    assert any(grad.abs().max() > 1e-3 for grad in assert_alike(trainer, inputs).values())
    if again:
        trainer.model.load_state_dict(before)


def test_groups_without_signal_are_left_out_and_gradients_and_metrics_stay(trainer, monkeypatch):
    inputs = batch(400, dead=DEAD)
    assert_alike(trainer, inputs)
    counted = []  # tokens that the layers read with a gradient, and without
    layer = trainer.model.get_base_model().model.layers[0]
    watch = layer.self_attn.q_proj.register_forward_pre_hook(
        lambda _, inputs: counted.append((inputs[0].shape[1], torch.is_grad_enabled())))
    with packed(trainer):
        counted.clear()  # of the probe
        learnt(trainer, inputs)
        prompts, answers = ([sum(tokens) for tokens in zip(*(
            (GROUPS[g][0], sum(size - 1 for size in GROUPS[g][1])) for g in groups),
            strict=True)] for groups in ((0, 2), DEAD))
        assert counted == [(sum(prompts), True), (sum(answers), False)]
        counted.clear()
        monkeypatch.setattr(trainer, "beta", 0.1)  # now every answer pulls
        inputs["ref_per_token_logps"] = log_probs(trainer, inputs)[0]
        counted.clear()
        learnt(trainer, inputs)
        assert counted == [(sum(prompts) + sum(answers), True)]
    monkeypatch.setattr(trainer, "beta", 0.0)
    monkeypatch.setattr(passes, "paying", lambda model: lambda tokens: False)
    counted.clear()  # as on a GPU, where so few tokens are not worth a pass of their own
    assert_alike(trainer, batch(400, dead=DEAD))
    assert (sum(prompts) + sum(answers), True) in counted and (sum(prompts), True) not in counted
    watch.remove()


@pytest.mark.parametrize("again", [False, True], ids=["first use", "second use of a rollout"])
def test_how_far_the_drawing_weights_are_from_the_learning_ones_is_told(trainer, again):
    inputs = batch(499, masked=(1,))
    told = log_probs(trainer, inputs)[0]
    if again:  # the weights have moved since, which is no fault of the drawing
        inputs["old_per_token_logps"] = told + 0.3
        told = told + 0.3
    signs = torch.where(torch.arange(told.shape[1]) % 2 == 0, 1.0, -1.0)
    inputs["sampling_per_token_logps"] = told + 0.02 * signs
    inputs["sampling_per_token_logps"][1] = -100.0  # a row that does not count
    inputs["sampling_per_token_logps"][2:5] = torch.nan  # of these vLLM was not asked
    with packed(trainer):
        _, _, metrics = learnt(trainer, inputs)
    torch.testing.assert_close(metrics[DIFFERENCE], torch.tensor([0.02]), atol=1e-4, rtol=0)


def test_a_batch_without_any_signal_has_a_gradient_of_zero(trainer):
    for inputs in (batch(400, dead=range(len(GROUPS))), batch(400, masked=range(10))):
        gradients = assert_alike(trainer, inputs)
        assert all(not grad.any() for grad in gradients.values())


@pytest.mark.parametrize("kind, changes", [
    ("llama", {}), ("llama", {"attention_bias": True, "tie_word_embeddings": True}),
    ("qwen2", {"tie_word_embeddings": True}), ("qwen3", {}), ("smollm3", {}), ("olmo2", {}),
    ("mistral", {"sliding_window": None})])
def test_it_is_exact_for_other_models_and_with_checkpointing(tmp_path, kind, changes):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **TINY | changes))
    trainer = trainer_of(model, tmp_path, gradient_checkpointing=kind == "qwen3")
    assert model.is_gradient_checkpointing == (kind == "qwen3")
    assert_alike(trainer, batch(97, dead=DEAD))


class Elsewhere(LlamaModel):
    """A model whose tokens depend on where they stand in what it is given: none that is known."""

    def forward(self, input_ids, **kwargs):
        at = torch.arange(input_ids.shape[1])[:, None] / 10
        kwargs["inputs_embeds"] = self.embed_tokens(input_ids) + at
        return super().forward(**kwargs)


@pytest.mark.parametrize("kind, changes, why", [
    ("mistral", {"sliding_window": 8}, "sliding window"),
    ("gemma2", {}, "sliding window"),
    ("gemma2", {"layer_types": ["full_attention"] * 2, "sliding_window": None}, "caps"),
    ("granite", {"logits_scaling": 3.0}, "scales its logits"),
    ("llama", {"attn_implementation": "eager"}, "its own kind of attention"),
    ("elsewhere", {}, "otherwise"), ("bloom", {"n_head": 6}, "attention"),
])
def test_what_it_does_not_fit_goes_through_trls_pass_and_it_says_why(
        tmp_path, kind, changes, why):
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama" if kind == "elsewhere" else kind, **TINY | changes)
    if kind == "elsewhere":
        model = LlamaForCausalLM(config)
        model.model = Elsewhere(config)
    else:
        model = AutoModelForCausalLM.from_config(config, **{
            name: value for name, value in changes.items() if name == "attn_implementation"})
    trainer = trainer_of(model, tmp_path)
    before = model.config._attn_implementation
    told = PackedPass(trainer).take_over()
    assert why in told
    assert model.config._attn_implementation == before != NAME
    assert "_compute_loss" not in vars(trainer)


def test_flash_attention_is_told_the_same_as_the_mask_says(trainer):
    width = 6
    answers = [(row, list(range(size))) for row, size in enumerate((1, 2, width + 1))]
    groups = {tuple(range(9)): answers, tuple(range(4)): [(3, [5]), (4, [5] * 5)]}
    parts, at = [], 0
    for prompt, drawn in groups.items():
        own = len(parts)
        for size, of in ((len(prompt), None), *((len(answer) - 1, own) for _, answer in drawn)):
            parts.append(Part(at, size, of))
            at += size
    flash, dense = Sequences.of(parts), Rectangles.of(parts)
    by_flash: dict[int, set[int]] = {}
    ends = zip(*(pairwise(edges.tolist()) for edges in (flash.starts, flash.seen_starts)),
               strict=True)
    for (start, end), (first, last) in ends:
        for place in range(start, end):  # the last sees all, each one before it one less
            by_flash[place] = set(flash.seen[first:last - (end - 1 - place)].tolist())
    by_mask = {}
    for row, places in enumerate(dense.answers.tolist()):
        for column, place in enumerate(places):
            if column < [part.size for part in parts if part.prompt is not None][row]:
                by_mask[place] = set(dense.seen[row][dense.mask[row, 0, column]].tolist())
    for part in parts:
        if part.prompt is None:
            by_mask |= {place: set(range(part.start, place + 1)) for place in part.places}
    assert by_flash == by_mask and len(by_mask) == at == pack(groups, trainer.model).tokens.numel()
    assert (flash.longest, flash.longest_seen) == (9, 9 + width)


def test_a_model_that_drops_attention_at_random_is_trls(tmp_path):
    config = AutoConfig.for_model("llama", **TINY | {"attention_dropout": 0.1})
    trainer = trainer_of(AutoModelForCausalLM.from_config(config), tmp_path)
    assert "at random" in PackedPass(trainer).take_over()


def test_a_head_that_learns_is_trls(tmp_path):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TINY))
    trainer = trainer_of(model, tmp_path)
    model.lm_head.weight.requires_grad_(True)
    assert "is learnt too" in PackedPass(trainer).take_over()


def test_logits_are_made_in_pieces_and_their_gradient_is_exact():
    torch.manual_seed(0)
    words, tokens = PIECE // 16, 40  # three pieces
    draw = partial(torch.randn, dtype=torch.double)  # half a million words: single would round
    hidden = draw(tokens, 8, requires_grad=True)
    weight, bias = draw(words, 8), draw(words)
    targets, pull = torch.randint(words, (tokens,)), draw(tokens)
    found, entropies = LogProbabilities.apply(hidden, weight, bias, targets, 0.7)
    found.backward(pull)
    gradient, hidden.grad = hidden.grad, None
    logs = ((hidden @ weight.T + bias) / 0.7).log_softmax(-1)
    logs[torch.arange(tokens), targets].backward(pull)
    torch.testing.assert_close(found, logs[torch.arange(tokens), targets])
    torch.testing.assert_close(entropies, -(logs.exp() * logs).sum(-1))
    torch.testing.assert_close(gradient, hidden.grad, **CLOSE)
