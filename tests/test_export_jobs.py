"""Exports in the background: made by real processes, checked by one without the lab, cancelled."""

import dataclasses
import json
import shutil
import threading
import zipfile

import pytest

from lab.core.problems import RunError
from lab.core.settings import STARTER
from lab.services.export import gguf
from lab.services.export.check import check_export, in_contract
from lab.services.export.making import Work
from lab.services.export.source import source_of
from lab.services.export.state import CANCELLED, DONE, FAILED, Asked, State, exports_of
from lab.services.jobs import Busy
from lab.services.lab import Lab
from lab.services.workspace import STARTER_FOLDER
from lab.ui.export_html import made_html, progress_html


@pytest.fixture(scope="module")
def copied(finished, tmp_path_factory):
    """(lab, run id) of a finished run that may be exported."""
    lab, run_id = finished
    root = tmp_path_factory.mktemp("exports")
    shutil.copytree(lab.workspace.run(run_id).path, root / run_id)
    return Lab.at(root), run_id


@pytest.fixture(scope="module")
def bundle(copied, tmp_path_factory):
    """(the finished export, its folder) of everything at once, checked on 8 questions."""
    lab, run_id = copied
    out = tmp_path_factory.mktemp("bundle") / "home"
    export = lab.exports.wait(lab.exports.start(
        Asked(run_id, "bundle", questions=8, out=str(out))))
    assert export.status == DONE, export.log()
    return export, out


def test_a_bundle_holds_everything_and_each_part_was_checked(bundle):
    export, out = bundle
    assert {path.name for path in out.iterdir()} >= {
        "adapter", "merged", "script", "README.md", "reward.svg", "goal.svg"}
    assert (out / "merged" / "model.safetensors").stat().st_size > 3e6
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
    assert {path.name for path in (out / "script").iterdir()} == {
        "train.py", "data.jsonl", "COMMANDS.md"}
    checks = [export.check, *export.check["others"]]
    assert len(checks) >= 2 and all(one["passed"] and one["n"] == 8 for one in checks)
    adapter = next(one for one in checks if "peft" in one["how"])
    merged = next(one for one in checks if "peft" not in one["how"])
    assert adapter["max_logit_difference"] < 1e-3 < merged["max_logit_difference"]
    assert adapter["effect"] > 0.01 and adapter["questions"] == "held-out questions"
    assert export.bytes == sum(p.stat().st_size for p in out.rglob("*") if p.is_file())


def test_its_card_shows_curves_check_and_how_to_serve_it(bundle):
    _, out = bundle
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "![The goal: share of answers that are right](goal.svg)" in card
    assert "## Checked" in card and "Of 8 held-out questions 8 earned just what they earn" in card
    assert "vllm serve path/to/grpo-lab/assets/starter --enable-lora --max-lora-rank 16 " in card
    assert "| Rewards: goal (is it right) | `correctness` |" in card
    drawn = (out / "goal.svg").read_text(encoding="utf-8")
    assert drawn.startswith("<svg") and "in training" in drawn and "polyline" in drawn


def test_nothing_of_it_names_this_machine_or_is_unpickled(bundle, copied):
    export, out = bundle
    lab, _ = copied
    for path in out.rglob("*"):
        assert path.suffix not in (".bin", ".pt", ".pth", ".pkl"), path
        if path.suffix in (".json", ".md", ".py", ".jsonl", ".svg"):
            text = path.read_text(encoding="utf-8")
            assert str(lab.workspace.root) not in text and str(STARTER_FOLDER) not in text, path


def test_without_a_converter_the_bundle_says_what_is_missing_in_one_line(bundle):
    export, out = bundle
    if (out / "gguf").is_dir():
        assert export.left_out == ()
        return
    (sentence,) = export.left_out
    assert sentence.startswith("Without gguf: ") and "convert_hf_to_gguf.py" in sentence
    assert sentence in (out / "README.md").read_text(encoding="utf-8")


def test_the_state_is_on_disk_and_tells_the_page(bundle, copied):
    export, _ = bundle
    lab, run_id = copied
    told = json.loads(export.folder.state.read_text())
    assert told["status"] == DONE and told["check"]["parity"] == 1.0
    assert "Merging" in export.log() and "in a process without the lab" in export.log()
    html = made_html(exports_of(lab.workspace.run(run_id)), True)
    assert "class='ok'" in html and "earned just what they earn" in html


def test_an_export_outlives_who_started_it_and_can_be_cancelled_by_another(copied, children):
    lab, run_id = copied
    lab.exports.start(Asked(run_id, "merged"))
    other = Lab.at(lab.workspace.root)  # an app that was started anew
    export = other.exports.active()
    assert export is not None and export.asked.kind == "merged"
    with pytest.raises(Busy, match="is being made"):
        other.exports.start(Asked(run_id, "card"))
    with pytest.raises(RunError, match="is being exported"):
        other.jobs.delete(run_id)
    with pytest.raises(RunError, match="Cancel it first"):
        other.exports.delete(export)
    assert "Merged of step 6" in progress_html(export, run_id)
    heard = []

    def at_work(now) -> None:
        if now.doing and not heard:  # whatever it is at: a step may be over between two looks
            heard.append(now.doing)
            other.exports.cancel(now)

    ended = other.exports.wait(export, at_work)
    assert heard and ended.status == CANCELLED and "was cancelled" in str(ended.problem)
    assert {path.name for path in ended.folder.path.iterdir()} <= {
        "asked.json", "state.json", "log.txt", "control", "worker.json", "worker.lock"}
    assert not [one for one in children() if one.is_running() and one.status() != "zombie"]


