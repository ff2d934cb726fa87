"""The answering worker: streams, stops, switches adapters, survives its own death."""

import json
import os
import shutil
import sys
import threading

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from lab.backends import plain
from lab.core import asked
from lab.core.problems import BadModel, LabError, WorkFailed
from lab.core.prompts import messages
from lab.core.settings import Sampling
from lab.services.chat import Side
from lab.services.environment import worker_environment
from lab.services.evaluate import evaluate
from lab.services.workspace import PROJECT, STARTER_FOLDER
from tests.bench import shapes
from tests.bench.lab_side import some_adapter
from tests.test_training import start_long, wait_for

QUESTION = messages("Tom has 3 apples. He buys 4 more. How many apples does Tom have now?", "")
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=40)
VARIED = Sampling(temperature=1.0, top_p=0.9, max_tokens=40)


@pytest.fixture
def run(finished):
    lab, run_id = finished
    return lab, lab.runs.get(run_id)


def answers(lab, run, sides, sampling=VARIED, seed=1, stop=None) -> dict[int, str]:
    last = {}
    for update in lab.chat.stream(run.settings, sides, sampling, seed, stop or threading.Event()):
        last[update.side] = update
    assert all(update.done for update in last.values())
    return {side: update.text for side, update in last.items()}


def test_the_same_seed_and_adapter_give_the_same_text_on_both_sides(run):
    lab, run = run
    texts = answers(lab, run, [Side(QUESTION), Side(QUESTION)])
    assert texts[0] == texts[1] != ""
    adapter = str(run.folder.adapter)
    assert answers(lab, run, [Side(QUESTION, adapter), Side(QUESTION)])[1] == texts[0]
    assert len({answers(lab, run, [Side(QUESTION)], seed=seed)[0] for seed in range(8)}) > 1


def test_the_adapter_changes_the_logits_and_the_base_does_not(run):
    lab, run = run
    assert lab.chat.adapter_effect(run.settings, run.folder.adapter, QUESTION) > 1e-4


def test_stop_ends_both_sides_early_and_the_next_question_is_answered(run):
    lab, run = run
    stop = threading.Event()
    endless = Sampling(temperature=5.0, top_p=1.0, max_tokens=400)  # too hot to find an end
    seen = []
    sides = [Side(QUESTION), Side(QUESTION, str(run.folder.adapter))]
    for update in lab.chat.stream(run.settings, sides, endless, 3, stop):
        seen.append(update)
        stop.set()
    assert max(u.tokens for u in seen) < 400
    assert answers(lab, run, sides, GREEDY)


def test_a_reader_that_goes_away_does_not_block_the_next(run):
    lab, run = run
    stream = lab.chat.stream(run.settings, [Side(QUESTION)], VARIED, 1, threading.Event())
    next(stream)
    stream.close()
    assert answers(lab, run, [Side(QUESTION)], GREEDY)


def test_follow_up_turns_are_part_of_the_prompt(run):
    lab, run = run
    (first,) = lab.chat.render(run.settings, [QUESTION])
    turns = [*QUESTION, {"role": "assistant", "content": "7"}, {"role": "user", "content": "And?"}]
    (longer,) = lab.chat.render(run.settings, [turns])
    assert longer.text.startswith(first.text) and longer.tokens > first.tokens
    assert "And?" in longer.text


def test_the_shown_prompt_is_the_one_that_was_trained_on(run):
    lab, run = run
    _, groups = lab.runs.log(run.id).groups_at()
    question = groups[0]["columns"]["question"]
    (shown,) = lab.chat.render(
        run.settings, [messages(question, run.settings.data.system_prompt)])
    assert shown.text == groups[0]["prompt"]


def test_a_conversation_longer_than_the_model_is_a_sentence(run):
    lab, run = run
    with pytest.raises(LabError, match="longer than the model allows"):
        answers(lab, run, [Side(messages("apples " * 3000, ""))])


