"""Fetching files of the Hub: correct bytes despite network faults, and one-line errors."""

import errno
import io
import logging
import os
from pathlib import Path

import pytest
from tests.hub_server import FAULTS, HubServer, git_sha1

from candlewick import hub as module
from candlewick.artifacts.manifest import file_sha256
from candlewick.errors import DataError, MachineError
from candlewick.hub import HubFile, HubRepo, HubUri, fetch_file, fetch_model, open_repo, parse_uri

SMALL = b"small\n" * 20
LARGE = bytes(range(256)) * 40
FILES = {"README.md": SMALL, "data/a.parquet": LARGE, "data/b/c.txt": b"c" * 5, "z.txt": b""}
TRIES = 1 + len(module.WAIT_SECONDS)
TOKEN = "hf_canaryCANARYcanary"


@pytest.fixture
def server():
    with HubServer() as hub:
        yield hub


@pytest.fixture
def waits(server, tmp_path):
    with server.client(tmp_path / "home") as waits:
        yield waits


@pytest.fixture
def repo(server, waits) -> HubRepo:
    server.commit("datasets/o/n", FILES)
    return open_repo("hf://datasets/o/n")


def named(repo: HubRepo, path: str) -> HubFile:
    return next(file for file in repo.files if file.path == path)


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("hf://datasets/o/n", ("dataset", "o/n", None, "")),
        ("hf://datasets/o/n@main/sample/10BT", ("dataset", "o/n", "main", "sample/10BT")),
        (
            "hf://datasets/o.x/n-1@refs/convert/parquet/a/b.parquet",
            ("dataset", "o.x/n-1", "refs/convert/parquet", "a/b.parquet"),
        ),
        ("hf://o/n@" + "a" * 40, ("model", "o/n", "a" * 40, "")),
        ("hf://o/n/sub", ("model", "o/n", None, "sub")),
    ],
)
def test_hub_uri_is_parsed_and_written_back(uri, parts):
    assert parse_uri(uri) == HubUri(*parts)
    assert str(parse_uri(uri)) == uri


@pytest.mark.parametrize(
    "uri", ["hf://", "hf://n", "hf://datasets/n", "o/n", "hf://o/n@", "hf://o/n/../x", "hf://o/n@a@b"]
)
def test_malformed_hub_uri_is_refused(uri):
    with pytest.raises(DataError, match="names nothing on the Hub"):
        parse_uri(uri)


def test_listing_is_complete_and_of_one_commit(server, waits, caplog):
    first = server.commit("datasets/o/n", FILES)
    server.commit("datasets/o/n", {"other": b""})
    repo = open_repo(f"hf://datasets/o/n@{first}")
    assert [(f.path, f.bytes, f.blob_id) for f in repo.files] == [
        (name, len(content), git_sha1(content)) for name, content in sorted(FILES.items())
    ]
    assert [f.path for f in repo.files if f.sha256] == ["data/a.parquet"]
    assert str(repo.uri) == f"hf://datasets/o/n@{first}"
    assert not caplog.records


def test_branch_is_resolved_to_a_commit_and_logged(server, waits, caplog):
    caplog.set_level(logging.INFO, "candlewick")
    commit = server.commit("o/m", {"config.json": b"{}"}, ref="dev")
    assert open_repo("hf://o/m@dev").uri.revision == commit
    assert f"hf://o/m@dev is commit {commit} now" in caplog.text


def test_fetched_files_equal_those_of_the_repository(repo, tmp_path):
    for file in repo.files:
        assert fetch_file(repo.uri, file, tmp_path / "to").read_bytes() == FILES[file.path]
        assert fetch_file(repo.uri, file, tmp_path / "to").read_bytes() == FILES[file.path]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("path", ["README.md", "data/a.parquet"])
@pytest.mark.parametrize("times", [1, 2])
def test_network_fault_during_a_download_changes_no_byte(server, repo, tmp_path, fault, path, times):
    server.fail(rf"(HEAD|GET) /(datasets|cdn)/.*{path}", *[fault] * times)
    server.stall_seconds = 2
    assert fetch_file(repo.uri, named(repo, path), tmp_path / "to").read_bytes() == FILES[path]


# what a listing says cannot be checked against anything else
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in ("flip", "other")])
def test_network_fault_during_a_listing_changes_nothing(server, repo, fault):
    server.fail("GET /api/.*/tree/", *[fault] * 2)
    server.fail("GET /api/", fault)
    assert open_repo("hf://datasets/o/n") == repo


