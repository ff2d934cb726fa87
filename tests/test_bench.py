"""The benchmarks, in small: that of a GPU on a CPU keeps what it measured, estimates are made, a
history is looked at."""

import json
import queue
import random
import re
import subprocess
import sys
from argparse import Namespace

import pytest
import torch

from lab.core.catalog import RECIPES
from lab.core.rewards.scoring import score_all
from lab.core.settings import UNSLOTH
from lab.services import machine
from lab.services.workspace import PROJECT
from tests.bench import apart, gpu, history, measure, memory, shapes, update


def bench(root, *more: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.gpu", "--model", "tiny", "--steps", "6",
         "--answer", "8", "--prompts", "1", "--root", str(root), "--set",
         "train.optim=adamw_torch", *more],
        cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.skipif("unsloth" in machine.versions(), reason="the notebook's side may work here")
@pytest.mark.slow
def test_rows_are_kept_for_the_next_call_and_one_that_would_not_end_in_time_is_not_begun(tmp_path):
    first = bench(tmp_path, "--only", "trl", "notebook")
    assert re.search(r"\| trl \| \d+\.\d+ \|", first), first  # TRL trains on a CPU too
    assert "| notebook | exit status 1 |" in first  # and Unsloth does not: said, not hidden
    later = bench(tmp_path, "--only", "trl", "notebook", "--budget", "5")
    assert "trl ..." not in later and "| trl | " in later
    assert "notebook: left for the next call" in later
    twice = bench(tmp_path, "--only", "trl", "--rounds", "2")
    assert twice.count("trl ...") == 1  # the first round was kept
    assert len(json.loads((tmp_path / "rows.json").read_text())["trl"]["steps"]) == 6 + 3


@pytest.mark.parametrize("case", memory.CASES)
def test_each_case_of_memory_is_estimated_beside_its_measurement(tmp_path, case):
    name = "tiny-llama"
    shapes.make(name, tmp_path / name)
    options = type("Options", (), {"case": case, "steps": 1, "answer": None, "more": [],
                                   "share": None})
    settings = memory.settings_of(options, tmp_path / name, tmp_path, 80.0)
    assert 0 < settings.hardware.gpu_memory_utilization < 0.1
    told = memory.beside({"learning_gb": 2.0, "facts": {"engine": UNSLOTH}}, tmp_path / name,
                         settings, 80.0)
    assert told["estimate_gb"] == pytest.approx(sum(told["parts"].values()), abs=0.02)
    assert told["ratio"] == pytest.approx(told["estimate_gb"] / 2, abs=0.01)
    (table,) = [line for line in gpu.memory_table({case: {
        **told, "share": 0.1, "learning_gb": 2.0, "goal_gb": 1}}) if case in line]
    assert "missed" in table and f"{told['ratio']:.2f}" in table
    assert "ratio" not in memory.beside({"problem": "x", "peak_gb": 0.0}, tmp_path / name,
                                        settings, 80.0)


def test_the_bench_of_a_long_history_looks_at_each_part_of_it(tmp_path, capsys):
    history.make(tmp_path, 0, 20, 4)
    history.measure(tmp_path)
    told = capsys.readouterr().out
    assert told.count("of it") == 8 and "a run opened in Runs" in told