def test_a_missing_adapter_and_one_of_another_model_are_sentences(run, tmp_path):
    lab, run = run
    with pytest.raises(BadModel, match="There is no adapter"):
        answers(lab, run, [Side(QUESTION, str(tmp_path))])
    foreign = tmp_path / "foreign"
    shutil.copytree(run.folder.adapter, foreign)
    config = json.loads((foreign / "adapter_config.json").read_text())
    (foreign / "adapter_config.json").write_text(json.dumps(config | {"r": 4}))
    with pytest.raises(BadModel, match="not of rank 4"):
        answers(lab, run, [Side(QUESTION, str(foreign))])
    wider = {name: torch.cat([weight, weight], dim=-1)  # of a model twice as wide
             for name, weight in load_file(foreign / "adapter_model.safetensors").items()}
    save_file(wider, foreign / "adapter_model.safetensors")
    (foreign / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(BadModel, match="does not fit"):
        answers(lab, run, [Side(QUESTION, str(foreign))])
    assert answers(lab, run, [Side(QUESTION)], GREEDY)


def test_a_worker_that_dies_is_said_and_started_anew(run):
    lab, run = run
    stream = lab.chat.stream(run.settings, [Side(QUESTION)], Sampling(max_tokens=2000), 1,
                             threading.Event())
    next(stream)
    lab.chat._process.kill()
    with pytest.raises(WorkFailed, match="ended"):
        list(stream)
    assert answers(lab, run, [Side(QUESTION)], GREEDY)


# A template that is fine where the lab tries it, and loops for ever, or nearly, on one question.
ENDLESS = ("{% if 'for ever' in messages[-1]['content'] %}{% for a in range(99999) %}"
           "{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
           "{{ messages[-1]['content'] }}")
FOR_EVER = messages("How long is for ever?", "")


@pytest.fixture
def endless(run, tmp_path):
    """The settings of a model with such a template."""
    folder = tmp_path / "endless"
    shutil.copytree(STARTER_FOLDER, folder)
    told = json.loads((folder / "tokenizer_config.json").read_text())
    told.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "chat_template.jinja").write_text(ENDLESS)
    return run[1].settings.with_values({"model.name": str(folder)})


def test_a_template_without_end_is_ended_and_said_and_the_next_is_answered(
        run, endless, monkeypatch):
    lab, run = run
    monkeypatch.setitem(asked.SILENCE, asked.RENDERING, 0.5)
    with pytest.raises(WorkFailed, match="template did not come to an end"):
        lab.chat.render(endless, [FOR_EVER])
    with pytest.raises(WorkFailed, match="template did not come to an end"):
        list(lab.chat.stream(endless, [Side(FOR_EVER)], GREEDY, 1, threading.Event()))
    assert lab.chat.render(run.settings, [QUESTION])[0].tokens


def test_stop_ends_what_does_not_listen_and_a_caller_that_waits(run, endless, monkeypatch):
    lab, run = run
    monkeypatch.setattr(asked, "STOPPED", 0.1)
    stops, said = [threading.Event(), threading.Event()], []

    def ask(place: int) -> None:
        said.append(list(lab.chat.stream(endless, [Side(FOR_EVER)], GREEDY, 1, stops[place],
                                         lambda text: said.append(text))))

    first = threading.Thread(target=ask, args=(0,))
    first.start()
    wait_for(lab.chat._one_at_a_time.locked, "the first to have its turn")
    second = threading.Thread(target=ask, args=(1,))
    second.start()
    stops[1].set()
    second.join()
    assert said == [[]] and first.is_alive()
    worker = lab.chat._process
    stops[0].set()
    first.join()
    assert said[1:] == ["It did not stop by itself, so its worker was ended.", []]
    assert worker.poll() is not None
    assert answers(lab, run, [Side(QUESTION)], GREEDY)


def test_a_model_that_brings_code_along_is_refused_and_not_asked_about(run, tmp_path):
    lab, run = run
    folder = tmp_path / "code"
    shutil.copytree(STARTER_FOLDER, folder)
    for name, key in (("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")):
        told = json.loads((folder / name).read_text())
        own = ["own.Own", None] if key == "AutoTokenizer" else "own.Own"
        told |= {"auto_map": {key: own}, "model_type": "own", "tokenizer_class": "Own"}
        (folder / name).write_text(json.dumps(told))
    (folder / "own.py").write_text("raise SystemExit('it ran')\n")
    settings = run.settings.with_values({"model.name": str(folder)})
    with pytest.raises(LabError) as error:
        lab.chat.render(settings, [QUESTION])
    assert "it ran" not in str(error.value)
    assert lab.chat.render(run.settings, [QUESTION])[0].tokens


