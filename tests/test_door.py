"""The door as others meet it: names, the token, a proxy's path, and what is not served at all."""

import asyncio
import os
import re

import httpx
import psutil
import pytest

from lab.core.problems import BadSettings
from lab.services.reach import past_the_proxy, reach_from
from lab.services.space import Space
from lab.services.workspace import PROJECT
from lab.ui import access
from lab.ui.door import Door
from tests.test_app_http import DEADLINE, app, started  # noqa: F401  its app is used here too
from tests.test_space import SPACE, Page

NAME = "abc-7860.proxy.example.org"
PROXY = "http://127.0.0.1:9"  # nothing answers there
UNSET = ("no_proxy", "NO_PROXY", "GRPO_LAB_TOKEN", "GRPO_LAB_HOSTS")


@pytest.fixture(scope="module")
def away(tmp_path_factory):
    """An app that others reach, behind a proxy under a path, where programs have to use another
    proxy that does not answer: (base URL, token, folder of data, what it printed)."""
    folder = tmp_path_factory.mktemp("away")
    (folder / "data").mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    process, url = started(
        folder / "runs", "--host", "0.0.0.0", "--allow-host", "*.proxy.example.org",
        "--root-path", "/lab", "--data-dir", str(folder / "data"),
        env={**kept, "http_proxy": PROXY, "HTTP_PROXY": PROXY, "https_proxy": PROXY})
    base, _, token = url.partition("/?token=")
    yield base, token, folder
    process.terminate()
    _, said = process.communicate(timeout=DEADLINE)
    assert said.startswith("Whoever has the token can train"), said
    assert f"uploaded and {folder / 'data'}, and delete" in said and said.count("\n") == 1


@pytest.fixture
def stranger(away):
    with httpx.Client(base_url=away[0], timeout=DEADLINE, trust_env=False) as client:
        yield client


@pytest.fixture
def guest(away, stranger):
    stranger.headers["Authorization"] = f"Bearer {away[1]}"
    return stranger


def test_the_printed_address_opens_the_page_and_the_token_leaves_it(away, stranger):
    base, token, _ = away
    assert len(token) >= 32
    answer = stranger.get(f"{base}/?token={token}&__theme=dark", follow_redirects=True)
    assert answer.status_code == 200 and "GRPO Lab" in answer.text
    assert str(answer.url) == f"{base}/?__theme=dark"
    (kept,) = answer.history[0].headers.get_list("set-cookie")
    assert token not in kept and "HttpOnly" in kept and "Path=/lab" in kept and "lax" in kept
    assert stranger.get("/config").json()["root"] == base  # by the cookie


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/"), ("GET", "/config"), ("GET", "/plotly.min.js"), ("GET", "/gradio_api/info"),
    ("GET", "/gradio_api/file=x"), ("POST", "/gradio_api/queue/join"),
    ("POST", "/gradio_api/upload"), ("POST", "/gradio_api/component_server"),
])
@pytest.mark.parametrize("shown", [
    {}, {"Authorization": "Bearer guessed"}, {"Cookie": "grpo-lab-7860=guessed"},
    {"Cookie": "a\x01b; =;"}])
def test_without_the_token_nothing_is_served(stranger, method, path, shown):
    answer = stranger.request(method, path, headers=shown)
    assert answer.status_code == 401 and "asks for its token" in answer.text


def test_the_token_can_be_typed_in(away, stranger):
    assert "<form" in stranger.get("/").text
    wrong = stranger.post("/", data={"token": "guessed"})
    assert wrong.status_code == 401 and "This is not the token" in wrong.text
    assert not wrong.cookies
    assert stranger.post("/", content=b"token=" + 9999 * b"a").status_code == 401
    right = stranger.post("/", data={"token": away[1]}, follow_redirects=True)
    assert right.status_code == 200 and "gradio" in right.text


@pytest.mark.parametrize("host", ["evil.com", "proxy.example.org", "a.proxy.example.org.evil.com"])
def test_the_refusal_of_a_name_says_how_to_allow_it(guest, host):
    answer = guest.get("/config", headers={"Host": host})
    assert answer.status_code == 400
    assert f"--allow-host {host}" in answer.text and f"GRPO_LAB_HOSTS={host}" in answer.text


def test_a_proxy_may_ask_under_its_name_with_its_path_or_without(guest):
    for path in ("/config", "/lab/config"):
        answer = guest.get(str(guest.base_url.copy_with(path=path)), headers={
            "Host": NAME, "X-Forwarded-Proto": "https", "Origin": f"https://{NAME}"})
        assert answer.json()["root"] == f"https://{NAME}/lab"


