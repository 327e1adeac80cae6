"""`candlewick data fetch`."""

import json

import pytest
from tests.hub_server import HubServer

from candlewick.cli.main import main


@pytest.fixture
def hub(hub: HubServer) -> HubServer:
    hub.commit("datasets/me/a", {"train.jsonl": b'{"text": "one"}\n{"text": "two"}\n'})
    return hub


def test_fetch_prints_fetched_reused_and_failed_datasets(hub, tmp_path, capsys):
    words = ["data", "fetch", "hf://datasets/me/a", "--output", str(tmp_path)]
    assert main(words) == 0
    assert capsys.readouterr().out.split() == ["a", "fetched", "2", "documents"]
    assert main(words) == 0
    assert "up to date" in capsys.readouterr().out
    assert main([*words, "hf://datasets/me/none"]) == 3
    output = capsys.readouterr()
    assert "none                    failed" in output.out
    assert "1 of 2 datasets could not be fetched" in output.err
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["a"]["total_lines"] == 2


def test_fetch_list_prints_the_known_datasets(capsys):
    assert main(["data", "fetch", "--list"]) == 0
    assert "hf://datasets/HuggingFaceFW/fineweb/sample/10BT" in capsys.readouterr().out
    assert main(["data", "fetch", "--list", "--json"]) == 0
    assert "pg19" in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("words", [[], ["pg19"], ["--output", "x"]])
def test_fetch_without_datasets_or_output_exits_2(words, capsys):
    assert main(["data", "fetch", *words]) == 2
    assert "no dataset or no folder to write to is given" in capsys.readouterr().err
