"""A push to the Hub, against a stand-in of its HTTP API: private, by a token that is kept nowhere.
"""

import shutil
import zipfile

import pytest

from lab.cli import main
from lab.core.adapters import WEIGHTS
from lab.core.problems import RunError
from lab.services.export.hub import refuse_name
from lab.services.export.state import DONE, Asked
from lab.services.lab import Lab
from lab.ui.export_html import made_html
from tests.hub import Hub

TOKEN = "hf_secretOfAna"


@pytest.fixture(scope="module")
def copied(finished, tmp_path_factory):
    lab, run_id = finished
    root = tmp_path_factory.mktemp("pushed")
    shutil.copytree(lab.workspace.run(run_id).path, root / run_id)
    return Lab.at(root), run_id


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = Hub(TOKEN)
    for name, value in (("HF_ENDPOINT", server.url), ("HF_HUB_OFFLINE", "0"),
                        ("HF_HUB_DISABLE_XET", "1"), ("HF_HOME", str(tmp_path / "hf"))):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield server
    server.shutdown()


def push(copied, token: str = TOKEN, name: str = "ana/my-lora", kind: str = "adapter",
         private: bool = True):
    lab, run_id = copied
    return lab.exports.wait(lab.exports.start(
        Asked(run_id, kind, questions=0, push=name, private=private), token))


def test_an_adapter_is_pushed_with_its_card_and_is_private(copied, hub):
    export = push(copied)
    assert export.status == DONE and export.problem is None, export.log()
    assert export.pushed == f"{hub.url}/ana/my-lora"
    repo = hub.repos["ana/my-lora"]
    assert repo["private"] is True
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "goal.svg"} <= set(
        repo["files"])
    with zipfile.ZipFile(export.path) as archive:  # what was made is what is there
        for name in archive.namelist():
            assert archive.read(name) == repo["files"][name]
    assert b"## What it learnt" in repo["files"]["README.md"]
    assert f"Pushed: <a href='{export.pushed}'" in made_html([export], True)


def test_the_token_is_written_nowhere(copied, hub):
    export = push(copied, name="ana/other")
    assert any(said == f"Bearer {TOKEN}" for _, said in hub.heard)
    lab, _ = copied
    for path in lab.workspace.root.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    assert TOKEN not in export.log()


def test_what_is_made_already_is_pushed_without_making_it_again(copied, hub):
    first = push(copied, name="ana/first")
    again = push(copied, name="ana/again")
    assert again.pushed.endswith("/ana/again") and again.made == first.made
    assert "Reading the adapter" not in again.log()
    assert hub.repos["ana/again"]["files"] == hub.repos["ana/first"]["files"]
    lab, run_id = copied  # unless the step was trained anew meanwhile
    weights = lab.workspace.run(run_id).saved_at(first.asked.step).path / WEIGHTS
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        anew = push(copied, name="ana/anew")
    finally:
        weights.write_bytes(before)
    assert anew.made > first.made
    assert hub.repos["ana/anew"]["files"][WEIGHTS] != hub.repos["ana/first"]["files"][WEIGHTS]


@pytest.mark.parametrize(("token", "fails", "words"), [
    ("hf_wrong", 0, "does not let you write to ana/refused"),
    ("", 0, "does not let you write to ana/refused"),
    (TOKEN, 403, "does not let you write to ana/refused"),
    (TOKEN, 400, "refused the push to ana/refused"),
])
def test_a_push_that_fails_says_why_and_keeps_what_was_made(copied, hub, token, fails, words):
    hub.fails = fails
    export = push(copied, token, "ana/refused")
    assert words in str(export.problem) and "What was made is kept" in str(export.problem)
    assert export.path.is_file() and not export.pushed
    assert "hf_wrong" not in export.log()


def test_without_a_network_the_push_fails_in_words(copied, hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    export = push(copied, name="ana/away")
    assert "could not be pushed to the Hub" in str(export.problem) and export.path.is_file()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "stays off the network" in str(push(copied, name="ana/away").problem)


def test_the_command_pushes_with_the_local_login_and_public_where_it_is_asked(
        copied, hub, monkeypatch, tmp_path, capsys):
    lab, run_id = copied
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    asked = ["export", run_id, "--root", str(lab.workspace.root), "--n", "0", "--json", "--push"]
    assert main([*asked, "ana/open", "--public", "--out", str(tmp_path / "a.zip")]) == 0
    assert f'"pushed": "{hub.url}/ana/open"' in capsys.readouterr().out
    assert hub.repos["ana/open"]["private"] is False
    hub.fails = 400
    assert main([*asked, "ana/no", "--out", str(tmp_path / "b.zip")]) == 1
    assert "refused the push to ana/no" in capsys.readouterr().err
    assert (tmp_path / "b.zip").is_file()
    assert main([*asked, "nothing", "--out", str(tmp_path / "c.zip")]) == 1
    assert not (tmp_path / "c.zip").exists()


@pytest.mark.parametrize("name", ["", "  ", "lora", "ana/", "/lora", "ana/lora/more", "ana/..",
                                  "ana/lo ra", "http://a/b", "-ana/lora"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(RunError, match="name"):
        refuse_name(name)
    assert refuse_name(" ana/my-lora_1.0 ") == "ana/my-lora_1.0"
