"""Without a network the Hub is given up at once, in one short line; what answers badly is asked again."""

import io
import logging
import re

import pytest
from tests.hub_server import HubServer

from candlewick import hub
from candlewick.errors import MachineError
from candlewick.hub import fetch_file, open_repo

REFUSED = "http://127.0.0.1:9"
NAMELESS = "http://no-such-host.invalid"


@pytest.fixture
def repo(tmp_path):
    with HubServer() as server, server.client(tmp_path / "home") as waits:
        server.commit("o/n", {"a.txt": b"a" * 9, "b.txt": b"b" * 9})
        yield server, open_repo("hf://o/n"), waits


def move(monkeypatch, url):
    """Let the Hub be elsewhere from now on."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.mark.parametrize("url", [REFUSED, NAMELESS])
def test_a_network_that_goes_away_is_told_after_two_tries(repo, url, monkeypatch, tmp_path, capfd):
    _, opened, waits = repo
    for ask in (
        lambda: open_repo("hf://o/n"),
        lambda: hub._list_files(hub.huggingface_hub.HfApi(), opened.uri),
        lambda: fetch_file(opened.uri, opened.files[0], tmp_path / "to"),
    ):
        open_repo("hf://o/n")  # it is there
        waits.clear()
        with monkeypatch.context() as patch:
            move(patch, url)
            with pytest.raises((MachineError, OSError), match="refused|not known|resolution"):
                ask()
            assert waits == [1.0]  # one second try, an open_repo
            with pytest.raises((MachineError, OSError)):
                ask()
            assert waits == [1.0]  # and none, as long as nothing has answered
        assert not capfd.readouterr().err


def test_the_error_of_a_missing_network_is_one_short_line(repo, monkeypatch):
    move(monkeypatch, REFUSED)
    with pytest.raises(MachineError) as error:
        open_repo("hf://o/n")
    expected = "hf://o/n: the Hub cannot be reached: Connection refused (fix: check the network or HF_ENDPOINT)"
    assert str(error.value) == expected


def test_lines_about_more_tries_fit_80_columns(repo, tmp_path, caplog):
    server, opened, waits = repo
    stream = io.StringIO()
    (handler,) = logging.getLogger("huggingface_hub").handlers
    assert isinstance(handler, logging.StreamHandler)
    before = handler.setStream(stream)
    address = f"hf://datasets/{'o' * 40}/{'n' * 40}"
    server.commit(address.removeprefix("hf://"), {"a.txt": b"a"})
    try:
        server.fail("GET /api/", "503", "drop")
        server.fail("GET .*/tree/", "503", "drop")
        open_repo(address)
        server.fail("GET .*resolve", "drop", "503")
        fetch_file(opened.uri, opened.files[0], tmp_path / "to")
    finally:
        handler.setStream(before)
    records = [record for record in caplog.records if record.name.startswith("candlewick")]
    ours = [f"{record.levelname} {record.name}: {record.getMessage()}" for record in records]
    theirs = stream.getvalue().splitlines()
    assert len(ours) >= 3
    assert len(theirs) >= 2
    assert max(map(len, [*ours, *theirs])) <= 80, [*ours, *theirs]
    assert not re.search("http", stream.getvalue())
    assert len(waits) >= 5
