"""A stand-in of the Hub's HTTP API, as far as a push needs it: a real server on this machine."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """Repositories by name: {"private", "files": {path: bytes}}. `token` is the one that may write.
    `fails` is a status that commits are refused with, 0 for none."""

    daemon_threads = True

    def __init__(self, token: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token, self.fails = token, 0
        self.repos: dict[str, dict] = {}
        self.large: dict[str, bytes] = {}  # by SHA-256
        self.heard: list[tuple[str, str]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_) -> None:
        pass

    def do_POST(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) \
            if not self.headers.get("Transfer-Encoding") else self._chunks()
        hub.heard.append((path, self.headers.get("Authorization", "")))
        if path == "/api/validate-yaml":
            return self._reply(200, {"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._reply(401, {"error": "Invalid credentials in Authorization header"})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in hub.repos:
                return self._reply(409, {"error": "You already created this model repo",
                                         "url": f"{hub.url}/{name}"})
            hub.repos[name] = {"private": asked.get("visibility") == "private"
                               or bool(asked.get("private")), "files": {}}
            return self._reply(200, {"url": f"{hub.url}/{name}", "name": name})
        if path.endswith("/objects/batch"):
            return self._reply(200, {"transfer": "basic", "objects": [
                {**one, "actions": {"upload": {"href": f"{hub.url}/large/{one['oid']}"}}}
                for one in json.loads(body)["objects"]]})
        name = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            return self._reply(200, {"files": [
                {"path": one["path"], "shouldIgnore": False, "uploadMode":
                 "lfs" if one["path"].endswith(".safetensors") else "regular"}
                for one in json.loads(body)["files"]]})
        if "/commit/" in path:
            if hub.fails:
                return self._reply(hub.fails, {"error": "The commit was refused"})
            for line in map(json.loads, filter(None, body.split(b"\n"))):
                told = line["value"]
                if line["key"] == "file":
                    hub.repos[name]["files"][told["path"]] = base64.b64decode(told["content"])
                elif line["key"] == "lfsFile":
                    hub.repos[name]["files"][told["path"]] = hub.large[told["oid"]]
            return self._reply(200, {"commitUrl": f"{hub.url}/{name}/commit/abc",
                                     "commitOid": "abc", "hookOutput": ""})
        return self._reply(404, {"error": f"no {path}"})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert hashlib.sha256(body).hexdigest() == self.path.rpartition("/")[2]
        self.server.large[self.path.rpartition("/")[2]] = body
        self._reply(200, {})

    def do_GET(self) -> None:
        if self.path == "/api/whoami-v2":
            return self._reply(200, {"name": "ana", "type": "user"})
        name = self.path.partition("?")[0].removeprefix("/api/models/")
        if name in self.server.repos:
            return self._reply(200, {"id": name})
        return self._reply(401, {"error": "Repository not found"})

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _reply(self, status: int, told: dict) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
