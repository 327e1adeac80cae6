"""A shard writer restored from its recorded state writes the same bytes."""

import gzip
import hashlib
import json
import os
import zlib

import pytest

from candlewick.data.shards import writer as module
from candlewick.data.shards.writer import ShardWriter

LINES = [f"line {number} {'x' * (number % 7)}\n".encode() for number in range(10)]


def write(folder, lines, compress=False) -> list[dict]:
    writer = ShardWriter(folder, "train", ".jsonl", compress)
    for line in lines:
        writer.add(line)
        if writer.lines == 4:
            writer.finish()
    writer.finish()
    writer.finish()  # nothing is open: nothing happens
    return writer.shards


def content(path) -> bytes:
    raw = path.read_bytes()
    return gzip.decompress(raw) if path.suffix == ".gz" else raw


@pytest.mark.parametrize("compress", [False, True])
def test_writer_records_lines_bytes_and_hash_of_each_shard(tmp_path, compress):
    shards = write(tmp_path, LINES, compress)
    assert [shard["lines"] for shard in shards] == [4, 4, 2]
    paths = [tmp_path / shard["path"] for shard in shards]
    assert b"".join(map(content, paths)) == b"".join(LINES)
    for shard, path in zip(shards, paths, strict=True):
        assert shard["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert shard["bytes"] == path.stat().st_size


def test_gzip_header_holds_neither_name_nor_time(tmp_path):
    path = tmp_path / write(tmp_path, LINES, compress=True)[0]["path"]
    assert path.name == "train_0000.jsonl.gz"
    flags, time = path.read_bytes()[3], path.read_bytes()[4:8]
    assert (flags, time) == (0, b"\0\0\0\0")


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("noted", range(len(LINES) + 1))
@pytest.mark.parametrize("beyond", [0, 1, 5])
def test_restored_writer_writes_the_same_bytes(tmp_path, compress, noted, beyond):
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    expected = write(tmp_path / "whole", LINES, compress)
    first = ShardWriter(tmp_path / "stopped", "train", ".jsonl", compress)
    state = json.dumps(first.sync())
    for number, line in enumerate(LINES[: noted + beyond]):
        first.add(line)
        if first.lines == 4:
            first.finish()
        if number + 1 == noted:
            state = json.dumps(first.sync())
            first.sweep()
    first.close()
    second = ShardWriter(tmp_path / "stopped", "train", ".jsonl", compress)
    second.restore(json.loads(state))
    second.sweep()
    for line in LINES[noted:]:
        second.add(line)
        if second.lines == 4:
            second.finish()
    second.finish()
    second.sweep()
    assert second.shards == expected
    for path in (tmp_path / "whole").iterdir():
        if path.name.endswith(".gz") or not compress:
            assert (tmp_path / "stopped" / path.name).read_bytes() == path.read_bytes()
    assert len(list((tmp_path / "stopped").iterdir())) == 3


def test_restore_refuses_a_missing_or_truncated_shard(tmp_path):
    writer = ShardWriter(tmp_path, "train", ".jsonl", compress=False)
    for line in LINES[:4]:
        writer.add(line)
    writer.finish()
    writer.add(LINES[4])
    state = writer.sync()
    writer.close()
    (tmp_path / "train_0001.jsonl").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"train_0001.jsonl has 0 bytes, \d+ were written"):
        ShardWriter(tmp_path, "train", ".jsonl", compress=False).restore(state)
    (tmp_path / "train_0000.jsonl").write_bytes(b"longer than it was" * 9)
    with pytest.raises(FileNotFoundError, match=r"train_0000.jsonl has 162 bytes"):
        ShardWriter(tmp_path, "train", ".jsonl", compress=False).restore(state)


def test_sweep_keeps_folders_and_named_files(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("state.json", "junk"):
        (tmp_path / name).write_text("x")
    ShardWriter(tmp_path, "train", ".jsonl", compress=False).sweep("state.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.json", "sub"]


def test_restore_syncs_a_truncated_shard(tmp_path, monkeypatch):
    writer = ShardWriter(tmp_path, "train", ".txt", compress=False)
    writer.add(b"kept\n")
    state = writer.sync()
    writer.add(b"not noted\n")
    writer.close()
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_ino), fsync(file)))
    after = ShardWriter(tmp_path, "train", ".txt", compress=False)
    after.restore(state)
    after.finish()
    assert (tmp_path / "train_0000.txt").read_bytes() == b"kept\n"
    assert (tmp_path / "train_0000.txt").stat().st_ino in synced


def test_compression_is_level_six_and_does_not_depend_on_how_much_is_read_at_a_time(tmp_path, monkeypatch):
    content = [f"{number * number} some words {number % 17}\n".encode() for number in range(3000)]
    for block in (1 << 20, 1000):
        monkeypatch.setattr(module, "_BLOCK", block)
        writer = ShardWriter(tmp_path, "train", ".txt", compress=True)
        for line in content:
            writer.add(line)
        writer.finish()
        packed = (tmp_path / "train_0000.txt.gz").read_bytes()
        assert gzip.decompress(packed) == b"".join(content)
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        assert packed[10:-8] == deflate.compress(b"".join(content)) + deflate.flush()
