"""The commands as a person runs them: real processes, exit status, JSON, Ctrl-C."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lab.cli import main
from lab.commands.shown import better_one, print_json
from lab.core import events
from lab.core.insight.held_out import Best
from lab.services.run_log import RunLog
from lab.services.workspace import PROJECT
from tests.conftest import QUICK
from tests.test_training import wait_for

SETS = [word for key, value in QUICK.items() for word in ("--set", f"{key}={value}")]


def lab(*arguments, **more) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "lab", *map(str, arguments)], cwd=PROJECT,
                          capture_output=True, text=True, **more)


def last_object(done: subprocess.CompletedProcess) -> dict:
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_train_json_ends_with_the_object_of_the_contract(tmp_path):
    done = lab("train", "--root", tmp_path, "--steps", 2, "--name", "from here", *SETS[:-4],
               "--json")
    assert done.returncode == 0, done.stderr
    told = last_object(done)
    assert set(told) == {"run", "folder", "status", "steps", "reward_first", "reward_last",
                         "seconds"}
    assert told["status"] == "finished" and told["steps"] == 2
    assert Path(told["folder"]).parent == tmp_path and told["run"].endswith("-from-here")


def test_ctrl_c_stops_after_the_step_and_says_how_to_resume(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "lab", "train", "--root", str(tmp_path), *SETS,
         "--steps", "5000"], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,  # a suite in the background ignores Ctrl-C, and its children would too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    found = wait_for(lambda: list(tmp_path.glob("*/events.jsonl")) or process.poll() is not None,
                     "the run's folder")
    log = RunLog(found[0])
    wait_for(lambda: len(log.refresh().steps) >= 2, "two steps")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Stopping after this step" in err
    assert f"python -m lab train --resume {found[0].parent.name}" in out
    assert isinstance(log.refresh().last, events.Stopped)
    assert (found[0].parent / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("arguments, code, words", [
    (["train", "--set", "train.lr=1"], 2, "There is no setting 'train.lr'"),
    (["train", "--set", "train.num_generations=1"], 2, "must be at least 2"),
    (["train", "--set", "model.load_in_4bit=true"], 2, "needs a GPU"),
    (["train", "--set", "rewards.chosen=int:weight=0"], 2, "All weights are 0"),
    (["train", "--set", "rewards.chosen=int:weight=nan"], 2, "finite"),
    (["train", "--set", "rewards.chosen=int:weight=-1"], 2, "at least 0"),
    (["train", "--recipe", "notebook"], 2, "no CUDA device was found"),
    (["train", "--settings", "/no/such.json"], 2, "cannot be read"),
    (["train", "--resume", "nothing"], 1, "There is no run 'nothing'"),
    (["train", "--resume", ""], 2, "--resume needs the id of a run"),
    (["train", "--resume", "", "--steps", "2"], 2, "--resume needs the id of a run"),
    (["train", "--resume", "x", "--set", "train.beta=1"], 2, "keeps its settings"),
    (["eval", "nothing"], 1, "There is no run"),
    (["export", "nothing", "--out", "x.zip"], 1, "There is no run"),
    (["doctor", "nothing"], 1, "There is no run"),
    (["doctor", ""], 1, "There is no run"),
    (["score", "/no/such.jsonl"], 1, "There is no file"),
    (["score", "x.jsonl", "--rewards", "nope"], 2, "There is no reward 'nope'"),
    (["frobnicate"], 2, "invalid choice"),
    ([], 2, "required"),
])
def test_wrong_use_and_failed_work_are_told_apart(tmp_path, arguments, code, words):
    done = lab(*arguments, *(["--root", tmp_path] if len(arguments) > 1 else []))
    assert done.returncode == code, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == [] or [p.name for p in tmp_path.iterdir()] == [".start.lock"]


def test_an_unwritable_root_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    done = lab("train", "--root", tmp_path / "file" / "runs")
    assert done.returncode == 1 and "cannot be written" in done.stderr


def test_score_gives_rewards_totals_and_errors_of_each_row(tmp_path):
    rows = [
        {"completion": "<reasoning>\n2 + 2 = 4\n</reasoning>\n<answer>\n4\n</answer>\n",
         "answer": "4"},
        {"completion": "4", "answer": "5"},
        {"completion": "4"},
    ]
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = lab("score", file, "--json")
    assert done.returncode == 0, done.stderr
    first, second, third = last_object(done)["rows"]
    assert first["total"] == pytest.approx(4.0) and first["errors"] == {}
    assert second["rewards"]["correctness"] == 0 and second["total"] == pytest.approx(0.5)
    assert third["rewards"]["correctness"] is None and "answer" in third["errors"]["correctness"]
    weighed = last_object(lab("score", file, "--rewards", "correctness:weight=0.5,int", "--json"))
    assert weighed["rows"][0]["total"] == pytest.approx(1.5)


ANSWER = "<reasoning>\nline\u2028line\x85\n</reasoning>\n<answer>\n72\n</answer>\n"


@pytest.mark.parametrize("name, content", [
    ("a.jsonl", json.dumps({"completion": ANSWER, "answer": "72"}, ensure_ascii=False)),
    ("bom.JSONL", "\ufeff" + json.dumps({"completion": ANSWER, "answer": "72"})),
    ("a.csv", f'completion;answer\n"{ANSWER}";72\n'),
    ("a.json", json.dumps([{"completion": ANSWER, "answer": "72"}])),
    ("turns.json", json.dumps({"completion": [[{"role": "assistant", "content": ANSWER}]],
                               "answer": ["72"]})),
    ("parts.jsonl", json.dumps({"completion": [{"role": "assistant", "content": [
        {"type": "text", "text": ANSWER}]}], "answer": "72"})),
])
def test_score_takes_every_kind_of_file(name, content, tmp_path, capsys):
    file = tmp_path / name
    file.write_bytes(content.encode())
    assert main(["score", str(file), "--json"]) == 0
    scored = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert [row["total"] for row in scored] == [pytest.approx(4.0)]


@pytest.mark.parametrize("text, words", [
    ("", "is empty"), ("{", "line 1"), ("[1]", "not an object"),
    ('{"answer": "4"}', "no text in 'completion'"),
    ('{"completion": [{"role": "user"}]}', "no text in 'completion'")])
def test_score_names_the_line_that_is_wrong(text, words, tmp_path, capsys):
    file = tmp_path / "answers.jsonl"
    file.write_text(text)
    assert main(["score", str(file)]) == 1 and words in capsys.readouterr().err


def test_eval_compares_base_and_tuned(finished):
    space, run_id = finished
    done = lab("eval", run_id, "--root", space.workspace.root, "--n", 10, "--json")
    assert done.returncode == 0, done.stderr
    told = last_object(done)
    assert told["n"] == 10 and told["adapter_live"] is True
    assert told["wins"] + told["losses"] + told["ties"] == 10
    for side in ("base", "tuned"):
        assert set(told[side]) >= {"reward", "rewards", "accuracy"}
    for gap in told["difference"].values():
        assert gap["low"] <= gap["mean"] <= gap["high"] and 0 < gap["p"] <= 1
    assert told["difference"]["reward"]["mean"] == pytest.approx(
        told["tuned"]["reward"] - told["base"]["reward"])
    again = last_object(lab("eval", run_id, "--root", space.workspace.root, "--n", 10, "--json",
                            "--checkpoint", 2))
    assert again["base"] == told["base"]


def test_export_writes_a_zip_and_runs_and_doctor_tell_of_the_run(finished, tmp_path):
    space, run_id = finished
    root = space.workspace.root
    out = tmp_path / "lora.zip"
    done = lab("export", run_id, "--root", root, "--as", "adapter", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {
        Path(name).name for name in zipfile.ZipFile(out).namelist()}
    told = last_object(done)
    assert told["path"] == str(out) and told["bytes"] == out.stat().st_size
    assert told["check"].keys() == {"n", "parity", "max_logit_difference", "how"}
    assert told["check"]["n"] == 16 and told["check"]["parity"] == 1.0
    assert told["check"]["max_logit_difference"] < 1e-3 and "peft" in told["check"]["how"]
    (run,) = last_object(lab("runs", "--root", root, "--json"))["runs"]
    assert run["run"] == run_id and run["status"] == "finished"
    told = last_object(lab("doctor", run_id, "--root", root, "--json"))
    assert told["status"] == "finished" and told["damaged_lines"] == 0
    machine = last_object(lab("doctor", "--root", root, "--json"))
    assert machine["stack"]["value"] == "cpu" and machine["missing"] == []


def test_the_best_checkpoint_is_named_where_the_newest_is_taken_unasked(finished):
    space, run_id = finished
    run = space.runs.get(run_id)
    other = dataclasses.replace(run, best=Best(2, "step 2 · held-out 60 %"))
    assert "step 2 · held-out 60 %. Take it with --checkpoint best" in better_one(other, None, 6)
    assert better_one(other, "newest", 6) == better_one(other, "2", 2) == ""
    assert better_one(other, None, 2) == ""
    assert better_one(dataclasses.replace(run, best=None), None, 6) == ""


DEEP = 100_000


@pytest.mark.parametrize(("arguments", "content", "code", "words"), [
    (["score", "{file}"], '{"completion": "a", "answer": %s}' % (DEEP * "[" + DEEP * "]"), 1,
     "nested|deep"),
    (["score", "{file}"], '{"completion": %s}' % (900 * "[" + 900 * "]"), 1, ""),
    (["train", "--settings", "{file}"], DEEP * '{"data":' + "1" + DEEP * "}", 2, "cannot be read"),
    (["train", "--settings", "{file}"], '{"data":' * 900 + "1" + "}" * 900, 2, ""),
    (["train", "--set", "rewards.chosen=" + DEEP * "[" + DEEP * "]"], "", 2, ""),
    (["train", "--name", "a\udcff"], "", 2, "is no text"),
    (["train", "--set", "data.system_prompt=a\udcff"], "", 2, "is no text"),
])
def test_what_is_nested_too_deep_or_no_text_is_a_sentence_and_leaves_nothing(
        tmp_path, capsys, arguments, content, code, words):
    (tmp_path / "given.json").write_text(content)
    root = [] if arguments[0] == "score" else ["--root", str(tmp_path / "runs")]
    filled = [a.replace("{file}", str(tmp_path / "given.json")) for a in arguments]
    assert main([*filled, *root]) == code
    assert re.search(words, capsys.readouterr().err)
    runs = tmp_path / "runs"
    assert not runs.exists() or not [p for p in runs.iterdir() if p.is_dir()]


def test_json_has_no_nan_and_no_infinity(capsys):
    print_json({"a": [float("nan"), 1.5, (float("inf"),)], "b": {"c": -float("inf")}, "d": "NaN"})
    told = capsys.readouterr().out
    assert json.loads(told, parse_constant=pytest.fail) == {
        "a": [None, 1.5, [None]], "b": {"c": None}, "d": "NaN"}
    for file in (PROJECT / "lab" / "commands").glob("*.py"):  # it is the only way out
        assert file.name == "shown.py" or "json.dumps" not in file.read_text(), file
