"""Files one after another on this disk, whether they come from it or from the Hub."""

import pytest
from tests.hub_server import HubServer

from candlewick.config import DataConfig
from candlewick.data.source_files import HubSource, open_sources
from candlewick.data.sources import open_corpus
from candlewick.errors import DataError, EnvironmentFault

CONFIG = DataConfig(documents="line")
FILES = {f"data/{number}.txt": f"text {number}\n".encode() * 200 * number for number in range(1, 6)}


@pytest.fixture
def server(tmp_path):
    with HubServer() as hub, hub.client(tmp_path / "home"):
        hub.commit("datasets/o/n", FILES)
        yield hub


@pytest.mark.parametrize("ahead", [1, 3, 9])
@pytest.mark.parametrize("start", [0, 3, 5])
def test_files_come_in_order_and_go(server, tmp_path, ahead, start):
    files = open_sources(["hf://datasets/o/n"], "train", CONFIG)
    seen = []
    for number, file in files.at_hand(start, tmp_path / "to", ahead):
        assert file.path.read_bytes() == FILES[f"data/{number + 1}.txt"]
        assert file.name == files.files[number].name
        assert file.kind == "lines"
        assert len(list((tmp_path / "to").glob("*/data/*.txt"))) <= ahead + 1
        seen.append(number)
    assert seen == list(range(start, 5))
    assert not list(tmp_path.glob("to/*"))


def test_local_files_and_those_of_the_hub_stand_side_by_side(server, tmp_path):
    local = tmp_path / "a.txt"
    local.write_text("local\n")
    files = open_sources([str(local), "hf://datasets/o/n/data/2.txt"], "train", CONFIG)
    assert [type(file) for file in files.files] == [type(open_corpus([str(local)], CONFIG).files[0]), HubSource]
    assert [file.path.read_text()[:5] for _, file in files.at_hand(0, tmp_path / "to", 1)] == ["local", "text "]
    assert local.exists()


def test_the_fingerprint_is_that_of_the_content(server, tmp_path):
    uri = "hf://datasets/o/n"
    first = open_sources([uri], "train", CONFIG).fingerprint
    server.commit("datasets/o/n", {**FILES, "README.md": b"new"})
    assert open_sources([uri], "train", CONFIG).fingerprint == first
    server.commit("datasets/o/n", {**FILES, "data/1.txt": FILES["data/1.txt"] + b"!"})
    assert open_sources([uri], "train", CONFIG).fingerprint != first
    local = tmp_path / "a.txt"
    found = []
    for text in ("one", "two", "one"):
        local.write_text(text)
        found.append(open_sources([str(local)], "train", CONFIG).fingerprint)
    assert found[0] == found[2] != found[1]


def test_a_file_that_does_not_come_fails_where_it_is_needed(server, tmp_path):
    files = open_sources(["hf://datasets/o/n"], "train", CONFIG)
    server.plan = lambda request: "503" if "3.txt" in request.path else None
    seen = []
    with pytest.raises(EnvironmentFault, match=r"data/3.txt: 6 tries failed"):
        for number, _ in files.at_hand(0, tmp_path / "to", 2):
            seen.append(number)
    assert seen == [0, 1]


def test_what_is_given_twice_or_is_a_model_is_refused(server, tmp_path):
    for uri in ("hf://datasets/o/n", str(tmp_path / "a.txt")):
        (tmp_path / "a.txt").write_text("x")
        with pytest.raises(DataError, match="is given twice"):
            open_sources([uri, uri], "train", CONFIG)
    with pytest.raises(DataError, match="hf://o/n is a model, not a dataset"):
        open_sources(["hf://o/n"], "train", CONFIG)
