"""Who and what gets through to the page: its names, other pages, the token, what may be asked."""

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Callable
from html import escape
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import plotly
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response

from lab.services.reach import EVERYWHERE, LOOPBACK, NAMES, Reach
from lab.services.space import Space
from lab.ui import access

HUB = "https://huggingface.co"
PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
PLOTLY_PATH = "plotly.min.js"  # where the page finds it: no path of this machine

# All that the page asks for. gradio serves more, none of which the lab has a use for: deep links
# and recordings write files, an address behind `file=` is fetched by the server.
LOOKED_AT = re.compile(
    r"/(|config/?|theme\.css|favicon\.ico|robots\.txt|manifest\.json|pwa_icon(/\d+)?|logout"
    r"|(assets|static|svelte)/.*|login/(huggingface|callback))"
    r"|/gradio_api/(info/?|app_id/?|startup-events|theme\.css|queue/(data|status)|upload_progress"
    r"|user/?|token/?|file=(?!(?i:https?:)).*)", re.DOTALL)
SENT = {  # and may be sent: path, most bytes
    "/gradio_api/queue/join": 8 << 20,
    "/gradio_api/component_server": 64 << 10,
    "/gradio_api/cancel": 64 << 10,
    "/gradio_api/reset": 64 << 10,
    "/gradio_api/upload": 256 << 20,
}
TOKEN_FIELD = "token"
LONGEST_TOKEN = 200
KEPT_FOR = 30 * 24 * 3600  # seconds that a browser remembers the token
PAUSE = 0.5  # seconds that a wrong token costs, one after the other

LOGIN = """<!doctype html><html lang="en"><meta charset="utf-8"><title>GRPO Lab</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 26rem; margin: 15vh auto;
  padding: 0 1rem; color-scheme: light dark; background: Canvas; color: CanvasText; }}
input, button {{ font: inherit; padding: .4rem .7rem; }}
input {{ width: 100%; box-sizing: border-box; margin: .3rem 0 .8rem; }}</style>
<main><h1>GRPO Lab</h1><p>{said}</p><form method="post"><label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required
autofocus>
<button>Open the lab</button></form></main></html>"""
WHERE = "It stands in the address that was printed where the lab was started."
ASKED = f"This lab asks for its token. {WHERE}"
WRONG = f"This is not the token. {WHERE}"


