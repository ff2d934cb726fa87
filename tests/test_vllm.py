"""vLLM itself, wherever it can be imported: rollouts through it, answers, adapters, evaluation.

    python -m pytest -m vllm tests/test_vllm.py

On a GPU vLLM comes with the gpu stack. On a CPU its build for CPUs serves, in an environment of its
own (CONTRIBUTING.md says how): the same engine of the lab, the same TRL, the same vLLM, slower.
"""

import importlib.util
import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model

from lab.backends import plain, wording
from lab.core import events
from lab.core.catalog import RECIPES
from lab.core.hardware import engines
from lab.core.hardware.machine import Choice
from lab.core.insight.metrics import DIFFERENCE
from lab.core.problems import BadModel
from lab.core.prompts import messages
from lab.core.settings import TRL_VLLM
from lab.core.task import problems
from lab.services.chat import Side
from lab.services.environment import worker_environment
from lab.services.evaluate import evaluate
from lab.services.lab import Lab
from lab.services.preflight import preflight
from lab.services.processes import family
from lab.services.workspace import STARTER_FOLDER
from tests.bench import shapes
from tests.bench.lab_side import some_adapter
from tests.conftest import QUICK
from tests.test_gpu import FACTS, GREEDY, QUESTION, STACK, answers, until_step
from tests.test_training import wait_for

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
ON_GPU = STACK.value == "gpu"
FOR_A_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # On newer CPUs vLLM packs its weights for faster kernels, and takes no new ones after that.
    "ONEDNN_MAX_CPU_ISA": "AVX2", "VLLM_CPU_SGL_KERNEL": "0"}
SETTINGS = RECIPES["starter"].settings().with_values(QUICK | {
    "train.max_steps": 500, "hardware.gpu_memory_utilization": 0.2,
    **({"hardware.engine": TRL_VLLM, "model.fast_inference": True} if ON_GPU else {})})


@pytest.fixture(scope="module", autouse=True)
def chosen():
    """Without a GPU the lab would choose transformers; here it is told to take vLLM."""
    with pytest.MonkeyPatch.context() as patch:
        if not ON_GPU:
            own, why = engines.plan_of, "the test asks for it"
            patch.setattr(engines, "choose_engines", lambda settings, machine: engines.Ladder(
                (Choice(TRL_VLLM, why),)))
            patch.setattr(engines, "plan_of", lambda choice, settings: replace(
                own(choice, settings), on_gpu=False))
            patch.setattr(engines, "plan_to_answer", lambda settings, machine: engines.Plan(
                TRL_VLLM, why, 0.2, on_gpu=False))
            for name, value in FOR_A_CPU.items():
                patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def lab(tmp_path_factory, chosen):
    lab = Lab.at(tmp_path_factory.mktemp("vllm"))
    yield lab
    lab.chat.close()
    for folder in lab.workspace.folders():
        lab.jobs.kill(folder.id)


@pytest.fixture(scope="module")
def stopped(lab):
    """A run that was asked a question while it trained, and then to stop."""
    folder = lab.jobs.start(SETTINGS, "stopped")
    until_step(lab, folder, 3)
    lab.jobs.ask(folder.id, QUESTION, seed=5)
    wait_for(lambda: lab.runs.log(folder.id).answers, "an answer")
    lab.jobs.stop(folder.id)
    assert lab.jobs.wait(folder.id).status == "stopped", folder.log.read_text()[-4000:]
    return folder


def test_trl_draws_its_answers_with_vllm_and_says_what_vllm_is_busy_with(lab, stopped):
    log = lab.runs.log(stopped.id)
    facts = log.started.facts
    assert (facts["engine"], facts["rollouts"]) == (TRL_VLLM, "vLLM, colocate")
    assert facts["max_model_len"] == SETTINGS.model.max_seq_length
    assert facts["vllm_share"] == 0.2 and facts["max_num_seqs"] > 0 and not facts["changed"]
    assert log.answers[0].base["text"] and log.answers[0].tuned["text"]
    assert log.newest("seconds/generation") > 0
    # How likely its tokens were is asked of one answer of each group.
    assert 0 < log.newest(DIFFERENCE) < 0.05 and log.newest("entropy/sampled") > 0
    told = [events.read_line(line) for line in stopped.events.read_text().splitlines()]
    phases = [event.text for _, event in filter(None, told) if isinstance(event, events.Phase)]
    assert "Loading the weights into vLLM" in phases and "vLLM is ready" in phases


def test_a_stopped_run_resumes_with_vllm(lab, stopped):
    last = lab.runs.get(stopped.id).step
    lab.jobs.resume(stopped.id, last + 2)
    run = lab.jobs.wait(stopped.id)
    assert (run.status, run.step) == ("finished", last + 2), stopped.log.read_text()[-4000:]


