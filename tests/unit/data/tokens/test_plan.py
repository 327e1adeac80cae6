from itertools import pairwise

import numpy as np
import pytest
from tests.prepared import plan_tasks

from candlewick.config import DataConfig
from candlewick.data.text.documents import TextDefects, read_documents
from candlewick.data.text.file_ranges import FileRange
from candlewick.data.text.find import open_text
from candlewick.data.tokens.encode import Task
from candlewick.data.tokens.plan import dataset_settings, group_documents, max_shard_bytes


def tasks_of(*paths, hold_out=True, key="0" * 64, **settings) -> list[Task]:
    config = DataConfig(**{"shard_text_bytes": 1 << 16, **settings})
    return plan_tasks(open_text([str(path) for path in paths], config), config, hold_out=hold_out, key=key)


def text_of(tasks) -> str:
    out: list[str] = []
    for task in tasks:
        for piece in task.file_ranges:
            out += (
                "<" * document.starts_document + document.text + ">" * document.ends_document
                for document in read_documents(piece, task.reading, TextDefects())
            )
    return "".join(out)


def test_small_files_are_grouped_to_the_shard_size(write, tmp_path):
    for i in range(30):
        write(f"{i:02}.txt", f"{i} words\n" * 2000)
    tasks = tasks_of(tmp_path)
    assert [task.index for task in tasks] == list(range(len(tasks)))
    assert all(task.text_bytes <= 1 << 16 for task in tasks)
    assert all(task.text_bytes > 1 << 15 for task in tasks[:-1])
    assert sum(task.text_bytes for task in tasks) == sum(p.stat().st_size for p in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "documents"), [("a.txt", "file"), ("a.txt", "line"), ("a.jsonl", "file"), ("a.parquet", "file")]
)
def test_large_file_is_cut_without_loss(write, name, documents):
    rows = [f"row {i} " + "with some words and 中文 " * (i % 60) for i in range(600)]
    content = "\n".join(rows) + "\n"
    path = write(name, content if name == "a.txt" else rows)
    tasks = tasks_of(path, documents=documents, hold_out=False)
    assert len(tasks) > 4
    whole = "<" + content + ">" if (name, documents) == ("a.txt", "file") else "".join(f"<{row}>" for row in rows)
    assert text_of(tasks) == whole
    bounds = [(p.start, p.stop) for task in tasks for p in task.file_ranges]
    assert bounds[0][0] == 0
    assert all(high == low for (_, high), (low, _) in pairwise(bounds))


def test_held_out_tail_and_shard_cuts_join_to_the_text(write):
    path = write("a.txt", "some words\n" * 40_000)
    tasks = tasks_of(path, validation_fraction=0.3)
    splits = [piece.split or "" for task in tasks for piece in task.file_ranges]
    assert splits == sorted(splits)
    assert set(splits) == {"train", "validation"}
    pieces = [piece for task in tasks for piece in task.file_ranges]
    assert [p.starts_document for p in pieces].count(True) == 2
    assert [p.ends_document for p in pieces].count(True) == 2
    assert text_of(tasks).replace("><", "") == "<" + "some words\n" * 40_000 + ">"


@pytest.mark.parametrize("text", ["x" * 300_000, "中" * 100_000])
def test_text_without_a_safe_position_is_cut_at_the_size_limit(write, text, monkeypatch):
    monkeypatch.setattr("candlewick.data.tokens.plan.MAX_PART_BYTES", 1 << 16)
    tasks = tasks_of(write("a.txt", text), hold_out=False)
    assert len(tasks) > 3
    assert text_of(tasks) == f"<{text}>"


def test_line_longer_than_a_shard_is_not_cut(write):
    rows = ["short", "y" * 300_000, "short", "z" * 200_000]
    path = write("a.txt", "\n".join(rows))
    tasks = tasks_of(path, documents="line", hold_out=False)
    assert text_of(tasks) == "".join(f"<{row}>" for row in rows)


def test_compressed_file_is_one_piece(write):
    path = write("a.txt.gz", "some words\n" * 100_000)
    tasks = tasks_of(path, hold_out=False)
    assert [piece.stop for task in tasks for piece in task.file_ranges] == [None]


@pytest.fixture
def num_read(monkeypatch) -> list[int]:
    """The sizes of the blocks that were read."""
    sizes: list[int] = []
    real = FileRange.read_blocks

    def read_blocks(self, *size):
        for block in real(self, *size):
            sizes.append(len(block))
            yield block

    monkeypatch.setattr(FileRange, "read_blocks", read_blocks)
    return sizes