# As `python -m lab.worker`, but so many loads of a model fail as vLLM does beside another start.
IN_MOTION = """
import sys
from pathlib import Path
from lab import worker
from lab.backends import plain

left, own = Path(sys.argv[1]), plain.load_model

def load_model(*told):
    count = int(left.read_text())
    left.write_text(str(count - 1))
    if count > 0:
        raise RuntimeError("Error in memory profiling. Initial free memory 73.35 GiB, ...")
    return own(*told)

plain.load_model = load_model
sys.exit(worker.main(sys.argv[4:]))
"""


@pytest.fixture
def in_motion(tmp_path, monkeypatch, anew):
    """A function that makes the next so many loads of a model fail."""
    script, left, python = tmp_path / "worker.py", tmp_path / "left", tmp_path / "python"
    script.write_text(IN_MOTION)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "{left}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    return lambda count: left.write_text(str(count))


@pytest.mark.slow  # five new processes
@pytest.mark.skipif(os.name == "nt", reason="a script cannot stand for python there")
def test_an_engine_that_met_memory_in_motion_is_started_once_more(run, in_motion):
    lab, run = run
    lab.chat.close()
    in_motion(1)
    said = []
    told = list(lab.chat.stream(run.settings, [Side(QUESTION)], GREEDY, 1, threading.Event(),
                                said.append))
    assert told[-1].done and told[-1].text
    assert "vLLM could not measure the GPU's memory. It is tried once more." in said
    in_motion(1)
    assert evaluate(run, n=4)["n"] == 4
    in_motion(2)
    with pytest.raises(WorkFailed, match="try again") as error:
        evaluate(run, n=4)
    assert error.value.problem.is_passing
    lab.chat.close()


def test_an_adapter_of_another_model_is_known_by_its_layers(run, tmp_path):
    starter = str(STARTER_FOLDER)
    plain.check_adapter(starter, run[1].folder.adapter)
    shapes.make("tiny-llama", tmp_path / "tiny")
    other = some_adapter(str(tmp_path / "tiny"), tmp_path / "other")
    plain.check_adapter(str(tmp_path / "tiny"), other)
    with pytest.raises(BadModel, match="does not fit the model.*has 512 values where .* has 256"):
        plain.check_adapter(starter, other)
    with pytest.raises(BadModel, match="does not fit the model"):
        plain.check_adapter(str(tmp_path / "tiny"), run[1].folder.adapter)
    (other / "adapter_model.safetensors").write_bytes(b"half a file")
    with pytest.raises(BadModel, match="cannot be read"):
        plain.check_adapter(starter, other)


def test_workers_wait_without_spinning_unless_the_person_set_how(run, monkeypatch):
    lab, run = run
    answers(lab, run, [Side(QUESTION)], GREEDY)
    assert psutil.Process(lab.chat._process.pid).environ()["OMP_WAIT_POLICY"] == (
        os.environ.get("OMP_WAIT_POLICY", "PASSIVE"))
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert worker_environment()["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert worker_environment()["OMP_WAIT_POLICY"] == "ACTIVE"


@pytest.mark.skipif(sys.platform != "linux", reason="it counts the threads of libgomp")
def test_while_a_run_trains_half_the_threads_answer_and_all_again_when_it_has_ended(lab, quick):
    settings = quick.with_values({"hardware.threads": 4})

    def threads() -> int:
        list(lab.chat.stream(settings, [Side(QUESTION)], GREEDY, 1, threading.Event()))
        return psutil.Process(lab.chat._process.pid).num_threads()

    alone = threads()
    folder = start_long(lab, quick)
    assert threads() == alone - 2
    lab.jobs.kill(folder.id)
    lab.jobs.wait(folder.id)
    assert threads() == alone
