"""The drawing loop against transformers' own `generate`, and the merged copy against peft."""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from lab.backends import generate, plain, wording
from lab.backends.generate import Drawing, MergedCopy, complete, draw
from lab.core.catalog import RECIPES
from lab.core.hardware.engines import Plan
from lab.core.prompts import messages
from lab.core.settings import TRL_VLLM
from lab.core.task import problems
from lab.services.workspace import STARTER_FOLDER

GREEDY = Drawing(max_new_tokens=30, temperature=0.0)


@pytest.fixture(scope="module")
def starter():
    tokenizer = wording.load_tokenizer(str(STARTER_FOLDER))
    model = plain.load_model(str(STARTER_FOLDER))
    prompts = [wording.to_tokens(tokenizer, wording.render(tokenizer, messages(p.question, "")))
               for level in (1, 2, 3) for p in problems(level, 3, seed=5)]
    return tokenizer, model, prompts, wording.stop_tokens(model, tokenizer)


@pytest.fixture
def tuned(starter):
    """A LoRA model with weights that change what it says."""
    model = plain.load_model(str(STARTER_FOLDER))
    torch.manual_seed(1)
    lora = get_peft_model(model, LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"]))
    with torch.no_grad():
        for name, weight in lora.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    return lora.eval()


def test_greedy_answers_are_those_of_transformers(starter):
    tokenizer, model, prompts, stops = starter
    ours = complete(model, prompts, GREEDY, stops)
    for prompt, answer in zip(prompts, ours, strict=True):
        theirs = model.generate(
            input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)),
            generation_config=GenerationConfig(
                max_new_tokens=30, do_sample=False, eos_token_id=stops,
                pad_token_id=tokenizer.pad_token_id))
        assert answer == theirs[0, len(prompt):].tolist()


@pytest.mark.parametrize("room", [1, 7])
def test_a_cache_that_outgrows_its_room_changes_no_answer(starter, monkeypatch, room):
    _, model, prompts, stops = starter
    drawing = Drawing(25, 1.0, seed=4)
    roomy = complete(model, prompts, drawing, stops, copies=3)  # rows that end leave the batch
    monkeypatch.setattr(generate, "ROOM", room)
    assert complete(model, prompts, drawing, stops, copies=3) == roomy


def test_copies_share_a_prompt_and_differ_when_drawn(starter):
    _, model, prompts, stops = starter
    alike = complete(model, prompts[:2], GREEDY, stops, copies=3)
    assert alike[0] == alike[1] == alike[2] and alike[3] == alike[5]
    varied = complete(model, prompts[:1], Drawing(30, 1.0, seed=1), stops, copies=8)
    assert len({tuple(answer) for answer in varied}) > 1


def test_the_seed_decides_what_is_drawn(starter):
    _, model, prompts, stops = starter
    first, again, other = (complete(model, prompts, Drawing(20, 1.0, seed=s), stops)
                           for s in (1, 1, 2))
    assert first == again != other


def test_an_answer_ends_at_its_stop_token_or_at_the_limit(starter):
    _, model, prompts, stops = starter
    for answer in complete(model, prompts, Drawing(12, 1.0, seed=3), stops, copies=4):
        assert 1 <= len(answer) <= 12
        assert not set(answer[:-1]) & set(stops)
        assert len(answer) == 12 or answer[-1] in stops


def test_draws_follow_the_chances():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).repeat(20_000, 1)
    generator = torch.Generator().manual_seed(0)
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.7)):
        tokens = draw(logits, Drawing(1, temperature, top_p), generator)
        wanted = (logits[0] / temperature).softmax(-1)
        if top_p < 1:  # 0.64 alone is below 0.7, so the second token stays too
            wanted = torch.tensor([wanted[0], wanted[1], 0, 0]) / wanted[:2].sum()
        shares = torch.bincount(tokens, minlength=4) / len(tokens)
        assert torch.allclose(shares, wanted, atol=0.015)


def test_the_merged_copy_answers_as_peft_does_and_leaves_it_untouched(starter, tuned):
    _, _, prompts, stops = starter
    before = {name: weight.clone() for name, weight in tuned.named_parameters()}
    copy = MergedCopy(tuned)
    for _ in range(3):  # refreshing again adds nothing twice
        copy.refresh()
    ids = torch.tensor([prompts[0]])
    with torch.no_grad():
        assert torch.allclose(copy.model(ids).logits, tuned(ids).logits, atol=1e-4)
    embeddings = tuned.get_base_model().get_input_embeddings().weight
    assert copy.model.get_input_embeddings().weight is embeddings  # has no adapter: not copied
    assert complete(copy.model, prompts, GREEDY, stops) == complete(tuned, prompts, GREEDY, stops)
    assert all(torch.equal(before[name], weight) for name, weight in tuned.named_parameters())


