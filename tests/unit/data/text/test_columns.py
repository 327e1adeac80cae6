from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.data.conftest import open_file

from candlewick.data.text import columns
from candlewick.data.text.columns import column_names, read_column, read_columns, row_groups
from candlewick.data.text.file_ranges import FileRange
from candlewick.errors import DataError

ROWS = [f"row {i} " * (i % 5 + 1) for i in range(40)]
ARROW = ["a.arrow", "stream.arrow", "a.feather"]


def read(file, column="text", **bounds) -> list:
    found = []
    for first, part in read_column(FileRange(file, **bounds), column):
        assert first == bounds.get("start", 0) + len(found)
        found += part.to_pylist()
    return found


def test_row_groups_returns_rows_and_size_of_each_group(source):
    groups = row_groups(source("a.parquet", ROWS), ["text"])
    assert [rows for rows, _ in groups] == [7, 7, 7, 7, 7, 5]
    assert all(size > 0 for _, size in groups)


@pytest.mark.parametrize("name", ARROW)
def test_an_arrow_file_is_one_row_group(table, name):
    file = table(name, ROWS, max_chunksize=7)
    assert row_groups(file, ["text"]) == [(40, file.bytes)]
    assert column_names(file) == ["text"]


@pytest.mark.parametrize("block", [16, 1 << 20])
@pytest.mark.parametrize("name", ["a.parquet", *ARROW])
def test_columns_returns_any_range_of_rows(table, name, block, monkeypatch):
    monkeypatch.setattr(columns, "BLOCK_BYTES", block)
    file = table(name, ROWS, **({"row_group_size": 7} if name == "a.parquet" else {"max_chunksize": 7}))
    for start, stop in [(0, None), (0, 7), (3, 12), (7, 14), (20, None), (39, 40), (13, 14), (5, 5), (40, None)]:
        assert read(file, start=start, stop=stop) == ROWS[start:stop]


TYPES = [
    pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(),
    pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.large_string()),
]  # fmt: skip


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("name", ["a.parquet", *ARROW])
def test_every_kind_of_text_is_read(table, name, kind):
    rows = ["one", None, "", "é日本", "one", "x" * 100]
    found = read(table(name, pa.array(rows).cast(kind)))
    assert [text.decode() if isinstance(text, bytes) else text for text in found] == rows


@pytest.mark.parametrize("name", ["a.parquet", *ARROW])
def test_a_column_of_nulls_is_read(table, name):
    assert read(table(name, pa.nulls(3))) == [None] * 3


@pytest.mark.parametrize("name", ["a.parquet", *ARROW])
def test_a_field_of_a_struct_is_a_column(table, name):
    file = table(name, [{"b": {"c": row}, "d": 1} for row in ROWS], field="a")
    assert read(file, "a.b.c", start=3, stop=9) == ROWS[3:9]
    assert [rows for rows, _ in row_groups(file, ["a.b.c"])] == [40]
    for missing in ("a.c", "a.b.c.d", "b", "a.d.x"):
        with pytest.raises(DataError, match=f"has no column '{missing}', only a"):
            read(file, missing)
    for other in ("a.b", "a.d"):
        with pytest.raises(DataError, match=f"column '{other}' holds .*, not text"):
            read(file, other)
    dotted = table(f"2{name}", ["x"], field="a.b")
    assert read(dotted, "a.b") == ["x"]


def test_several_columns_are_read_together(tmp_path):
    pq.write_table(pa.table({"a": ["x", "y"], "n": [1, 2], "b": [["p"], []]}), tmp_path / "a.parquet")
    (found,) = read_columns(FileRange(open_file(tmp_path / "a.parquet")), ["b", "a"])
    assert (found[0], found[1].to_pylist()) == (0, [{"a": "x", "b": ["p"]}, {"a": "y", "b": []}])


def test_missing_column_is_refused_with_the_names_of_the_others(source):
    with pytest.raises(DataError, match=r"a\.parquet has no column 'body', only id, text.*data\.text_field"):
        row_groups(source("a.parquet", ROWS), ["body"])


def test_a_column_that_is_not_text_is_named_with_its_type(source):
    with pytest.raises(DataError, match=r"a\.parquet: column 'id' holds int64, not text"):
        row_groups(source("a.parquet", ROWS), ["id"])


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_file_of_another_format_is_refused_by_name(source, name):
    with pytest.raises(DataError, match=r"a\.\w+ cannot be read: .*it is damaged"):
        row_groups(source(name, b"PAR1 or not"), ["text"])


def test_damaged_parquet_page_is_refused_by_name(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"{i} some text" for i in range(1000)]}), path, use_dictionary=False)
    raw = bytearray(path.read_bytes())
    raw[4:2000] = b"\xff" * 1996
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"(?s)a\.parquet cannot be read: .*it is damaged"):
        read(open_file(path))