@pytest.mark.parametrize(
    ("path", "files", "trees"),
    [
        ("data", ["data/a.parquet", "data/b/c.txt"], ["/data?recursive=true"]),
        ("data/b", ["data/b/c.txt"], ["/data%2Fb?recursive=true"]),
        ("data/?/*.txt", ["data/a.parquet", "data/b/c.txt"], ["/data?recursive=true"]),
        ("data/a.parquet", ["data/a.parquet"], ["/data%2Fa.parquet?recursive=true", "/data?recursive=false"]),
        ("z.txt", ["z.txt"], ["/z.txt?recursive=true", "?recursive=false"]),
    ],
)
def test_listing_of_a_path_requests_that_path_only(server, repo, path, files, trees):
    server.page = 100
    server.requests.clear()
    opened = open_repo(f"hf://datasets/o/n@main/{path}")
    assert [file.path for file in opened.files] == files
    assert str(opened.uri) == f"hf://datasets/o/n@{repo.uri.revision}/{path}"
    asked = [request.path.partition(f"/tree/{repo.uri.revision}")[2] for request in server.requests[1:]]
    assert [path.replace("&expand=false", "") for path in asked] == trees


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("dat", "/dat is not on the Hub, beside it are data, README.md, z.txt .fix: check the path"),
        ("data/x.txt", "/data/x.txt is not on the Hub, beside it are data/b, data/a.parquet"),
        ("no/such", "/no/such is not on the Hub .HTTP 404"),
    ],
)
def test_missing_path_of_a_repository_is_refused(server, repo, path, message):
    with pytest.raises(DataError, match=message):
        open_repo(f"hf://datasets/o/n/{path}")


def test_damaged_local_file_is_fetched_again(server, repo, tmp_path):
    file = named(repo, "data/a.parquet")
    path = fetch_file(repo.uri, file, tmp_path)
    path.write_bytes(LARGE[::-1])
    assert fetch_file(repo.uri, file, tmp_path).read_bytes() == LARGE


def test_file_with_a_wrong_hash_is_refused_with_both_hashes(server, repo, tmp_path):
    server.fail("GET /cdn/", *["flip"] * TRIES)
    with pytest.raises(
        DataError, match=r"10240 bytes with hash \w{12}, the listing says 10240 with \w{12} .*another network"
    ):
        fetch_file(repo.uri, named(repo, "data/a.parquet"), tmp_path)
    assert not list(tmp_path.rglob("a.parquet"))
    server.fail("GET /datasets/", *["other"] * TRIES)
    with pytest.raises(DataError, match=r"README.md: 120 bytes with hash \w{12}"):
        fetch_file(repo.uri, named(repo, "README.md"), tmp_path)


def test_file_of_another_size_is_refused(server, repo, tmp_path):
    server.plan = lambda request: None
    server.repos["datasets/o/n"].commits[repo.uri.revision]["z.txt"] = b"grown"
    with pytest.raises(DataError, match="5 bytes with hash .*, the listing says 0"):
        fetch_file(repo.uri, named(repo, "z.txt"), tmp_path)


def test_last_failed_try_raises_with_the_reason(server, repo, waits, tmp_path):
    server.plan = lambda request: "503"
    waits.clear()
    server.requests.clear()
    with pytest.raises(MachineError, match=r"hf://datasets/o/n could not be read from the Hub: HTTP 503"):
        open_repo("hf://datasets/o/n")
    assert len(server.requests) == TRIES
    assert waits == list(module.WAIT_SECONDS)
    server.plan = lambda request: "drop"
    with pytest.raises(MachineError, match="RemoteProtocolError"):
        fetch_file(repo.uri, named(repo, "z.txt"), tmp_path)


@pytest.mark.parametrize(
    ("pattern", "fault", "requests", "seconds"),
    [
        ("GET .*/tree/", "503", 1 + 6, 23),  # the library's own tries: 1, 2, 4, 8, 8 seconds between them
        ("HEAD", "503", 1 + 6, 23),
        ("GET .*/cdn/", "503", 2 * TRIES, 21),  # each try with its HEAD
        ("GET .*/cdn/", "429", 1 + 6, 23),
        ("GET .*/cdn/", "stall", 1 + 2 * 6, 10),  # half of it comes, then a quarter, ...
    ],
)
def test_retries_do_not_multiply_with_those_of_the_library(
    server, repo, waits, tmp_path, pattern, fault, requests, seconds
):
    server.stall_seconds = 2
    server.fail(pattern, *[fault] * 100)
    waits.clear()
    server.requests.clear()
    with pytest.raises(MachineError, match="could not be read from the Hub"):
        if "tree" in pattern:
            open_repo(repo.uri)
        else:
            fetch_file(repo.uri, named(repo, "data/a.parquet"), tmp_path)
    assert len(server.requests) <= requests
    assert sum(waits) <= seconds


