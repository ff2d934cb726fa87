"""The exported script: its rewards score as the lab's, and it trains as the run did, without the
lab."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from lab.core import events
from lab.core.problems import RunError
from lab.core.rewards.chosen import Chosen, parse_chosen
from lab.core.rewards.registry import REWARDS
from lab.services.export.rewards_source import plain_rewards
from lab.services.export.script import commands_md, script, write_script
from lab.services.export.source import source_of
from lab.services.workspace import STARTER_FOLDER

ONLY_IN_THE_LAB = {"passes_tests", "judge", "math", "choice", "pattern", "json_schema", "python",
                   "reasoning_gym"}


@pytest.mark.parametrize("name", sorted(set(REWARDS) - ONLY_IN_THE_LAB))
def test_a_reward_cut_out_of_the_lab_gives_what_its_examples_say(name):
    text, (entry,) = plain_rewards([Chosen(name)])
    assert "lab." not in text.replace("lab's", "")
    space: dict = {}
    exec(compile(text, name, "exec"), space)
    for completion, columns, expected in REWARDS[name].examples:
        row = {**entry["fallbacks"], **columns, "completion": completion}
        got = space[entry["function"]](*(row[c] for c in entry["columns"]), **entry["params"])
        if got is not None and entry["pays"] is not None:
            got = entry["pays"] * got
        assert got == (expected if expected is None else pytest.approx(expected))


def test_all_of_them_fit_into_one_text_and_parameters_go_along():
    chosen = parse_chosen(",".join(sorted(set(REWARDS) - ONLY_IN_THE_LAB)))
    text, entries = plain_rewards(chosen)
    space: dict = {}
    exec(compile(text, "all", "exec"), space)
    assert len({entry["function"] for entry in entries}) == len(chosen)
    assert all(callable(space[entry["function"]]) for entry in entries)
    _, (soft,) = plain_rewards(parse_chosen("soft_format:multiline=false"))
    assert soft["params"] == {"multiline": False}


@pytest.mark.parametrize("name", sorted(ONLY_IN_THE_LAB))
def test_what_only_the_lab_can_run_is_refused_by_its_name(name):
    with pytest.raises(RunError, match=f"'{name}' cannot be put into a script"):
        plain_rewards([Chosen(name)])


@pytest.fixture(scope="module")
def source(finished):
    lab, run_id = finished
    return source_of(lab.workspace.run(run_id), None)


def trained(source, tmp_path, *more: str) -> tuple[list[dict], dict]:
    """(the points of its log, the adapter's configuration) of the script, run without the lab."""
    write_script(source, tmp_path / "script")
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "train.py", "--model", str(STARTER_FOLDER), "--out",
         str(tmp_path / "out"), *more], cwd=tmp_path / "script", env=env, capture_output=True,
        text=True, check=False)
    assert done.returncode == 0, done.stderr
    points = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").open()]
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    return [one for one in points if "reward" in one], config


def of_the_run(source) -> list[dict]:
    found = [events.read_line(line) for line in source.folder.events.open(encoding="utf-8")]
    return [event.metrics for _, event in filter(None, found) if isinstance(event, events.Step)]


def test_the_script_trains_as_the_run_did(source, tmp_path):
    theirs, config = trained(source, tmp_path)
    ours = of_the_run(source)
    assert len(theirs) == len(ours) == 6
    for name in ("learning_rate",):  # the same schedule, to the last digit
        assert [one[name] for one in theirs] == pytest.approx([one[name] for one in ours])
    # Other random answers to the same questions: 48 answers of a deviation of at most 2.
    mean = {name: sum(one[name] for one in points) / 6 for name, points in (
        ("reward", theirs), ("reward/weighted", ours))}
    assert mean["reward"] == pytest.approx(mean["reward/weighted"], abs=4 * 2 * (2 / 48) ** 0.5)
    names = [one.name for one in source.run.settings.rewards.chosen]
    assert all(f"rewards/{name}/mean" in theirs[0] for name in names)
    assert config["r"] == source.config["r"] and set(config["target_modules"]) == set(
        source.config["target_modules"])


@pytest.mark.slow  # 40 steps of both, for the claim that the script reaches the run's metrics
def test_the_script_reaches_what_the_run_reached(lab, quick, tmp_path):
    settings = quick.with_values({
        "train.max_steps": 40, "train.num_generations": 8, "train.prompts_per_step": 4,
        "train.max_completion_length": 40})
    folder = lab.jobs.start(settings, "long")
    assert lab.jobs.wait(folder.id).status == "finished"
    source = source_of(folder, None)
    theirs, _ = trained(source, tmp_path)
    ours = of_the_run(source)

    def end(points: list[dict], name: str) -> float:
        return sum(one[name] for one in points[-8:]) / 8

    start = sum(one["reward"] for one in theirs[:8]) / 8
    assert end(theirs, "reward") > start + 1
    assert end(theirs, "reward") == pytest.approx(end(ours, "reward/weighted"), abs=0.5)


def test_activations_that_the_lab_kept_by_itself_are_made_again_in_the_script(source):
    """It may run on a smaller GPU, and checkpointing changes no result."""
    for how, told in (("auto", True), ("off", False)):
        settings = source.run.settings.with_values({"lora.gradient_checkpointing": how})
        asked = replace(source, run=replace(source.run, settings=settings))
        assert f"'gradient_checkpointing': {told}" in script(asked)


def test_the_script_names_its_packages_and_what_it_does_not_do(source):
    text = script(source)
    head = text.split("# ///\n")[0]
    assert head.startswith("# /// script\n") and '"trl==' in head and '"torch==' in head
    assert "+cpu" not in head and "unsloth" not in head
    assert "Held-out questions are not asked while it trains" in text
    assert "import lab" not in text and "from lab" not in text
    assert str(source.folder.path.parent) not in text and str(STARTER_FOLDER) not in text


def test_on_a_gpu_with_unsloth_it_is_unsloths_script(source, monkeypatch):
    from lab.services.export import script as made

    monkeypatch.setattr(made, "engine_of", lambda source: "unsloth")
    text = script(source)
    compile(text, "train.py", "exec")
    assert text.index("from unsloth import FastLanguageModel") < text.index("from trl import")
    assert '"vllm' in text and "fast_inference" in text and "'use_vllm': True" in text


def test_a_chat_template_that_the_lab_prepared_goes_along(source, tmp_path):
    assert "CHAT_TEMPLATE = None" in script(source)
    folder = tmp_path / "adapter"
    shutil.copytree(source.adapter.path, folder)
    (folder / "chat_template.jinja").write_text(
        "{%- set enable_thinking = false %}\n{{ messages }}")
    changed = replace(source, adapter=replace(source.adapter, path=folder))
    space: dict = {}
    (line,) = [one for one in script(changed).splitlines() if one.startswith("CHAT_TEMPLATE")]
    exec(line, space)
    assert space["CHAT_TEMPLATE"].startswith("{%- set enable_thinking = false %}")


def test_the_commands_start_it_here_on_several_gpus_and_on_the_hub(source):
    text = commands_md(source)
    for words in ("uv run train.py --model path/to/grpo-lab/assets/starter",
                  "accelerate launch --num_processes 2 --mixed_precision bf16 train.py",
                  "hf jobs uv run --flavor l4x1 --secrets HF_TOKEN train.py", "--data hf://datasets/"):
        assert words in text


def test_without_its_packages_or_model_the_script_says_what_to_give(source, tmp_path):
    write_script(source, tmp_path)
    done = subprocess.run([sys.executable, "-I", "train.py"], cwd=tmp_path, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 2 and "give its path with --model" in done.stderr