def test_a_preflight_answers_through_vllm(lab):
    result = preflight(lab, SETTINGS, 4)
    assert (result["prompts"], result["answers"], result["engine"]) == (4, 64, TRL_VLLM)
    assert 0.2 < result["distinct"] <= 1  # each answer has a seed of its own
    assert sum(row["signal_share"] for row in result["rewards"].values()) == pytest.approx(1)
    parts = result["step_parts"]
    assert parts["update"] == pytest.approx(0.73 * parts["generation"])  # a documented share


@pytest.mark.skipif(ON_GPU and len(FACTS.gpus) < 2, reason="one GPU")
def test_of_two_processes_each_has_a_vllm_of_its_own(lab):
    folder = lab.jobs.start(SETTINGS.with_values({
        "hardware.num_processes": 2, "train.prompts_per_step": 4, "train.max_steps": 3}), "two")
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished", folder.log.read_text()[-4000:]
    log = lab.runs.log(folder.id)
    assert (log.started.facts["engine"], log.started.facts["processes"]) == (TRL_VLLM, 2)
    assert folder.log.read_text().count("Initializing a V1 LLM engine") == 2


SAME = """
import json, sys, torch
from types import SimpleNamespace
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from vllm import LLM, SamplingParams
from lab.backends.engines.trl_vllm import VllmEngine, as_started

if __name__ == "__main__":
    path, ids = sys.argv[1], list(range(5, 305))  # longer than a block of the prefix cache
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    torch.manual_seed(0)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    llm = LLM(path, dtype="bfloat16", max_model_len=512, max_num_seqs=4, enforce_eager=True,
              gpu_memory_utilization=0.2)

    def of_vllm():
        told = llm.generate([{"prompt_token_ids": ids}],
                            SamplingParams(max_tokens=1, temperature=0, logprobs=5),
                            use_tqdm=False)[0].outputs[0].logprobs[0]
        return {token: entry.logprob for token, entry in told.items()}

    def apart(known):
        with torch.no_grad():
            right = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        return max(abs(float(right[token]) - logprob) for token, logprob in known.items())

    before = apart(of_vllm())
    engine = object.__new__(VllmEngine)
    engine.model, rollouts = model, SimpleNamespace(llm=llm)
    engine.trainer = SimpleNamespace(vllm_generation=rollouts)
    engine.hand_over()
    print(json.dumps({"before": before, "after": apart(of_vllm()), "started": as_started(llm)}))
"""


def test_with_the_merged_weights_vllm_says_what_the_tuned_model_says(tmp_path):
    """The way TRL hands weights over; the engine works in the process that asks, as under TRL."""
    script = tmp_path / "same.py"
    script.write_text(SAME)
    done = subprocess.run([sys.executable, str(script), str(STARTER_FOLDER)], text=True,
                          capture_output=True, env=worker_environment() | {
                              "VLLM_ENABLE_V1_MULTIPROCESSING": "0"})
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["after"] < 0.1 < 0.3 < told["before"], told  # vLLM computes in bf16
    assert told["started"] == {"vllm_share": 0.2, "max_model_len": 512, "max_num_seqs": 4}


def test_base_and_checkpoints_answer_together_in_one_engine(lab, stopped):
    settings = lab.runs.get(stopped.id).settings
    asked = messages(QUESTION, settings.data.system_prompt)
    first, newest = (str(stopped.checkpoint(step)) for step in
                     (stopped.checkpoints()[0], stopped.checkpoints()[-1]))
    both = answers(lab, settings, [Side(asked), Side(asked, newest)])
    engine = engine_of(lab)
    assert answers(lab, settings, [Side(asked), Side(asked, newest)]) == both
    two = answers(lab, settings, [Side(asked, first), Side(asked, newest)])
    assert two[1] == both[1] and two[0]
    assert lab.chat.adapter_effect(settings, stopped.adapter, asked) > 0
    assert engine_of(lab) == engine


def test_vllm_answers_what_the_model_itself_answers(lab, stopped, tmp_path):
    """Base and two adapters, each of which always says one thing, in batches of one to 24.

    On a CPU only one: vLLM's build for CPUs gives the base's tokens the adapter of its last slot.
    """
    settings = lab.runs.get(stopped.id).settings
    asked = [messages(problem.question, settings.data.system_prompt)
             for problem in problems(1, 8, 4_242)]
    sayings = ("<answer>\n7\n</answer>\n", "<answer>\n12\n</answer>\n")
    own, says = taught(asked, sayings if ON_GPU else sayings[:1], tmp_path)
    chosen = [None, *(str(tmp_path / str(place)) for place in range(len(says)))]
    sides = [[Side(question, adapter) for adapter in chosen] for question in asked]
    every = [side for together in sides for side in together]
    texts = answers(lab, settings, every)
    told = [[texts[len(chosen) * row + which] for which in range(len(chosen))]
            for row in range(len(asked))]
    # vLLM computes in bf16: the base may say another word now and then.
    assert sum(said[0] == text for said, text in zip(told, own, strict=True)) >= 5, (told, own)
    assert all(said[1:] == says for said in told), told
    for batch in ([0], [1], [2], [0, 1], [0, 2], [1, 2]):
        if max(batch) < len(chosen):
            found = answers(lab, settings, [sides[0][which] for which in batch])
            assert all(found[place] == says[which - 1] if which else
                       found[place] in (told[0][0], own[0])
                       for place, which in enumerate(batch)), (batch, found)


