"""Where the paths of transformer_candle's files start, and what lies there under another name."""

from pathlib import Path

import pytest

from candlewick.compat.candle.paths import find_base, find_run, find_shards
from candlewick.config import RunConfig


@pytest.mark.parametrize(
    ("directory", "file", "base"),
    [
        ("runs/local/checkpoints", "/repo/runs/local/training.toml", "/repo"),
        ("local/checkpoints", "/repo/runs/local/training.yaml", "/repo/runs"),
        ("runs/local/checkpoints", "/repo/runs/other/training.toml", "/repo/runs/other"),  # it was moved
        ("runs/local/checkpoints", "/repo/runs/local/mine.toml", "/repo/runs/local"),
        ("../runs/m3/checkpoints", "/repo/runs/m3/training.yaml", "/repo/runs/m3"),
        ("/repo/runs/m3/checkpoints", "/repo/runs/m3/training.yaml", "/repo/runs/m3"),
        ("checkpoints", "/repo/runs/m3/training.yaml", "/repo/runs/m3"),
        (None, "/repo/runs/m3/training.yaml", "/repo/runs/m3"),
        (3, "/repo/runs/m3/training.yaml", "/repo/runs/m3"),
    ],
)
def test_paths_of_the_orchestrator_start_where_it_was_called(directory, file, base):
    assert find_base({"runtime": {"checkpoint": {"directory": directory}}}, Path(file)) == Path(base)


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ("train_0000.jsonl", "train_0000.jsonl"),
        ("train_0000.jsonl.gz", "train_0000.jsonl.gz"),
        ("train_0000.txt.gz", "train_0000.txt.gz"),
        ("train_0000/manifest.json", "train_0000"),
        ("train_0001.jsonl", None),
        ("train_0000/text.txt", None),
    ],
)
def test_absent_text_is_found_under_the_name_of_the_same_shard(tmp_path, there, found):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).touch()
    path = tmp_path / "train_0000.txt"
    expected = {} if found is None else {str(path): str(tmp_path / found)}
    assert find_shards([str(path), 3, "hf://datasets/a/b.txt", str(tmp_path / "x.jsonl")]) == expected
    path.touch()
    assert find_shards([str(path)]) == {}


def test_run_folder_is_the_one_that_holds_checkpoints():
    runs = {"/w/runs/a/checkpoints": Path("/w/runs/a"), "/w/kept": None, None: None}
    for directory, folder in runs.items():
        config = RunConfig().replaced(runtime={"checkpoint": {"directory": directory and Path(directory)}})
        assert find_run(config) == folder