class Door:
    """Refuses requests that come by another name (DNS rebinding), from another page (Origin),
    without the token where there is one, or for what the page does not need.

    Allowed names are this machine's loopback, `host` and the names that were allowed; where `host`
    is every address (0.0.0.0), any plain IP address and this machine's own name too, since a
    foreign page can point its own name at this machine but not make the browser send another; with
    `share`, the tunnel's names; on a Space, its own, and pages of the Hub, which show it in a
    frame. A Space's visitors cannot upload either, and have no more than half of the queue.
    """

    def __init__(self, app: Callable, reach: Reach, space: Space | None = None,
                 waiting: Callable[[], int] = lambda: 0, most_waiting: int = 1) -> None:
        """`waiting` says how many calls wait in the queue, of `most_waiting` that may."""
        self.app = app
        self.reach = reach
        self.space = space
        self.waiting = waiting
        self.most_waiting = most_waiting
        self.cookie = f"grpo-lab-{reach.port}"  # cookies do not tell ports apart
        self.proof = hmac.new(reach.token.encode(), b"grpo-lab", hashlib.sha256).hexdigest()
        self.one_guess = asyncio.Lock()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "websocket":  # the page opens none
            await PlainTextResponse("There is nothing here.", 404)(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1")
                   for name, value in scope["headers"]}
        scope["path"] = path = self._path(scope["path"])
        answer = (self._against_caller(headers) or await self._token(scope, receive, headers, path)
                  or self._against_request(scope, headers, path))
        if answer is None and path == f"/{PLOTLY_PATH}":
            answer = FileResponse(PLOTLY, media_type="text/javascript")
        limit = SENT.get(path.rstrip("/"), 0)
        await (answer or self.app)(scope, _bounded(receive, limit) if answer is None else receive,
                                   self._with_headers(send))

    def _path(self, path: str) -> str:
        """The path without the part that a reverse proxy may have left in front of it."""
        front = self.reach.path
        return path[len(front):] or "/" if front and (path + "/").startswith(front + "/") else path

    # --- who asks -------------------------------------------------------------------------------

    def _against_caller(self, headers: dict[str, str]) -> Response | None:
        if not self.knows(headers.get("host", "")):
            return PlainTextResponse(self._unknown(headers.get("host", "")), 400)
        if not self.trusts(headers.get("origin", ""), headers["host"]):
            return PlainTextResponse("Requests from other pages are refused. If a proxy in front "
                                     "of the lab changes its name, start the lab with --allow-host "
                                     "and the name in the browser's address bar.", 403)
        return None

    def knows(self, host_header: str) -> bool:
        name = _host_of(host_header)
        if not name:
            return False
        if name in (*LOOPBACK, self.reach.host) or self.reach.allows(name):
            return True
        # The platform asks by an address or by the container's name whether the page is up.
        own = socket.gethostname().lower()
        if self.space and name in (*self.space.hosts, own):
            return True
        if self.reach.share and name.endswith((".gradio.live", ".gradio.app")):
            return True
        if self.reach.host not in EVERYWHERE:
            return False
        if name in (own, f"{own}.local"):
            return True
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name)
            return True
        return False

    def trusts(self, origin: str, host_header: str) -> bool:
        """Whether a request from this page is let through; none names the page of a plain one."""
        if not origin or origin.partition("://")[2] == host_header:
            return True
        # A proxy that asks by another name than the browser did.
        if self.reach.allows(_host_of(origin.partition("://")[2])):
            return True
        return self.space is not None and (
            origin == HUB or origin in {f"https://{host}" for host in self.space.hosts})

    def _unknown(self, host_header: str) -> str:
        name = _host_of(host_header)
        said = "Invalid host header: the lab does not know itself by this name."
        if not re.fullmatch(r"[a-z0-9._:-]{1,253}", name):
            return said
        return (f"{said} If {name} is the right one, start it with --allow-host {name}, or with "
                f"the variable {NAMES}={name}.")

    # --- the token ------------------------------------------------------------------------------

    async def _token(self, scope, receive, headers: dict[str, str], path: str) -> Response | None:
        """What is answered to who has not shown the token; None for who has."""
        # gradio asks its own page for this before it says that it is up.
        if not self.reach.token or path == "/gradio_api/startup-events":
            return None
        asked = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
        if path == "/" and scope["method"] == "GET" and TOKEN_FIELD in asked:
            given = asked.pop(TOKEN_FIELD)
            return await self._let_in(given, headers, urlencode(asked))
        if self._has_shown(headers):
            return None
        if path == "/" and scope["method"] == "POST":
            return await self._let_in(await _field(receive), headers, "")
        if path == "/":
            return HTMLResponse(LOGIN.format(said=escape(ASKED)), 401)
        return PlainTextResponse(ASKED, 401)

    def _has_shown(self, headers: dict[str, str]) -> bool:
        bearer = headers.get("authorization", "").partition("Bearer ")[2]
        if bearer and _same(bearer, self.reach.token):
            return True
        try:
            kept = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return False
        return kept is not None and _same(kept.value, self.proof)

    async def _let_in(self, given: str, headers: dict[str, str], rest: str) -> Response:
        if not _same(given, self.reach.token):
            async with self.one_guess:  # so that a chosen one is not found by trying
                await asyncio.sleep(PAUSE)
            return HTMLResponse(LOGIN.format(said=escape(WRONG)), 401)
        # Relative, since only the browser knows under which path a proxy shows the lab; without the
        # token, which must not stay in the address bar.
        answer = Response(status_code=303, headers={"Location": f"?{rest}" if rest else "."})
        answer.set_cookie(self.cookie, self.proof, max_age=KEPT_FOR, httponly=True, samesite="lax",
                          secure=headers.get("x-forwarded-proto", "").startswith("https"),
                          path=self.reach.path or "/")
        return answer

    # --- what is asked --------------------------------------------------------------------------

    def _against_request(self, scope, headers: dict[str, str], path: str) -> Response | None:
        if scope["method"] in ("GET", "HEAD"):
            known = LOOKED_AT.fullmatch(path) or path == f"/{PLOTLY_PATH}"
            return None if known else PlainTextResponse("There is nothing here.", 404)
        most = SENT.get(path.rstrip("/"))
        if scope["method"] == "OPTIONS":
            return None
        if scope["method"] != "POST" or most is None:
            return PlainTextResponse("There is nothing here.", 404)
        if not headers.get("content-length", "0").isdecimal() or int(
                headers.get("content-length", "0")) > most:
            return PlainTextResponse("This is more than may be sent here.", 413)
        form = headers.get("content-type", "").lower().startswith("multipart/")
        upload = path.rstrip("/").endswith("/upload")
        if form and not upload:  # a way to leave files here
            return PlainTextResponse("Files are taken by an upload alone.", 415)
        if access.allows(scope.get("session") or {}):
            return None
        if upload:
            return PlainTextResponse("Only the owner of this Space may upload", 403)
        if path.rstrip("/").endswith("/join") and self.waiting() >= self.most_waiting // 2:
            return PlainTextResponse("Too many visitors ask at once. Try again in a moment.", 503)
        return None

    def _with_headers(self, send: Callable) -> Callable:
        """Add what browsers keep to: nothing is loaded from elsewhere, whatever stands in a model's
        answer, and no foreign page shows the lab in a frame."""
        frames = "'self'" if self.space is None else f"'self' {HUB} https://*.hf.space"
        policy = (
            "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; "
            f"base-uri 'self'; form-action 'self'; frame-ancestors {frames}")
        added = [(b"content-security-policy", policy.encode()),
                 (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin")]
        if self.space is None:
            added.append((b"x-frame-options", b"SAMEORIGIN"))

        async def sending(message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        return sending


def _host_of(host_header: str) -> str:
    """The name in a Host header, in small letters; empty where there is none."""
    try:
        return urlsplit(f"//{host_header}").hostname or ""
    except ValueError:
        return ""


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


async def _field(receive: Callable) -> str:
    """The token in the form that was sent; empty where it is not."""
    body = b""
    while len(body) <= LONGEST_TOKEN + len(TOKEN_FIELD) + 1:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return dict(parse_qsl(body.decode("latin-1"))).get(TOKEN_FIELD, "")[:LONGEST_TOKEN]


def _bounded(receive: Callable, most: int) -> Callable:
    """Receive no more than this, whatever length was told: the rest counts as hung up."""
    seen = 0

    async def receiving() -> dict:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body") or b"")
        return message if seen <= most else {"type": "http.disconnect"}

    return receiving
