"""`candlewick data preprocess`."""

import json

import pytest

from candlewick.artifacts.manifest import read_manifest
from candlewick.cli.main import main

LINES = "A line that is long enough.\n\nshort\nAnother line of this text.\n"


@pytest.fixture
def raw(tmp_path):
    """data/raw with two corpora, one of them fetched."""
    for name, count in (("hbs", 2), ("paul", 3)):
        (tmp_path / "raw" / name).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "raw" / name / f"{number}.txt").write_text(f"{name} {number} says: {LINES}")
    (tmp_path / "raw" / "paul" / "empty.txt").write_text("tiny")
    return tmp_path / "raw"


def preprocess(raw, tmp_path, *words):
    return main(["data", "preprocess", str(tmp_path / "out"), "--input", str(raw), *words])


def documents(folder):
    lines = (folder / "train_0000.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines]


def test_preprocess_cleans_each_corpus_and_counts_what_it_dropped(raw, tmp_path, capsys):
    assert preprocess(raw, tmp_path) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[1].split() == ["hbs_corpus", "2", "0", "6", "2", "0", "134"]
    assert table[2].split()[:5] == ["paul_corpus", "4", "1", "10", "4"]
    expected = [f"hbs {i} says: A line that is long enough.\n\nAnother line of this text." for i in range(2)]
    assert documents(tmp_path / "out" / "hbs_corpus") == expected
    assert read_manifest(tmp_path / "out" / "paul_corpus", "text").details["cleaning"]["empty_documents"] == 1


def test_preprocess_mixed_writes_one_corpus(raw, tmp_path, capsys):
    assert preprocess(raw, tmp_path, "--mixed", "--json") == 0
    assert json.loads(capsys.readouterr().out)["mixed_corpus"]["total_lines"] == 5
    assert not any("---" in text for text in documents(tmp_path / "out" / "mixed_corpus"))


def test_preprocess_writes_the_format_of_transformer_candle(raw, tmp_path):
    assert preprocess(raw, tmp_path, "--format", "text", "--documents", "line") == 0
    text = (tmp_path / "out" / "hbs_corpus" / "train_0000.txt").read_text()
    assert text.splitlines()[:2] == ["hbs 0 says: A line that is long enough.", "Another line of this text."]


def test_preprocess_hf_takes_fetched_folders_only(raw, tmp_path, capsys):
    assert preprocess(raw, tmp_path, "--hf") == 3
    assert "nothing that `candlewick data fetch` brought" in capsys.readouterr().err
    source = ["data", "shard", "--source", str(raw / "hbs"), "--train-output", str(raw / "web")]
    assert main(source) == 0
    assert preprocess(raw, tmp_path, "--hf") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["web_corpus"]


def test_preprocess_of_a_missing_folder_exits_3_and_of_an_ambiguous_one_2(raw, tmp_path, capsys):
    assert preprocess(tmp_path / "nothing", tmp_path) == 3
    assert "does not exist (fix: put text into it, or give --input DIR)" in capsys.readouterr().err
    (raw / "loose.txt").write_text(LINES)
    assert preprocess(raw, tmp_path) == 2
    assert "has text beside folders of corpora" in capsys.readouterr().err
    assert preprocess(raw, tmp_path, "--mixed") == 0


def test_preprocess_can_keep_short_lines_spaces_and_control_characters(raw, tmp_path):
    assert preprocess(raw / "hbs", tmp_path, "--min-line-bytes", "0", "--keep-spaces", "--keep-control") == 0
    assert "short" in documents(tmp_path / "out" / "hbs_corpus")[0]
