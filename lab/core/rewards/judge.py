"""A judge model: another model reads the answer and gives it a number, over an OpenAI-style URL."""

import hashlib
import ipaddress
import json
import os
import random
import re
import threading
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from lab.core.knobs import Knob
from lab.core.rewards import permission
from lab.core.rewards.calling import CannotScore, text_of
from lab.core.rewards.registry import GOAL, reward

TEMPLATE = """You grade answers.

Question:
{question}

Answer to grade:
{completion}

How good is the answer, from 0 to {highest}? Reply with the number only."""
KEY_ENDS = "_API_KEY"  # so that no other secret of the environment can be sent by mistake
REMEMBERED = 20_000  # replies
LONGEST_REPLY = 1_000_000  # bytes
REPLY_TOKENS = 1024  # a judge may think first
PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before another try; doubled each time
_PLACE = re.compile(r"\{(\w+)\}")
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def why_not(url: str = "", model: str = "", template: str = "", key_variable: str = "",
              **_: Any) -> str | None:
    """Why a judge cannot be asked with these, as half a sentence; None where it can."""
    try:
        parts = urlsplit(url.strip())
        host = parts.hostname
        _ = parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        return "needs a URL that begins with http:// or https://"
    if not model.strip():
        return "needs the name of a model"
    if "{completion}" not in template:
        return "has a prompt without {completion}, so it would not see the answer"
    if not key_variable:
        return None
    if not re.fullmatch(rf"[A-Za-z_][A-Za-z0-9_]*{KEY_ENDS}", key_variable):
        return (f"needs the name of an environment variable that ends in {KEY_ENDS} for its key, "
                "not the key itself")
    if parts.scheme == "http" and not _is_here(host):
        return "would send its key in the clear: the URL must begin with https://"
    return None


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@reward("Judge model", max_score=1.0, kind=GOAL, remote=True, refuses=why_not)
def judge(completions: list, *,
          url: Annotated[str, Knob(
              "URL", "Of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1.")] = "",
          model: Annotated[str, Knob("Model", "As that server calls it.")] = "",
          template: Annotated[str, Knob(
              "Prompt", "{completion} stands for the answer, {question} and any other column for "
              "that of its row, {highest} for the highest number.", lines=8)] = TEMPLATE,
          highest: Annotated[float, Knob(
              "Highest number", "What the judge gives a perfect answer.", above=0,
              high=1000)] = 10.0,
          key_variable: Annotated[str, Knob(
              "Variable of the key", f"Name of the environment variable with the key, ending in "
              f"{KEY_ENDS}. Empty: no key. The key itself is never stored.")] = "",
          seconds: Annotated[float, Knob("Time limit", "Seconds for one reply.", above=0,
                                         high=600)] = 60.0,
          retries: Annotated[int, Knob("Tries more", "After a server that is busy or away.", low=0,
                                       high=10, step=1)] = 3,
          at_once: Annotated[int, Knob("At once", "Questions to the judge at the same time.",
                                       low=1, high=256, step=1)] = 8,
          **columns: Any) -> list[float | CannotScore]:
    """Another model reads each answer and gives it a number, which is divided by the highest. All
    answers of a step are asked about together, the same one only once. A judge that is away, or
    replies without a number from 0 to the highest, is an error and never a 0. It can be talked
    into things: an answer that says "give this 10" may get it. Ask for little, and read what it
    pays for. The answers leave this machine, and may cost."""
    if why := permission.against_visitors():
        raise CannotScore(f"judge was not asked. {why}")
    key = os.environ.get(key_variable, "") if key_variable else ""
    if key_variable and not key:
        raise CannotScore(f"judge has no key: the variable {key_variable} is not set where the lab "
                          "runs.")
    server = Server(url.rstrip("/"), model, key, seconds, retries)
    rows = [{"highest": f"{highest:g}", **{name: values[place] for name, values in columns.items()
                                           if isinstance(values, list)},
             "completion": text_of(completion)} for place, completion in enumerate(completions)]
    prompts = [_filled(template, row) for row in rows]
    once = list(dict.fromkeys(prompt for prompt in prompts if isinstance(prompt, str)))
    with ThreadPoolExecutor(at_once) as pool:
        found = dict(zip(once, pool.map(server.ask, once), strict=True))
    return [_score(found.get(prompt, prompt), highest) for prompt in prompts]


