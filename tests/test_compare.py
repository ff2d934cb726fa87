"""Compare with the real answering worker: several sides, what a side is said to be, time-lapse."""

import asyncio
import json
import shutil
import threading
from dataclasses import replace

import gradio as gr
import pytest
import torch
from safetensors.torch import load_file, save_file

from lab.core.adapters import WEIGHTS
from lab.core.insight.votes import LEFT, Tally, identity, tally
from lab.core.problems import LabError, RunError
from lab.core.rewards.scoring import score
from lab.services import lapse, votes
from lab.services.lab import Lab
from lab.ui.compare import record
from lab.ui.compare.blind import record_of
from lab.ui.compare.panes import another, choices, picked_of
from lab.ui.compare.parts import filled
from lab.ui.compare.sides import BASE, BEST, NEWEST
from lab.ui.forms import Form
from lab.ui.tabs.compare import build_tab
from lab.ui.talk import Talk
from tests.test_history import ask_held_out

QUESTION = "Tom has 3 apples. He buys 4 more. How many apples does Tom have now?"


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory):
    """(lab, run) of a copy of a finished run: step 2 damaged, step 4 without effect."""
    other, run_id = finished
    lab = Lab.at(tmp_path_factory.mktemp("compare"))
    shutil.copytree(other.workspace.run(run_id).path, lab.workspace.root / run_id)
    change(lab, run_id, 2, lambda name, weight: torch.full_like(weight, float("nan")))
    change(lab, run_id, 4, lambda name, weight: weight * 0 if "lora_B" in name else weight)
    yield lab, lab.runs.get(run_id)
    lab.chat.close()


def change(lab, run_id, step, made) -> None:
    path = lab.workspace.run(run_id).checkpoint(step) / WEIGHTS
    save_file({name: made(name, weight) for name, weight in load_file(path).items()}, path,
              metadata={"format": "pt"})


def to_its_end(talk: Talk) -> Talk:
    async def whole() -> None:
        async for _ in talk.answers(threading.Event()):
            pass

    asyncio.run(whole())
    talk.over = True
    return talk


def asked(lab, run, *picked, turns=record.NONE, question=QUESTION, **values) -> Talk:
    settings = run.settings.with_values({"sampling.max_tokens": 24} | values)
    return to_its_end(Talk(lab, settings, question, "7", 1, turns, picked))


def test_four_sides_answer_at_once_and_each_is_said_for_what_it_is(run):
    lab, run = run
    talk = asked(lab, run, (BASE, ""), (run.id, NEWEST), (run.id, "2"), (run.id, "4"))
    texts = [update.text for update in talk.updates]
    assert texts[0] == texts[3] != ""  # the same seed, and an adapter without effect
    assert "Base model, no adapter" in talk.in_short(0)
    assert "Adapter of step 6 live" in talk.in_short(1)
    assert "step 2 was not asked. This adapter is damaged." in talk.in_short(2)
    assert "changes nothing" in talk.in_short(3)
    assert "tokens" in talk.in_short(0) and "Total" in talk.in_short(0)
    assert "Total" not in talk.in_short(2) and talk.judged(2) == ""
    assert talk.conversation(2)[-1]["content"] == "(not asked)"
    assert [talk.name(side) for side in (0, 2)] == ["Base model", f"{run.name}, step 2"]

    (turn,) = record.read(record.written(talk.turns()), 4)
    assert turn["answers"] == texts and turn["seed"] == 1 and turn["reference"] == "7"
    assert [side["step"] for side in turn["sides"]] == [None, 6, 2, 4]
    assert turn["sides"][2]["total"] is None and turn["sides"][2]["rewards"] == {}
    scored = score(texts[1], {"answer": "7", "completion_tokens": turn["sides"][1]["tokens"]},
                   run.settings.rewards.chosen)
    assert turn["sides"][1]["rewards"] == scored.rewards
    assert turn["sides"][1]["total"] == scored.total
    assert f"### {run.name}, step 6" in record.markdown(talk.turns())

    more = asked(lab, run, (BASE, ""), (run.id, NEWEST), (run.id, "2"), (run.id, "4"),
                 turns=record.written(talk.turns()), question="And if he eats 2?")
    assert [message["content"] for message in more.prompt(1)][-3:] == [
        QUESTION, texts[1], "And if he eats 2?"]
    assert len(more.turns()) == 2


def test_an_adapter_that_breaks_the_model_without_a_nan_of_its_own_is_said(run, tmp_path):
    lab, run = run
    root = tmp_path / "runs"
    shutil.copytree(run.folder.path, root / run.id)
    huge = replace(Lab.at(root), chat=lab.chat)
    change(huge, run.id, 6, lambda name, weight: torch.full_like(weight, 1e30))
    talk = asked(huge, huge.runs.get(run.id), (BASE, ""), (run.id, "6"),
                 **{"sampling.max_tokens": 4})
    assert "breaks the model" in talk.in_short(1) and "NaN" in talk.in_short(1)
    assert talk.answered(1)["effect"] is None
    json.dumps(talk.turns(), allow_nan=False)