@pytest.mark.parametrize(("origin", "status"), [
    (f"https://{NAME}", 200), ("https://evil.com", 403), ("null", 403)])
def test_a_proxy_may_change_the_name_it_asks_by_but_not_the_page(guest, origin, status):
    answer = guest.get("/config", headers={"Origin": origin})
    assert answer.status_code == status
    assert status == 200 or "--allow-host" in answer.text


def test_only_uploads_and_named_folders_are_read_where_others_come(away, guest):
    _, _, folder = away
    rows = "question,answer\n" + "".join(f"How much is {n}?,{n}\n" for n in range(99))
    (folder / "data" / "rows.csv").write_text(rows)
    (folder / "secret.csv").write_text(rows)
    (folder / "data" / "link.csv").symlink_to(folder / "secret.csv")
    (folder / "data" / "set").symlink_to(folder, target_is_directory=True)
    page = Page(guest)

    def read(source: str, path: str) -> dict:
        return page.call("read-columns", **{"set-data-source": source, "set-data-path": path})[-1]

    assert read("file", str(folder / "data" / "rows.csv"))["success"] is True
    inside = str(folder / "data")
    for source, path in (
            ("file", str(folder / "secret.csv")), ("file", f"{inside}/../secret.csv"),
            ("file", f"{inside}/link.csv"), ("file", "/etc/passwd"), ("file", "README.md"),
            ("gsm8k", str(folder / "secret.csv")), ("hub", str(folder)), ("hub", f"{inside}/set")):
        said = read(source, path)["output"]["error"]
        assert "This file cannot be used here" in said and "--data-dir" in said, path
    handed_in = guest.post("/gradio_api/upload", files={"files": ("mine.csv", rows.encode())})
    last = page.call("upload", upload={"path": handed_in.json()[0], "orig_name": "mine.csv",
                                       "meta": {"_type": "gradio.FileData"}})[-1]
    assert last["success"] is True, last
    assert (folder / "runs" / "uploads" / "mine.csv").read_text() == rows


# what is not served, to anybody


@pytest.mark.parametrize(("method", "path", "how", "status"), [
    ("GET", "/gradio_api/deep_link?session_hash=a", {}, 404),  # writes to disk
    ("POST", "/gradio_api/process_recording", {"files": {"video": b"a"}}, 404),
    ("POST", "/gradio_api/component_server", {"files": {"file": b"a"}}, 415),
    ("GET", "/gradio_api/heartbeat/a", {}, 404),
    ("GET", "/gradio_api/file=http://example.org/", {}, 404),  # fetched by the server
    ("GET", "/gradio_api/file=HTTPS://example.org/", {}, 404),
    ("GET", "/gradio_api/proxy=https://example.org/", {}, 404),
    ("POST", "/gradio_api/run/predict", {"json": {"data": []}}, 404),
    ("POST", "/gradio_api/call/lambda", {"json": {"data": []}}, 404),
    ("POST", "/gradio_api/vibe-edit", {"json": {}}, 404),
    ("GET", "/monitoring", {}, 404), ("GET", "/dev/reload", {}, 404),
    ("GET", "/docs", {}, 404), ("GET", "/openapi.json", {}, 404),
    ("PUT", "/", {}, 404), ("DELETE", "/gradio_api/upload", {}, 404),
    ("POST", "/gradio_api/cancel", {"content": b"a" * 70_000}, 413),
])
def test_what_the_page_does_not_need_is_not_served(app, method, path, how, status):  # noqa: F811
    assert app[1].request(method, path, **how).status_code == status


def test_a_body_without_a_length_is_bounded_too(app):  # noqa: F811
    def endless():
        for _ in range(200):
            yield b"[" * 1000

    with pytest.raises(httpx.HTTPError):
        app[1].post("/gradio_api/component_server", content=endless()).raise_for_status()


def test_nothing_foreign_is_loaded_and_no_foreign_page_shows_the_lab(app):  # noqa: F811
    headers = app[1].get("/").headers
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert "http" not in policy["default-src"] and "*" not in policy["default-src"]
    assert policy["form-action"] == policy["frame-ancestors"] == policy["base-uri"] == "'self'"
    assert headers["x-frame-options"] == "SAMEORIGIN"
    assert headers["x-content-type-options"] == "nosniff"


def test_no_path_of_this_machine_is_in_the_page(app):  # noqa: F811
    told = app[1].get("/config").text
    assert str(PROJECT) not in told and os.path.expanduser("~") not in told
    assert "site-packages" not in told


def test_plotly_comes_from_the_lab(app):  # noqa: F811
    answer = app[1].get("/plotly.min.js")
    assert answer.status_code == 200 and "plotly.js" in answer.text[:200]


