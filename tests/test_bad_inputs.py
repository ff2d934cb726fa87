"""300 bad inputs through the commands a person types: each is refused in a sentence or taken for
what it is, nothing of ours is raised, and no run is lost.

Sound files are spoilt at random, the same way each time: cut, bytes changed, values exchanged,
names that do not exist. Readers have such tests of their own; here it is the whole way, from the
arguments to the exit status.
"""

import csv
import gzip
import hashlib
import io
import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from lab.cli import main
from lab.commands.shown import DONE, FAILED, WRONG_USE
from lab.core.problems import UNKNOWN
from lab.services.workspace import STARTER_FOLDER
from tests.conftest import QUICK

pytestmark = pytest.mark.workers

ROWS = [{"question": f"What is {n} + {n + 1}?", "answer": str(2 * n + 1), "hint": None,
         "completion": f"<reasoning>\nsum\n</reasoning>\n<answer>\n{2 * n + 1}\n</answer>\n"}
        for n in range(12)]
WEIRD = [None, True, 0, -1, 10**30, 1e308, float("nan"), float("inf"), "", " ", "\0", "\ud800",
         "é" * 300, "{{ x }}", "{question", "}{", "../..", "%s", "<think>", [], {}, [[]], [None],
         {"a": {"a": {"a": 1}}}, ["x"] * 50, "[" * 3000, "9" * 5000, "-0", "1e999", "\u2028"]
NAMES = ["nothing", "..", "../x", "/", "", " ", "-", "a/b", "\0", "\ud800", "x" * 300, "CON",
         "a\nb", "*", "~nobody", "$HOME", "%00", "'", '"', "base", "best"]


def as_csv(mark: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ROWS[0]), delimiter=mark)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


def as_lines() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def as_parquet() -> bytes:
    told = io.BytesIO()
    pd.DataFrame(ROWS).to_parquet(told)
    return told.getvalue()


TABLES = {"a.csv": as_csv(), "a.tsv": as_csv("\t"), "a.json": json.dumps(ROWS).encode(),
          "a.jsonl": as_lines(), "a.parquet": as_parquet(), "a.csv.gz": gzip.compress(as_csv())}


def spoilt(content: bytes, dice: random.Random) -> bytes:
    """Cut, changed, doubled, or with something foreign in it."""
    for _ in range(dice.randint(1, 3)):
        place = dice.randrange(len(content) + 1)
        before, after = content[:place], content[place:]
        content = dice.choice([
            before, after, content + content, content.decode("latin-1").encode("utf-16"),
            before + dice.randbytes(dice.randint(1, 40)) + after,
            before + dice.choice([b"\0", b'"', b"{", b"]", b"\xff\xfe", b"\xef\xbb\xbf", b"\n\n",
                                  b"sep=;\n", b",", b"\\", b"NaN", b"{{", b"'''"]) + after])
    return content


def exchanged(tree, dice: random.Random):
    """The JSON value with some of what is in it exchanged for something strange."""
    if isinstance(tree, dict) and tree and dice.random() < 0.9:
        key = dice.choice(list(tree))
        return {k: exchanged(v, dice) if k == key else v for k, v in tree.items()
                if k != key or dice.random() < 0.9}
    if isinstance(tree, list) and tree and dice.random() < 0.7:
        at = dice.randrange(len(tree))
        return [exchanged(v, dice) if n == at else v for n, v in enumerate(tree)]
    return dice.choice(WEIRD)


def text_of(tree) -> bytes:
    return json.dumps(tree).encode()


def a_table(dice, folder, runs):
    name = dice.choice(list(TABLES))
    path = folder / (name if dice.random() < 0.8 else f"a{dice.choice(list(TABLES))[1:]}")
    path.write_bytes(spoilt(TABLES[name], dice))
    if dice.random() < 0.4:
        return ["score", path]
    return ["data", "--set", "data.source=file", "--set", f"data.path={path}",
            "--left-out", folder / "left.csv"]


def some_rows(dice, folder, runs):
    rows = [exchanged(row, dice) if dice.random() < 0.5 else row for row in ROWS]
    path = folder / "a.jsonl"
    path.write_bytes(b"".join(text_of(row) + b"\n" for row in rows))
    return ["score", path] if dice.random() < 0.5 else [
        "data", "--set", "data.source=file", "--set", f"data.path={path}"]


def a_mapping(dice, folder, runs):
    path = folder / "a.jsonl"
    path.write_bytes(as_lines())
    field = dice.choice(["data.question", "data.answer", "data.template", "data.extract",
                         "data.config", "data.split", "data.leave_out", "data.tasks",
                         "data.system_prompt", "model.chat_template_kwargs"])
    value = dice.choice([*map(str, WEIRD), *NAMES, "{question} {nothing}", "{question!r:>{width}}",
                         "{0}", "{}", "{question.__class__}", "{question[0]}", "question,answer"])
    return ["data", "--set", "data.source=file", "--set", f"data.path={path}",
            "--set", f"{field}={value}"]


