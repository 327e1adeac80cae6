"""A local server that speaks as much of the Hub as `huggingface_hub` needs, and fails as it is told to.

    with HubServer(tmp_path, monkeypatch) as hub:
        hub.add("datasets/me/text", {"data/a.parquet": b"..."})
        hub.faults += [Fault("a.parquet", "drop"), Fault("/tree/", "busy")]

Faults are used up in their order by the requests whose path contains their text. Large files (here: all but .md
and .json) have an LFS hash in the listing. `requests` keeps (method, path) of everything that was asked for.
"""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest

from candlewick import hub as hub_module

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Fault:
    """What happens to one request whose path contains `where`: see `_Handler`."""

    where: str
    kind: str
    method: str = "GET"


@dataclass
class Repo:
    """Files of a repository at its one commit."""

    files: dict[str, bytes]
    commit: str = COMMIT


@dataclass
class HubServer:
    """Serves repositories by `datasets/OWNER/NAME` or `OWNER/NAME` until the block ends."""

    monkeypatch: pytest.MonkeyPatch
    repos: dict[str, Repo] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    stall_seconds: float = 1.0

    def __post_init__(self) -> None:
        self.ended = threading.Event()
        self.lock = threading.Lock()

    def add(self, name: str, files: dict[str, bytes], commit: str = COMMIT) -> None:
        """Put a repository there."""
        self.repos[name] = Repo(files, commit)

    def __enter__(self) -> "HubServer":
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        constants = huggingface_hub.constants
        self.monkeypatch.setattr(constants, "ENDPOINT", self.url)
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        self.monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        self.monkeypatch.setattr(constants, "HF_URL_HOSTS", frozenset({"127.0.0.1"}))
        self.monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
        self.monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
        self.monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        self.monkeypatch.setattr(hub_module, "PATIENCE", hub_module.Patience(8, 0.001, 0.002))
        # huggingface_hub waits a second or more between tries of its own
        self.monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()

    def take_fault(self, method: str, path: str) -> str | None:
        """Use up and return the first fault for a request."""
        with self.lock:
            self.requests.append((method, path))
            for fault in self.faults:
                if fault.method == method and fault.where in path:
                    self.faults.remove(fault)
                    return fault.kind
        return None

    def fetched(self) -> list[str]:
        """Return the names of the files whose content was asked for, each time."""
        with self.lock:
            return [
                path.split("/resolve/")[1].split("/", 1)[1]
                for m, path in self.requests
                if m == "GET" and "/resolve/" in path
            ]


STATUS = {
    "busy": 429,
    "error": 500,
    "gateway": 502,
    "unavailable": 503,
    "missing": 404,
    "denied": 401,
    "gated": 403,
}


class _Handler(BaseHTTPRequestHandler):
    """drop: no answer; cut: half of the body, then the end; stall: half, then silence; flip: one wrong byte.

    short: half, and a length that says so; a name in STATUS: that status.
    """

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self._answer()

    def do_GET(self) -> None:
        """Answer."""
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        fault = self.hub.take_fault(self.command, path)
        if fault == "drop":
            self.close_connection = True
            return
        if fault in STATUS:
            self._send(b"{}", STATUS[fault], {"Retry-After": "0"} if fault == "busy" else {})
            return
        if found := re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._info(found[1], found[2], found[3])
        elif found := re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)/tree/([^/]+)/?", path):
            self._tree(found[1], found[2], found[3], fault)
        elif found := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(found[1], found[2], found[3], fault)
        else:
            self._send(b"{}", 404)

    def _repo(self, kind: str, name: str, revision: str | None) -> Repo | None:
        repo = self.hub.repos.get(f"datasets/{name}" if kind == "datasets" else name)
        return repo if repo is not None and revision in (None, "main", repo.commit) else None

    def _info(self, kind: str, name: str, revision: str | None) -> None:
        repo = self._repo(kind, name, revision)
        if repo is None:
            self._send(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
            return
        body = {"id": name, "sha": repo.commit, "siblings": [{"rfilename": file} for file in repo.files]}
        self._send(json.dumps(body).encode(), 200, {"Content-Type": "application/json"})

    def _tree(self, kind: str, name: str, revision: str, fault: str | None) -> None:
        repo = self._repo(kind, name, revision)
        if repo is None:
            self._send(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
            return
        entries = [
            {"type": "file", "path": path, "size": len(data), **_hashes(path, data)}
            for path, data in repo.files.items()
        ]
        self._send(json.dumps(entries).encode(), 200, {"Content-Type": "application/json"}, fault)

    def _file(self, name: str, revision: str, path: str, fault: str | None) -> None:
        kind, _, rest = name.partition("/") if name.startswith("datasets/") else ("models", "", name)
        repo = self._repo(kind, rest, revision)
        data = None if repo is None else repo.files.get(path)
        if repo is None or data is None:
            self._send(b"", 404, {"X-Error-Code": "EntryNotFound"})
            return
        hashes = _hashes(path, data)
        etag = hashes["lfs"]["oid"] if "lfs" in hashes else hashes["oid"]
        headers = {
            "X-Repo-Commit": repo.commit,
            "ETag": f'"{etag}"',
            "X-Linked-Size": str(len(data)),
            "Accept-Ranges": "bytes",
        }
        headers["X-Linked-ETag"] = f'"{etag}"'
        status = 200
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(found[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, status = data[start:], 206
        self._send(data, status, headers, fault)

    def _send(
        self, body: bytes, status: int = 200, headers: dict[str, str] | None = None, fault: str | None = None
    ) -> None:
        if fault == "flip" and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        sent = body[: len(body) // 2] if fault in ("cut", "stall", "short") else body
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(sent) if fault == "short" else len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            self.wfile.write(sent)
            self.wfile.flush()
            if fault == "stall":
                self.hub.ended.wait(self.hub.stall_seconds)
        except OSError:
            pass
        if fault in ("cut", "stall", "short"):
            self.close_connection = True


def _hashes(path: str, data: bytes) -> dict[str, Any]:
    """Return what the listing says of a file's content."""
    blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    if path.endswith((".md", ".json")):
        return {"oid": blob}
    return {"oid": blob, "lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}}