class Answers:
    """In the place of TRL's process that asks a server: answers that lie ready."""

    def __init__(self) -> None:
        self.rollout_buffer, self.metrics_queue = queue.Queue(), queue.Queue()
        self.told: list[int] = []

    def start(self) -> None:
        from trl.experimental.async_grpo.async_rollout_worker import RolloutSample

        draw = random.Random(0)
        for place in range(24):  # two steps, and one that is read ahead
            prompt, length = 10, draw.randrange(8, 20)
            self.rollout_buffer.put(RolloutSample(
                [], [], [draw.randrange(5, 200) for _ in range(prompt + length)],
                [0] * prompt + [1] * length, [0.0] * prompt + [-3.0] * length,
                1.0 if place % 2 else -1.0, 0, place // 4, {"reward": 0.5}))

    def check_health(self, stale_after: float) -> None:
        assert not self.rollout_buffer.empty(), "it wants more answers than its steps take"

    def update_model_version(self, version: int) -> None:
        self.told.append(version)

    def stop(self) -> None:
        pass


class Weights:
    """In the place of a server that takes them."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def send_weights(self, weights) -> None:
        self.taken.append(sum(1 for _ in weights))

    def init_weight_transfer(self) -> None:
        pass

    pause = resume = destroy = init_weight_transfer


def test_the_asynchronous_learner_learns_from_answers_in_one_stream(tmp_path):
    folder = measure.run_folder(tmp_path / "run", RECIPES["starter"].settings().with_values({
        "train.num_generations": 4, "train.prompts_per_step": 2, "train.max_steps": 2,
        "train.answers_at_once": 8, "data.rows": 40, "data.held_out": 0}))
    answers, weights = Answers(), Weights()
    trainer = apart.asynchronous(
        folder, tmp_path / "out", {"rollout_worker": answers, "weight_transfer": weights},
        use_cpu=True, bf16=False, dtype="float32")
    steps = apart.Steps()
    trainer.add_callback(steps)
    trainer.train()
    assert len(steps.seconds) == 2
    assert weights.taken and len(set(weights.taken)) == 1 and answers.told[-1] >= 2
    assert all(float(weight.detach().abs().max()) > 0
               for name, weight in trainer.model.named_parameters() if "lora_B" in name)


def test_answers_of_random_weights_differ_in_the_signal_that_they_are_given(tmp_path):
    tokenizer = shapes.tokenizer_of(shapes.SHAPES["tiny"])
    draw = random.Random(0)
    texts = [tokenizer.decode([draw.randrange(1000) for _ in range(64)]) for _ in range(64)]
    scores = [one.total for one in score_all(texts, [{}] * 64, shapes.SIGNAL["rewards.chosen"])]
    assert all(len(set(scores[at:at + 8])) > 1 for at in range(0, 64, 8))
    options = Namespace(model="tiny", four_bit=False, steps=6, prompts=1, answer=8, share=0.3,
                        graphs="off", compile="off", more=[])
    assert gpu.settings_of(options, tmp_path).rewards.chosen == shapes.SIGNAL["rewards.chosen"]
    real = Namespace(**vars(options) | {"model": str(tmp_path)})
    assert gpu.settings_of(real, tmp_path).rewards == RECIPES["gsm8k"].settings().rewards


def test_a_stream_is_attended_to_as_each_of_its_sequences_alone():
    torch.manual_seed(0)
    sight = apart.sight_of([*range(5), *range(3)], on_gpu=False)
    query, key, value = (torch.randn(1, heads, 8, 4) for heads in (4, 2, 2))
    whole, _ = apart.stream_attention({"now": sight}, None, query, key, value, None, 0.5)
    for one in (slice(0, 5), slice(5, 8)):
        alone = torch.nn.functional.scaled_dot_product_attention(
            query[:, :, one], key[:, :, one], value[:, :, one], is_causal=True, scale=0.5,
            enable_gqa=True)
        torch.testing.assert_close(whole[:, one], alone.transpose(1, 2))


def test_ways_to_learn_take_turns_in_one_process(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["update", "--prompts", "1", "--prompt", "9", "--answer", "5",
                                      "--rounds", "1", "--profile", str(tmp_path)])
    update.main()
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()
            if line.startswith("{")]
    assert [row["way"] for row in told] == ["padded", "packed-peft", "packed"]
    tables = {row["way"]: (tmp_path / f"{row['way']}.txt").read_text() for row in told}
    assert [way for way, table in tables.items() if "AddedLowRank" in table] == ["packed"]
    assert [way for way, table in tables.items() if "LogProbabilities" in table] == [
        "packed-peft", "packed"]