def taught(asked: list[list[dict]], sayings: tuple[str, ...], out: Path
           ) -> tuple[list[str], list[str]]:
    """Adapters out/0, out/1, ... for the starter, each of which says one of these whatever it is
    asked. Returns what the base answers to each question, and each adapter to all of them."""
    tokenizer = wording.load_tokenizer(str(STARTER_FOLDER))
    prompts = [wording.to_tokens(tokenizer, wording.render(tokenizer, question))
               for question in asked]

    def answer(model, prompt: list[int]) -> str:
        ids = torch.tensor([prompt])
        whole = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
                               max_new_tokens=GREEDY.max_tokens)
        return tokenizer.decode(whole[0, len(prompt):], skip_special_tokens=True)

    own = [answer(plain.load_model(str(STARTER_FOLDER)), prompt) for prompt in prompts]
    says = []
    for place, saying in enumerate(sayings):
        torch.manual_seed(place)
        model = get_peft_model(plain.load_model(str(STARTER_FOLDER)), LoraConfig(
            r=8, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"]))
        end = wording.to_tokens(tokenizer, saying) + [model.generation_config.eos_token_id]
        optimiser = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=2e-3)
        for _ in range(30):
            for prompt in prompts:
                ids = torch.tensor([prompt + end])
                labels = ids.clone()
                labels[:, :len(prompt)] = -100
                model(input_ids=ids, labels=labels).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        model.save_pretrained(out / str(place))
        said = {answer(model, prompt) for prompt in prompts}
        assert len(said) == 1, said
        says += said
    return own, says


@pytest.mark.parametrize("kind", ["missing", "without its settings", "of another model"])
def test_an_adapter_that_cannot_be_used_is_named_and_vllm_lives_on(lab, stopped, tmp_path, kind):
    settings = lab.runs.get(stopped.id).settings
    asked = messages(QUESTION, settings.data.system_prompt)
    fine = answers(lab, settings, [Side(asked)])
    engine, folder = engine_of(lab), tmp_path / "adapter"
    if kind == "without its settings":
        some_adapter(str(STARTER_FOLDER), folder)
        (folder / "adapter_config.json").write_text("{}")
    elif kind == "of another model":
        shapes.make("tiny-llama", tmp_path / "tiny")
        some_adapter(str(tmp_path / "tiny"), folder)
    with pytest.raises(BadModel, match="adapter") as caught:
        answers(lab, settings, [Side(asked, str(folder))])
    assert caught.value.problem.next
    assert answers(lab, settings, [Side(asked)]) == fine
    assert engine_of(lab) == engine


def test_an_answer_can_be_ended_early(lab, stopped):
    settings, stop = lab.runs.get(stopped.id).settings, threading.Event()
    long = replace(GREEDY, temperature=2.0, max_tokens=900)
    last = {}
    for update in lab.chat.stream(settings, [Side(messages("Count.", ""))] * 2, long, 1, stop):
        last[update.side] = update
        stop.set()
    assert len(last) == 2 and all(update.done and update.tokens < 900 for update in last.values())


def test_after_its_engine_was_killed_the_next_question_is_answered(lab, stopped):
    settings = lab.runs.get(stopped.id).settings
    asked = [Side(messages(QUESTION, settings.data.system_prompt))]
    before = answers(lab, settings, asked)
    for process in engine_of(lab):
        psutil.Process(process).kill()
    with pytest.raises(BadModel, match="engine ended") as caught:
        answers(lab, settings, asked)
    assert caught.value.problem.kind == "engine_died"
    assert answers(lab, settings, asked) == before


def engine_of(lab) -> set[int]:
    """Process numbers of the answering worker's vLLM engine."""
    found = {p.pid for p in family(lab.chat._process.pid) if "VLLM" in " ".join(p.cmdline())}
    assert found, "vLLM's engine is a process of its own"
    return found


def test_held_out_questions_are_answered_in_one_batch(lab, stopped):
    result = evaluate(lab.runs.get(stopped.id), n=12)
    assert result["n"] == 12 and result["adapter_live"]
    assert all(answer["base"]["text"] for answer in result["answers"])