@pytest.mark.parametrize("fraction", [0.01, 0.3])
def test_file_of_many_pieces_is_checked_once_for_bad_bytes(write, num_read, fraction):
    text = "some wörds\n" * 150_000
    path = write("a.txt", text)
    tasks = tasks_of(path, bad_utf8="skip", validation_fraction=fraction)
    assert len(tasks) > 20
    assert text_of(tasks).replace("><", "") == f"<{text}>"
    assert sum(num_read) < 5 * path.stat().st_size  # checked, read, and the text around the cuts
    keys = [task.key for task in tasks_of(path, bad_utf8="replace", validation_fraction=fraction)]
    assert [task.key for task in tasks] == keys


def test_file_of_many_pieces_with_a_bad_byte_is_left_out_and_counted_once(write, num_read):
    path = write("a.txt", b"some words\n" * 150_000 + b"\xff")
    tasks, defects = tasks_of(path, bad_utf8="skip", validation_fraction=0.3), TextDefects()
    pieces = [piece for task in tasks for piece in task.file_ranges]
    assert len(pieces) > 20
    assert [document for piece in pieces for document in read_documents(piece, tasks[0].reading, defects)] == []
    assert (defects.documents, defects.sequences) == (1, 1)
    assert sum(num_read) < 5 * path.stat().st_size


def test_task_key_covers_the_text_and_the_key_of_the_settings(write):
    path, other = write("a.txt", "some words\n" * 1000), write("b.txt", "more words\n" * 1000)
    keys = {
        tasks_of(path)[0].key,
        tasks_of(other)[0].key,
        tasks_of(path, key="1" * 64)[0].key,
        tasks_of(path, validation_fraction=0.5)[0].key,
        tasks_of(path, documents="line")[0].key,
        tasks_of(path, hold_out=False)[0].key,
    }
    assert len(keys) == 6
    assert tasks_of(path)[0].key == tasks_of(path, num_workers=7, sequence_length=64)[0].key


def test_settings_of_returns_the_settings_of_the_content_only():
    found = dataset_settings(DataConfig(documents="line", format="chat", num_workers=3))
    assert (found["documents"], found["field"], found["validation_fraction"]) == ("line", "messages", 0.01)
    assert "num_workers" not in found
    assert dataset_settings(DataConfig(), hold_out=False)["validation_fraction"] is None


def test_text_that_fits_exactly_is_one_task_and_compressed_text_counts_four_times(write, tmp_path):
    for name in "abc":
        write(f"in/{name}.txt", "x" * (1 << 15))
    assert [task.text_bytes for task in tasks_of(tmp_path / "in", hold_out=False)] == [1 << 16, 1 << 15]
    packed = write("a.txt.gz", "some words\n" * 1000)
    assert tasks_of(packed, hold_out=False)[0].text_bytes == 4 * packed.stat().st_size


def test_token_counts_as_four_bytes_of_text(tmp_path):
    np.ones(50_000, "<u2").tofile(tmp_path / "a.bin")
    tasks = tasks_of(tmp_path / "a.bin", format="tokens", hold_out=False)
    assert [task.text_bytes for task in tasks] == [50_000] * 4


def test_shards_double_at_each_512th_up_to_16_times():
    numbers = (0, 511, 512, 1023, 1024, 1536, 2047, 2048, 2559, 2560, 1 << 40)
    assert [max_shard_bytes(number, 10) for number in numbers] == [10, 10, 20, 20, 40, 80, 80, 160, 160, 160, 160]


def test_groups_of_documents_cut_no_text_file_but_the_rows_of_one(write):
    rows = [f"row {i} " + "with some words " * 20 for i in range(100)]
    write("in/a.txt", "\n".join(rows))
    write("in/b.txt", "short")
    path = write("in/c.parquet", rows)
    groups = list(group_documents(open_text([str(path.parent)], DataConfig()), 8000))
    assert [part.file.name for part in groups[0]] == ["a.txt"]
    assert all(part.stop is None for group in groups for part in group if part.file.kind == "text")
    pieces = [part for group in groups for part in group if part.file.kind == "parquet"]
    assert len(pieces) > 4
    assert len({len(group) for group in groups[1:]} - {1, 2}) == 0


def test_settings_that_decide_bytes_only_at_times_are_in_the_recipe_then():
    tokens, skipping = DataConfig(format="tokens"), DataConfig(bad_rows="skip")
    assert dataset_settings(tokens) != dataset_settings(tokens.replaced(token_dtype="uint32"))
    assert dataset_settings(skipping) != dataset_settings(skipping.replaced(max_document_bytes=2048))
    plain = DataConfig()
    assert dataset_settings(plain) == dataset_settings(
        plain.replaced(token_dtype="uint32", max_document_bytes=2048)
    )
