"""The forecast of a run's time: what it is counted from, and that real steps take it."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from lab.core.catalog import RECIPES, known_model
from lab.core.hardware.forecast import Speed, forecast
from lab.core.hardware.forecast_gpu import CARDS, card_named, forecast_gpu, leaving_out_pays
from lab.core.hardware.machine import Gpu
from lab.core.settings import TRL, TRL_VLLM, UNSLOTH
from lab.core.words import duration
from lab.services import forecasts, machine, preflight_record
from lab.services.forecasts import forecast_of, in_words, speed_of

SPEED = Speed(60.0, 30.0, 10.0, 0.3, 2e-4)
SMALL = known_model("HuggingFaceTB/SmolLM2-135M-Instruct").shape

@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "grpo-lab" / "speed.json"

@pytest.fixture
def facts(tmp_path):
    return machine.look(tmp_path)

def seconds(changes: dict | None = None, shape=SMALL, speed: Speed = SPEED, **lengths) -> float:
    settings = RECIPES["starter"].settings().with_values(changes or {})
    return forecast(shape, settings, speed, **lengths).step

def test_more_work_takes_longer_and_a_faster_machine_less():
    base = seconds()
    assert seconds({"train.num_generations": 16}) > 1.5 * base
    assert seconds({"train.max_completion_length": 160}) > 1.3 * base
    assert seconds({"lora.gradient_checkpointing": "on"}) > base
    assert seconds({"train.beta": 0.1}) > base
    assert seconds({"train.num_iterations": 2}) < base  # each step has half of the drawing
    assert seconds(speed=Speed(120.0, 60.0, 20.0, 0.6, 1e-4)) < 0.7 * base
    assert seconds(shape=known_model("starter").shape) < base / 5
    assert seconds(mean=10, longest=20) < seconds(mean=40, longest=80)

def test_answers_are_never_taken_to_be_longer_than_they_may_be():
    assert seconds(mean=500, longest=900) == seconds(mean=80, longest=80)

def test_the_run_is_its_steps_and_its_held_out_questions():
    settings = RECIPES["starter"].settings()
    told = forecast(SMALL, settings, SPEED)
    steps = settings.train.max_steps
    assert told.run == pytest.approx(steps * told.step * 1.1)  # and what is asked on the way
    often = forecast(SMALL, settings.with_values(
        {"train.eval_steps": 10, "train.eval_questions": 64}), SPEED)
    assert often.run == pytest.approx(steps * told.step + often.evaluating)
    assert 5 * told.drawing < often.evaluating < 20 * told.drawing  # eight times 64 answers

def test_the_machine_is_measured_once_and_believed_for_a_week(cache):
    first = speed_of(1, "any")
    assert min(vars(first).values()) > 0
    kept = json.loads(cache.read_text())
    (key, told), = kept.items()
    assert "1 threads" in key
    told |= {"gflops": 12345.0, "beside": 0.0, "when": time.time() - 86_400}
    cache.write_text(json.dumps(kept))
    assert speed_of(1, "any").gflops == 12345.0
    told["when"] = time.time() - 8 * 86_400
    cache.write_text(json.dumps(kept))
    assert speed_of(1, "any").gflops < 12345.0

def test_what_was_measured_while_others_took_the_cores_is_not_believed_for_long(cache):
    cores = psutil.cpu_count()
    speed_of(1, "any")
    kept = json.loads(cache.read_text())
    (told,) = kept.values()
    assert 0 <= told["beside"] <= cores + 0.5
    for beside, minutes, believed in ((cores, 1, True), (cores, 20, False), (0.1, 20, True)):
        told |= {"gflops": 12345.0, "beside": beside, "when": time.time() - 60 * minutes}
        cache.write_text(json.dumps(kept))
        assert (speed_of(1, "any").gflops == 12345.0) is believed

def test_a_measurement_knows_what_others_take_meanwhile(cache):
    with subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"],
                          stdout=subprocess.PIPE) as other:
        other.stdout.readline()  # from here on it takes what it gets
        speed_of(1, "any")
        other.kill()
    (told,) = json.loads(cache.read_text()).values()
    assert told["beside"] > 0.3

@pytest.mark.parametrize("text", ["[", '{"x": 1}', "[1]"])
def test_a_damaged_cache_is_no_measurement(cache, text):
    cache.parent.mkdir(parents=True)
    cache.write_text(text)
    assert speed_of(1, "any").gflops > 0
    assert list(json.loads(cache.read_text()))[-1].endswith("torch any")


def test_a_measurement_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        Speed.from_dict(vars(SPEED) | {"call": 0})
    with pytest.raises(KeyError):
        Speed.from_dict({"gflops": 1.0})

def test_nothing_is_told_where_nothing_is_known(cache, facts, lab):
    settings = RECIPES["starter"].settings()

    gpu = replace(facts, gpus=(Gpu("Some other card", 80.0, 79.0, "580", 9.0),),
                  packages=facts.packages | {"torch": "2.11.0"})
    assert forecast_of(settings, gpu, lab.workspace) is None
    assert forecast_of(settings.with_values({"model.name": "no/such-model"}), facts,
                       lab.workspace) is None
    assert forecast_of(settings.with_values({"hardware.num_processes": 2}), facts,
                       lab.workspace) is None
    assert not cache.exists()  # and nothing was measured for it

BIG = {"model.load_in_4bit": False, "train.prompts_per_step": 4, "train.num_generations": 8,
       "train.answers_at_once": 32, "train.max_completion_length": 256,
       "lora.gradient_checkpointing": "on"}
ALL, PARTS = {}, {"lora.gradient_checkpointing": "off"}
MEASURED = (  # model, recipe, settings, engine, tokens of answers and prompt, seconds (docs/gpu.md)
    ("Qwen/Qwen2.5-1.5B-Instruct", "notebook", BIG, TRL_VLLM, (256, 256, 70), (1.1, 0.55)),
    ("Qwen/Qwen2.5-1.5B-Instruct", "notebook", BIG | PARTS, TRL_VLLM, (256, 256, 70), (1.1, 0.42)),
    ("Qwen/Qwen2.5-1.5B-Instruct", "notebook", BIG | {
        "train.prompts_per_step": 16, "train.answers_at_once": 128}, TRL_VLLM, (256, 256, 70),
     (1.1, 1.15)),
    ("meta-llama/Llama-3.1-8B-Instruct", "notebook", BIG, TRL_VLLM, (256, 256, 70), (1.93, 0.97)),
    ("Qwen/Qwen2.5-1.5B-Instruct", "notebook", BIG, UNSLOTH, (256, 256, 100), (1.06, 0.72)),
    ("Qwen/Qwen2.5-0.5B-Instruct", "gsm8k-small", ALL, TRL_VLLM, (218, 400, 150), (2.5, 1.42)),
    ("Qwen/Qwen2.5-0.5B-Instruct", "gsm8k-small", ALL, TRL_VLLM, (0, 0, 100), (2.5, 1.42)),
)


@pytest.mark.parametrize(("model", "recipe", "changes", "engine", "lengths", "took"), MEASURED)
def test_steps_on_a_gpu_took_half_to_twice_the_forecast(
        model, recipe, changes, engine, lengths, took):
    settings = RECIPES[recipe].settings().with_values(changes)
    told = forecast_gpu(known_model(model).shape, settings, engine,
                        card_named("NVIDIA H100 80GB HBM3"), *lengths)
    assert 0.5 < told.step / sum(took) < 2
    assert 0.4 < told.drawing / took[0] < 2.5 and 0.4 < told.learning / took[1] < 2.5


def test_the_run_of_the_recipe_took_about_its_forecast_and_a_slower_card_takes_longer():
    settings, shape = RECIPES["gsm8k-small"].settings(), known_model(
        "Qwen/Qwen2.5-0.5B-Instruct").shape
    cards = [card_named(name) for name in (
        "NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "NVIDIA L4", "Tesla T4")]
    runs = [forecast_gpu(shape, settings, TRL_VLLM, card, 218, 400, 150).run for card in cards]
    assert 0.5 < runs[1] / 786 < 2  # from Start to the end, with its held-out questions
    assert runs == sorted(runs)


@pytest.mark.parametrize("engine", [UNSLOTH, TRL_VLLM, TRL])
def test_more_work_takes_longer_on_a_gpu_too(engine):
    settings = RECIPES["gsm8k-small"].settings()
    card, shape = card_named("NVIDIA A100"), known_model("Qwen/Qwen2.5-0.5B-Instruct").shape

    def step(changes: dict | None = None, **lengths) -> float:
        return forecast_gpu(shape, settings.with_values(changes or {}), engine, card,
                            **lengths).step

    assert step({"train.num_generations": 16}) > 1.1 * step()
    assert step({"train.max_completion_length": 800}) > 1.3 * step()
    assert step({"train.answers_at_once": 8}) > step()  # more launches
    assert step({"train.beta": 0.1}) > step()
    assert step({"train.num_iterations": 2}) < step()
    assert step(mean=50, longest=100) < step(mean=200, longest=390)


def test_a_gpu_that_is_known_is_told_of(cache, facts, lab):
    gpu = replace(facts, gpus=(Gpu("NVIDIA H100 80GB HBM3", 80.0, 79.0, "580", 9.0),),
                  packages=facts.packages | {"torch": "2.11.0+cu130"})
    settings = RECIPES["gsm8k-small"].settings()
    told = forecast_of(settings, gpu, lab.workspace)
    assert told is not None and "for the run" in in_words(told)
    assert not cache.exists()  # the CPU was not measured for it


def test_lengths_are_those_of_the_newest_preflight_of_the_same_task(lab):
    settings = RECIPES["starter"].settings()
    assert forecasts.lengths_of(settings, lab.workspace)[:2] == (20, 40)  # of the catalogue
    preflight_record.keep(lab.workspace, settings, {
        "tokens": {"mean": 11.0, "max": 30}, "prompt_tokens": {"p50": 54}})
    assert forecasts.lengths_of(settings, lab.workspace) == (11.0, 30, 54)
    other = settings.with_values({"data.level": 3})
    assert forecasts.lengths_of(other, lab.workspace)[:2] == (20, 40)
    unknown = settings.with_values({"model.name": "a/b"})
    assert forecasts.lengths_of(unknown, lab.workspace)[:2] == (0, 0)

def test_it_says_what_it_took_for_granted():
    settings = RECIPES["starter"].settings()
    assert "if its answers have about 48 tokens" in in_words(forecast(SMALL, settings, SPEED))
    assert "if its" not in in_words(forecast(SMALL, settings, SPEED, 20, 40))
    assert [duration(s) for s in (2.31, 42.4, 320.0, 9000.0)] == [
        "2.3 s", "42 s", "5 min", "2 h 30 min"]

@pytest.mark.slow
def test_the_starters_steps_take_what_was_said_within_a_factor_of_two(cache, facts, lab):
    settings = RECIPES["starter"].settings().with_values({"train.max_steps": 12})
    told = forecast_of(settings, facts, lab.workspace)
    folder = lab.jobs.start(settings)
    lab.jobs.wait(folder.id)
    took = sorted(lab.runs.log(folder.id).curves()["seconds/step"])[6]
    assert took / 2 < told.step < took * 2


def test_a_pass_more_is_worth_it_for_many_tokens_large_models_and_slow_cards():
    small, large = (known_model(name).shape for name in (
        "Qwen/Qwen2.5-1.5B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"))
    h100, t4 = CARDS["H100"], CARDS["T4"]
    assert not leaving_out_pays(small, h100, 5_000, 1)
    assert leaving_out_pays(small, h100, 15_000, 1) and leaving_out_pays(small, h100, 5_000, 2)
    assert leaving_out_pays(large, h100, 5_000, 1) and leaving_out_pays(small, t4, 8_000, 1)
    assert not leaving_out_pays(small, t4, 0, 2)
