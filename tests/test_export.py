"""An exported adapter loads with plain peft, says what it is, and keeps our paths to itself."""

import json
import os
import subprocess
import sys
import textwrap
import time
import zipfile

import pytest

from lab.core import events
from lab.core.catalog import RECIPES
from lab.core.problems import RunError
from lab.services import verdicts
from lab.services.export import adapter_zip, places, zip_name
from lab.services.workspace import STARTER_FOLDER, Workspace
from tests.test_verdict import a_verdict

LOAD = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
assert not any(name == "lab" or name.startswith("lab.") for name in sys.modules)
base, folder = sys.argv[1:]
ids = torch.tensor([[1, 2, 3]])
with torch.inference_mode():
    model = AutoModelForCausalLM.from_pretrained(base)
    before = model(ids).logits
    after = PeftModel.from_pretrained(model, folder)(ids).logits
print(json.dumps({"change": float((before - after).abs().max())}))
"""


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A folder with a small base model: the starter, or random weights where it is not made yet."""
    if (STARTER_FOLDER / "config.json").is_file():
        return STARTER_FOLDER
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapter(base, tmp_path_factory):
    """A real adapter of it, saved by peft, that does change what the model says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"))
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path, adapter):
    """A run with that adapter at its end and at step 2, and things that must not leave."""
    made = Workspace(tmp_path / "runs").make().new_run("My run")
    made.settings.write_text(json.dumps({
        "name": "My run", "created": time.time(),
        "settings": RECIPES["starter"].settings().with_values({"train.max_steps": 4}).to_dict(),
        "versions": {"peft": "0.0", "trl": "1.0"}}))
    write = events.EventWriter(made.events)
    write(events.Started(4, 0, {}))
    for step in range(1, 5):
        write(events.Step(step, {"reward/weighted": step / 4}))
    write(events.Finished(4, 2.0))
    for place in (made.adapter, made.checkpoint(2)):
        place.mkdir(parents=True)
        for file in adapter.iterdir():
            (place / file.name).write_bytes(file.read_bytes())
        (place / "chat_template.jinja").write_text("{{ messages }}")
        for private in ("optimizer.pt", "training_args.bin", "rng_state.pth", "notes.txt"):
            (place / private).write_bytes(b"\x80\x04pickle")
    return made


def names(path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return set(archive.namelist())


def read(path, name: str) -> str:
    with zipfile.ZipFile(path) as archive:
        return archive.read(name).decode()


@pytest.mark.parametrize("checkpoint", [None, 2])
def test_plain_peft_loads_it_without_our_package(folder, base, tmp_path, checkpoint):
    path = adapter_zip(folder, checkpoint, tmp_path / "out" / "a.zip")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unzipped")
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-I", "-c", LOAD, str(base), str(tmp_path / "unzipped")],
                          capture_output=True, text=True, cwd=tmp_path, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["change"] > 0


def test_it_holds_safetensors_and_text_but_nothing_that_is_unpickled(folder, tmp_path):
    path = adapter_zip(folder, 2, tmp_path / "a.zip")
    assert names(path) == {"README.md", "adapter_config.json", "adapter_model.safetensors",
                           "chat_template.jinja"}


def test_the_starter_is_called_by_its_name_and_no_path_leaves(folder, tmp_path):
    path = adapter_zip(folder, None, tmp_path / "a.zip")
    config = json.loads(read(path, "adapter_config.json"))
    assert config["base_model_name_or_path"] == "grpo-lab-starter"
    assert config["r"] == 4
    card = read(path, "README.md")
    for text in (card, json.dumps(config)):
        assert str(tmp_path) not in text and str(STARTER_FOLDER) not in text
    assert "assets/starter" in card  # how to point to it


@pytest.mark.parametrize(("chosen", "called"), [
    ("Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct"),
    ("/somewhere/of/mine/small-model", "small-model"), ("./models/mine", "mine"),
    (r"C:\models\mine", "mine"), ("~/mine", "mine")])
def test_other_models_are_called_as_chosen_or_by_their_folder(folder, tmp_path, chosen, called):
    record = json.loads(folder.settings.read_text())
    record["settings"]["model"]["name"] = chosen
    folder.settings.write_text(json.dumps(record))
    path = adapter_zip(folder, None, tmp_path / "a.zip")
    assert json.loads(read(path, "adapter_config.json"))["base_model_name_or_path"] == called
    card = read(path, "README.md")
    assert (f"base_model: {called}" in card) == (chosen == called)
    assert chosen == called or chosen not in card


def test_the_card_says_how_it_was_made(folder, tmp_path):
    card = read(adapter_zip(folder, 2, tmp_path / "a.zip"), "README.md")
    for words in ("# My run", "PeftModel.from_pretrained", "0.25 at first, 0.5 at last",
                  "2 of 4 planned", "xmlcount", "rank 16", "trl 1.0", "no proof",
                  "after step 2; the run was planned for 4"):
        assert words in card
    assert card.startswith("---\n")


def test_the_card_leads_with_what_was_learnt_or_says_that_nobody_asked(folder, tmp_path):
    def card_at(checkpoint: int | None) -> str:
        return read(adapter_zip(folder, checkpoint, tmp_path / "a.zip"), "README.md")

    nothing = card_at(None)
    assert nothing.index("No held-out verdict was made") < nothing.index("## Load it")
    assert "| Rewards: goal (is it right) | `correctness` |" in nothing
    assert "| Rewards: shape (is it well made) | `xmlcount,soft_format,strict_format,int` |" in (
        nothing)
    file = folder.checkpoint(2) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")  # others than those at the end
    weights = verdicts.fingerprint(folder.checkpoint(2))
    verdicts.keep(folder, a_verdict(2, 11, 300, step=2, adapter=weights))
    judged = card_at(2)
    assert "**Right on 3.7 % of 300 held-out questions, 0.7 % before" in judged
    assert "| Right: every goal reached | 0.7 % (0.2 % to 2.4 %) | 3.7 % (2.1 % to 6.4 %) |" in (
        judged)
    assert "better made, not better" in judged and "holds for questions like those" in judged
    other = card_at(None)
    assert "was made on these weights. One was made on the adapter of step 2: Right on" in other
    assert "| Right: every goal" not in other


def test_the_card_tells_what_was_held_out_while_it_trained_up_to_its_step(folder, tmp_path):
    write = events.EventWriter(folder.events)
    for step, share in ((0, 0.1), (2, 0.25), (4, 0.5)):
        write(events.HeldOut(step, {"reached": share, "goal": share}))
    write(events.Finished(4, 2.0))
    write.close()
    for checkpoint, words in ((2, "10.0 % right at step 0, 25.0 % at step 2"),
                              (None, "10.0 % right at step 0, 50.0 % at step 4")):
        card = read(adapter_zip(folder, checkpoint, tmp_path / "a.zip"), "README.md")
        assert words in card


def test_the_code_in_the_card_runs(folder, base, tmp_path):
    with zipfile.ZipFile(adapter_zip(folder, None, tmp_path / "a.zip")) as archive:
        archive.extractall(tmp_path / "unzipped")
    card = (tmp_path / "unzipped" / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    code = code.replace("path/to/grpo-lab/assets/starter", base.as_posix())
    code = "\n".join(line for line in code.splitlines() if not line.startswith("tokenizer ="))
    done = subprocess.run([sys.executable, "-I", "-c", textwrap.dedent(code)], cwd=tmp_path /
                          "unzipped", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_an_adapter_it_says_when_there_will_be_one(folder, tmp_path):
    with pytest.raises(RunError, match="no checkpoint at step 3"):
        adapter_zip(folder, 3, tmp_path / "a.zip")
    for place in (folder.adapter, folder.checkpoint(2)):
        (place / "adapter_model.safetensors").unlink()
    with pytest.raises(RunError, match="no adapter yet"):
        adapter_zip(folder, None, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_a_damaged_adapter_is_named_as_such(folder, tmp_path):
    (folder.adapter / "adapter_config.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        adapter_zip(folder, None, tmp_path / "a.zip")


def test_places_that_cannot_be_written_are_refused_in_words(folder, tmp_path):
    with pytest.raises(RunError, match="is a folder"):
        adapter_zip(folder, None, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not be written"):
        adapter_zip(folder, None, tmp_path / "file" / "a.zip")


@pytest.mark.skipif(os.name == "nt", reason="it makes links and pipes")
def test_nothing_but_a_plain_file_is_written_over_and_no_link_is_followed(folder, tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("kept")
    (tmp_path / "link.zip").symlink_to(kept)
    (tmp_path / "nowhere.zip").symlink_to(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe.zip")
    for out in ("/dev/null", *(tmp_path / f"{name}.zip" for name in ("link", "nowhere", "pipe"))):
        with pytest.raises(RunError, match="is no plain file"):
            adapter_zip(folder, None, out)
    assert kept.read_text() == "kept" and (tmp_path / "link.zip").is_symlink()
    saved = folder.adapter_at(None)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (saved / name).rename(tmp_path / name)
        (saved / name).symlink_to(tmp_path / name)
        with pytest.raises(RunError, match=f"{name} in it is a link"):
            adapter_zip(folder, None, tmp_path / "out.zip")
        (saved / name).unlink()
        (tmp_path / name).rename(saved / name)
    assert adapter_zip(folder, None, kept).stat().st_size > 1000  # a file may be written over


def test_what_fails_half_way_leaves_the_old_zip_and_no_rest(folder, tmp_path, monkeypatch):
    out = tmp_path / "out" / "a.zip"
    before = adapter_zip(folder, None, out).read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(places.zipfile.ZipFile, "write", full)
    with pytest.raises(RunError, match="No space left"):
        adapter_zip(folder, None, out)
    assert out.read_bytes() == before and [p.name for p in out.parent.iterdir()] == ["a.zip"]


def test_names_of_exports_tell_run_and_step(folder):
    assert zip_name(folder, 20) == f"{folder.id}-step-20.zip"
