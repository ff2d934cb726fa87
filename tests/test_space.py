"""The lab as a Hugging Face Space: the real app under a Space's variables, asked over HTTP."""

import base64
import json
import os
import re
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import gradio
import httpx
import pytest

from lab.core.hardware.machine import Machine
from lab.services import machine
from lab.services.lab import Lab
from lab.services.reach import Reach
from lab.services.space import Space, serves_at
from lab.services.workspace import PROJECT
from lab.ui import access
from lab.ui.door import Door
from tests.ports import free_port

DEADLINE = 60  # seconds until the page is served, on a busy machine
HOST = "ana-grpo-lab.hf.space"
SPACE = {"SYSTEM": "spaces", "SPACE_ID": "ana/grpo-lab", "SPACE_AUTHOR_NAME": "ana",
         "SPACE_REPO_NAME": "grpo-lab", "SPACE_HOST": HOST, "SPACE_CREATOR_USER_ID": "6401",
         "SPACE_TITLE": "GRPO Lab", "ACCELERATOR": "none", "CPU_CORES": "2", "MEMORY": "16Gi",
         "GRADIO_SERVER_NAME": "0.0.0.0"}
OAUTH = {"OAUTH_CLIENT_ID": "id", "OAUTH_CLIENT_SECRET": "secret",
         "OAUTH_SCOPES": "openid profile", "OPENID_PROVIDER_URL": "https://huggingface.co"}
OWN = ("GRPO_LAB_HOME", "GRPO_LAB_OPEN", "GRPO_LAB_DATA_VOLUME", "SPACES_ZERO_GPU", *OAUTH)
REFUSAL = "Only ana, who owns this Space, may do that."
GUARDED = ("start", "model-look-up", "try-ask", "upload", "read-columns", "preview", "stop",
           "stop-now-yes", "resume", "pause-hold", "pause-release", "go-on", "compare-send",
           "compare-retry", "vote-left", "vote-next", "lapse-start", "runs-resume",
           "runs-delete-yes", "runs-prepare", "runs-push", "runs-export-cancel",
           "runs-export-delete",
           "ask-run-send", "offer-0", "verdict-ask", "own-check", "own-use", "own-upload",
           "preflight-run", "runs-undo", "runs-save", "runs-archive", "runs-empty-yes")

can_sign_in = pytest.mark.skipif(bool(access.missing_packages()),
                                 reason="needs gradio[oauth], which a Space installs")


class Page:
    """The page of an app as one caller sees it, and its handlers as that caller's to call."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.config = client.get("/config").raise_for_status().json()
        self.components = {c["id"]: c for c in self.config["components"]}

    def has(self, elem_id: str) -> bool:
        return any(c["props"].get("elem_id") == elem_id for c in self.components.values())

    def text_of(self, elem_id: str) -> str:
        return next(str(c["props"].get("value")) for c in self.components.values()
                    if c["props"].get("elem_id") == elem_id)

    def call(self, elem_id: str, **changed) -> list[dict]:
        """What the queue tells of the first handler of this button; `changed` are form values."""
        handler = next(d for d in self.config["dependencies"] for target, event in d["targets"]
                       if d["backend_fn"] and event in ("click", "upload")
                       and self.components[target]["props"].get("elem_id") == elem_id)
        return self._ask(handler, changed)

    def load(self, elem_id: str) -> list[dict]:
        """What the queue tells of the page.load handler that fills this component."""
        handler = next(d for d in self.config["dependencies"] for _, event in d["targets"]
                       if event == "load" and any(
                           self.components[o]["props"].get("elem_id") == elem_id
                           for o in d["outputs"]))
        return self._ask(handler, {})

    def _ask(self, handler: dict, changed: dict) -> list[dict]:
        props = [self.components[i]["props"] for i in handler["inputs"]]
        data = [changed.get(p.get("elem_id"), p.get("value")) for p in props]
        session = uuid.uuid4().hex
        self.client.post("/gradio_api/queue/join", json={
            "data": data, "fn_index": handler["id"], "session_hash": session,
        }).raise_for_status()
        told = []
        with self.client.stream("GET", f"/gradio_api/queue/data?session_hash={session}") as lines:
            for line in lines.iter_lines():
                if line.startswith("data:"):
                    told.append(json.loads(line[5:]))
                    if told[-1]["msg"] in ("process_completed", "close_stream"):
                        return told
        return told


@contextmanager
def space(folder: Path, **more: str):
    """app.py without options, as a Space starts it; its client calls it by the Space's name."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if name not in OWN}
    process = subprocess.Popen(
        [sys.executable, PROJECT / "app.py"], cwd=folder, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
        env={**kept, "HF_HUB_OFFLINE": "1", **SPACE, "GRADIO_SERVER_PORT": str(port), **more})
    try:
        said = []
        # gradio is loud first: it misses the package `spaces`, which a Space has.
        while not said or "GRPO Lab is open at " not in said[-1]:
            said.append(process.stdout.readline())
            assert said[-1], f"app.py ended: {''.join(said)}"
        assert said[-1].startswith(f"GRPO Lab is open at https://{HOST} ")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE, headers={
                "Host": HOST, "X-Forwarded-Proto": "https"}) as client:
            yield client
    finally:
        process.terminate()
        process.wait(DEADLINE)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A Space without sign-in and without storage."""
    with space(tmp_path_factory.mktemp("space") / "app") as client:
        yield client


@pytest.fixture(scope="module")
def page(bare):
    return Page(bare)


def cookie(username: str, user_id: str, secret: str = "secret", ends_in: float = 3600) -> dict:
    """The session that gradio's server signs once the Hub has said who signed in."""
    from itsdangerous import TimestampSigner

    person = {"preferred_username": username, "sub": user_id, "name": username,
              "profile": f"https://huggingface.co/{username}", "picture": ""}
    body = json.dumps({"oauth_info": {"userinfo": person, "access_token": "none",
                                      "scope": "openid profile",
                                      "expires_at": time.time() + ends_in}})
    key = sha256(f"{secret}-v4".encode()).hexdigest()
    signed = TimestampSigner(key).sign(base64.b64encode(body.encode())).decode()
    return {"Cookie": f"session={signed}"}


