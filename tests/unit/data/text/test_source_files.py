"""Local and Hub files are opened in order, one after another, on the local disk."""

import logging
import threading

import pytest
from tests.hub_server import HubServer

from candlewick.config import DataConfig
from candlewick.data.text import source_files
from candlewick.data.text.corpus import Corpus, open_corpus
from candlewick.data.text.source_files import HubSource, SourceFiles, open_sources, open_text
from candlewick.errors import DataError, MachineError

CONFIG = DataConfig(documents="line")
FILES = {f"data/{number}.txt": f"text {number}\n".encode() * 200 * number for number in range(1, 6)}


@pytest.fixture
def hub(hub: HubServer) -> HubServer:
    hub.commit("datasets/o/n", FILES)
    return hub


@pytest.mark.parametrize("ahead", [1, 3, 9])
@pytest.mark.parametrize("start", [0, 3, 5])
def test_hub_files_are_fetched_in_order_and_deleted_after_use(hub, tmp_path, ahead, start):
    files = open_sources(["hf://datasets/o/n"], "train", CONFIG)
    seen = []
    for number, file in files.iter_downloaded(start, tmp_path / "to", ahead):
        assert file.path.read_bytes() == FILES[f"data/{number + 1}.txt"]
        assert file.name == files.files[number].name
        assert file.kind == "lines"
        assert len(list((tmp_path / "to").glob("*/data/*.txt"))) <= ahead + 1
        seen.append(number)
    assert seen == list(range(start, 5))
    assert not list(tmp_path.glob("to/*"))


def test_local_and_hub_files_may_be_mixed(hub, tmp_path):
    local = tmp_path / "a.txt"
    local.write_text("local\n")
    files = open_sources([str(local), "hf://datasets/o/n/data/2.txt"], "train", CONFIG)
    assert [type(file) for file in files.files] == [type(open_corpus([str(local)], CONFIG).files[0]), HubSource]
    assert [file.path.read_text()[:5] for _, file in files.iter_downloaded(0, tmp_path / "to", 1)] == [
        "local",
        "text ",
    ]
    assert local.exists()


def test_source_fingerprint_depends_on_the_content(hub, tmp_path):
    uri = "hf://datasets/o/n"
    first = open_sources([uri], "train", CONFIG).fingerprint
    hub.commit("datasets/o/n", {**FILES, "README.md": b"new"})
    assert open_sources([uri], "train", CONFIG).fingerprint == first
    hub.commit("datasets/o/n", {**FILES, "data/1.txt": FILES["data/1.txt"] + b"!"})
    assert open_sources([uri], "train", CONFIG).fingerprint != first
    local = tmp_path / "a.txt"
    found = []
    for text in ("one", "two", "one"):
        local.write_text(text)
        found.append(open_sources([str(local)], "train", CONFIG).fingerprint)
    assert found[0] == found[2] != found[1]


def test_failed_download_raises_when_the_file_is_needed(hub, tmp_path):
    files = open_sources(["hf://datasets/o/n"], "train", CONFIG)
    hub.plan = lambda request: "503" if "3.txt" in request.path else None
    seen = []
    with pytest.raises(MachineError, match=r"data/3.txt could not be read from the Hub: HTTP 503"):
        for number, _ in files.iter_downloaded(0, tmp_path / "to", 2):
            seen.append(number)
    assert seen == [0, 1]


def test_duplicate_source_or_model_address_is_refused(hub, tmp_path):
    for uri in ("hf://datasets/o/n", str(tmp_path / "a.txt")):
        (tmp_path / "a.txt").write_text("x")
        with pytest.raises(DataError, match="is given twice"):
            open_sources([uri, uri], "train", CONFIG)
    with pytest.raises(DataError, match="hf://o/n is a model, not a dataset"):
        open_sources(["hf://o/n"], "train", CONFIG)


def test_running_download_is_awaited_when_reading_stops(hub, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    files = open_sources(["hf://datasets/o/n"], "train", CONFIG)
    hub.fail("GET .*/2.txt", "stall", "stall", "stall")
    hub.stall_seconds = 2
    wanted = iter([True, True, False])
    seen = [n for n, _ in files.iter_downloaded(0, tmp_path / "to", 1, lambda rows: next(wanted))]
    assert seen == [0]
    assert "waiting for 1 downloads" in caplog.text
    assert not [thread for thread in threading.enumerate() if thread.name == "fetch"]
    assert (tmp_path / "to" / "000001" / "data" / "2.txt").read_bytes() == FILES["data/2.txt"]


def test_fetching_stops_at_the_file_with_enough_rows(write, hub, tmp_path):
    rows = write("a.parquet", ["x"] * 10).read_bytes()
    hub.commit("datasets/o/rows", {"1.parquet": rows, "2.parquet": rows, "3.txt": b"x"})
    files = open_sources(["hf://datasets/o/rows"], "train", CONFIG)
    for enough, fetched in ((10, 1), (11, 2)):
        hub.requests.clear()
        read = 0
        for _ in files.iter_downloaded(0, tmp_path / "to", 2, lambda rows: read + rows < enough):  # noqa: B023
            read += 10
        assert len({request.path for request in hub.requests if "GET" in request.method}) >= fetched
        assert bool(hub.asked("2.parquet")) == (enough > 10)


def test_fetch_returns_a_corpus_of_all_files(hub, tmp_path):
    corpus = open_sources(["hf://datasets/o/n"], "train", CONFIG).download_all(tmp_path / "to")
    assert [file.path.read_bytes() for file in corpus.files] == list(FILES.values())


def test_open_text_returns_a_corpus_for_local_text_and_source_files_for_the_hub(hub, write):
    assert isinstance(open_text([str(write("a.txt", "x"))], CONFIG), Corpus)
    assert isinstance(open_text(["hf://datasets/o/n"], CONFIG), SourceFiles)


def test_rows_of_text_are_not_counted_before_another_file_is_fetched(hub, write, tmp_path):
    rows = write("a.parquet", ["x"] * 10).read_bytes()
    hub.commit("datasets/o/mixed", {"1.txt": b"x\ny\n", "2.parquet": rows, "3.jsonl": b'{"text": "x"}\n'})
    asked = []
    files = open_sources(["hf://datasets/o/mixed"], "train", CONFIG)
    for _ in files.iter_downloaded(0, tmp_path / "to", 1, lambda rows: asked.append(rows) or True):
        pass
    assert asked == [0, 0, 0, 10, 0, 0]


def test_files_are_fetched_in_threads_that_nobody_waits_for_at_the_end(hub, tmp_path, monkeypatch):
    threads = []
    fetch_file = source_files.fetch_file
    watch = lambda *arguments: threads.append(threading.current_thread()) or fetch_file(*arguments)  # noqa: E731
    monkeypatch.setattr(source_files, "fetch_file", watch)
    for _ in open_sources(["hf://datasets/o/n"], "train", CONFIG).iter_downloaded(3, tmp_path / "to", 1):
        pass
    assert [(thread.name, thread.daemon) for thread in threads] == [("fetch", True)] * 2