@pytest.mark.parametrize("name", ARROW)
def test_offsets_that_lead_out_of_an_arrow_file_are_refused(table, name):
    """They would be followed to any memory of the process."""
    file = table(name, ["some text"] * 50)
    raw = bytearray(file.path.read_bytes())
    place = raw.index((9).to_bytes(4, "little") + (18).to_bytes(4, "little"))
    raw[place : place + 4] = (1 << 30).to_bytes(4, "little")
    file.path.write_bytes(raw)
    with pytest.raises(DataError, match=r"cannot be read: .*offset"):
        read(open_file(file.path))


def test_missing_rows_of_a_row_group_are_refused(source, monkeypatch):
    """A reader that ends too early would otherwise cut the text short without a word."""
    real = pq.ParquetFile.iter_batches

    def short(self, size, groups, *args, **settings):
        batches = list(real(self, size, groups, *args, **settings))
        return iter([batches[0].slice(1), *batches[1:]] if groups == [2] else batches)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", short)
    with pytest.raises(DataError, match=r"a\.parquet cannot be read: row group 2 has 6 rows, its metadata say 7"):
        read(source("a.parquet", ROWS))


@pytest.mark.parametrize(
    ("start", "stop", "groups"), [(7, 14, [1]), (6, 15, [0, 1, 2]), (0, 7, [0]), (35, None, [5])]
)
def test_only_the_row_groups_of_a_piece_are_read_and_no_empty_batch_comes(table, monkeypatch, start, stop, groups):
    asked = []
    iter_batches = pq.ParquetFile.iter_batches

    def watch(self, size, wanted, *args, **settings):
        asked.extend(wanted)
        return iter_batches(self, size, wanted, *args, **settings)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watch)
    monkeypatch.setattr(columns, "BLOCK_BYTES", 1)
    file = table("a.parquet", ROWS, row_group_size=7, use_dictionary=False)
    found = list(read_column(FileRange(file, start, stop), "text"))
    assert asked == groups
    assert [len(column) for _, column in found] == [1] * len(ROWS[start:stop])


BIG = "x" * (8 << 20)
GROWS = r"has \d+ bytes, and more than 67108864 when it is decompressed .*data\.max_expansion"


def copies(count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), [BIG])


def write_references(path, count: int):
    """Write a file of few bytes that has a value very often, as other programs do: as plain text."""
    pq.write_table(pa.table({"text": copies(count)}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 20_000
    return open_file(path)


def test_a_file_of_references_to_a_large_value_never_becomes_copies_of_it(tmp_path):
    file = write_references(tmp_path / "a.parquet", 6)
    assert max(column.nbytes for _, column in read_column(FileRange(file), "text")) < 10 << 20
    assert read(file)[-1] == BIG
    with pytest.raises(DataError, match=rf"b\.parquet {GROWS}"):
        read(write_references(tmp_path / "b.parquet", 1000))
    # though so much text is wanted, the first batch has one copy of the value
    wanted = replace(write_references(tmp_path / "c.parquet", 1000), max_text_bytes=1 << 40)
    assert pa.types.is_dictionary(next(read_column(FileRange(wanted), "text"))[1].type)


@pytest.mark.parametrize("name", ARROW)
@pytest.mark.parametrize("kind", ["string_view", "dictionary"])
def test_references_in_an_arrow_file_count_as_copies(table, name, kind):
    column = copies(1000)
    if kind == "string_view":
        views = pa.array([BIG]).cast(pa.string_view()).buffers()
        column = pa.Array.from_buffers(
            pa.string_view(), 1000, [None, pa.py_buffer(views[1].to_pybytes()[:16] * 1000), views[2]]
        )
    file = replace(table(name, column), max_text_bytes=64 << 20)
    assert file.bytes < 10 << 20
    with pytest.raises(DataError, match=GROWS):
        read(file)


def test_references_inside_of_lists_count_as_copies(tmp_path):
    messages = pa.StructArray.from_arrays([copies(400)], ["content"])
    column = pa.ListArray.from_arrays(pa.array(range(0, 401, 20), pa.int32()), messages)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"messages": column}), path, compression="zstd", store_schema=False)
    with pytest.raises(DataError, match=GROWS):
        list(read_columns(FileRange(open_file(path)), ["messages"]))


def test_small_structs_in_lists_count_as_what_they_take(table):
    column = pa.ListArray.from_arrays([0, 2_000_000], pa.array([{"a": True}]).take(pa.array([0] * 2_000_000)))
    with pytest.raises(DataError, match=GROWS):
        list(read_columns(FileRange(table("a.parquet", column, field="messages")), ["messages"]))


def test_rows_of_nothing_are_bounded(table, tmp_path):
    with pytest.raises(DataError, match=GROWS):
        read(table("a.parquet", pa.nulls(10_000_000)))
    batch = pa.record_batch({"text": pa.nulls(1 << 24)})
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(DataError, match=GROWS):
        read(open_file(tmp_path / "a.arrow"))


def test_a_file_that_says_it_grows_too_much_is_refused_at_once(table):
    file = table("a.parquet", ["x" * (70 << 20)], compression="zstd", use_dictionary=False)
    with pytest.raises(DataError, match=GROWS):
        row_groups(file, ["text"])