def test_retry_after_of_the_server_is_kept_within_bounds(server, repo, waits):
    for headers, least in (((33, None), 33), (("Fri, 27", '"api";t=55;r=0;x'), 55), ((99999, '"api";r=0'), 300)):
        server.retry_after, server.rate_limit = headers
        waits.clear()
        server.fail("GET /api/datasets/o/n/revision", "429")
        server.fail("GET /api/.*/tree", "429")
        assert open_repo(f"hf://datasets/o/n@{repo.uri.revision}") == repo
        assert waits == [least, least + 1]  # the second is the library's, with a second for rounding
    server.retry_after = "soon"
    waits.clear()
    server.fail("GET /api/datasets/o/n", "503")
    open_repo("hf://datasets/o/n")
    assert waits == [module.WAIT_SECONDS[0]]


@pytest.mark.parametrize("uri", ["hf://o/n", f"hf://datasets/o/n@{'a' * 40}"])
def test_missing_network_raises_after_at_most_two_tries_in_one_line(waits, monkeypatch, capfd, caplog, uri):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # discard: nobody listens there
    with pytest.raises(MachineError, match=r"the Hub cannot be reached: Connection refused .fix: check"):
        open_repo(uri)
    assert waits in ([], [1.0])
    assert not caplog.records
    assert not capfd.readouterr().err


@pytest.mark.parametrize(
    ("uri", "token", "message"),
    [
        ("hf://datasets/o/none", None, r"is not on the Hub \(HTTP 404\) \(fix: check the name"),
        ("hf://datasets/o/n@gone", None, "HTTP 404"),
        (
            "hf://datasets/o/gated",
            None,
            r"HTTP 401.*terms at https://huggingface.co/datasets/o/gated; set HF_TOKEN",
        ),
        ("hf://datasets/o/gated", "hf_wrong", "HTTP 403"),
        ("hf://datasets/a--b/c", None, r"is not a name on the Hub .*check the name of the repository"),
    ],
)
def test_permanent_error_raises_without_a_retry(server, repo, waits, uri, token, message, monkeypatch):
    server.commit("datasets/o/gated", FILES, token=TOKEN)
    waits.clear()
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(DataError, match=message) as error:
        open_repo(uri)
    assert not waits
    assert "hf_wrong" not in str(error.value)


def test_unexpected_status_raises_with_its_code(server, repo):
    server.fail("GET /api/", "418")
    with pytest.raises(DataError, match=r"refuses access \(HTTP 418\) \(fix: check the name"):
        open_repo("hf://datasets/o/n")


@pytest.mark.parametrize("status", ["403", "404"])
def test_refused_file_raises_without_a_retry(server, repo, tmp_path, waits, status):
    server.plan = lambda request: status
    with pytest.raises(DataError, match=f"README.md.*HTTP {status}"):
        fetch_file(repo.uri, named(repo, "README.md"), tmp_path)
    assert not waits


