"""Files of the Hugging Face Hub: listed once at a pinned commit, fetched whole, verified by hash, retried.

    hf://datasets/OWNER/NAME@REVISION/path      a dataset, or the part of it below a path
    hf://OWNER/NAME@REVISION                    a model

A revision may be a commit, a branch or a tag; without one it is `main`. It becomes a commit once, when the
repository is listed, so that all files belong together. Every byte is checked: large files against the SHA-256 in
the listing, small ones against git's own hash. `huggingface_hub` moves the bytes, and reads HF_HOME, HF_TOKEN and
HF_ENDPOINT; it checks sizes only. What may pass (a dropped connection, a stall, too many requests, an error of the
server, wrong bytes) is tried again, later each time; what cannot (no such repository, no access) is an error.
"""

import fnmatch
import hashlib
import logging
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import huggingface_hub
from huggingface_hub import errors as hub_errors
from huggingface_hub import utils as hub_utils

from candlewick.artifacts import file_sha256
from candlewick.errors import DataError, EnvironmentFault

SCHEME = "hf://"
_URI = re.compile(
    r"hf://(?P<datasets>datasets/)?(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/]+))?(?:/(?P<path>.*))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SAFE = re.compile(r"[\w][\w.=+ -]*(/[\w][\w.=+ -]*)*")
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_BLOCK = 1 << 20
_HTTP_ERROR: type[Exception] = hub_errors.HfHubHTTPError.__bases__[0]
"""What every error of the HTTP library is, whichever one this version of huggingface_hub uses."""

Kind = Literal["dataset", "model"]
Result = TypeVar("Result")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HubUri:
    """Which repository, at which revision, and what in it."""

    kind: Kind
    name: str
    revision: str | None
    path: str = ""

    def __str__(self) -> str:
        kind = "datasets/" if self.kind == "dataset" else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{SCHEME}{kind}{self.name}{revision}{'/' * bool(self.path)}{self.path}"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file as the listing has it: `sha256` of a large file, else git's hash of the content, `blob_id`."""

    path: str
    bytes: int
    sha256: str | None
    blob_id: str


@dataclass(frozen=True, slots=True)
class HubRepo:
    """A repository at a commit, and its files by name."""

    kind: Kind
    name: str
    commit: str
    files: tuple[HubFile, ...]

    @property
    def uri(self) -> HubUri:
        """The address of just this state."""
        return HubUri(self.kind, self.name, self.commit)


@dataclass(frozen=True, slots=True)
class Patience:
    """How often to try, and how long to wait between: twice as long each time, give or take a half."""

    tries: int = 8
    first_seconds: float = 1.0
    longest_seconds: float = 60.0

    def wait(self, number: int, asked_seconds: float) -> None:
        """Wait after the `number`-th try failed, at least as long as the server asked for."""
        due = min(self.first_seconds * 2 ** (number - 1), self.longest_seconds) * random.uniform(0.5, 1.5)
        time.sleep(max(due, min(asked_seconds, 10 * self.longest_seconds)))


PATIENCE = Patience()


def parse_uri(uri: str) -> HubUri:
    """Read an address of the Hub. Raises DataError for what is none."""
    found = _URI.fullmatch(uri)
    path = (found["path"] or "").strip("/") if found else ""
    if found is None or (path and ".." in path.split("/")):
        raise DataError(
            f"{uri} is no address of the Hub",
            "write hf://datasets/OWNER/NAME@REVISION, or hf://OWNER/NAME for a model",
        )
    return HubUri("dataset" if found["datasets"] else "model", found["name"], found["revision"], path)


def open_repo(uri: str) -> HubRepo:
    """List a repository, at the commit that the address says or that its branch has now.

    Raises DataError if there is none or no access to it, EnvironmentFault if the Hub cannot be reached.
    """
    address = parse_uri(uri)

    def look() -> HubRepo:
        api = _api()
        commit = address.revision or "main"
        if not _COMMIT.fullmatch(commit):
            info: Any = api.repo_info(address.name, repo_type=address.kind, revision=address.revision)
            commit = str(info.sha)
        tree = api.list_repo_tree(address.name, repo_type=address.kind, revision=commit, recursive=True)
        return HubRepo(address.kind, address.name, commit, tuple(sorted(_files(tree), key=lambda file: file.path)))

    repo = _persist(str(address), look)
    if address.revision != repo.commit:
        _log.info("%s is at commit %s", address, repo.commit)
    return repo


def _files(tree: Any) -> Iterator[HubFile]:
    for entry in tree:
        if isinstance(entry, huggingface_hub.RepoFile):
            sha256 = None if entry.lfs is None else str(entry.lfs.sha256)
            yield HubFile(entry.path, int(entry.size), sha256, str(entry.blob_id))


def fetch_file(repo: HubRepo, file: HubFile, folder: Path) -> Path:
    """Fetch a file to `folder`/its path in the repository, verified; wrong bytes are fetched again.

    Raises DataError for a file that is not to be had, EnvironmentFault if the network stays away.
    """
    _require_safe(file)
    target = folder / file.path

    def fetch() -> Path:
        _download(repo, file, local_dir=folder)
        if (problem := _difference(target, file)) is not None:
            target.unlink(missing_ok=True)
            shutil.rmtree(folder / ".cache", ignore_errors=True)  # or it would be taken for the right one
            raise _WrongBytes(problem)
        return target

    return _persist(f"{repo.uri}/{file.path}", fetch)


def fetch_model(uri: str, allow: Sequence[str]) -> Path:
    """Fetch the files of a model that match one of the patterns into the Hub's cache; return their folder.

    A pattern is about a whole path below that of the address, its * about one part of it. Nothing else is fetched.
    The cache is where HF_HOME says, and shared with other programs; files that are in it already are verified too.
    Raises DataError, EnvironmentFault.
    """
    repo, below = open_repo(uri), parse_uri(uri).path
    chosen = [file for file in repo.files if any(_is_named(file.path, below, pattern) for pattern in allow)]
    if not chosen:
        raise DataError(f"{uri} has none of the files {', '.join(allow)[:200]}", "check the name and the revision")
    folder: Path | None = None
    for file in chosen:
        _require_safe(file)

        def fetch(file: HubFile = file) -> Path:
            path = _download(repo, file)
            if (problem := _difference(path, file)) is not None:
                path.resolve().unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                raise _WrongBytes(problem)
            return path

        path = _persist(f"{repo.uri}/{file.path}", fetch)
        folder = folder or path.parents[file.path.count("/")]
    assert folder is not None
    return folder / below


def _is_named(path: str, below: str, pattern: str) -> bool:
    whole = f"{below}/{pattern}".lstrip("/")
    return path.count("/") == whole.count("/") and fnmatch.fnmatchcase(path, whole)


def _api() -> huggingface_hub.HfApi:
    hub_utils.disable_progress_bars()
    hub_utils.logging.set_verbosity_error()  # what it tries again is told here
    return huggingface_hub.HfApi()


def _download(repo: HubRepo, file: HubFile, local_dir: Path | None = None) -> Path:
    api = _api()
    return Path(
        api.hf_hub_download(repo.name, file.path, repo_type=repo.kind, revision=repo.commit, local_dir=local_dir)
    )


def _require_safe(file: HubFile) -> None:
    if not _SAFE.fullmatch(file.path):
        raise DataError(f"the repository has a file called {file.path[:80]!r}, which is no safe name")


def _difference(path: Path, file: HubFile) -> str | None:
    """Say how a file differs from the listing; None: it does not."""
    if (size := path.stat().st_size) != file.bytes:
        return f"{file.path} has {size} bytes, the listing says {file.bytes}"
    found, expected = (file_sha256(path), file.sha256) if file.sha256 else (_blob_id(path), file.blob_id)
    return None if found == expected else f"{file.path} has hash {found[:12]}, the listing says {expected[:12]}"


def _blob_id(path: Path) -> str:
    """Return git's hash of a file."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


class _WrongBytes(OSError):
    """What came is not what the listing says."""


def _persist(what: str, attempt: Callable[[], Result]) -> Result:
    """Try again and again what may pass. Raises DataError for what cannot, EnvironmentFault after the last try."""
    patience = PATIENCE
    number = 0
    while True:
        number += 1
        try:
            return attempt()
        except (OSError, _HTTP_ERROR, RuntimeError) as error:  # RuntimeError: how hf_xet fails
            _require_passing(what, error)
            reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
            response = getattr(error, "response", None)
            asked = "" if response is None else str(response.headers.get("Retry-After", ""))
        if number >= patience.tries:
            raise EnvironmentFault(
                f"{what} could not be fetched in {patience.tries} tries, the last one failed with: {reason}",
                "check the network and run the same again: it goes on where it stopped",
            )
        _log.info("%s: %s; trying again (%d of %d)", what, reason, number + 1, patience.tries)
        patience.wait(number, float(asked) if asked.isdecimal() else 0.0)


def _require_passing(what: str, error: Exception) -> None:
    """Raise the error, or what it means to a user, unless it may be gone next time."""
    if isinstance(error, hub_errors.OfflineModeIsEnabled):
        raise EnvironmentFault(
            f"{what}: HF_HUB_OFFLINE is set", "unset it, or give files of this machine"
        ) from None
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, hub_errors.GatedRepoError) or status == 403:
        raise DataError(
            f"{what}: access is not granted", "accept its terms on the Hub, and set HF_TOKEN to a token of yours"
        ) from None
    if status is not None and status not in _AGAIN:
        raise DataError(
            f"{what} does not exist, or needs a token (status {status})",
            "check the name, the revision and the path; for a private repository set HF_TOKEN",
        ) from None
    is_local = isinstance(error, OSError) and error.errno is not None
    if is_local and not isinstance(error, ConnectionError | TimeoutError):
        raise error