def test_a_check_that_fails_is_said_in_red_and_the_file_is_kept(copied, tmp_path):
    """The base model alone is no merged model: what was learnt is not in it."""
    lab, run_id = copied
    source = source_of(lab.workspace.run(run_id), None)
    work = Work(source, Asked(run_id, "merged"), tmp_path, lambda *told: None, threading.Event())
    found = check_export(source, work.worker, "merged", STARTER_FOLDER, 4, False)
    assert not found["passed"] and "little of what was learnt is left" in found["why"]
    gone = check_export(source, work.worker, "merged", tmp_path / "none", 4, False)
    assert not gone["passed"] and "could not be loaded without the lab" in gone["problem"]
    assert in_contract(gone)["parity"] is None
    folder = lab.workspace.run(run_id).exports / "merged-step-6"
    asked = Asked(run_id, "merged", 6)
    from lab.services.export.state import ExportFolder, read

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made = ExportFolder(folder)
    made.asked.write_text(json.dumps(asked.__dict__))
    (folder / "kept.zip").write_bytes(b"kept")
    State(made).end(DONE, path=str(folder / "kept.zip"), bytes=4, check=found)
    html = made_html([read(made)], True)
    assert "<p class='bad' role=alert>The check failed: What rounding changed" in html
    assert (folder / "kept.zip").exists()


def test_an_export_whose_process_was_killed_is_shown_as_failed(copied):
    lab, run_id = copied
    export = lab.exports.start(Asked(run_id, "merged"))
    from lab.services.workers import worker_of

    process = worker_of(export.folder)
    for one in [*process.children(recursive=True), process]:
        one.kill()
    ended = lab.exports.wait(export)
    assert ended.status == FAILED and "without a last word" in str(ended.problem)


@pytest.mark.parametrize("kind", ["card", "script"])
def test_light_exports_lie_in_the_runs_folder_as_one_file(copied, kind):
    lab, run_id = copied
    export = lab.exports.wait(lab.exports.start(Asked(run_id, kind)))
    assert export.status == DONE, export.log()
    assert export.path.suffix == ".zip" and export.path.parent == export.folder.path
    with zipfile.ZipFile(export.path) as archive:
        assert archive.testzip() is None
        assert ("README.md" if kind == "card" else "train.py") in archive.namelist()
    lab.exports.delete(export)
    assert not export.folder.path.exists()


def test_what_cannot_be_exported_is_refused_before_anything_starts(copied, tmp_path):
    lab, run_id = copied
    for asked, words in ((Asked(run_id, "onnx"), "Nothing is exported as 'onnx'"),
                         (Asked(run_id, "gguf", quant="q2"), "GGUF is not written as 'q2'"),
                         (Asked(run_id, "card", 3), "no checkpoint at step 3"),
                         (Asked("nothing", "card"), "There is no run"),
                         (Asked(run_id, "card", out="/dev/null"), "is no plain file")):
        with pytest.raises(RunError, match=words):
            lab.exports.start(asked)
    full = tmp_path / "full"
    full.mkdir()
    (full / "a").write_text("")
    with pytest.raises(RunError, match="is not empty"):
        lab.exports.start(Asked(run_id, "merged", out=str(full)))
    with pytest.raises(RunError, match="is a file"):
        lab.exports.start(Asked(run_id, "merged", out=str(full / "a")))
    assert lab.exports.active() is None


def test_gguf_without_llama_cpp_fails_with_the_line_that_gets_it(copied, monkeypatch, tmp_path):
    lab, run_id = copied
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    export = lab.exports.wait(lab.exports.start(Asked(run_id, "gguf", quant="q8_0")))
    assert export.status == FAILED and export.path is None
    assert "git clone --depth 1 https://github.com/ggml-org/llama.cpp" in str(export.problem)


def test_a_run_without_readable_settings_gives_its_adapter_alone(copied):
    lab, run_id = copied
    broken = lab.workspace.root / "broken"
    shutil.copytree(lab.workspace.run(run_id).path, broken,
                    ignore=shutil.ignore_patterns("exports"))
    record = json.loads((broken / "settings.json").read_text())
    assert record["settings"]["model"]["name"] == STARTER
    record["settings"] = {"model": {"nothing": 1}}
    (broken / "settings.json").write_text(json.dumps(record))
    card = lab.exports.wait(lab.exports.start(Asked("broken", "card")))
    assert card.status == FAILED and "settings are lost" in str(card.problem)
    export = lab.exports.wait(lab.exports.start(Asked("broken", "adapter")))
    assert export.status == DONE and export.check is None, export.log()
    shutil.rmtree(broken)


def test_what_was_exported_elsewhere_or_failed_its_check_is_told_as_that(copied, tmp_path):
    lab, run_id = copied
    there = tmp_path / "elsewhere"
    export = lab.exports.wait(lab.exports.start(
        Asked(run_id, "merged", questions=0, out=str(there))))
    assert export.path == there
    shown = made_html([export], True)
    assert f"It lies in <code>{there}</code>." in shown and "run's folder" not in shown
    failed = dataclasses.replace(export, asked=Asked(run_id, "gguf", 6, "q4_k_m"), check={
        "passed": False, "problem": "It could not be loaded."})
    shown = made_html([failed], True)
    assert "<b>GGUF q4_k_m of step 6</b> <span class='status failed'>check failed</span>" in shown


def test_a_file_that_is_rounded_too_much_is_told_with_one_that_is_rounded_less():
    failed = {"passed": False, "why": "It earns another score on 21% of the questions."}
    assert gguf.advised(failed, "q4_k_m")["why"].endswith("q8_0 rounds less.")
    assert gguf.advised(failed, "f16") == failed
    assert gguf.advised(None, "q8_0") is None
    assert gguf.advised({"passed": True, "why": ""}, "q8_0")["why"] == ""