def test_token_opens_a_gated_repository_and_goes_to_the_hub_only(server, waits, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    server.commit("datasets/o/gated", FILES, token=TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    repo = open_repo("hf://datasets/o/gated")
    server.fail("GET /cdn/", "cut", "503", "flip")
    for file in repo.files:
        fetch_file(repo.uri, file, tmp_path / "to")
    assert all(request.authorization is None for request in server.requests if request.host == "localhost")
    reason = module._describe_error(RuntimeError(f"GET http://x/y?signature=1 with {TOKEN}"))
    assert reason == "RuntimeError: GET http://x/y?... with ***"
    assert TOKEN not in caplog.text
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]


def test_offline_mode_is_named_in_the_error(repo, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MachineError, match="HF_HUB_OFFLINE is set"):
        open_repo("hf://datasets/o/n")
    with pytest.raises(MachineError, match="HF_HUB_OFFLINE is set"):
        fetch_file(repo.uri, repo.files[0], tmp_path)


def test_full_disk_during_a_download_raises_without_a_retry(repo, tmp_path, monkeypatch, waits):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.file_download._download_to_tmp_and_move", full)
    with pytest.raises(OSError, match="No space left") as error:
        fetch_file(repo.uri, repo.files[0], tmp_path)
    assert error.value.errno == errno.ENOSPC
    assert not waits


def test_server_without_a_commit_is_refused(server, repo, monkeypatch):
    server.repos["datasets/o/n"].refs["main"] = "main"
    server.repos["datasets/o/n"].commits["main"] = {}
    with pytest.raises(DataError, match="names no commit: 'main'"):
        open_repo("hf://datasets/o/n")


def test_path_outside_the_folder_is_refused(repo, tmp_path):
    for path in ("../x", "/etc/x", "a/../../x"):
        with pytest.raises(DataError, match="leads out of it"):
            fetch_file(repo.uri, HubFile(path, 1, None, ""), tmp_path)


MODEL = {
    "config.json": b"{}",
    "model.safetensors": LARGE,
    "modeling.py": b"import os",
    "pytorch_model.bin": LARGE,
    "sub/config.json": b"[]",
}


def test_model_is_fetched_without_code_and_pickles(server, waits, tmp_path):
    commit = server.commit("o/m", MODEL)
    server.fail("GET /cdn/", "flip", "cut")
    folder = fetch_model(open_repo("hf://o/m"), ["*", "*/*"])
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert names == ["config.json", "model.safetensors", "sub/config.json"]
    assert (folder / "model.safetensors").read_bytes() == LARGE
    assert folder == tmp_path / "home" / "hub" / "models--o--m" / "snapshots" / commit
    assert not server.asked(r"\.(py|bin)$")
    assert fetch_model(open_repo("hf://o/m/sub"), ["*.json"]) == folder / "sub"
    (folder / "model.safetensors").resolve().write_bytes(LARGE[::-1])
    assert (fetch_model(open_repo("hf://o/m"), ["*.safetensors"]) / "model.safetensors").read_bytes() == LARGE


def test_opened_model_is_listed_once(server, waits):
    commit = server.commit("o/m", MODEL)
    server.page = 100
    repo = open_repo("hf://o/m")
    server.commit("o/m", {"config.json": b"[1]"})  # the branch moves
    folder = fetch_model(repo, ["*.json", "*.safetensors"])
    assert fetch_model(repo, ["*.json"]) == folder
    assert (folder / "config.json").read_bytes() == b"{}"
    assert repo.uri.revision == commit
    assert str(repo.uri) == f"hf://o/m@{commit}"
    assert [(request.method, request.path.partition("?")[0]) for request in server.requests] == [
        ("GET", "/api/models/o/m"),
        ("GET", f"/api/models/o/m/tree/{commit}"),
        ("HEAD", f"/o/m/resolve/{commit}/config.json"),
        ("GET", f"/o/m/resolve/{commit}/config.json"),
        ("HEAD", f"/o/m/resolve/{commit}/model.safetensors"),
        ("GET", f"/cdn/model.safetensors/{file_sha256(folder / 'model.safetensors')}"),
    ]


def test_model_without_required_files_is_refused(server, waits):
    server.commit("o/m", MODEL)
    with pytest.raises(DataError, match=r"has no file of \*.gguf, only config.json"):
        fetch_model(open_repo("hf://o/m"), ["*.gguf"])
    with pytest.raises(DataError, match=r"only nothing"):
        server.commit("o/e", {})
        fetch_model(open_repo("hf://o/e"), ["*"])
    server.commit("datasets/o/n", FILES)
    with pytest.raises(DataError, match="is a dataset, not a model"):
        fetch_model(open_repo("hf://datasets/o/n"), ["*"])


def test_fetch_model_of_files_in_a_subfolder_returns_a_path(server, waits):
    server.commit("o/m", {"a/b.json": b"{}"})
    assert isinstance(fetch_model(open_repo("hf://o/m"), ["*/*.json"]), Path)


def test_signed_address_is_not_logged_by_the_library(repo, capsys):
    stream = io.StringIO()
    logger = logging.getLogger("huggingface_hub")
    (handler,) = logger.handlers
    assert isinstance(handler, logging.StreamHandler)
    before = handler.setStream(stream)
    try:
        logging.getLogger("huggingface_hub.file_download").warning(
            "Error from %s: %s", "http://x/y?sign=SECRET&z", 1
        )
    finally:
        handler.setStream(before)
    assert stream.getvalue() == "Error from http://x/y?... 1\n"
