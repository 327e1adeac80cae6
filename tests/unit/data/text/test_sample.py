"""A sample is spread evenly over a corpus, and no more than it is read."""

import gzip
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.corpora import jsonl

from candlewick.config import DataConfig
from candlewick.data.text import sample
from candlewick.data.text.file_ranges import FileRange
from candlewick.data.text.find import open_text
from candlewick.data.text.sample import sample_documents

WINDOW = 1 << 12


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(sample, "_WINDOW_BYTES", WINDOW)
    monkeypatch.setattr(sample, "_SEARCHED_BYTES", 1 << 8)


def rows(count: int) -> list[str]:
    return [f"{number:06} " + "some words of a row " * 4 for number in range(count)]


def write(path, texts: list[str]):
    if path.suffix == ".parquet":
        pq.write_table(
            pa.table({"text": texts}), path, row_group_size=100, compression="none", use_dictionary=False
        )
    elif path.suffix == ".txt":
        path.write_text("\n".join(texts) + "\n")
    elif path.suffix == ".csv":
        path.write_text("text\n" + "\n".join(texts) + "\n")
    else:
        content = jsonl(texts)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def taken(path, max_bytes: int, **settings) -> list[str]:
    corpus = open_text([str(path)], DataConfig(**settings))
    return [document.text for document in sample_documents(corpus, max_bytes)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.txt"])
def test_windows_are_spread_evenly_and_hold_whole_rows(tmp_path, name):
    texts = rows(20_000)
    found = taken(write(tmp_path / name, texts), 16 * WINDOW, documents="line")
    assert set(found) <= set(texts)
    size = sum(map(len, found))
    assert 15 * WINDOW < size < 18 * WINDOW
    numbers = [int(text[:6]) for text in found]
    assert numbers == sorted(set(numbers))
    starts = [number for before, number in zip([-9, *numbers], numbers, strict=False) if number != before + 1]
    assert len(starts) == 16
    gaps = [b - a for a, b in pairwise(starts)]
    assert max(gaps) < 1.3 * min(gaps)


def test_plain_text_is_sampled_from_line_starts(tmp_path):
    texts = rows(20_000)
    found = taken(write(tmp_path / "a.txt", texts), 4 * WINDOW)
    assert len(found) == 4
    assert all(text.split(" ", 1)[0].isdecimal() for text in found)


def test_all_is_taken_of_a_corpus_that_is_not_larger(tmp_path):
    texts = rows(50)
    assert taken(write(tmp_path / "a.jsonl", texts), 1 << 20) == texts


def test_every_nth_of_small_files_is_taken(tmp_path):
    for number in range(200):
        (tmp_path / f"{number:03}.txt").write_text(f"{number:06} " + "x" * 400)
    found = taken(tmp_path, 5 * WINDOW)
    numbers = [int(text[:6]) for text in found]
    assert numbers == sorted(set(numbers))
    starts = [number for before, number in pairwise([-9, *numbers]) if number != before + 1]
    assert starts == [20, 60, 100, 140, 180]
    assert len(numbers) < 60


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv"])
def test_beginnings_are_taken_of_files_without_addresses(tmp_path, name):
    texts = rows(5000)
    found = taken(write(tmp_path / name, texts), 8 * WINDOW)
    assert found == texts[: len(found)]
    assert 0 < sum(map(len, found)) < 9 * WINDOW


def test_text_without_line_ends_is_cut_between_characters(tmp_path):
    (tmp_path / "a.txt").write_text("中文" * 40_000)
    found = taken(tmp_path / "a.txt", 4 * WINDOW)
    assert found
    assert set("".join(found)) == {"中", "文"}


def test_no_more_is_read_than_is_taken(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", rows(40_000))
    read = 0
    real = FileRange.read_blocks

    def counted(self, size=1 << 12):
        nonlocal read
        for block in real(self, min(size, 1 << 12)):
            read += len(block)
            yield block

    monkeypatch.setattr(FileRange, "read_blocks", counted)
    found = taken(path, 16 * WINDOW)
    assert read < 2.5 * sum(map(len, found))


@pytest.mark.parametrize("end", [b"", b"\xff"])
def test_windows_of_a_file_that_bad_bytes_leave_out_check_it_once(tmp_path, monkeypatch, end):
    path = write(tmp_path / "a.txt", rows(20_000))
    path.write_bytes(path.read_bytes() + end)
    starts: list[int] = []
    real = FileRange.read_blocks
    monkeypatch.setattr(
        FileRange, "read_blocks", lambda self, *size: starts.append(self.start) or real(self, *size)
    )
    found = taken(path, 16 * WINDOW, bad_utf8="skip")
    assert bool(found) is not bool(end)
    assert starts.count(0) == 1