# the app, as a visitor of a Space without sign-in


def test_it_serves_its_page_by_the_name_of_the_space(bare):
    answer = bare.get("/")
    assert answer.status_code == 200 and "GRPO Lab" in answer.text


@pytest.mark.parametrize(("headers", "status"), [
    ({"Origin": f"https://{HOST}"}, 200),
    ({"Origin": "https://huggingface.co"}, 200),
    ({"Host": "127.0.0.1:7860"}, 200),
    ({"Host": "10.1.2.3:7860"}, 200),  # how the platform asks whether it is up
    ({"Host": "evil.com"}, 400),
    ({"Host": "ben-grpo-lab.hf.space"}, 400),
    ({"Host": f"{HOST}.evil.com"}, 400),
    ({"Origin": "https://evil.com"}, 403),
    ({"Origin": "https://ben-grpo-lab.hf.space"}, 403),
    ({"Origin": "http://huggingface.co"}, 403),
    ({"Origin": "http://[::"}, 403),
    ({"Origin": "null"}, 403),
])
def test_only_its_own_names_and_the_hub_are_let_in(bare, headers, status):
    assert bare.get("/config", headers=headers).status_code == status


@pytest.mark.parametrize("button", GUARDED)
def test_a_visitor_is_refused_with_a_sentence(page, button):
    last = page.call(button)[-1]
    assert last["msg"] == "process_completed" and last["success"] is False
    assert REFUSAL in last["output"]["error"]
    assert "hf_oauth: true" in last["output"]["error"]


def test_a_visitor_can_look(page):
    shown = page.call("runs-open")[-1]
    assert shown["success"] is True


def test_a_visitor_cannot_upload(bare):
    answer = bare.post("/gradio_api/upload", files={"files": ("a.csv", b"a,b\n1,2\n")})
    assert answer.status_code == 403 and "Only the owner" in answer.text


def test_the_page_says_what_this_space_is(page):
    notes, who = page.text_of("space-notes"), page.text_of("space-who")
    assert "This Space trains on the CPU" in notes and "starter recipe" in notes
    assert "gone after a restart" in notes and "/data" in notes
    assert "You can look at everything" in who and "hf_oauth: true" in who
    assert "OAUTH_CLIENT_ID" in who and "GRPO_LAB_OPEN" in who
    assert not page.has("sign-in")


def test_the_buttons_are_off_for_a_visitor(page):
    who, *buttons = page.load("space-who")[-1]["output"]["data"]
    assert "You can look" in who
    assert [button["interactive"] for button in buttons] == [False] * 13


