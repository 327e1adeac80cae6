"""A small Hugging Face Hub on this machine, for tests: what `huggingface_hub` asks for, and faults on request.

    with HubServer() as hub, hub.client(tmp_path):
        hub.commit("datasets/o/n", {"a.txt": b"..."})         # returns the commit
        hub.fail("GET .*resolve.*a.txt", "cut", "503", "flip")   # the next three such requests
        ...

It speaks HTTP/1.1 on 127.0.0.1. Files of `lfs_bytes` or more are kept as on the Hub: listed with their SHA-256,
and served by redirect from another host ("localhost"), to which no token may go. A listing comes in pages, of the
whole repository or of a folder in it.
`client` points `huggingface_hub` in this process at it, with waits that take no time; `environment` does it for
another process.
"""

import contextlib
import hashlib
import json
import re
import socket
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

FAULTS = ("drop", "cut", "short", "stall", "429", "500", "502", "503", "flip", "other")
"""drop: no answer; cut: half the body, then the connection ends; short: half the body, and the length says so;
stall: half the body, then silence; flip: one bit; other: the same length, all different. And every HTTP status."""


class Request(NamedTuple):
    """What was asked."""

    method: str
    path: str
    authorization: str | None
    range: str | None
    host: str


@dataclass
class Repo:
    """The commits of a repository, the newest last, and its branches."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    token: str | None = None  # gated: only for this one


def git_sha1(content: bytes) -> str:
    """Return the id that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer:
    """Serves in threads of this process from `start` to `stop`."""

    def __init__(self, lfs_bytes: int = 1000, page: int = 3) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.lfs_bytes, self.page = lfs_bytes, page
        self.plan: Callable[[Request], str | None] = lambda request: None
        """Says which fault a request meets; asked when no `fail` matches."""
        self.retry_after: int | str | None = None
        self.rate_limit: str | None = None
        self.stall_seconds = 30.0
        self._planned: list[tuple[re.Pattern[str], list[str]]] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def commit(self, repo: str, files: Mapping[str, bytes], ref: str = "main", token: str | None = None) -> str:
        """Make a commit of `datasets/OWNER/NAME` or `OWNER/NAME` with these files; return its 40 hex digits."""
        found = self.repos.setdefault(repo, Repo())
        listing = json.dumps([sorted((name, git_sha1(c)) for name, c in files.items()), len(found.commits)])
        sha = hashlib.sha1(listing.encode()).hexdigest()
        found.commits[sha] = dict(files)
        found.refs[ref] = sha
        found.token = token
        return sha

    def fail(self, pattern: str, *faults: str) -> None:
        """Let the next requests whose "METHOD /path" matches meet these faults, in turn."""
        self._planned.append((re.compile(pattern), list(faults)))

    def asked(self, pattern: str) -> int:
        """Count the requests whose "METHOD /path" matches."""
        return sum(bool(re.search(pattern, f"{request.method} {request.path}")) for request in self.requests)

    def fault(self, request: Request) -> str | None:
        """Note a request; return the fault it meets."""
        with self._lock:
            self.requests.append(request)
            for pattern, faults in self._planned:
                if faults and pattern.search(f"{request.method} {request.path}"):
                    return faults.pop(0)
            return self.plan(request)

    def wait(self, seconds: float) -> None:
        """Wait, but not longer than the server lives."""
        self._stopped.wait(seconds)

    def environment(self, home: Path) -> dict[str, str]:
        """Return the variables that point another process at this server."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DOWNLOAD_TIMEOUT": "1"}

    @contextlib.contextmanager
    def client(self, home: Path, timeout: float = 0.5) -> Iterator[list[float]]:
        """Point `huggingface_hub` in this process at this server; yields the waits that were not waited."""
        with pytest.MonkeyPatch.context() as patch:
            yield point_here(patch, self.url, home, timeout)
            for thread in threading.enumerate():
                if thread.name == "fetch":  # what was fetched ahead and not wanted any more
                    thread.join()


def point_here(patch: pytest.MonkeyPatch, url: str, home: Path, timeout: float) -> list[float]:
    """Patch the settings that `huggingface_hub` read from the environment, and `time.sleep`."""
    from huggingface_hub import constants

    waits: list[float] = []
    patch.setattr(constants, "ENDPOINT", url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", timeout)
    patch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", timeout)
    patch.setattr(time, "sleep", waits.append)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        patch.delenv(name, raising=False)
    return waits


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that was killed
            super().handle_error(request, client_address)


class _Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(status, code)
        self.status, self.code = status, code


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet, not two of which the second waits for an acknowledgment
        disable_nagle_algorithm = True

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            get = self.headers.get
            request = Request(
                self.command, self.path, get("authorization"), get("range"), (get("host") or "").split(":")[0]
            )
            fault = hub.fault(request)
            try:
                with contextlib.suppress(ConnectionError):
                    self._serve(urllib.parse.urlsplit(self.path), fault)
            except _Refused as refused:
                self._send(refused.status, b"{}", {"X-Error-Code": refused.code})

        def _serve(self, url: urllib.parse.SplitResult, fault: str | None) -> None:
            if fault == "drop":
                self._hang_up()
            elif fault is not None and fault.isdecimal():
                pauses = {"Retry-After": hub.retry_after, "RateLimit": hub.rate_limit}
                extra = {name: str(value) for name, value in pauses.items() if value is not None}
                code = {"401": "RepoNotFound", "403": "GatedRepo", "404": "EntryNotFound"}.get(fault, "")
                self._send(int(fault), b"{}", {**extra, **({"X-Error-Code": code} if code else {})})
            elif url.path.startswith("/cdn/"):
                sha = url.path.rsplit("/", 1)[1]
                self._send_file(self._large(sha), {"ETag": f'"{sha}"'}, fault)
            elif url.path.startswith("/api/"):
                self._api(url.path.removeprefix("/api/"), urllib.parse.parse_qs(url.query), fault)
            else:
                self._resolve(urllib.parse.unquote(url.path).lstrip("/"), fault)

        def _repo(self, name: str) -> Repo:
            repo = hub.repos.get(name)
            if repo is None:
                raise _Refused(404, "RepoNotFound")
            if repo.token is not None and self.headers.get("authorization") != f"Bearer {repo.token}":
                raise _Refused(403 if self.headers.get("authorization") else 401, "GatedRepo")
            return repo

        def _commit(self, repo: Repo, revision: str) -> str:
            sha = repo.refs.get(revision, revision)
            if sha not in repo.commits:
                raise _Refused(404, "RevisionNotFound")
            return sha

        def _api(self, path: str, query: dict[str, list[str]], fault: str | None) -> None:
            found = re.fullmatch(r"(models/|datasets/)([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/(.+))?)?", path)
            if found is None:
                raise _Refused(404, "")
            kind, name, what, revision, folder = found.groups()
            repo = self._repo(name if kind == "models/" else f"datasets/{name}")
            sha = self._commit(repo, urllib.parse.unquote(revision or "main"))
            if what != "tree":
                self._send(200, json.dumps({"id": name, "sha": sha, "siblings": []}).encode(), {}, fault)
                return
            is_recursive = query.get("recursive", ["false"])[0].lower() == "true"
            folder = urllib.parse.unquote(folder or "")
            entries = list(_tree(repo.commits[sha], hub.lfs_bytes, folder, is_recursive))
            if folder and not entries:  # a file too is no tree
                raise _Refused(404, "EntryNotFound")
            start = int(query.get("cursor", ["0"])[0])
            extra = {}
            if start + hub.page < len(entries):
                more = urllib.parse.urlencode({"recursive": is_recursive, "cursor": start + hub.page})
                extra["Link"] = f'<{hub.url}/api/{path}?{more}>; rel="next"'
            self._send(200, json.dumps(entries[start : start + hub.page]).encode(), extra, fault)

        def _resolve(self, path: str, fault: str | None) -> None:
            found = re.fullmatch(r"((?:datasets/)?[^/]+/[^/]+)/resolve/((?:refs/[^/]+/)?[^/]+)/(.+)", path)
            if found is None:
                raise _Refused(404, "")
            repo = self._repo(found[1])
            sha = self._commit(repo, found[2])
            content = repo.commits[sha].get(found[3])
            if content is None:
                raise _Refused(404, "EntryNotFound")
            extra = {"X-Repo-Commit": sha, "ETag": f'"{git_sha1(content)}"'}
            if len(content) < hub.lfs_bytes:
                self._send_file(content, extra, fault)
                return
            digest = hashlib.sha256(content).hexdigest()
            extra |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            extra["Location"] = f"http://localhost:{hub.port}/cdn/{urllib.parse.quote(found[3])}/{digest}"
            self._send(302, b"", extra, fault)

        def _large(self, sha: str) -> bytes:
            for repo in hub.repos.values():
                for files in repo.commits.values():
                    for content in files.values():
                        if hashlib.sha256(content).hexdigest() == sha:
                            return content
            raise _Refused(404, "")

        def _send_file(self, content: bytes, extra: dict[str, str], fault: str | None) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range") or "")
            if asked is None:
                self._send(200, content, extra, fault)
                return
            start = int(asked[1])
            extra["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._send(206, content[start:], extra, fault)

        def _send(self, status: int, body: bytes, extra: dict[str, str], fault: str | None = None) -> None:
            half = len(body) // 2
            if fault == "flip" and body:
                body = body[:half] + bytes([body[half] ^ 1]) + body[half + 1 :]
            elif fault == "other":
                body = bytes(255 - byte for byte in body)
            elif fault == "short" and self.command == "GET":
                body = body[:half]
            self.send_response(status)
            for name, value in {**extra, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if fault not in ("cut", "stall"):
                self.wfile.write(body)
                return
            self.wfile.write(body[:half])
            self.wfile.flush()
            if fault == "stall":
                hub.wait(hub.stall_seconds)
            self._hang_up()

        def _hang_up(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    return Handler


def _tree(
    files: Mapping[str, bytes], lfs_bytes: int, folder: str, is_recursive: bool
) -> Iterator[dict[str, object]]:
    def is_listed(path: str) -> bool:
        parent = path.rpartition("/")[0]
        return parent == folder or (is_recursive and f"{parent}/".startswith(f"{folder}/" if folder else ""))

    folders = {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."}
    for name in filter(is_listed, sorted(folders)):
        yield {"type": "directory", "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0, "path": name}
    for name, content in sorted(files.items()):
        if not is_listed(name):
            continue
        entry: dict[str, object] = {"type": "file", "oid": git_sha1(content), "size": len(content), "path": name}
        if len(content) >= lfs_bytes:
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
        yield entry
