"""Local and Hub files are opened in order, one after another, on the local disk."""

import logging
import threading

import pytest
from tests.hub_server import HubServer

from candlewick.config import DataConfig
from candlewick.data.shards.write import Outputs, ShardSettings, write_text_shards
from candlewick.data.text import downloads
from candlewick.data.text.downloads import Downloads, download
from candlewick.data.text.find import open_text
from candlewick.data.text.reading import Reading
from candlewick.errors import DataError, MachineError

CONFIG = DataConfig(documents="line")
FILES = {f"data/{number}.txt": f"text {number}\n".encode() * 200 * number for number in range(1, 6)}


@pytest.fixture
def hub(hub: HubServer) -> HubServer:
    hub.commit("datasets/o/n", FILES)
    return hub


def open_downloads(folder, *uris: str, ahead: int = 1) -> Downloads:
    return Downloads(open_text(uris or ["hf://datasets/o/n"], CONFIG), folder, ahead)


@pytest.mark.parametrize("ahead", [0, 1, 3, 9])
@pytest.mark.parametrize("start", [0, 3, 5])
def test_hub_files_are_downloaded_in_order_and_removed_when_they_are_released(hub, tmp_path, ahead, start):
    source, seen = open_downloads(tmp_path / "to", ahead=ahead), []
    for number, file in source.files(start):
        assert file.path.read_bytes() == FILES[f"data/{number + 1}.txt"]
        assert file.name == source.corpus.files[number].name
        assert file.kind == "lines"
        assert len(list((tmp_path / "to").glob("*/data/*.txt"))) <= ahead + 1
        seen.append(number)
        source.release(number + 1)
        assert not file.path.exists()
    assert seen == list(range(start, 5))
    source.close()
    assert not (tmp_path / "to").exists()


def test_files_stay_until_they_are_released(hub, tmp_path):
    source = open_downloads(tmp_path / "to")
    paths = [file.path for _, file in source.files()]
    assert all(path.exists() for path in paths)
    source.release(2)
    assert [path.exists() for path in paths] == [False, False, True, True, True]
    source.close()
    assert not any(path.exists() for path in paths)


def test_local_and_hub_files_may_be_mixed(hub, write, tmp_path):
    local = write("a.txt", "local\n")
    source = open_downloads(tmp_path / "to", str(local), "hf://datasets/o/n/data/2.txt")
    assert [file.path.read_text()[:5] for _, file in source.files()] == ["local", "text "]
    source.release(2)
    source.close()
    assert local.exists()


def test_failed_download_raises_when_the_file_is_needed(hub, tmp_path):
    source, seen = open_downloads(tmp_path / "to", ahead=2), []
    hub.plan = lambda request: "503" if "3.txt" in request.path else None
    with pytest.raises(MachineError, match=r"data/3.txt could not be read from the Hub: HTTP 503"):
        for number, _ in source.files():
            seen.append(number)
    assert seen == [0, 1]


def test_running_download_is_awaited_at_the_end(hub, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source = open_downloads(tmp_path / "to")
    hub.fail("GET .*/2.txt", "stall", "stall", "stall")
    hub.stall_seconds = 1
    assert next(source.files())[0] == 0  # the next file is on its way
    source.close()
    assert "waiting for 1 downloads" in caplog.text
    assert not fetching()
    assert not (tmp_path / "to").exists()


def fetching() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fetch"]


@pytest.mark.parametrize("error", [DataError("x", "y"), KeyboardInterrupt()])
def test_running_download_ends_with_its_owner_after_an_error_but_not_before_an_interruption(hub, tmp_path, error):
    hub.fail("GET .*/2.txt", "stall", "stall")
    hub.stall_seconds = 1
    is_interrupted = isinstance(error, KeyboardInterrupt)
    with pytest.raises(type(error)), open_downloads(tmp_path / "to") as source:
        for _ in source.files():
            raise error
    assert bool(fetching()) is is_interrupted  # then the process ends, and its threads with it
    for thread in fetching():
        thread.join()
    assert [path.name for path in sorted((tmp_path / "to").glob("*/data/*.txt"))] == ["1.txt", "2.txt"]
    with open_downloads(tmp_path / "to") as source:
        asked = len(hub.requests)
        assert next(source.files())[1].path.exists()
    assert len(hub.requests) == asked  # what was downloaded is used
    assert not (tmp_path / "to").exists()


def test_download_ends_with_the_shards_that_an_error_ends(hub, tmp_path):
    hub.commit("datasets/o/n", {"1.jsonl": b"no row\n", "2.jsonl": b'{"text": "x"}\n' * 200})
    hub.fail("GET .*/2.jsonl", "stall", "stall")
    hub.stall_seconds = 1
    own = Outputs(tmp_path / "train", tmp_path / "val", tmp_path / "to")
    with pytest.raises(DataError, match="row 1"):
        write_text_shards(["hf://datasets/o/n"], own, ShardSettings(9), CONFIG)
    assert hub.asked("GET .*/2.jsonl")
    assert not fetching()


def test_no_file_is_downloaded_ahead_that_is_not_wanted(hub, tmp_path):
    source = open_downloads(tmp_path / "to", ahead=2)
    asked = []
    files = source.files(0, lambda file: asked.append(file.bytes) or len(asked) > 1)
    next(files)
    assert not hub.asked("GET .*/2.txt")
    next(files)
    source.close()
    assert asked == [len(FILES["data/1.txt"]), len(FILES["data/2.txt"])]
    assert hub.asked("GET .*/4.txt")
    assert not hub.asked("GET .*/5.txt")


def test_files_are_downloaded_in_threads_that_nobody_waits_for_at_the_end(hub, tmp_path, monkeypatch):
    threads = []
    fetch_file = downloads.fetch_file
    watch = lambda *arguments: threads.append(threading.current_thread()) or fetch_file(*arguments)  # noqa: E731
    monkeypatch.setattr(downloads, "fetch_file", watch)
    assert len(list(open_downloads(tmp_path / "to").files(3))) == 2
    assert [(thread.name, thread.daemon) for thread in threads] == [("fetch", True)] * 2


def test_download_finds_the_format_of_a_file(hub, write, tmp_path):
    hub.commit("datasets/o/rows", {"a.jsonl": b'{"text": "x"}\n', "b.txt": "x".encode("utf-16")})
    rows, bad = open_text(["hf://datasets/o/rows"], CONFIG).files
    file = download(rows, tmp_path / "to", Reading())
    assert (file.kind, file.path.read_bytes()) == ("jsonl", b'{"text": "x"}\n')
    file.require_unchanged()
    with pytest.raises(DataError, match=r"b\.txt is UTF-16 .*leave it out"):
        download(bad, tmp_path / "to", Reading())
    local = open_text([str(write("a.txt", "x"))], CONFIG).files[0]
    assert download(local, tmp_path / "to", Reading()) is local
