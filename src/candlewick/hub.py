"""Files of the Hugging Face Hub are listed once at a pinned commit, downloaded and verified by hash.

    hf://datasets/OWNER/NAME@REVISION/path     a dataset, or the files under a path in it
    hf://OWNER/NAME@REVISION                   a model

`huggingface_hub` reads HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_DOWNLOAD_TIMEOUT, and repeats listings, HEAD
requests and streams that break off. This module repeats the request for the commit, a GET that ends in 5xx, and
downloads with wrong bytes. Permanent errors (401, 403, 404) fail at once, and so does a network that is not there;
if it was there before, after a second try. No message has a token.
"""

import hashlib
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

import huggingface_hub  # loads its modules on first use: most runs need none

from candlewick.artifacts.manifest import file_sha256
from candlewick.errors import CandlewickError, DataError, MachineError

SCHEME = "hf://"
WAIT_SECONDS = (1.0, 4.0, 16.0)  # before each repetition
LONGEST_WAIT_SECONDS = 300  # the upper bound for Retry-After of a server
_URI = re.compile(
    r"hf://(?P<datasets>datasets/)?(?P<name>(?!datasets/)[\w.-]+/[\w.-]+)"
    r"(@(?P<revision>refs/(pr|convert)/[\w.-]+|[^/@]+))?(/(?P<path>.*))?"
)
_COMMIT = re.compile("[0-9a-f]{40}")
_QUERY = re.compile(r"\?\S+")  # the query of an address may carry a signature: it is never logged
# errors that a repetition cannot mend; LocalEntryNotFoundError is a HEAD that huggingface_hub has repeated
_FINAL = re.compile(r"HTTP 4(?!08|29)|NoNetwork|HFValidation|LocalEntry")
_FINAL_IN_DOWNLOADS = re.compile(rf"{_FINAL.pattern}|HTTP 4|\w*Timeout")  # huggingface_hub repeats this GET
_NO_NETWORK = ("ConnectError", "ConnectTimeout", "ProxyError")  # refused, no such name, no way through a proxy
_FINAL_IN_LISTINGS = re.compile("(?!JSON)")  # all but a truncated answer: huggingface_hub repeats the others
_UNSAFE_SUFFIXES = (".py", ".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".so")
_Result = TypeVar("_Result")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HubUri:
    """A parsed URI; `revision` None is the default branch, `path` "" the repository."""

    kind: Literal["dataset", "model"]
    name: str
    revision: str | None
    path: str

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which always has the same files."""
        return _COMMIT.fullmatch(self.revision or "") is not None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        path = f"/{self.path}" if self.path else ""
        return f"hf://{'datasets/' if self.kind == 'dataset' else ''}{self.name}{revision}{path}"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file in a repository; large files have a `sha256`, all have a `blob_id` (git's SHA-1)."""

    path: str
    bytes: int
    sha256: str | None
    blob_id: str


@dataclass(frozen=True, slots=True)
class HubRepo:
    """A repository at one commit, with the files at the path of its address."""

    uri: HubUri  # with the commit as the revision
    files: tuple[HubFile, ...]  # at and below the path


class _WrongBytes(OSError):
    """A download differs from the listing."""


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE forbids asking the Hub."""
    from huggingface_hub import constants  # noqa: PLC0415 - the library takes a third of a second

    return constants.HF_HUB_OFFLINE


def parse_uri(uri: str) -> HubUri:
    """Parse `hf://...`. Raises DataError for another address, or a path that leads out of the repository."""
    match = _URI.fullmatch(uri)
    path = (match["path"] or "").strip("/") if match else ""
    if match is None or ".." in path.split("/"):
        raise DataError(
            f"{uri} names nothing on the Hub",
            "write hf://datasets/OWNER/NAME@REVISION/path for a dataset, hf://OWNER/NAME@REVISION for a model",
        )
    return HubUri("dataset" if match["datasets"] else "model", match["name"], match["revision"], path)


def open_repo(uri: str | HubUri) -> HubRepo:
    """List the files at a path (before its wildcards) of a repository, at the current commit of its revision.

    Raises DataError if it is missing or the user has no access, MachineError if the Hub cannot be reached.
    """
    address = parse_uri(uri) if isinstance(uri, str) else uri
    _configure_library()
    api = huggingface_hub.HfApi()
    # also for a commit: without a network this fails at once, a listing after half a minute of repetitions;
    # without `expand` the answer names every file
    ask = partial(api.repo_info, address.name, revision=address.revision, repo_type=address.kind, expand="sha")
    info = _request_with_retries(str(address), ask, _FINAL)
    if not _COMMIT.fullmatch(info.sha or ""):
        raise DataError(f"{address}: the server names no commit: {str(info.sha)[:40]!r}", "check HF_ENDPOINT")
    pinned = replace(address, revision=info.sha)
    files = _request_with_retries(str(pinned), lambda: _list_files(api, pinned), _FINAL_IN_LISTINGS)
    if pinned != address:
        logger.info("%s is commit %s now: write @%s to have the same files again", address, info.sha, info.sha)
    return HubRepo(pinned, files)


def _list_files(api: Any, uri: HubUri) -> tuple[HubFile, ...]:
    from huggingface_hub.errors import EntryNotFoundError  # noqa: PLC0415

    tree = partial(api.list_repo_tree, uri.name, revision=uri.revision, repo_type=uri.kind)
    folder = re.split(r"(?:^|/)[^/]*[*?\[]", uri.path)[0]
    try:
        entries = list(tree(folder, recursive=True))
    except EntryNotFoundError:  # the path is a file, or nothing
        siblings = list(tree(folder.rpartition("/")[0]))
        entries = [entry for entry in siblings if entry.path == folder]
        if not entries:
            names = ", ".join(entry.path for entry in siblings)[:200]
            raise DataError(f"{uri} is not on the Hub, beside it are {names}", "check the path") from None
    files = [
        HubFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
        for entry in entries
        if isinstance(entry, huggingface_hub.RepoFile)
    ]
    return tuple(sorted(files, key=lambda file: file.path))


def fetch_file(uri: HubUri, file: HubFile, folder: Path | None = None) -> Path:
    """Download a file of a repository into `folder`, or the Hub's cache, and verify it.

    Raises DataError, MachineError.
    """
    if file.path.startswith("/") or ".." in file.path.split("/"):
        raise DataError(f"{uri} lists {file.path!r}, a path that leads out of it", "use another repository")

    def download() -> Path:
        path = huggingface_hub.hf_hub_download(
            uri.name,
            file.path,
            repo_type=uri.kind,
            revision=uri.revision,
            local_dir=folder,
            cache_dir=folder,  # a damaged file in the user's cache would be copied again and again
        )
        return _verify_download(Path(path), file)

    return _request_with_retries(str(replace(uri, path=file.path)), download, _FINAL_IN_DOWNLOADS)


def fetch_model(repo: HubRepo, allow: Sequence[str]) -> Path:
    """Download the files of a model that match a pattern in `allow` into the Hub's cache; return their folder.

    Code and pickles are never downloaded. Raises DataError if no file matches, MachineError as `fetch_file`.
    """
    uri = repo.uri
    if uri.kind != "model":
        raise DataError(f"{uri} is a dataset, not a model", "write hf://OWNER/NAME@REVISION")
    prefix = f"{uri.path}/" if uri.path else ""
    chosen = [
        file
        for file in repo.files
        if file.path.startswith(prefix)
        and not file.path.endswith(_UNSAFE_SUFFIXES)
        and any(PurePosixPath("/", file.path.removeprefix(prefix)).match(f"/{pattern}") for pattern in allow)
    ]
    if not chosen:
        names = ", ".join(file.path for file in repo.files)[:200] or "nothing"
        raise DataError(f"{uri} has no file of {', '.join(allow)}, only {names}", "check name and revision")
    paths = [fetch_file(uri, file) for file in chosen]
    return paths[0].parents[chosen[0].path.removeprefix(prefix).count("/")]


def _verify_download(path: Path, file: HubFile) -> Path:
    """Return the path. Removes a file that differs from the listing, and raises _WrongBytes."""
    size, expected = path.stat().st_size, file.sha256 or file.blob_id
    if file.sha256:
        sha = file_sha256(path)
    else:
        sha = hashlib.sha1(b"blob %d\0" % size + path.read_bytes(), usedforsecurity=False).hexdigest()
    if (size, sha) == (file.bytes, expected):
        return path
    path.resolve().unlink()  # in a cache the path is a link to the bytes
    path.unlink(missing_ok=True)
    raise _WrongBytes(f"{size} bytes with hash {sha[:12]}, the listing says {file.bytes} with {expected[:12]}")


def _request_with_retries(address: str, request: Callable[[], _Result], final: re.Pattern[str]) -> _Result:
    """Return the answer; after an error that `final` does not match, try again after `WAIT_SECONDS`."""
    from huggingface_hub.errors import HTTPError  # noqa: PLC0415 # pyright: ignore[reportPrivateImportUsage]

    if is_offline():
        raise MachineError(f"{address}: HF_HUB_OFFLINE is set", "unset it, or give local files")
    pauses = iter(WAIT_SECONDS)
    while True:
        try:
            return request()
        # hf_xet raises RuntimeError for network errors; an answer that is no JSON is a ValueError
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            if getattr(error, "errno", None) and not isinstance(error, ConnectionError | TimeoutError):
                raise  # the disk, not the network
            reason, pause = _describe_error(error), next(pauses, None)
            if pause is None or final.match(reason):
                raise _error_for_user(address, error) from None
            asked = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "0")
        seconds = max(pause, float(asked))
        name = re.sub("@[0-9a-f]{40}", "", address)[-20:]
        logger.warning("%s again in %.0f s: %s", name, seconds, reason[:20].strip(": "))  # on 80 columns
        time.sleep(seconds)


def _error_for_user(address: str, error: BaseException) -> CandlewickError:
    if isinstance(error, FileNotFoundError):  # LocalEntryNotFoundError: the file is not in the cache either
        error = error.__cause__ or error
    reason = _describe_error(error)
    if reason.startswith("NoNetwork"):
        why = re.sub(r"^NoNetwork: (\[Errno [-\d]+\] )?", "", reason)
        return MachineError(f"{address}: the Hub cannot be reached: {why}", "check the network or HF_ENDPOINT")
    if reason == "HTTP 404":
        return DataError(f"{address} is not on the Hub (HTTP 404)", "check the name, the revision and the path")
    if isinstance(error, _WrongBytes):
        fix = "something between here and the Hub changes bytes: try another network"
        return DataError(f"{address}: {error}", fix)
    if reason.startswith("HFValidation"):
        return DataError(f"{address} is not a name on the Hub ({reason})", "check the name of the repository")
    if _FINAL.match(reason):
        page = address.split("@", maxsplit=1)[0].replace("hf://", "https://huggingface.co/")
        fix = f"check the name; if it is gated, accept its terms at {page}; set HF_TOKEN to a token with access"
        return DataError(f"{address}: the Hub refuses access ({reason})", fix)
    return MachineError(
        f"{address} could not be read from the Hub: {reason}",
        "check the network and run it again: what is finished is kept",
    )


def _describe_error(error: BaseException) -> str:
    """Return the error on one line, without queries of addresses and without the token."""
    if response := getattr(error, "response", None):
        return f"HTTP {response.status_code}"
    text = " ".join(f"{type(error).__name__.strip('_')}: {error}".split())[:200]
    if token := huggingface_hub.get_token():
        text = text.replace(token, "***")
    return _QUERY.sub("?...", text)


def _shorten_record(record: logging.LogRecord) -> bool:
    """Put a record of `huggingface_hub` on a line of 80 columns, without queries; return whether it is shown."""
    text = _QUERY.sub("?...", record.getMessage())
    if " thrown while requesting " in text:  # the next record, or the error, says what follows from it
        return False
    if found := re.search(r"([\d.]+)s\b.*\[Retry (\d+)/(\d+)\]", text):
        text = f"the Hub does not answer, again in {float(found[1]):.0f} s (try {found[2]} of {found[3]})"
    elif found := re.match(r"Error while downloading from \S+: (.*)\nTrying to resume", text):
        text = f"a download broke off, it goes on: {found[1][:30]}"
    record.msg, record.args = text, None
    return True


@cache
def _configure_library() -> None:
    """Bound every wait of `huggingface_hub`, its tries without a network, and its log; hide its bars."""
    from huggingface_hub import constants  # noqa: PLC0415
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # noqa: PLC0415 # pyright: ignore
    from huggingface_hub.utils import disable_progress_bars  # noqa: PLC0415

    disable_progress_bars()
    session = huggingface_hub.get_session()  # loads the module that makes the handlers of its log
    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(_shorten_record)
    hooks = session.event_hooks["request"]

    class NoNetwork(OfflineModeIsEnabled):
        """The library takes it for no reason to try again, and reads what is in its cache."""

    class Client(type(session)):
        was_answered = False

        def send(self, request: Any, **options: Any) -> Any:
            try:
                response = super().send(request, **options)
            except HTTPError as error:
                if not type(error).__name__.startswith(_NO_NETWORK):
                    raise
                if not Client.was_answered:
                    raise NoNetwork(str(error)) from None
                Client.was_answered = False
                time.sleep(WAIT_SECONDS[0])
                return self.send(request, **options)
            Client.was_answered = True
            return response

    def limit(request: Any) -> None:
        timeouts = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            name: timeouts.get(name) or constants.HF_HUB_DOWNLOAD_TIMEOUT
            for name in ("connect", "read", "write", "pool")
        }

    def limit_pause(response: Any) -> None:
        # the Hub says in RateLimit ("api";r=0;t=55) when to come back, others in Retry-After, in seconds or a date
        rate, asked = response.headers.pop("RateLimit", ""), response.headers.pop("Retry-After", "")
        seconds = re.search(r";\s*t\s*=\s*(\d+)", rate) if response.status_code == 429 else None
        if seconds := seconds or re.fullmatch(r"\s*(\d+)\s*", asked):
            response.headers["Retry-After"] = str(min(int(seconds[1]), LONGEST_WAIT_SECONDS))

    events = {"request": [*hooks, limit], "response": [limit_pause]}
    huggingface_hub.set_client_factory(lambda: Client(event_hooks=events, follow_redirects=True, timeout=None))
