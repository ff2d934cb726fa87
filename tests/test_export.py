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
from lab.services import export
from lab.services.export import adapter_zip, zip_name
from lab.services.workspace import STARTER_FOLDER, Workspace

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
    for words in ("# My run", "PeftModel.from_pretrained", "0.25 at first, 1 at last",
                  "2 of 4 planned", "xmlcount", "rank 16", "trl 1.0", "no proof",
                  "after step 2; the run was planned for 4"):
        assert words in card
    assert card.startswith("---\n")


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


def test_what_fails_half_way_leaves_the_old_zip_and_no_rest(folder, tmp_path, monkeypatch):
    out = tmp_path / "out" / "a.zip"
    before = adapter_zip(folder, None, out).read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.zipfile.ZipFile, "write", full)
    with pytest.raises(RunError, match="No space left"):
        adapter_zip(folder, None, out)
    assert out.read_bytes() == before and [p.name for p in out.parent.iterdir()] == ["a.zip"]


def test_names_of_exports_tell_run_and_step(folder):
    assert zip_name(folder, None) == f"{folder.id}-adapter.zip"
    assert zip_name(folder, 20) == f"{folder.id}-step-20.zip"
