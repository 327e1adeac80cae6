"""Text shards in shared folders: written once, verified before use, replaced on request only."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from candlewick.artifacts.manifest import read_manifest
from candlewick.config import DataConfig
from candlewick.data.text.find import open_text
from candlewick.errors import ArtifactError, ConfigError, DataError
from candlewick.runs.sharding import Sharding, make_shards, plan_shards

FIVE = ["one", "two", "three", "four", "five"]


def write_candle_shards(folder: Path, shards: dict[str, str], name: str = "train") -> None:
    """Write a folder as transformer_candle's sharder did, from the description of its manifest alone."""
    folder.mkdir(parents=True)
    rows = []
    for path, text in shards.items():
        (folder / path).write_text(text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        rows.append({"path": path, "lines": text.count("\n"), "bytes": len(text.encode()), "sha256": digest})
    totals = {"total_shards": len(rows), "total_lines": sum(r["lines"] for r in rows), "total_bytes": 0}
    head = {"dataset": "x/y", "split": name, "mode": "prod", "seed": 17, "lines_per_shard": 2, "gzip": False}
    (folder / "manifest.json").write_text(json.dumps({**head, **totals, "shards": rows}))


@pytest.fixture
def text(tmp_path):
    """Five lines in a file."""
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{word}\n" for word in FIVE))
    return path


@pytest.fixture
def sharding(tmp_path):
    """Two documents per shard of training text, three of validation text."""
    return Sharding(
        {"train": tmp_path / "train" / "e", "validation": tmp_path / "val" / "e"}, {"train": 2, "validation": 3}
    )


@pytest.fixture
def train(sharding):
    return sharding.folders["train"]


@pytest.fixture
def val(sharding):
    return sharding.folders["validation"]


def config_of(*train, validation=(), **more):
    shards = {"train_shards": tuple(map(str, train)), "validation_shards": tuple(map(str, validation))}
    return DataConfig(**shards, **{"documents": "line", "validation_fraction": 0.7, **more})


def shard_text(config, sharding, say):
    """Decide about shards and write them; return the settings that name them."""
    config, jobs = plan_shards(config, sharding)
    make_shards(jobs, config, say)
    return config


def documents(config, side="train_shards"):
    return [d.text for d in open_text(getattr(config, side), config).documents()]


def test_files_and_folders_become_shards_with_hashes(text, sharding, train, val, tmp_path):
    said = []
    config = shard_text(config_of(text, validation=[text]), sharding, said.append)
    assert config.train_shards == (str(train),)
    assert config.validation_shards == (str(val),)
    assert documents(config) == documents(config, "validation_shards") == FIVE
    assert [shard["lines"] for shard in read_manifest(train).details["shards"]] == [2, 2, 1]
    assert [shard["lines"] for shard in read_manifest(val).details["shards"]] == [3, 2]
    assert said == [
        f"shards     made: {train} (5 documents)",
        f"shards     made: {val} (5 documents)",
    ]


def test_a_plan_names_the_shards_and_changes_nothing_on_the_disk(text, sharding, train, val):
    shard_text(config_of(text), sharding, print)
    before = {path: path.stat().st_mtime_ns for path in text.parent.rglob("*")}
    config, jobs = plan_shards(config_of(text), replace(sharding, existing="remake"))
    assert [(job.action, job.uris, job.folders) for job in jobs] == [("write", (str(text),), (train, val))]
    assert (config.train_shards, config.validation_shards) == ((str(train),), (str(val),))
    assert {path: path.stat().st_mtime_ns for path in text.parent.rglob("*")} == before


def test_without_validation_documents_are_held_out_by_their_hash(text, sharding, train, val):
    said = []
    config = shard_text(config_of(text), sharding, said.append)
    trained, held = documents(config), documents(config, "validation_shards")
    assert sorted([*trained, *held]) == sorted(FIVE)
    assert trained
    assert held
    assert said == [
        f"shards     made: {train} ({len(trained)} documents)",
        f"shards     made: {val} ({len(held)} documents)",
    ]
    # the same text twice has no document on both sides
    text.write_text(text.read_text() * 2)
    twice = shard_text(config_of(text), replace(sharding, existing="remake"), said.append)
    assert not set(documents(twice)) & set(documents(twice, "validation_shards"))
    assert sorted(documents(twice)) == sorted(trained * 2)


def test_holdout_without_documents_is_refused(text, sharding, train, val):
    with pytest.raises(DataError, match="no validation document came out of"):
        shard_text(config_of(text, validation_fraction=1e-9), sharding, print)


def test_existing_shards_are_reused_or_remade_on_request_only(text, sharding, train, val):
    made = shard_text(config_of(text), sharding, print)
    with pytest.raises(ConfigError, match="train/e holds shards already .*--reuse-shards.*--force-reshard"):
        shard_text(config_of(text), sharding, print)
    said, folders = [], (train, val)
    times = {p: p.stat().st_mtime_ns for folder in folders for p in folder.iterdir()}
    # with the text or without it
    for config in (config_of(text), config_of()):
        found = shard_text(config, replace(sharding, existing="reuse"), said.append)
        assert (found.train_shards, found.validation_shards) == (made.train_shards, made.validation_shards)
    assert {p: p.stat().st_mtime_ns for folder in folders for p in folder.iterdir()} == times
    assert said[0].startswith(f"shards     reused: {train} (")
    assert said[0].endswith("bytes, all hashes match)")
    text.write_text("six\n")
    again = shard_text(config_of(text, validation=[text]), replace(sharding, existing="remake"), print)
    assert documents(again) == documents(again, "validation_shards") == ["six"]


def test_validation_shards_without_training_shards_are_never_reused(text, sharding, train, val):
    shard_text(config_of(text), sharding, print)
    shutil.rmtree(train)
    for existing in ("refuse", "reuse"):
        with pytest.raises(ConfigError, match="val/e holds shards already"):
            shard_text(config_of(text), replace(sharding, existing=existing), print)


def test_reuse_without_existing_shards_makes_them(text, sharding, train, val):
    config = config_of(text, validation=[text])
    assert documents(shard_text(config, replace(sharding, existing="reuse"), print)) == FIVE


def test_reuse_takes_shards_of_transformer_candle(sharding, train, val):
    write_candle_shards(train, {"train_0000.txt": "one\ntwo\n", "train_0001.txt": "three\n"})
    write_candle_shards(val, {"val_0000.txt": "four\n"}, "val")
    config = shard_text(config_of(), replace(sharding, existing="reuse"), print)
    assert documents(config) == ["one", "two", "three"]
    assert documents(config, "validation_shards") == ["four"]


def test_shards_of_the_old_orchestrator_have_no_hashes(sharding, train, val):
    train.mkdir(parents=True)
    (train / "train-00000.txt").write_text("one\ntwo\n")
    said = []
    assert documents(shard_text(config_of(), replace(sharding, existing="reuse"), said.append)) == ["one", "two"]
    assert said[0].endswith("(there are no hashes to check)")


def test_damaged_shards_are_refused_and_can_be_remade(text, sharding, train, val):
    shard_text(config_of(text, validation=[text]), sharding, print)
    shard = train / "train_0000.jsonl"
    shard.write_bytes(shard.read_bytes().replace(b"one", b"eno"))
    with pytest.raises(ArtifactError, match="its content changed"):
        shard_text(config_of(text), replace(sharding, existing="reuse"), print)
    shard.write_bytes(b"")
    with pytest.raises(DataError, match="train_0000.jsonl is empty .*--force-reshard"):
        shard_text(config_of(text), replace(sharding, existing="reuse"), print)
    config = config_of(text, validation=[text])
    assert documents(shard_text(config, replace(sharding, existing="remake"), print)) == FIVE


def test_remake_does_not_remove_a_folder_of_something_else(text, sharding, train, val):
    train.mkdir(parents=True)
    (train / "mine.txt").write_text("mine\n")
    with pytest.raises(ConfigError, match="is not removed for new shards: it has no manifest of shards"):
        shard_text(config_of(text), replace(sharding, existing="remake"), print)
    with pytest.raises(ConfigError, match="is not removed for new shards: it is read from"):
        shard_text(config_of(train / "mine.txt"), replace(sharding, existing="remake"), print)
    assert (train / "mine.txt").exists()
    (train / "mine.txt").rename(text.parent / "mine.txt")
    shard_text(config_of(text), replace(sharding, existing="remake"), print)
    (train / "notes.md").write_text("mine")
    with pytest.raises(ConfigError, match="is not removed for new shards: notes.md is not a shard"):
        shard_text(config_of(text), replace(sharding, existing="remake"), print)
    assert (train / "notes.md").exists()


def test_sharding_accepts_settings_that_name_the_shard_folders(text, sharding, train, val):
    named = config_of(train, validation=[val])
    assert shard_text(named, sharding, print).train_shards == ()  # nothing is there yet
    made = shard_text(config_of(text, validation=[val]), sharding, print)
    assert made == named
    said = []
    assert shard_text(named, sharding, said.append) == named
    assert [line.startswith("shards     reused: ") for line in said] == [True, True]
    with pytest.raises(ConfigError, match="is not removed for new shards: it is read from"):
        shard_text(named, replace(sharding, existing="remake"), print)


def test_chats_and_token_datasets_are_not_sharded(tokens, sharding, train, val, tmp_path):
    said = []
    config = config_of(tokens)
    assert shard_text(config, sharding, said.append) == config
    chats = config_of(tmp_path / "chats.jsonl", format="chat")
    assert shard_text(chats, sharding, said.append) == chats
    assert [line.startswith("shards     not made of ") for line in said] == [True, True]
    assert not train.exists()