def a_setting(dice, folder, runs):
    # All settings are looked at before the data, which is not there: no run begins.
    never = ["--set", "data.source=file", "--set", f"data.path={folder / 'nothing.csv'}"]
    if dice.random() < 0.5:
        key = dice.choice([*QUICK, "rewards.chosen", "model.name", "lora.begin_from",
                           "data.hub_id", "sampling.top_p", "train.loss_type"])
        value = dice.choice([*map(str, WEIRD), *NAMES])
        return ["train", "--set", f"{key}={value}", *never]
    told = json.loads((runs.root / runs.id / "settings.json").read_text())
    path = folder / "settings.json"
    content = text_of(exchanged(dice.choice([told, told["settings"]]), dice))
    path.write_bytes(content if dice.random() < 0.7 else spoilt(content, dice))
    return ["train", "--settings", path, *never]


def a_model(dice, folder, runs):
    model = folder / "m"
    shutil.copytree(STARTER_FOLDER, model)
    name = dice.choice(["config.json", "tokenizer_config.json", "generation_config.json",
                        "tokenizer.json", "chat_template.jinja", "model.safetensors"])
    path = model / name
    if not path.exists() or dice.random() < 0.2:
        path.unlink(missing_ok=True)
    elif name.endswith(".json") and dice.random() < 0.6:
        path.write_bytes(text_of(exchanged(json.loads(path.read_text()), dice)))
    else:
        path.write_bytes(spoilt(path.read_bytes(), dice))
    return ["data", "--set", f"model.name={model}"]


def a_run(dice, folder, runs):
    shutil.copytree(runs.root / runs.id, folder / "runs" / "20200101-000000-spoilt")
    run = folder / "runs" / "20200101-000000-spoilt"
    files = [path for path in sorted(run.rglob("*"))
             if path.is_file() and path.stat().st_size and "checkpoint" not in str(path)]
    for path in dice.sample(files, 2):
        content = path.read_bytes()
        if path.suffix == ".json" and dice.random() < 0.5:
            content = text_of(exchanged(json.loads(content), dice))
        elif path.suffix == ".jsonl" and dice.random() < 0.5:
            lines = content.splitlines()
            at = dice.randrange(len(lines))
            lines[at] = text_of(exchanged(json.loads(lines[at]), dice))
            content = b"\n".join(lines) + b"\n"
        else:
            content = spoilt(content, dice)
        path.write_bytes(content)
    return [*dice.choice([["runs", "--json"], ["doctor", run.name], ["whatif", run.name],
                          ["runs", "--differ", run.name],
                          ["export", run.name, "--as", "card", "--out", folder / "card"],
                          ["export", run.name, "--as", "script", "--out", folder / "script"]]),
            "--root", folder / "runs"]


def a_name(dice, folder, runs):
    name = dice.choice(NAMES)
    return [*dice.choice([
        ["doctor", name], ["whatif", name], ["eval", name], ["eval", runs.id, "--against", name],
        ["eval", runs.id, "--checkpoint", name], ["export", runs.id, "--checkpoint", name],
        ["export", name, "--out", folder / "x"], ["train", "--resume", name], ["pause", name],
        ["runs", "--rename", name, "x"], ["runs", "--delete", name], ["runs", "--restore", name],
        ["runs", "--differ", name, runs.id], ["score", name],
        ["export", runs.id, "--as", "card", "--out", runs.root / runs.id],
        ["preflight", "--settings", name], ["rewards", "--rewards-file", name, "--allow-code"],
    ]), "--root", runs.root]


def some_rewards(dice, folder, runs):
    if dice.random() < 0.5:
        path = folder / "mine.py"
        path.write_bytes(spoilt(
            b"def brief(completions, **kwargs):\n    return [-len(c) for c in completions]\n",
            dice))
        return ["rewards", "--rewards-file", path, "--allow-code"]
    path = folder / "a.jsonl"
    path.write_bytes(as_lines())
    text = spoilt(b"number:weight=2:tolerance=0.1,asked_format:weight=0.5,tags:names=a b", dice)
    return ["score", path, "--rewards", text.decode("latin-1").replace("\0", "0")]


KINDS = {a_table: 80, some_rows: 30, a_mapping: 40, a_setting: 50, a_model: 30, a_run: 30,
         a_name: 30, some_rewards: 10}


def state_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()}


class Runs:
    def __init__(self, root: Path, run_id: str) -> None:
        self.root, self.id = root, run_id


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_whatever_is_given_is_answered_in_sentences_and_no_run_is_lost(
        kind, finished, tmp_path, capfd, monkeypatch):
    lab, run_id = finished
    runs = Runs(tmp_path / "kept", run_id)
    shutil.copytree(lab.workspace.root, runs.root)
    before = state_of(runs.root / run_id)
    monkeypatch.setenv("GRPO_LAB_HOME", str(runs.root))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    answered, wrong = Counter(), []
    for number in range(KINDS[kind]):
        dice = random.Random(f"{kind.__name__} {number}")
        folder = tmp_path / str(number)
        folder.mkdir()
        arguments = list(map(str, kind(dice, folder, runs)))
        try:
            code = main(arguments)
        except SystemExit as wrong_use:  # argparse
            code = wrong_use.code
        except Exception as error:
            code = repr(error)
        out, err = capfd.readouterr()
        answered[code] += 1
        if code not in (DONE, FAILED, WRONG_USE) or "Traceback" in out + err \
                or UNKNOWN in out + err or (code != DONE and not (out + err).strip()):
            wrong.append(f"{number}: {arguments} {code}\n{out}\n{err}")
        shutil.rmtree(folder)
    assert not wrong, "\n\n".join(wrong)
    assert before.items() <= state_of(runs.root / run_id).items()  # a verdict may have come
    assert answered[FAILED] + answered[WRONG_USE] > 0, answered
