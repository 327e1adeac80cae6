"""Lists of named datasets, and fetching their text shards."""

import json

import pytest
from tests.hub_server import HubServer

from candlewick.artifacts.manifest import read_manifest
from candlewick.data.shards.fetch import DATASETS, DOWNLOAD_MANIFEST, download_datasets, find_datasets
from candlewick.errors import ConfigError


@pytest.fixture
def hub(hub: HubServer) -> HubServer:
    for name in ("a", "b"):
        rows = "".join(json.dumps({"text": f"{name} {i}", "content": f"code {i}"}) + "\n" for i in range(20))
        hub.commit(f"datasets/me/{name}", {"train.jsonl": rows.encode()})
    return hub


def test_find_datasets_reads_names_addresses_and_list_files(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text('- {name: wiki, source: "hf://datasets/x/y@main/en", take: 5, text_field: body}\n')
    found = find_datasets(["pg19", "hf://datasets/me/text@main/part", str(path)])
    assert [dataset.name for dataset in found] == ["pg19", "text", "wiki"]
    assert (found[2].take, found[2].text_field) == (5, "body")
    (tmp_path / "list.json").write_text(json.dumps([{"name": "one", "source": "hf://datasets/x/y"}]))
    assert find_datasets([str(tmp_path / "list.json")])[0].source == "hf://datasets/x/y"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a: 1", "all of it: Input should be a valid array"),
        ("- {name: x}", "0.source: Field required"),
        ("- {name: x, source: y, typo: 1}", "0.typo: Extra inputs"),
        ("- {name: ../up, source: y}", "0.name: String should match pattern"),
        ("- {name: x, source: y, take: 0}", "0.take: Input should be greater"),
        ("{[", "is not a list of datasets"),
        ("- 2026-01-01", "is not a list of datasets"),
    ],
)
def test_find_datasets_refuses_a_malformed_list_file(content, sentence, tmp_path):
    (tmp_path / "list.yaml").write_text(content)
    with pytest.raises(ConfigError, match=sentence):
        find_datasets([str(tmp_path / "list.yaml")])


def test_find_datasets_refuses_unknown_and_duplicate_names():
    with pytest.raises(ConfigError, match="not a file, an address, or a known dataset"):
        find_datasets(["finewab"])
    with pytest.raises(ConfigError, match="two datasets are called 'pg19'"):
        find_datasets(["pg19", "pg19"])
    assert all(name == dataset.name for name, dataset in DATASETS.items())


def test_fetch_writes_all_datasets_and_lists_them(hub, tmp_path):
    datasets = find_datasets(["hf://datasets/me/a", "hf://datasets/me/b"])
    datasets[1] = datasets[1].replaced(text_field="content", take=7)
    hub.fail("GET .*train.jsonl", "cut")
    results = download_datasets(datasets, tmp_path)
    assert [result.problem for result in results] == [None, None]
    lines = (tmp_path / "b" / "train_0000.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"text": f"code {i}"} for i in range(7)]
    downloads = json.loads((tmp_path / DOWNLOAD_MANIFEST).read_text())
    assert (downloads["total_files"], downloads["output_directory"]) == (2, str(tmp_path))
    assert [d["documents"] for d in downloads["datasets"]] == [20, 7]
    assert downloads["datasets"][0]["id"] == read_manifest(tmp_path / "a").id
    hub.requests.clear()
    assert all(result.reused for result in download_datasets(datasets, tmp_path))
    assert not hub.asked("resolve")


def test_fetch_reads_each_line_of_a_text_file_as_a_document(hub, tmp_path):
    hub.commit("datasets/me/text", {"train.txt": b"one\ntwo\n\nthree\n"})
    (result,) = download_datasets(find_datasets(["hf://datasets/me/text"]), tmp_path)
    assert result.manifest is not None
    assert result.manifest.details["total_lines"] == 3


def test_fetch_keeps_earlier_datasets_in_the_list(hub, tmp_path):
    for name in ("a", "b", "a"):
        download_datasets(find_datasets([f"hf://datasets/me/{name}"]), tmp_path)
    downloads = json.loads((tmp_path / DOWNLOAD_MANIFEST).read_text())
    assert [dataset["name"] for dataset in downloads["datasets"]] == ["b", "a"]
    (tmp_path / DOWNLOAD_MANIFEST).write_text('{"datasets": [3]}')
    download_datasets(find_datasets(["hf://datasets/me/a"]), tmp_path)
    assert len(json.loads((tmp_path / DOWNLOAD_MANIFEST).read_text())["datasets"]) == 1


def test_fetch_continues_after_a_failed_dataset(hub, tmp_path):
    datasets = find_datasets(["hf://datasets/me/gone", "hf://datasets/me/a"])
    failed, came = download_datasets(datasets, tmp_path)
    assert "is not on the Hub" in (failed.problem or "")
    assert came.manifest is not None
    assert json.loads((tmp_path / DOWNLOAD_MANIFEST).read_text())["total_files"] == 1