def test_visits_that_are_over_are_not_kept(app):  # noqa: F811
    """One cost 745 kB, for ever."""
    process, client = app
    chip = next(c["id"] for c in client.get("/config").json()["components"]
                if "newest_run" in (c["props"].get("server_fns") or []))

    def visit(name: str) -> None:
        client.post("/gradio_api/component_server", json={
            "data": None, "component_id": chip, "session_hash": name, "fn_name": "newest_run",
        }).raise_for_status()

    for number in range(20):
        visit(f"before {number}")
    memory = psutil.Process(process.pid).memory_info
    before = memory().rss
    for number in range(400):
        visit(f"visit {number}")
    assert memory().rss - before < 60e6


# the parts


def through(door: Door, **scope) -> int:
    """The status that this door gives a request; 200 where it lets it through."""
    async def inner(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> dict:
        return {"type": "http.request", "body": b"", "more_body": False}

    statuses = []

    async def send(message) -> None:
        statuses.append(message.get("status"))

    door.app = inner
    asyncio.run(door({"type": "http", "headers": [(b"host", b"localhost")], **scope},
                     receive, send))
    return statuses[0]


def test_visitors_of_a_space_cannot_fill_the_queue_of_its_owner(monkeypatch):
    for name, value in SPACE.items():
        monkeypatch.setenv(name, value)
    space, waits = Space.from_environment(SPACE), []
    door = Door(None, reach_from({}, "127.0.0.1", 7860), space, lambda: len(waits), 128)
    asked = {"method": "POST", "path": "/gradio_api/queue/join"}
    owner = {"session": {"oauth_info": {"userinfo": {"preferred_username": "ana"}}}}
    assert access.allows(owner["session"])
    for count, told in ((0, 200), (63, 200), (64, 503), (127, 503)):
        waits[:] = range(count)
        assert through(door, **asked) == told
        assert through(door, **asked, **owner) == 200


def test_a_token_is_made_where_others_come_and_nowhere_else():
    def token(host="127.0.0.1", environment=(), **more) -> str:
        return reach_from(dict(environment), host, 7860, **more).token

    assert token() == token("localhost") == token("::1") == ""
    for others in ({"host": "0.0.0.0"}, {"host": "192.168.0.7"}, {"share": True},
                   {"names": ["lab.example.org"]}, {"environment": {"GRPO_LAB_HOSTS": "a,b"}}):
        assert len(token(**others)) == 32 and token(**others) != token(**others)
        assert token(**others, token="none") == ""
        assert token(**others, guarded=True) == ""
    assert token(token="chosen-by-me") == "chosen-by-me"
    assert token("0.0.0.0", {"GRPO_LAB_TOKEN": "chosen-by-me"}) == "chosen-by-me"
    for wrong in ("short", "with spaces in it", "with&amp;signs", "ümlaut-ümlaut"):
        with pytest.raises(BadSettings, match="token cannot be used"):
            token(token=wrong)


@pytest.mark.parametrize(("told", "name"), [
    ("lab.example.org", "lab.example.org"), ("https://Lab.example.org:8443/x", "lab.example.org"),
    ("*.example.org", "*.example.org"), ("my-gpu-box:7994", "my-gpu-box"), (" ", None),
    ("*", ""), ("*.org", ""), ("a b", ""), ("[::1", ""), ("a.*.b", ""), ("*.", ""),
])
def test_names_are_read_as_people_write_them(told, name):
    if name == "":
        with pytest.raises(BadSettings, match="is no name of a host"):
            reach_from({}, "127.0.0.1", 7860, names=[told])
    else:
        assert reach_from({}, "127.0.0.1", 7860, names=[told]).names == ((name,) if name else ())


def test_this_machine_is_asked_without_a_proxy():
    for told in ({}, {"no_proxy": "a.org"}, {"NO_PROXY": "a.org, b.org"}):
        found = past_the_proxy(told, "192.168.0.7")
        assert found["no_proxy"] == found["NO_PROXY"]
        assert re.fullmatch(r"(a\.org,)?(b\.org,)?localhost,127\.0\.0\.1,::1,192\.168\.0\.7",
                            found["no_proxy"])


def test_a_root_path_is_a_path():
    assert reach_from({}, "127.0.0.1", 7860, root_path="/lab/").path == "/lab"
    whole = reach_from({"GRPO_LAB_ROOT_PATH": "https://a.org/lab"}, "127.0.0.1", 7860)
    assert whole.path == "/lab" and whole.addresses() == ["https://a.org/lab"]
    with pytest.raises(BadSettings, match="is no path"):
        reach_from({}, "127.0.0.1", 7860, root_path="lab")
