"""The benchmarks, in small: that of a GPU on a CPU keeps what it measured, estimates are made, a
history is looked at."""

import json
import re
import subprocess
import sys

import pytest

from lab.core.settings import UNSLOTH
from lab.services import machine
from lab.services.workspace import PROJECT
from tests.bench import gpu, history, memory, shapes


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
