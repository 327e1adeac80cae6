"""Text shards are reused, noted and told as promised: what is not about the documents in them."""

import json
import logging
import re

import pytest

from candlewick.config import DataConfig
from candlewick.data.shards import write as module
from candlewick.data.shards.fetch import DATASETS, DOWNLOAD_MANIFEST, download_datasets, find_datasets
from candlewick.data.shards.write import Outputs, ShardSettings, write_text_shards
from candlewick.errors import ArtifactError, RunInterrupted

CONFIG = DataConfig(documents="line")


@pytest.fixture
def text(tmp_path):
    """A file of 600 lines."""
    (tmp_path / "a.txt").write_text("".join(f"line {number} größe\n" for number in range(600)), encoding="utf-8")
    return [str(tmp_path / "a.txt")]


@pytest.fixture
def outputs(tmp_path):
    return Outputs(tmp_path / "train", tmp_path / "val")


def test_settings_of_shards_are_those_of_transformer_candle_by_default():
    assert ShardSettings() == ShardSettings(200_000, None, 0.0, 17, "jsonl", False, "train", "prod", None)


def test_shards_are_written_in_utf8_with_the_version_of_their_format(text, outputs):
    (manifest,), _ = write_text_shards(text, outputs, ShardSettings(), CONFIG)
    assert manifest.version == 2
    assert '{"text": "line 0 größe"}\n'.encode() in (outputs.train / "train_0000.jsonl").read_bytes()


def test_shards_are_found_by_size_and_reused_in_every_mode(text, outputs):
    write_text_shards(text, outputs, ShardSettings(), CONFIG)
    path = outputs.train / "train_0000.jsonl"
    path.write_bytes(path.read_bytes().replace(b"line 0", b"LINE 0"))  # the same size
    assert write_text_shards(text, outputs, ShardSettings(mode="split"), CONFIG)[1]


def test_an_output_of_something_else_is_refused_before_any_text_is_read(text, outputs, monkeypatch):
    outputs.train.mkdir()
    (outputs.train / "mine").write_text("x")
    monkeypatch.setattr(module, "read_documents", None)
    with pytest.raises(ArtifactError, match="train exists and is a folder of something else"):
        write_text_shards(text, outputs, ShardSettings(), CONFIG)
    assert not outputs.train.with_name("train.partial").exists()


def test_progress_is_told_every_256_documents_and_never_beyond_the_end(text, outputs):
    told = []
    write_text_shards(
        text, outputs, ShardSettings(), CONFIG, progress=lambda done, total: told.append((done, total))
    )
    assert len(told) == 3 + 1  # after documents 1, 257 and 513, and at the end of the file
    assert all(done <= total for done, total in told)


def test_the_state_is_noted_at_shards_only(tmp_path, text, outputs, monkeypatch):
    (tmp_path / "b.jsonl").write_text('{"text": " "}\n' * 50)  # blank documents
    noted = []
    replace_durable = module.replace_durable
    monkeypatch.setattr(module, "replace_durable", lambda *a, **k: noted.append(a) or replace_durable(*a, **k))
    write_text_shards([*text, str(tmp_path / "b.jsonl")], outputs, ShardSettings(250, format="text"), CONFIG)
    assert len(noted) == 2 + 1  # two full shards, the end


@pytest.mark.parametrize("stop_at", [100, 300])
def test_bad_bytes_of_a_file_that_is_read_again_are_counted_once(tmp_path, outputs, stop_at):
    path = tmp_path / "bad.txt"
    path.write_bytes(b"".join(b"bad \xff\n" if number % 50 == 3 else b"good\n" for number in range(400)))

    def interrupt(done, total):
        if (tmp_path / "train.partial" / "state.json").exists():  # a shard was full before
            raise KeyboardInterrupt

    settings = ShardSettings(stop_at - 50)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RunInterrupted):
        patch.setattr(module, "_DOCUMENTS_PER_REPORT", stop_at + 1)
        write_text_shards([str(path)], outputs, settings, CONFIG, progress=interrupt)
    (manifest,), _ = write_text_shards([str(path)], outputs, settings, CONFIG)
    assert manifest.details["bad_utf8"] == {"documents": 8, "sequences": 8}


@pytest.mark.parametrize(
    ("content", "settings", "said"),
    [
        ("one\ntwo\n", ShardSettings(take=2), 0),
        ("one\ntwo\n", ShardSettings(take=3), 1),
        ("one\ntwo\n", ShardSettings(format="text"), 0),
    ],
)
def test_only_what_was_lost_or_is_missing_is_told(tmp_path, outputs, caplog, content, settings, said):
    (tmp_path / "a.txt").write_text(content)
    with caplog.at_level(logging.WARNING):
        write_text_shards([str(tmp_path / "a.txt")], outputs, settings, CONFIG)
    assert len(caplog.records) == said


@pytest.mark.parametrize(
    ("row", "said"),
    [({"text": "two\nlines"}, "1 line ends .* 0 blank"), ({"text": " "}, "0 line ends .* 1 blank")],
)
def test_line_ends_and_blank_documents_are_each_told_alone(tmp_path, outputs, caplog, row, said):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x"}) + "\n" + json.dumps(row) + "\n")
    with caplog.at_level(logging.WARNING):
        write_text_shards([str(tmp_path / "a.jsonl")], outputs, ShardSettings(format="text"), CONFIG)
    assert [bool(re.search(said, record.getMessage())) for record in caplog.records] == [True]


def test_a_list_of_nothing_makes_an_empty_list_for_people_to_read(tmp_path):
    assert download_datasets([], tmp_path / "out") == []
    downloads = (tmp_path / "out" / DOWNLOAD_MANIFEST).read_text()
    assert json.loads(downloads)["datasets"] == []
    assert downloads.startswith('{\n "download_timestamp"')


def test_datasets_are_fetched_one_file_ahead_with_the_progress_told(tmp_path, monkeypatch):
    asked, progress = [], lambda done, total: None
    monkeypatch.setattr(
        "candlewick.data.shards.fetch.write_text_shards", lambda *_, **settings: asked.append(settings) or 1 / 0
    )
    for settings in ({}, {"ahead": 3, "progress": progress}):
        with pytest.raises(ZeroDivisionError):
            download_datasets(find_datasets(["pg19"]), tmp_path, **settings)
    assert asked == [{"ahead": 1, "progress": None}, {"ahead": 3, "progress": progress}]


def test_a_dataset_that_failed_was_not_reused(tmp_path):
    datasets = find_datasets(["pg19"])
    datasets[0] = datasets[0].replaced(source=str(tmp_path / "gone.txt"))
    (result,) = download_datasets(datasets, tmp_path)
    assert (result.manifest, result.reused) == (None, False)


def test_named_datasets_of_code_have_their_text_in_the_field_of_the_stack():
    fields = {name: dataset.text_field for name, dataset in DATASETS.items()}
    assert {name for name, field in fields.items() if field == "content"} == {
        name for name in DATASETS if name.startswith("the-stack-")
    }


def test_only_datasets_that_are_still_there_stay_in_the_list(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        (tmp_path / name / "manifest.json").write_text("{}")
    rows = [{"name": "a", "files": 0}, {"name": "b", "files": -1}, {"name": "c", "files": 1}]
    (tmp_path / DOWNLOAD_MANIFEST).write_text(json.dumps({"datasets": rows}))
    download_datasets([], tmp_path)
    assert json.loads((tmp_path / DOWNLOAD_MANIFEST).read_text())["datasets"] == rows[:1]
