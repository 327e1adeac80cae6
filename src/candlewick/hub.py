"""Files of the Hugging Face Hub: listed once at a pinned commit, fetched whole, verified by hash, retried.

    hf://datasets/OWNER/NAME@REVISION/path     a dataset, or what lies under a path in it
    hf://OWNER/NAME@REVISION                   a model

A branch, a tag or nothing as the revision stands for another commit tomorrow: it is resolved once, and everything
after that is asked for by commit. The listing says size and hash of each file (SHA-256, for small files git's blob
SHA-1). Bytes that do not match are thrown away and fetched again. So a changed file never goes by unnoticed.

What may pass by itself (a lost connection, a stall, 429, 5xx, wrong bytes) is tried again, with waits that grow
and are spread at random; a wait that the server names is kept. What cannot (401, 403, 404) fails at once. HF_HOME,
HF_TOKEN, HF_ENDPOINT and the time-outs are `huggingface_hub`'s own. A token is in no message.
"""

import hashlib
import logging
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from candlewick.artifacts.manifest import file_sha256
from candlewick.errors import CandlewickError, DataError, EnvironmentFault

SCHEME = "hf://"
TRIES = 6
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
LONGEST_ASKED_SECONDS = 900.0

_URI = re.compile(
    r"hf://(?P<datasets>datasets/)?(?P<name>(?!datasets/)[\w.-]+/[\w.-]+)"
    r"(@(?P<revision>refs/(pr|convert)/[\w.-]+|[^/@]+))?(/(?P<path>.*))?"
)
_COMMIT = re.compile("[0-9a-f]{40}")
_QUERY = re.compile(r"\?\S+")  # of an address: it may be signed, and open to who has it
_NEVER = (".py", ".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".so")
_TRANSIENT = {408, 429, *range(500, 600)}

_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HubUri:
    """What a URI names; `revision` None is the default branch, `path` "" the whole repository."""

    kind: Literal["dataset", "model"]
    name: str
    revision: str | None
    path: str

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        path = f"/{self.path}" if self.path else ""
        return f"hf://{'datasets/' if self.kind == 'dataset' else ''}{self.name}{revision}{path}"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file in a repository; `sha256` is known for large ones, `blob_id` (git's SHA-1) for all."""

    path: str
    bytes: int
    sha256: str | None
    blob_id: str


@dataclass(frozen=True, slots=True)
class HubRepo:
    """A repository at one commit."""

    kind: Literal["dataset", "model"]
    name: str
    commit: str
    files: tuple[HubFile, ...]

    @property
    def uri(self) -> HubUri:
        """The address of just this state."""
        return HubUri(self.kind, self.name, self.commit, "")


class _WrongBytes(OSError):
    """What came is not what the listing says."""


def parse_uri(uri: str) -> HubUri:
    """Read `hf://...`. Raises DataError if it is none, or its path leads out of the repository."""
    found = _URI.fullmatch(uri)
    path = (found["path"] or "").strip("/") if found else ""
    if found is None or ".." in path.split("/"):
        raise DataError(
            f"{uri} names nothing on the Hub",
            "write hf://datasets/OWNER/NAME@REVISION/path for a dataset, hf://OWNER/NAME@REVISION for a model",
        )
    return HubUri("dataset" if found["datasets"] else "model", found["name"], found["revision"], path)


def open_repo(uri: str | HubUri) -> HubRepo:
    """List a repository, all of it, at the commit that its revision stands for now.

    Raises DataError if it is not there or not for this user, EnvironmentFault if the Hub cannot be reached.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415 - most runs need no network
    from huggingface_hub.hf_api import RepoFile  # noqa: PLC0415

    wanted = parse_uri(uri) if isinstance(uri, str) else uri
    _set_up()

    def ask() -> HubRepo:
        api = HfApi()
        commit = api.repo_info(wanted.name, revision=wanted.revision, repo_type=wanted.kind).sha or ""
        if not _COMMIT.fullmatch(commit):
            raise _WrongBytes(f"the server names no commit: {commit[:40]!r}")
        tree = api.list_repo_tree(wanted.name, recursive=True, revision=commit, repo_type=wanted.kind)
        files = [
            HubFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
            for entry in tree
            if isinstance(entry, RepoFile)
        ]
        files.sort(key=lambda file: file.path)
        return HubRepo(wanted.kind, wanted.name, commit, tuple(files))

    repo = _persist(str(wanted), ask)
    if repo.commit != wanted.revision:
        _log.info("%s is commit %s now: write @%s to have the same files again", wanted, repo.commit, repo.commit)
    return repo


def fetch_file(repo: HubRepo, file: HubFile, folder: Path) -> Path:
    """Bring one file into `folder`, under its path in the repository, and verify it.

    Raises DataError for bytes that stay wrong, EnvironmentFault if the Hub cannot be reached.
    """
    return _persist(f"{repo.uri}/{file.path}", lambda: _fetch(repo, file, folder))


def fetch_model(uri: str, allow: Sequence[str]) -> Path:
    """Bring a model's files that match a pattern in `allow` into the Hub's cache; return their folder.

    Every file is verified, also one that was there. Code and pickles are never brought, whatever `allow` says.
    Raises DataError if no file matches.
    """
    wanted = parse_uri(uri)
    if wanted.kind != "model":
        raise DataError(f"{uri} is a dataset, not a model", "write hf://OWNER/NAME@REVISION")
    repo = open_repo(wanted)
    prefix = f"{wanted.path}/" if wanted.path else ""
    chosen = [
        file
        for file in repo.files
        if file.path.startswith(prefix)
        and not file.path.endswith(_NEVER)
        and any(_is_named(file.path.removeprefix(prefix), pattern) for pattern in allow)
    ]
    if not chosen:
        names = ", ".join(file.path for file in repo.files)[:200] or "nothing"
        raise DataError(
            f"{uri} has no file of {', '.join(allow)}, only {names}", "check the name and the revision"
        )
    paths = [_persist(f"{repo.uri}/{file.path}", lambda file=file: _fetch(repo, file, None)) for file in chosen]
    depth = len(PurePosixPath(chosen[0].path.removeprefix(prefix)).parts)
    return paths[0].parents[depth - 1]


def _is_named(path: str, pattern: str) -> bool:
    return path.count("/") == pattern.count("/") and fnmatchcase(path, pattern)  # a * stays in its folder


def _fetch(repo: HubRepo, file: HubFile, folder: Path | None) -> Path:
    """Ask once, for a file in `folder` or in the Hub's cache; one that does not match the listing is removed."""
    from huggingface_hub import hf_hub_download  # noqa: PLC0415

    if file.path.startswith("/") or ".." in file.path.split("/"):
        raise DataError(f"{repo.uri} lists {file.path!r}, a path that leads out of it", "use another repository")
    path = Path(
        hf_hub_download(
            repo.name,
            file.path,
            repo_type=repo.kind,
            revision=repo.commit,
            local_dir=folder,
            cache_dir=folder,  # an empty one: a damaged file in the user's own would be copied again and again
        )
    )
    if (wrong := _difference(path, file)) is None:
        return path
    path.resolve().unlink()  # in a cache the path is a link to the bytes
    path.unlink(missing_ok=True)
    raise _WrongBytes(wrong)


def _difference(path: Path, file: HubFile) -> str | None:
    size = path.stat().st_size
    if size != file.bytes:
        return f"{size} bytes came, the listing says {file.bytes}"
    if file.sha256:
        kind, expected, found = "sha256", file.sha256, file_sha256(path)
    else:
        git = hashlib.sha1(b"blob %d\0" % size + path.read_bytes(), usedforsecurity=False)
        kind, expected, found = "git sha1", file.blob_id, git.hexdigest()
    return None if found == expected else f"{kind} {found[:12]} came, the listing says {expected[:12]}"


def _persist(what: str, ask: Callable[[], _Result]) -> _Result:
    """Ask until there is an answer, `TRIES` times at most."""
    from huggingface_hub.errors import HTTPError  # noqa: PLC0415 # pyright: ignore[reportPrivateImportUsage]

    number = 0
    while True:
        number += 1
        try:
            return ask()
        # hf_xet raises RuntimeError for its network's troubles; an answer that is no JSON is a ValueError
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            cause = _cause(error)
            _raise_what_stays(what, cause)
            reason = _reason(cause)
            if number == TRIES:
                raise _give_up(what, cause, reason) from None
            seconds = _seconds_to_wait(cause, number)
        _log.warning("%s: %s; trying again in %.0f s (%d of %d)", what, reason, seconds, number, TRIES - 1)
        time.sleep(seconds)


def _cause(error: Exception) -> Exception:
    """Return what `huggingface_hub` has wrapped into "no such file in the local cache"."""
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    wrapped = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
    return wrapped if isinstance(wrapped, Exception) else error


def _raise_what_stays(what: str, error: Exception) -> None:
    """Raise if asking again is of no use."""
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled  # noqa: PLC0415

    if isinstance(error, OfflineModeIsEnabled):
        raise EnvironmentFault(f"{what}: HF_HUB_OFFLINE is set", "unset it, or give local files") from None
    if isinstance(error, HFValidationError):
        raise DataError(
            f"{what}: {str(error).splitlines()[0][:120]}", "check the name of the repository"
        ) from None
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError | TimeoutError):
        raise error  # the disk, not the network
    status = _status(error)
    if status is None or status in _TRANSIENT:
        return
    page = what.split("@", maxsplit=1)[0].replace("hf://", "https://huggingface.co/")
    if status == 404:
        raise DataError(
            f"{what} is not on the Hub (HTTP 404)", "check the name, the revision and the path"
        ) from None
    fix = "check the name and the revision"
    if status in (401, 403):
        fix = (
            f"check the name; if it is gated, accept its terms at {page}; set HF_TOKEN to a token that may read it"
        )
    raise DataError(f"{what}: the Hub refuses access (HTTP {status})", fix) from None


def _give_up(what: str, error: Exception, reason: str) -> CandlewickError:
    problem = f"{what}: {TRIES} tries failed, the last one with: {reason}"
    if isinstance(error, _WrongBytes):
        return DataError(problem, "something between here and the Hub changes bytes: try another network")
    return EnvironmentFault(problem, "check the network and run it again: what is finished is kept")


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _reason(error: Exception) -> str:
    """Return one line without the address (it may be signed) and without the token."""
    from huggingface_hub import get_token  # noqa: PLC0415

    if (status := _status(error)) is not None:
        return f"HTTP {status}"
    text = " ".join(f"{type(error).__name__.strip('_')}: {error}".split())[:200]
    if token := get_token():
        text = text.replace(token, "***")
    return _QUERY.sub("?...", text)


def _seconds_to_wait(error: Exception, number: int) -> float:
    """Return what the server asks for, else 1, 2, 4 ... seconds, of which a random half is taken off."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    asked = re.fullmatch(r"\s*(\d+)\s*", headers.get("Retry-After", ""))
    if asked is None and _status(error) == 429:
        asked = re.search(r";\s*t\s*=\s*(\d+)", headers.get("RateLimit", ""))
    if asked is not None:
        return min(float(asked[1]), LONGEST_ASKED_SECONDS) + random.random()
    longest = min(FIRST_WAIT_SECONDS * 2.0 ** (number - 1), LONGEST_WAIT_SECONDS)
    return longest * (0.5 + 0.5 * random.random())


def _without_query(record: logging.LogRecord) -> bool:
    record.msg, record.args = _QUERY.sub("?...", record.getMessage()), None
    return True


@cache
def _set_up() -> None:
    """Give every request of `huggingface_hub` a time-out, and let it tell no signed address and show no bars.

    A listing has no time-out of its own, and would wait for ever.
    """
    from huggingface_hub import constants, get_session, set_client_factory  # noqa: PLC0415
    from huggingface_hub.utils import disable_progress_bars  # noqa: PLC0415

    disable_progress_bars()
    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(_without_query)
    client, hooks = type(get_session()), get_session().event_hooks["request"]

    def limit(request: Any) -> None:
        given = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            name: given.get(name) or constants.HF_HUB_DOWNLOAD_TIMEOUT
            for name in ("connect", "read", "write", "pool")
        }

    set_client_factory(
        lambda: client(event_hooks={"request": [*hooks, limit]}, follow_redirects=True, timeout=None)
    )