def test_with_nothing_but_damaged_adapters_it_is_an_error(run):
    lab, run = run
    with pytest.raises(LabError, match="This adapter is damaged"):
        asked(lab, run, (run.id, "2"), (run.id, "2"))


def test_a_run_that_nobody_picked_stands_with_its_best_adapter_once_it_has_one(run, tmp_path):
    lab, run = run
    shutil.copytree(run.folder.path, tmp_path / run.id)
    other = Lab.at(tmp_path)
    ask_held_out(other.workspace.run(run.id), {0: 0.1, 4: 0.9, 6: 0.5})
    assert other.runs.get(run.id).best.step == 4
    with gr.Blocks():
        panes = build_tab(other, Form()).panes
    picked = [(BASE, ""), (run.id, NEWEST), (BASE, ""), (BASE, "")]
    assert choices(other, panes, picked, 2, kept=False)[1][1] == (run.id, BEST)
    assert choices(other, panes, picked, 2, kept=True)[1][1] == (run.id, NEWEST)


def test_a_side_that_is_added_is_a_checkpoint_that_is_not_there_yet(run):
    lab, run = run
    assert another(lab, [(BASE, ""), (run.id, NEWEST)]) == (run.id, "4")
    assert another(lab, [(run.id, "4"), (run.id, NEWEST)]) == (run.id, "2")
    assert another(lab, [(run.id, "4"), (run.id, NEWEST), (run.id, "2")]) == (BASE, "")
    values = {f"{side}.{part}": side + part for side in ("left", "right", "third", "fourth")
              for part in ("who", "checkpoint")}
    assert picked_of(values)[3] == ("fourthwho", "fourthcheckpoint")


def test_a_blind_vote_keeps_who_answered_what_they_said_and_how_it_scored(run):
    lab, run = run
    talk = asked(lab, run, (run.id, NEWEST), (BASE, ""))
    talk.hidden = True
    assert talk.in_short(0) == "" and talk.judged(0) == ""
    votes.keep(run.folder, record_of(talk, LEFT))
    (vote,) = votes.of_run(run.folder)
    assert identity(vote["right"]) == ("", "") and vote["left"]["run"] == run.id
    assert vote["left"]["step"] == 6 and len(vote["left"]["adapter"]) == 16
    assert vote["question"] == QUESTION and vote["left"]["text"] == talk.updates[0].text
    assert vote["left"]["rewards"] == talk.scored(0).rewards
    assert tally([vote], identity(vote["left"])) == Tally(won=1)
    run.folder.votes.unlink()


def test_a_time_lapse_asks_each_moment_in_turn_and_goes_on_past_a_damaged_one(run):
    lab, run = run
    wanted, there = lapse.moments(run)
    assert there == 4 and [one and one.step for one in wanted] == [None, 2, 4, 6]
    greedy = run.settings.with_values({"sampling.temperature": 0.0, "sampling.max_tokens": 16})
    talk = Talk(lab, greedy, QUESTION, "7", 1, record.NONE, ((BASE, ""), (run.id, NEWEST)))
    told = (lab.chat, run, wanted, talk.prompt(1), talk.sampling, 1)
    frames = list(lapse.answer(*told, threading.Event()))
    assert [frame.problem and frame.problem.what for frame in frames] == [
        None, "This adapter is damaged.", None, None]
    assert frames[0].text == frames[2].text != ""  # step 4 changes nothing
    assert (frames[0].effect, frames[2].effect) == (None, 0.0) and frames[3].effect > 1e-4
    by_side = asked(lab, run, (BASE, ""), (run.id, NEWEST), **{
        "sampling.temperature": 0.0, "sampling.max_tokens": 16})
    assert [frames[0].text, frames[3].text] == [update.text for update in by_side.updates]

    stop, some = threading.Event(), []
    for frame in lapse.answer(*told, stop):
        some.append(frame)
        stop.set()
    assert len(some) == 1
    shutil.copytree(run.folder.path, lab.workspace.root / "empty")
    shutil.rmtree(lab.workspace.root / "empty" / "checkpoints")
    shutil.rmtree(lab.workspace.root / "empty" / "adapter")
    with pytest.raises(RunError, match="has no adapter yet"):
        lapse.moments(lab.runs.get("empty"))


def test_a_page_is_filled_without_a_word_of_who_is_who_until_the_vote(run):
    lab, run = run
    talk = asked(lab, run, (run.id, NEWEST), (BASE, ""))
    talk.hidden = True
    with gr.Blocks():
        tab = build_tab(lab, Form())
    shown = filled(tab, talk)
    assert "Left answer" in shown[tab.panes[0].strip] and tab.turns not in shown
    words = json.dumps([str(value) for value in shown.values()])
    assert "adapter" not in words.lower() and run.name not in words and "Total" not in words
    talk.hidden = False
    shown = filled(tab, talk, named=True, vote="You preferred it.")
    assert run.name in shown[tab.panes[0].strip] and '"vote"' in shown[tab.turns]
