"""A text is hashed again only if it may have changed."""

import hashlib
import os
from pathlib import Path

import pytest

from candlewick.data.text import stamps
from candlewick.data.text.file_ranges import TextFile
from candlewick.data.text.formats import describe_file
from candlewick.data.text.reading import Reading
from candlewick.data.text.stamps import hash_files
from candlewick.errors import DataError

TEXTS = (b"one", b"two and more", b"three")


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """The names of the files that were read."""
    names: list[str] = []
    real = stamps.file_sha256
    monkeypatch.setattr(stamps, "file_sha256", lambda path: names.append(path.name) or real(path))
    monkeypatch.setattr(stamps, "_ALWAYS_HASHED_BYTES", 10)
    return names


@pytest.fixture
def find(tmp_path, monkeypatch):
    """Write three files of long ago into a home of their own; find them again at each call."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number}.txt").write_bytes(text)
        age(tmp_path / f"{number}.txt")
    monkeypatch.setattr(stamps, "_TOO_NEW_NS", 0)  # the time of an inode's change cannot be set

    def find() -> list[TextFile]:
        return [describe_file(tmp_path / f"{n}.txt", f"{n}.txt", Reading()) for n in range(len(TEXTS))]

    return find


def stored_at(home) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file()]


def age(path):
    os.utime(path, ns=(10**18, 10**18))


def test_unchanged_files_are_hashed_once(find, hashed):
    expected = [hashlib.sha256(text).hexdigest() for text in TEXTS]
    assert [hash_files(find()) for _ in range(3)] == [expected] * 3
    assert sorted(hashed) == ["0.txt", "1.txt", "2.txt"]


def test_small_text_is_hashed_at_each_start(find, hashed, monkeypatch):
    monkeypatch.setattr(stamps, "_ALWAYS_HASHED_BYTES", 100)
    hash_files(find())
    hash_files(find())
    assert len(hashed) == 6


@pytest.mark.parametrize("keeps_time", [False, True])
def test_edited_file_is_hashed_again_even_with_its_old_time(find, hashed, tmp_path, keeps_time):
    hash_files(find())
    hashed.clear()
    (tmp_path / "1.txt").write_bytes(b"TWO and more")  # of the same size
    if keeps_time:
        age(tmp_path / "1.txt")
    assert hash_files(find())[1] == hashlib.sha256(b"TWO and more").hexdigest()
    assert hashed == ["1.txt"]


def test_file_that_changed_within_the_last_seconds_is_always_hashed(find, hashed, monkeypatch):
    monkeypatch.setattr(stamps, "_TOO_NEW_NS", 10**18)
    hash_files(find())
    hash_files(find())
    assert len(hashed) == 6


@pytest.mark.parametrize("damage", [b"{", b"[]", b'{"hashes": {}, "sha256": "0"}'])
def test_damaged_stamps_are_not_believed(find, hashed, tmp_path, damage):
    first = hash_files(find())
    (stored,) = stored_at(tmp_path / "home")
    content = stored.read_bytes()
    stored.write_bytes(damage)
    assert hash_files(find()) == first
    assert len(hashed) == 6
    flipped = content.replace(bytes.fromhex(first[0]), bytes.fromhex(first[1]))
    assert flipped != content
    stored.write_bytes(flipped)
    assert hash_files(find()) == first


def test_as_many_stamps_are_read_as_are_written(find, hashed, tmp_path, monkeypatch):
    bounds: list[int] = []
    real = stamps.read_bounded
    monkeypatch.setattr(stamps, "read_bounded", lambda path, size: bounds.append(size) or real(path, size))
    hash_files(find())
    (stored,) = stored_at(tmp_path / "home")
    assert stored.stat().st_size == bounds[0] == 32 + 64 * len(TEXTS)  # whatever the number of files
    hash_files(find())
    assert len(hashed) == len(TEXTS)
    stored.write_bytes(stored.read_bytes() + b"x")
    hash_files(find())
    assert len(hashed) == 2 * len(TEXTS)


def test_cache_that_cannot_be_written_is_a_warning(find, hashed, tmp_path, caplog):
    (tmp_path / "home").write_text("a file")
    assert hash_files(find()) == hash_files(find())
    assert "the text is hashed again next time" in caplog.text


def test_file_that_changed_since_it_was_found_is_an_error(find, hashed, tmp_path):
    files = find()
    (tmp_path / "0.txt").write_bytes(b"longer than before")
    with pytest.raises(DataError, match="changed while it was being used"):
        hash_files(files)


def test_index_of_tokens_belongs_to_the_hash_and_to_the_stamp(find, hashed, tmp_path):
    files = [describe_file(tmp_path / "0.txt", "0.txt", Reading("tokens")), *find()]
    expected = hash_files(files)[0]
    assert expected == hashlib.sha256(b"one").hexdigest()
    for index in (b"index", b"other"):
        hashed.clear()
        (tmp_path / "0.idx").write_bytes(index)
        files[0] = describe_file(tmp_path / "0.txt", "0.txt", Reading("tokens"))
        first, again = hash_files(files)[0], hash_files(files)[0]
        assert first == again != expected
        assert hashed == ["0.txt", "0.idx"]
        expected = first