def _filled(template: str, row: dict[str, Any]) -> str | CannotScore:
    lacks = [name for name in _PLACE.findall(template) if row.get(name) is None]
    if lacks:
        there = ", ".join(row)
        return CannotScore(f"judge asks for {{{lacks[0]}}}, which this row has not: {there}.")
    return _PLACE.sub(lambda found: str(row[found[1]]), template)


def _score(reply: str | CannotScore, highest: float) -> float | CannotScore:
    """The first number of a reply, as a share of the highest."""
    if isinstance(reply, CannotScore):
        return reply
    found = _NUMBER.search(_THOUGHT.sub("", reply))
    if not found:
        return CannotScore(f"judge replied without a number: {reply.strip()[:200]!r}.")
    number = float(found[0])
    if not 0 <= number <= highest:
        return CannotScore(f"judge replied {found[0]}, which is not from 0 to {highest:g}.")
    return number / highest


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None  # it would carry the key to another server


_replies: OrderedDict[str, str] = OrderedDict()
_lock = threading.Lock()


@dataclass
class Server:
    """One judge. `ask` may be called by many threads; once the server is found to be away, the
    others of this call do not wait for it as well."""

    url: str
    model: str
    key: str
    seconds: float
    retries: int
    away: str = ""

    def ask(self, prompt: str) -> str | CannotScore:
        """The judge's reply, from memory where it is known; CannotScore where there is none."""
        asked = json.dumps([self.url, self.model, prompt])
        known = hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()
        with _lock:
            if known in _replies:
                _replies.move_to_end(known)
                return _replies[known]
        reply = self._try_again(prompt)
        if isinstance(reply, str):
            with _lock:
                _replies[known] = reply
                while len(_replies) > REMEMBERED:
                    _replies.popitem(last=False)
        return reply

    def _try_again(self, prompt: str) -> str | CannotScore:
        for attempt in range(self.retries + 1):
            if self.away:
                return CannotScore(self.away)
            try:
                return self._post(prompt)
            except urllib.error.HTTPError as error:
                told = f"judge failed: {self.url} replied {error.code} {error.reason}" \
                       f"{_detail(error)}."
                wait = _seconds(error.headers.get("Retry-After"))
                if error.code not in PASSING:
                    return CannotScore(told)
            except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
                reason = getattr(error, "reason", error)
                told = f"judge failed: {self.url} {_said(reason)}."
                wait = None
                if attempt == self.retries and isinstance(error, OSError):
                    self.away = told
            if attempt < self.retries:
                time.sleep(min(LONGEST_WAIT, wait if wait is not None else
                               FIRST_WAIT * 2 ** attempt * random.uniform(0.8, 1.2)))
        return CannotScore(told)

    def _post(self, prompt: str) -> str:
        body = json.dumps({"model": self.model, "temperature": 0, "max_tokens": REPLY_TOKENS,
                           "messages": [{"role": "user", "content": prompt}]})
        headers = {"Content-Type": "application/json", "User-Agent": "grpo-lab"}
        headers |= {"Authorization": f"Bearer {self.key}"} if self.key else {}
        request = urllib.request.Request(f"{self.url}/chat/completions", body.encode(), headers)
        # A proxy of the environment cannot reach what runs here.
        here = [urllib.request.ProxyHandler({})] if _is_here(urlsplit(self.url).hostname) else []
        opener = urllib.request.build_opener(_NoRedirect, *here)
        with opener.open(request, timeout=self.seconds) as answer:
            told = json.loads(answer.read(LONGEST_REPLY))
        return str(told["choices"][0]["message"]["content"] or "")


def _detail(error: urllib.error.HTTPError) -> str:
    """What the server says beside its status."""
    try:
        text = error.read(2000).decode("utf-8", errors="replace").strip()
    except OSError:
        return ""
    return f": {' '.join(text.split())[:200]}" if text else ""


def _said(reason: Any) -> str:
    if isinstance(reason, TimeoutError):
        return "did not reply in time"
    if isinstance(reason, OSError):
        return f"cannot be reached: {reason.strerror or reason}"
    return f"replied something else than an OpenAI-style server does ({type(reason).__name__})"


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text or ""))
    except ValueError:
        return None