def test_the_merged_copy_follows_the_adapter(starter, tuned):
    _, _, prompts, _ = starter
    copy = MergedCopy(tuned)
    copy.refresh()
    ids = torch.tensor([prompts[0]])
    with torch.no_grad():
        before = copy.model(ids).logits
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.mul_(2)
        copy.refresh()
        assert not torch.allclose(copy.model(ids).logits, before, atol=1e-3)
        assert torch.allclose(copy.model(ids).logits, tuned(ids).logits, atol=1e-4)


def test_what_vllm_gets_is_base_plus_adapter_and_the_base_stays_as_it_was(tuned):
    from lab.backends.engines.trl_vllm import merged_parameters

    before = {name: weight.clone() for name, weight in tuned.named_parameters()}
    sent = dict(merged_parameters(tuned))
    again, every = dict(merged_parameters(tuned)), dict(merged_parameters(tuned, every=True))
    assert all(torch.equal(before[name], weight) for name, weight in tuned.named_parameters())
    assert all(torch.equal(sent[name], again[name]) for name in sent)
    own = {name.replace(".base_layer", ""): weight.clone()
           for name, weight in tuned.get_base_model().named_parameters()}
    merged = dict(tuned.merge_and_unload().named_parameters())
    assert set(sent) == {name for name, weight in merged.items()
                         if not torch.equal(weight, own[name])}
    assert set(every) == set(merged)
    for name, weight in (*sent.items(), *every.items()):
        torch.testing.assert_close(weight, merged[name])


class Weights:
    """Where vLLM would load them, as a vllm.LLM of this process reaches it."""

    def __init__(self):
        self.calls, self.resets = [], 0
        self.model = self.model_runner = self.driver_worker = self.model_executor = self
        self.llm_engine = self

    def load_weights(self, weights):
        self.calls.append(dict(weights))

    def reset_prefix_cache(self):
        self.resets += 1


def test_where_trl_hands_its_weights_to_vllm_the_lab_does(starter, tuned):
    from trl.generation.vllm_generation import VLLMGeneration

    from lab.backends.engines.trl_vllm import VllmEngine, merged_parameters

    def bound(mode):
        settings = RECIPES["starter"].settings().with_values({"hardware.vllm_mode": mode})
        engine = VllmEngine(Plan(TRL_VLLM, "", on_gpu=False), settings, str(STARTER_FOLDER))
        rollouts = object.__new__(VLLMGeneration)  # TRL's own methods, without a vLLM
        rollouts.llm, engine.model = Weights(), tuned
        engine.trainer = SimpleNamespace(vllm_generation=rollouts)
        engine.hand_weights_to(rollouts)
        return rollouts

    rollouts = bound("colocate")
    rollouts.sync_weights()
    (sent,), changed = rollouts.llm.calls, dict(merged_parameters(tuned))
    assert sent.keys() == changed.keys() and rollouts.llm.resets == 1
    assert all(torch.equal(sent[name], changed[name]) for name in sent)
    rollouts = bound("server")
    assert rollouts.sync_weights.__func__ is VLLMGeneration.sync_weights
    every = dict(merged_parameters(tuned, every=True))
    assert dict(rollouts._iter_named_params()).keys() == every.keys() > changed.keys()
    assert callable(VLLMGeneration._iter_named_params)  # else the line above proves nothing


def test_vllm_is_asked_how_likely_tokens_were_for_one_answer_of_each_group():
    from trl.generation.vllm_generation import extract_logprobs

    from lab.backends.engines.trl_vllm import telling_some

    asked = []

    class Sampling(SimpleNamespace):
        def clone(self):
            return Sampling(**vars(self))

    known = [{7: SimpleNamespace(logprob=-0.5, rank=1)}, {8: SimpleNamespace(logprob=-2, rank=3)}]

    def as_vllm(prompts, sampling_params, use_tqdm):
        asked.append(sampling_params)
        each = sampling_params if isinstance(sampling_params, list) else [sampling_params]
        return [SimpleNamespace(outputs=[SimpleNamespace(
            token_ids=[7, 8], logprobs=None if one.logprobs is None else known)]) for one in each]

    telling, sampling = telling_some(as_vllm, 3), Sampling(logprobs=0)
    done = telling(["a"] * 3 + ["b"] * 3, sampling_params=sampling, use_tqdm=False)
    assert [one.logprobs for one in asked[0]] == [0, None, None] * 2 and sampling.logprobs == 0
    told, _ = extract_logprobs(done)  # TRL's
    assert told == [[[-0.5], [-2.0]], [[None], [None]], [[None], [None]]] * 2
    silent = Sampling(logprobs=None)  # as the lab's own questions
    assert telling(["a"], sampling_params=silent, use_tqdm=False)[0].outputs[0].logprobs is None
    assert asked[1] is silent
