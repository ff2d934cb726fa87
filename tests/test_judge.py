"""The judge model, asked over HTTP: a real server on this machine that grades as it is told."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lab.core.checks import errors_of
from lab.core.problems import BadSettings
from lab.core.rewards import judge as judge_file
from lab.core.rewards import permission
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.judge import why_not
from lab.core.rewards.registry import REWARDS
from lab.core.rewards.scoring import score, score_all
from lab.services import machine
from tests.ports import free_port


class Judge(ThreadingHTTPServer):
    """Replies to each prompt with what `grade(prompt, times asked before)` says: text, or a status,
    or (status, headers)."""

    daemon_threads = True

    def __init__(self, grade) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.grade, self.asked, self.heard, self.most, self.now = grade, {}, [], 0, 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        with server.lock:
            before = server.asked.get(prompt, 0)
            server.asked[prompt] = before + 1
            server.heard.append((self.path, body, dict(self.headers)))
            server.now += 1
            server.most = max(server.most, server.now)
        told = server.grade(prompt, before)
        with server.lock:
            server.now -= 1
        status, headers = (told if isinstance(told, tuple) else (told, {})) \
            if not isinstance(told, str) else (200, {})
        reply = json.dumps({"choices": [{"message": {"content": told}}]}).encode() \
            if isinstance(told, str) else b"sorry"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def serve(monkeypatch):
    """Starts judges; no reply is remembered from before, and nobody waits long before a retry."""
    monkeypatch.setattr(judge_file, "FIRST_WAIT", 0.01)
    judge_file._replies.clear()
    started = []

    def start(grade) -> Judge:
        started.append(Judge(grade))
        return started[-1]

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


def chosen(server: Judge | str, **params) -> list[Chosen]:
    url = server if isinstance(server, str) else server.url
    return [Chosen("judge", params={"url": url, "model": "m", "template": "{completion}",
                                    **params})]


def scores(texts: list[str], asked: list[Chosen], rows: list[dict] | None = None) -> list:
    found = score_all(texts, rows or [{}] * len(texts), asked)
    return [one.errors.get("judge", one.rewards["judge"]) for one in found]


def test_it_divides_the_number_by_the_highest(serve):
    replies = ["7", "Score: 8.5/10", "<think>2 or 9? 9.</think>\n4", "10", "0"]
    server = serve(lambda prompt, _: replies[int(prompt)])
    assert scores(list("01234"), chosen(server)) == [0.7, 0.85, 0.4, 1.0, 0.0]
    path, body, headers = server.heard[0]
    assert path == "/v1/chat/completions" and "Authorization" not in headers
    assert (body["model"], body["temperature"]) == ("m", 0)


def test_the_prompt_has_the_row_in_it(serve):
    server = serve(lambda *_: "5")
    asked = [Chosen("judge", params={"url": server.url, "model": "m", "highest": 5.0})]
    row = {"question": "Who {completion}?", "model": "a column of this name"}
    assert scores(["It was me."], asked, [row]) == [1.0]
    (prompt,) = server.asked
    assert "Question:\nWho {completion}?\n" in prompt and "Answer to grade:\nIt was me.\n" in prompt
    assert "from 0 to 5?" in prompt
    (told,) = scores(["x"], asked)
    assert "asks for {question}, which this row has not" in told


@pytest.mark.parametrize("reply, words", [
    ("Very good!", "replied without a number: 'Very good!'"),
    ("<think>8", "replied without a number"),
    ("11", "replied 11, which is not from 0 to 10"),
    ("-1", "replied -1, which is not from 0 to 10"),
    (401, "replied 401 Unauthorized: sorry"),
    (404, "replied 404"),
    ((302, {"Location": "/elsewhere"}), "replied 302"),
])
def test_a_reply_that_is_no_grade_is_an_error_and_never_a_0(serve, reply, words):
    server = serve(lambda *_: reply)
    found = score("x", {}, chosen(server))
    assert words in found.errors["judge"] and found.rewards["judge"] is None
    assert found.total is None and len(server.heard) == 1  # asking again would not help


def test_a_busy_server_is_asked_again_and_the_others_meanwhile(serve):
    def grade(prompt: str, before: int):
        if prompt == "0" and before < 2:
            return (429, {"Retry-After": "0"}) if before else 503
        return "5"

    server = serve(grade)
    assert scores(list("012"), chosen(server)) == [0.5] * 3
    assert server.asked == {"0": 3, "1": 1, "2": 1}


def test_one_that_stays_busy_is_an_error_after_its_tries(serve):
    server = serve(lambda *_: 503)
    assert "replied 503" in scores(["x"], chosen(server, retries=1))[0] and server.asked["x"] == 2


def test_one_that_is_away_is_an_error_of_each_answer_and_waited_for_once():
    judge_file._replies.clear()
    url = f"http://127.0.0.1:{free_port()}/v1"
    began = time.monotonic()
    told = scores([str(n) for n in range(40)], chosen(url, retries=1, at_once=1))
    assert all("cannot be reached: Connection refused" in one for one in told)
    assert time.monotonic() - began < 40 * judge_file.FIRST_WAIT  # not once for each of them


def test_one_that_does_not_reply_is_given_up(serve):
    held = threading.Event()
    server = serve(lambda *_: held.wait(60) and "5" or "5")
    try:
        assert "did not reply in time" in scores(["x"], chosen(server, seconds=0.2, retries=0))[0]
    finally:
        held.set()


def test_what_is_no_such_server_is_said(serve):
    server = serve(lambda *_: "5")
    server.RequestHandlerClass = type("Other", (_Handler,), {"do_POST": lambda self: (
        self.send_response(200), self.end_headers(), self.wfile.write(b'{"text": "5"}'))})
    assert "something else than an OpenAI-style server" in scores(
        ["x"], chosen(server, retries=0))[0]


def test_many_are_asked_at_once_and_the_same_only_once(serve):
    together = threading.Barrier(4, timeout=60)

    def grade(prompt: str, _) -> str:
        together.wait()  # only four at the same time get past here
        return "5"

    server = serve(grade)
    texts = ["a", "b", "c", "d", "a", "b"]
    assert scores(texts, chosen(server, at_once=4)) == [0.5] * 6
    assert server.most == 4 and set(server.asked.values()) == {1}
    assert scores(texts, chosen(server)) == [0.5] * 6  # from memory: the barrier is not passed
    assert set(server.asked.values()) == {1}


def test_the_key_comes_from_the_environment_and_stays_there(serve, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "sk-secret")
    server = serve(lambda *_: "5")
    asked = chosen(server, key_variable="SOME_API_KEY")
    assert scores(["x"], asked) == [0.5]
    assert server.heard[0][2]["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in json.dumps([one.to_dict() for one in asked])
    monkeypatch.delenv("SOME_API_KEY")
    assert "SOME_API_KEY is not set" in scores(["y"], asked)[0]


def test_a_redirect_does_not_carry_the_key_away(serve, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "sk-secret")
    other = serve(lambda *_: "5")
    server = serve(lambda *_: (307, {"Location": f"{other.url}/chat/completions"}))
    assert "replied 307" in scores(["x"], chosen(server, key_variable="SOME_API_KEY"))[0]
    assert other.heard == []


@pytest.mark.parametrize("params, words", [
    ({"url": ""}, "needs a URL"), ({"url": "file:///etc/passwd"}, "needs a URL"),
    ({"url": "http://"}, "needs a URL"), ({"url": "http://a:port"}, "needs a URL"),
    ({"url": "http://[::1"}, "needs a URL"), ({"model": " "}, "needs the name of a model"),
    ({"template": "Is it good?"}, "would not see the answer"),
    ({"key_variable": "HF_TOKEN"}, "ends in _API_KEY"),
    ({"key_variable": "sk-123_API_KEY"}, "not the key itself"),
    ({"url": "http://example.com", "key_variable": "A_API_KEY"}, "in the clear"),
    ({"key_variable": "A_API_KEY", "url": "http://localhost:1"}, None),
    ({"key_variable": "A_API_KEY"}, None),
    ({}, None),
])
def test_what_cannot_be_asked_is_said_before(params, words):
    told = why_not(**{"url": "https://example.com/v1", "model": "m", "template": "{completion}",
                        **params})
    assert told is None if words is None else words in told


def test_a_run_is_not_started_with_a_judge_that_cannot_be_asked(lab, quick):
    with pytest.raises(BadSettings, match="'judge' needs a URL"):
        quick.with_values({"rewards.chosen": [Chosen("judge"), Chosen("int")]})
    params = {"url": "https://x.org", "model": "m"}
    for more, words in (({}, []), ({"key_variable": "NO_SUCH_API_KEY"}, ["NO_SUCH_API_KEY"])):
        settings = quick.with_values({"rewards.chosen": [
            Chosen("judge", 1.0, params | more), Chosen("int")]})
        found = [p.what for p in errors_of(settings, machine.look(lab.workspace.root))
                 if "judge" in p.what]
        assert len(found) == len(words) and all(w in f for w, f in zip(words, found, strict=True))


def test_it_is_off_by_default_and_for_visitors(serve, monkeypatch):
    from lab.core.catalog import RECIPES

    assert all(one.name != "judge" for recipe in RECIPES.values()
               for one in recipe.settings().rewards.chosen)
    assert REWARDS["judge"].remote
    server = serve(lambda *_: "5")
    monkeypatch.setattr(permission.caller, "may", lambda: False)
    assert "Only the owner" in scores(["x"], chosen(server))[0] and server.heard == []
