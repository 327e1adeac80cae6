"""Files of the Hub: one listing at a commit, every byte verified, what may pass tried again."""

import logging

import huggingface_hub
import pytest
from tests.hub_server import COMMIT, Fault, HubServer

from candlewick import hub as hub_module
from candlewick.errors import DataError, EnvironmentFault
from candlewick.hub import fetch_file, fetch_model, open_repo, parse_uri

URI = "hf://datasets/me/text"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with HubServer(monkeypatch) as server:
        server.add("datasets/me/text", {"README.md": b"# text\n", "data/a.parquet": bytes(range(256)) * 100})
        server.add(
            "me/model", {"config.json": b"{}", "model.safetensors": b"w" * 5000, "evil.py": b"1", "x.bin": b"2"}
        )
        yield server


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("hf://datasets/HuggingFaceFW/fineweb", ("dataset", "HuggingFaceFW/fineweb", None, "")),
        ("hf://datasets/a/b@main/sample/10BT/", ("dataset", "a/b", "main", "sample/10BT")),
        (f"hf://vivienhenz/sconce@{COMMIT}", ("model", "vivienhenz/sconce", COMMIT, "")),
    ],
)
def test_an_address_is_read(uri, parts):
    found = parse_uri(uri)
    assert (found.kind, found.name, found.revision, found.path) == parts
    assert parse_uri(str(found)) == found


@pytest.mark.parametrize("uri", ["hf://", "hf://alone", "s3://a/b", "hf://datasets/a/b@r/../x", "hf://a b/c"])
def test_what_is_no_address_is_refused(uri):
    with pytest.raises(DataError, match="no address of the Hub"):
        parse_uri(uri)


def test_a_branch_becomes_a_commit_once(hub, caplog):
    with caplog.at_level(logging.INFO, "candlewick"):
        repo = open_repo(URI)
    assert (repo.commit, str(repo.uri)) == (COMMIT, f"{URI}@{COMMIT}")
    assert [file.path for file in repo.files] == ["README.md", "data/a.parquet"]
    assert "is at commit" in caplog.text
    hub.requests.clear()
    assert open_repo(f"{URI}@{COMMIT}") == repo
    assert all("/tree/" in path for _, path in hub.requests)


@pytest.mark.parametrize("name", ["README.md", "data/a.parquet"])
@pytest.mark.parametrize(
    "kinds",
    [
        ["drop"],
        ["cut"],
        ["stall"],
        ["short"],
        ["flip"],
        ["busy"],
        ["error", "gateway"],
        ["flip", "cut", "unavailable", "short"],
    ],
    ids=",".join,
)
def test_what_may_pass_is_tried_again(hub, tmp_path, name, kinds):
    repo = open_repo(URI)
    file = next(file for file in repo.files if file.path == name)
    hub.faults += [Fault(name, kind) for kind in kinds]
    path = fetch_file(repo, file, tmp_path / "files")
    assert path.read_bytes() == hub.repos["datasets/me/text"].files[name]
    assert not hub.faults


@pytest.mark.parametrize("kind", ["drop", "error", "cut"])
def test_a_listing_is_tried_again_too(hub, kind):
    hub.faults += [Fault("/tree/", kind)] * 2
    assert len(open_repo(URI).files) == 2


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_the_network_may_stay_away(hub, tmp_path, method):
    repo = open_repo(URI)
    hub.faults += [Fault("a.parquet", "unavailable", method)] * 500
    with pytest.raises(EnvironmentFault, match="could not be fetched in 8 tries"):
        fetch_file(repo, repo.files[1], tmp_path)


def test_bytes_that_stay_wrong_are_not_taken(hub, tmp_path):
    repo = open_repo(URI)
    hub.faults += [Fault("a.parquet", "flip")] * 100
    with pytest.raises(EnvironmentFault, match="has hash"):
        fetch_file(repo, repo.files[1], tmp_path)
    assert not (tmp_path / "data/a.parquet").exists()


@pytest.mark.parametrize(("kind", "sentence"), [("gated", "access is not granted"), ("denied", "needs a token")])
def test_what_cannot_be_had_is_an_error_at_once(hub, kind, sentence):
    hub.faults += [Fault("/revision/", kind), Fault("/api/datasets/me/text", kind)]
    with pytest.raises(DataError, match=sentence):
        open_repo(URI)
    assert len(hub.requests) == 1


def test_no_such_repository_revision_or_file(hub, tmp_path):
    for uri in ("hf://datasets/me/none", f"{URI}@{'f' * 40}", f"{URI}@v2"):
        with pytest.raises(DataError, match="does not exist"):
            open_repo(uri)
    repo = open_repo(URI)
    del hub.repos["datasets/me/text"].files["data/a.parquet"]
    with pytest.raises(DataError, match="does not exist"):
        fetch_file(repo, repo.files[1], tmp_path)


def test_an_unsafe_name_is_refused(hub, tmp_path):
    hub.add("datasets/me/bad", {"../up.parquet": b"x"})
    repo = open_repo("hf://datasets/me/bad")
    with pytest.raises(DataError, match="no safe name"):
        fetch_file(repo, repo.files[0], tmp_path)


def test_a_full_disk_is_no_reason_to_try_again(hub, tmp_path):
    repo = open_repo(URI)
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="exists|directory"):
        fetch_file(repo, repo.files[1], tmp_path)


def test_offline_says_so(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    try:
        with pytest.raises(EnvironmentFault, match="HF_HUB_OFFLINE"):
            open_repo(URI)
    finally:
        monkeypatch.undo()
        huggingface_hub.close_session()


def test_of_a_model_only_what_is_allowed_is_fetched_and_verified(hub):
    hub.faults.append(Fault("model.safetensors", "flip"))
    folder = fetch_model("hf://me/model", ["*.json", "*.safetensors"])
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == b"w" * 5000
    assert {"evil.py", "x.bin"}.isdisjoint(hub.fetched())
    hub.requests.clear()
    assert fetch_model(f"hf://me/model@{COMMIT}", ["*.json", "*.safetensors"]) == folder
    assert not hub.fetched()  # it was in the cache


def test_a_cached_file_that_changed_is_fetched_again(hub):
    folder = fetch_model("hf://me/model", ["*.safetensors"])
    (folder / "model.safetensors").resolve().write_bytes(b"v" * 5000)
    assert (fetch_model("hf://me/model", ["*.safetensors"]) / "model.safetensors").read_bytes() == b"w" * 5000


def test_a_model_without_any_allowed_file_is_refused(hub):
    with pytest.raises(DataError, match="none of the files"):
        fetch_model("hf://me/model", ["*.gguf"])


def test_waiting_grows_and_heeds_the_server(monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr(hub_module.time, "sleep", waited.append)
    patience = hub_module.Patience(8, 1.0, 8.0)
    for number in range(1, 8):
        patience.wait(number, 0.0)
    patience.wait(1, 30.0)
    bases = [1, 2, 4, 8, 8, 8, 8]
    assert all(base / 2 <= seconds <= base * 1.5 for base, seconds in zip(bases, waited[:-1], strict=True))
    assert waited[-1] == 30.0