def test_a_visitor_is_not_shown_a_file_that_the_page_names(page):
    (shown,) = [d for d in page.config["dependencies"] for target, event in d["targets"]
                if event == "change" and page.components[target]["props"].get("elem_id")
                == "set-rewards-file"]
    for file in ("/etc/passwd", __file__):
        last = page._ask(shown, {"set-rewards-file": file})[-1]
        assert last["success"] is True and all(
            part.get("__type__") == "update" and "value" not in part
            for part in last["output"]["data"])


# other Spaces


def test_what_is_mounted_keeps_the_runs_and_an_open_space_lets_everybody_train(tmp_path):
    volume = tmp_path / "volume"
    volume.mkdir()
    with space(tmp_path / "app", GRPO_LAB_OPEN="1", GRPO_LAB_DATA_VOLUME=str(volume)) as client:
        page = Page(client)
        assert (volume / "grpo-lab").is_dir() and not (tmp_path / "app" / "runs").exists()
        assert "gone after a restart" not in page.text_of("space-notes")
        assert "Everybody who can open this Space may train" in page.text_of("space-who")
        last = page.call("own-use")[-1]  # who trains here is not who may run code here
        assert last["success"] is False and "Reward code is off" in last["output"]["error"]
        last = page.call("start", **{"set-train-max_steps": 0})[-1]
        assert last["success"] is True  # let through, and told what is wrong with the form
        assert "Steps" in str(last["output"]["data"])
        answer = client.post("/gradio_api/upload", files={"files": ("a.csv", b"a,b\n1,2\n")})
        assert answer.status_code == 200


def test_without_the_packages_of_the_sign_in_it_still_opens_and_says_so(tmp_path):
    # In front of a real one, where there is one.
    (tmp_path / "itsdangerous.py").write_text("raise ImportError('itsdangerous is away')\n")
    (tmp_path / "authlib.py").write_text("raise ImportError('authlib is away')\n")
    with space(tmp_path / "app", PYTHONPATH=str(tmp_path), **OAUTH) as client:
        page = Page(client)
        assert not page.has("sign-in")
        assert "authlib is away. Install gradio[oauth]" in page.text_of("space-who")
        assert REFUSAL in page.call("start")[-1]["output"]["error"]


@can_sign_in
def test_the_owner_trains_and_who_else_signed_in_looks(tmp_path):
    with space(tmp_path / "app", **OAUTH) as client:
        page = Page(client)
        assert page.has("sign-in")
        assert "sign in" in page.text_of("space-who")

        def start_as(**headers) -> dict:
            client.headers.pop("Cookie", None)
            client.headers.update(headers)
            return page.call("start", **{"set-train-max_steps": 0})[-1]

        for visitor in ({}, cookie("ben", "7777"), cookie("ana", "6401", secret="guessed"),
                        cookie("ana", "6401", ends_in=-1), {"Cookie": "session=ana"}):
            last = start_as(**visitor)
            assert last["success"] is False and REFUSAL in last["output"]["error"]
            assert "Sign in at the top" in last["output"]["error"]
        last = start_as(**cookie("ben", "7777"))
        assert "You are signed in as ben." in last["output"]["error"]
        # By name, and by number where an organisation owns the Space.
        for owner in (cookie("Ana", "1"), cookie("carla", "6401")):
            last = start_as(**owner)
            assert last["success"] is True and "Steps" in str(last["output"]["data"])
        who, *buttons = page.load("space-who")[-1]["output"]["data"]
        assert "signed in as carla. You can train" in who
        assert all(button["interactive"] for button in buttons)
        answer = client.post("/gradio_api/upload", files={"files": ("a.csv", b"a,b\n1,2\n")})
        assert answer.status_code == 200


# facts of a Space


def test_elsewhere_there_is_no_space_and_nothing_is_guarded(monkeypatch):
    assert Space.from_environment({}) is None
    assert Space.from_environment({"SPACE_ID": "ana/grpo-lab"}) is None  # no SYSTEM=spaces
    assert Space.from_environment({"SYSTEM": "spaces"}) is None
    assert serves_at({"GRADIO_SERVER_PORT": "80"}) == ("127.0.0.1", "7860")
    monkeypatch.delenv("SYSTEM", raising=False)
    assert access.allows({})


