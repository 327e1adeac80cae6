import json
import os
import shutil
import sys
from typing import Any

import pytest

from candlewick.artifacts.manifest import file_sha256, json_sha256
from candlewick.config.seal import read_run_id
from candlewick.runs.history import RECORD
from candlewick.runs.train import run_training


def read(run_dir) -> dict[str, Any]:
    record = json.loads((run_dir / RECORD).read_bytes())
    assert record.pop("sha256") == json_sha256(record)
    return record


@pytest.fixture
def started(tiny, tmp_path, cache, text_dir, monkeypatch):
    """Train a run on two files of text with a command line that has a token; return its folder."""
    text = tmp_path / "text"
    text.mkdir()
    for name in ("00.txt", "01.txt"):
        shutil.copy(text_dir / name, text)
    monkeypatch.setattr(sys, "argv", ["/bin/candlewick", "train", "--hf-token", "hf_canary0123", "a b"])
    data = {**tiny().data.model_dump(mode="json"), "train_shards": [str(text)], "cache_dir": str(cache)}

    def start(resume=False, steps=2):
        config = tiny(data=data, scheduler={"total_steps": steps, "warmup_steps": 1})
        run_training(config, tmp_path / "run", resume=resume)
        return tmp_path / "run"

    return start


def test_record_names_the_text_with_sizes_and_hashes_and_the_run(started, tmp_path):
    run_dir = started()
    record = read(run_dir)
    assert record["run"] == read_run_id(run_dir / "config.yaml")
    tokens = record["text"]["tokens"]
    assert tokens["sources"] == [str(tmp_path / "text")]
    paths = sorted((tmp_path / "text").iterdir())
    expected = [[path.name, path.stat().st_size, file_sha256(path)] for path in paths]
    sizes = sum(path.stat().st_size for path in paths)
    assert tokens["files"] == {"train": {"num_files": 2, "bytes": sizes, "files": expected}}
    assert tokens["splits"]["train"]["tokens"] > 0


def test_record_has_each_start_with_its_command_and_no_token(started):
    started()
    record = read(started(resume=True, steps=3))
    assert [start["step"] for start in record["starts"]] == [0, 2]
    assert {start["command"] for start in record["starts"]} == {"candlewick train --hf-token hf_... 'a b'"}
    assert all({"time", "torch", "device", "cores"} <= start.keys() for start in record["starts"])


def test_record_keeps_the_first_and_the_newest_starts(started):
    run_dir = started()
    record = read(run_dir)
    record["starts"] = [{"step": number} for number in range(150)]
    (run_dir / RECORD).write_text(json.dumps({**record, "sha256": json_sha256(record)}))
    steps = [start["step"] for start in read(started(resume=True, steps=3))["starts"]]
    assert steps == [0, *range(51, 150), 2]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"sha256": 1}', None])
def test_damaged_record_is_told_and_written_anew(started, caplog, damage):
    path = started() / RECORD
    path.write_text(damage if damage is not None else path.read_text().replace('"step": 0', '"step": 1'))
    assert [start["step"] for start in read(started(resume=True, steps=3))["starts"]] == [2]
    assert "was damaged or edited: the earlier starts" in caplog.text


def test_command_with_a_name_that_is_not_utf8_is_recorded(started, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["candlewick", "train", "--run-dir", os.fsdecode(b"r_\xff")])
    assert "udcff" in read(started())["starts"][0]["command"]
