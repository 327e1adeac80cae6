import hashlib

import pytest

from candlewick.artifacts.durable import DurableFile
from candlewick.artifacts.manifest import FileEntry


def test_file_appears_when_it_is_committed_and_never_before(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    file = DurableFile(path)
    file.write(b"new ")
    assert path.read_bytes() == b"old"
    file.write(b"content")
    entry = file.commit("shards/a.bin")
    assert path.read_bytes() == b"new content"
    assert entry == FileEntry("shards/a.bin", 11, hashlib.sha256(b"new content").hexdigest())
    assert [found.name for found in tmp_path.iterdir()] == ["a.bin"]


def test_discarded_file_leaves_nothing_and_a_committed_one_stays(tmp_path):
    file = DurableFile(tmp_path / "a.bin")
    file.write(b"part")
    file.discard()
    assert not list(tmp_path.iterdir())
    file = DurableFile(tmp_path / "a.bin")
    file.commit("a.bin")
    file.discard()
    assert (tmp_path / "a.bin").read_bytes() == b""


def test_link_in_the_place_of_the_temporary_file_is_not_written_through(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    probe = DurableFile(tmp_path / "a.bin")
    temporary = next(path for path in tmp_path.iterdir() if path != target)
    probe.discard()
    temporary.symlink_to(target)
    file = DurableFile(tmp_path / "a.bin")
    file.write(b"x")
    file.commit("a.bin")
    assert target.read_bytes() == b"mine"


def test_failing_write_names_the_file(tmp_path):
    file = DurableFile(tmp_path / "a.bin")
    file._file.close()
    with pytest.raises(ValueError, match="closed file"):
        file.write(b"x")