def test_a_space_serves_every_address_at_its_port():
    assert serves_at(SPACE) == ("0.0.0.0", "7860")
    assert serves_at({**SPACE, "GRADIO_SERVER_PORT": "8000"}) == ("0.0.0.0", "8000")


def test_its_names_are_its_own_and_a_domain_beside_it():
    told = Space.from_environment({**SPACE, "SPACE_HOST": f"lab.ana.org, {HOST}"})
    assert told.hosts == ("lab.ana.org", HOST)
    site = Door(None, Reach("0.0.0.0"), told)
    assert site.knows("lab.ana.org") and site.knows(HOST) and not site.knows("ana.org")
    assert site.trusts("https://lab.ana.org", HOST) and not site.trusts("https://ana.org", HOST)


@pytest.mark.parametrize(("username", "user_id", "allowed"), [
    ("ana", "", True), ("", "6401", True), ("", "", False), ("ben", "6402", False),
])
def test_the_owner_is_known_by_name_or_number(username, user_id, allowed):
    assert Space.from_environment(SPACE).lets(username, user_id) is allowed
    unnumbered = {name: v for name, v in SPACE.items() if name != "SPACE_CREATOR_USER_ID"}
    assert Space.from_environment(unnumbered).lets("", "") is False


def test_storage_that_cannot_hold_runs_is_not_used(tmp_path):
    away = Space.from_environment({**SPACE, "GRPO_LAB_DATA_VOLUME": str(tmp_path / "none")})
    assert away.root() is None and not away.keeps(tmp_path)
    there = Space.from_environment({**SPACE, "GRPO_LAB_DATA_VOLUME": str(tmp_path)})
    assert there.root() == tmp_path / "grpo-lab" and there.keeps(there.root())
    assert not there.keeps(Path("/somewhere/else"))
    assert list(tmp_path.iterdir()) == []  # the trial left nothing behind


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_storage_that_may_not_be_written_is_not_used(tmp_path):
    tmp_path.chmod(0o555)
    try:
        found = Space.from_environment({**SPACE, "GRPO_LAB_DATA_VOLUME": str(tmp_path)})
        assert found.root() is None
    finally:
        tmp_path.chmod(0o755)


def test_zero_gpu_is_said_not_to_suit_training(tmp_path, monkeypatch):
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    found = Space.from_environment({**SPACE, "SPACES_ZERO_GPU": "true"})
    (about, *_) = access.notes(found, Lab.at(tmp_path))
    assert "trains on the CPU" in about and "ZeroGPU" in about and "does not suit" in about


# the README's front matter, which the Hub reads


@pytest.fixture(scope="module")
def front_matter() -> dict[str, str]:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    block = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    return dict(line.split(": ", 1) for line in block[1].splitlines())


def test_the_front_matter_is_what_a_gpu_space_takes(front_matter):
    assert front_matter["sdk"] == "gradio" and front_matter["app_file"] == "app.py"
    assert front_matter["python_version"] == '"3.12"'  # without quotes YAML reads a number
    assert front_matter["suggested_hardware"] in (
        "t4-small", "t4-medium", "l4x1", "l4x4", "a10g-small", "a10g-large", "a100-large")
    assert len(front_matter["short_description"]) <= 60  # longer ones are refused
    assert front_matter["license"] == "apache-2.0"
    colours = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
    assert front_matter["colorFrom"] in colours and front_matter["colorTo"] in colours
    assert front_matter["hf_oauth"] == "true"


def test_the_front_matter_names_the_gradio_that_is_pinned(front_matter):
    packages = machine.versions()
    assert front_matter["sdk_version"] == machine.pins(packages)["gradio"]
    assert front_matter["sdk_version"] == machine.pins({"vllm": ""})["gradio"]
    assert front_matter["sdk_version"] == gradio.__version__


def test_a_gpu_space_is_not_told_that_it_trains_on_the_cpu(tmp_path, monkeypatch):
    from lab.core.hardware.machine import Gpu

    with_gpu = Machine("Linux", "3.12", 8, 32.0, 30.0, 100.0,
                       (Gpu("NVIDIA L4", 24.0, 23.0, "580.1", 8.9),), {"torch": "2.11.0"})
    monkeypatch.setattr(machine, "look", lambda root: with_gpu)
    told = access.notes(Space.from_environment(SPACE), Lab.at(tmp_path))
    assert not any("trains on the CPU" in note for note in told)
