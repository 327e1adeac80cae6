import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from candlewick.config import DataConfig
from candlewick.data.text import parquet
from candlewick.data.text.corpus import open_corpus
from candlewick.data.text.file_ranges import FileRange
from candlewick.data.text.parquet import read_column, row_groups
from candlewick.errors import DataError

ROWS = [f"row {i} " * (i % 5 + 1) for i in range(40)]


def test_row_groups_returns_rows_and_size_of_each_group(source):
    groups = row_groups(source("a.parquet", ROWS), "text")
    assert [rows for rows, _ in groups] == [7, 7, 7, 7, 7, 5]
    assert all(size > 0 for _, size in groups)


@pytest.mark.parametrize("block", [16, 1 << 20])
def test_columns_returns_any_range_of_rows(source, block, monkeypatch):
    monkeypatch.setattr(parquet, "BLOCK_BYTES", block)
    file = source("a.parquet", ROWS)
    for start, stop in [(0, None), (0, 7), (3, 12), (7, 14), (20, None), (39, 40), (13, 14), (5, 5), (40, None)]:
        found = []
        for first, column in read_column(FileRange(file, start, stop), "text"):
            assert first == start + len(found)
            found += column.to_pylist()
        assert found == ROWS[start:stop]


def test_missing_column_is_refused_with_the_names_of_the_others(source):
    with pytest.raises(DataError, match=r"a\.parquet has no column 'body', only id, text.*data\.text_field"):
        row_groups(source("a.parquet", ROWS), "body")


def test_a_column_that_is_not_text_is_named_with_its_type(source):
    with pytest.raises(DataError, match=r"a\.parquet: column 'id' holds int64, not text"):
        row_groups(source("a.parquet", ROWS), "id")


def test_file_of_another_format_is_refused_by_name(source):
    with pytest.raises(DataError, match=r"a\.parquet is not a readable \.parquet file"):
        row_groups(source("a.parquet", b"PAR1 or not"), "text")


def test_damaged_parquet_page_is_refused_by_name(source, tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"{i} some text" for i in range(1000)]}), path, use_dictionary=False)
    raw = bytearray(path.read_bytes())
    raw[4:2000] = b"\xff" * 1996
    path.write_bytes(raw)
    file = open_corpus([str(path)], DataConfig()).files[0]
    with pytest.raises(DataError, match=r"(?s)a\.parquet cannot be read: .*it is damaged"):
        list(read_column(FileRange(file), "text"))


def test_missing_rows_of_a_row_group_are_refused(source, monkeypatch):
    """A reader that ends too early would otherwise cut the text short without a word."""
    real = pq.ParquetFile.iter_batches

    def short(self, size, groups, *args, **settings):
        batches = list(real(self, size, groups, *args, **settings))
        return iter([batches[0].slice(1), *batches[1:]] if groups == [2] else batches)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", short)
    with pytest.raises(DataError, match=r"a\.parquet cannot be read: row group 2 has 6 rows, its metadata say 7"):
        list(read_column(FileRange(source("a.parquet", ROWS)), "text"))


@pytest.mark.parametrize(
    ("start", "stop", "groups"), [(7, 14, [1]), (6, 15, [0, 1, 2]), (0, 7, [0]), (35, None, [5])]
)
def test_only_the_row_groups_of_a_piece_are_read_and_no_empty_batch_comes(
    source, monkeypatch, start, stop, groups
):
    asked = []
    iter_batches = pq.ParquetFile.iter_batches

    def watch(self, size, wanted, *args, **settings):
        asked.extend(wanted)
        return iter_batches(self, size, wanted, *args, **settings)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watch)
    monkeypatch.setattr(parquet, "BLOCK_BYTES", 1)
    found = list(read_column(FileRange(source("a.parquet", ROWS), start, stop), "text"))
    assert asked == groups
    assert [len(column) for _, column in found] == [1] * len(ROWS[start:stop])
