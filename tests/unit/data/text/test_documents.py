import json
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.data.conftest import open_file

from candlewick.data.text import documents, file_ranges
from candlewick.data.text.documents import (
    TextDefects,
    content_columns,
    count_documents,
    read_documents,
    row_offset,
)
from candlewick.data.text.file_ranges import FileRange, RowCut, TextFile
from candlewick.data.text.reading import Reading
from candlewick.errors import DataError

READING = Reading()
BAD = b"fine\nbad \xff\xfe here\nend \xe4\xb8"


def texts(file: TextFile, policy: Any = "replace", bad=None, reading=READING, **piece) -> list[str]:
    reading = replace(reading, bad_utf8=policy)
    return [d.text for d in read_documents(FileRange(file, **piece), reading, bad or TextDefects())]


@pytest.mark.parametrize("extension", ["", ".gz", ".zst"])
def test_text_file_is_one_document_with_every_byte(source, extension):
    text = "\n\n  Zwölf\r\nBoxkämpfer 中文\n"
    assert texts(source(f"a.txt{extension}", text)) == [text]


def test_lines_that_are_not_blank_are_documents(source):
    file = source("a.txt", "one\n\n  \t\r\ntwo\r\n three \nfour\u2028more", documents="line")
    assert texts(file) == ["one", "two", " three ", "four\u2028more"]
    assert [d.position for d in read_documents(FileRange(file), READING, TextDefects())] == [0, 10, 15, 23]
    assert count_documents(FileRange(file), READING) == 4
    assert count_documents(FileRange(file), READING, 2) == 2


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_rows_that_are_not_empty_are_documents(source, name):
    rows = ["one", "", "two\nlines", None, " ", "中文\U0001f600"]
    file = source(name, rows)
    assert texts(file) == ["one", "two\nlines", " ", "中文\U0001f600"]
    assert count_documents(FileRange(file), READING) == 6
    places = [d.position for d in read_documents(FileRange(file), READING, TextDefects())]
    lines = [len(json.dumps({"text": row})) + 1 for row in rows]
    starts = range(6) if name.endswith("parquet") else [sum(lines[:i]) for i in range(6)]
    assert places == [starts[i] for i in (0, 2, 4, 5)]


def test_count_documents_counts_a_text_file_as_one(source):
    assert count_documents(FileRange(source("a.txt", "a\nb\n")), READING) == 1


@pytest.mark.parametrize("documents", ["file", "line"])
def test_a_byte_order_mark_is_dropped_at_the_start_only(source, documents):
    file = source("a.txt", b"\xef\xbb\xbfone\n\xef\xbb\xbftwo", documents=documents)
    assert "".join(texts(file)).replace("\n", "") == "one\ufefftwo"
    assert texts(source("b.txt", b"\xef\xbb\xbf", documents=documents)) == []
    assert texts(source("c.jsonl", b'\xef\xbb\xbf{"text": "x"}\n')) == ["x"]


def make_parquet(source, raws: list[bytes | None]) -> TextFile:
    path = source("x.txt", "x").path.with_name("a.parquet")
    pq.write_table(pa.table({"text": pa.array(raws, pa.binary()).view(pa.string())}), path)
    return open_file(path)


def make_binary_parquet(source, raws: list[bytes | None]) -> TextFile:
    path = source("x.txt", "x").path.with_name("a.parquet")
    pq.write_table(pa.table({"text": pa.array(raws, pa.binary())}), path)
    return open_file(path)


KINDS = {
    "file": lambda source: source("a.txt", BAD),
    "line": lambda source: source("a.txt", BAD, documents="line"),
    "parquet": lambda source: make_parquet(source, [None, *BAD.split(b"\n")]),
    "binary": lambda source: make_binary_parquet(source, [None, *BAD.split(b"\n")]),
}
FIRST = {"file": "byte 9", "line": "byte 9", "parquet": "row 3, byte 4", "binary": "row 3, byte 4"}


@pytest.mark.parametrize("kind", KINDS)
def test_bad_bytes_are_replaced_and_counted(source, kind):
    bad = TextDefects()
    found = "\n".join(texts(KINDS[kind](source), bad=bad))
    assert found == "fine\nbad \ufffd\ufffd here\nend \ufffd"
    assert bad.sequences == 3
    assert bad.documents == (1 if kind == "file" else 2)
    assert bad.examples[0].endswith(f", {FIRST[kind]}")
    assert bad.examples[0].startswith("a.")


@pytest.mark.parametrize("kind", KINDS)
def test_documents_with_bad_bytes_are_skipped_and_counted(source, kind):
    bad = TextDefects()
    assert texts(KINDS[kind](source), "skip", bad) == ([] if kind == "file" else ["fine"])
    assert bad.documents == (1 if kind == "file" else 2)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_bytes_are_an_error_with_file_and_offset(source, kind):
    with pytest.raises(DataError, match=rf"a\.\w+, {FIRST[kind]}: not UTF-8 .*data\.bad_utf8"):
        texts(KINDS[kind](source), "error")


def test_replacement_characters_in_the_text_are_not_counted(source):
    bad = TextDefects()
    assert texts(source("a.txt", "\ufffd".encode() + b"\xff"), bad=bad) == ["\ufffd\ufffd"]
    assert bad.sequences == 1


def test_skip_drops_all_pieces_of_a_document_with_a_bad_byte(source, monkeypatch):
    monkeypatch.setattr(file_ranges, "PART_BYTES", 16)
    file = source("a.txt", b"good words " * 20 + b"\xff" + b" more words" * 20)
    bad = TextDefects()
    assert texts(file, "skip", bad, start=0, stop=120) == []
    assert texts(file, "skip", bad, start=120) == []
    assert (bad.documents, bad.sequences) == (1, 1)
    assert bad.examples == ["a.txt, byte 220"]


@pytest.mark.parametrize(
    ("policy", "expected", "count"), [("replace", ["a\ufffdb", "\U0001f600"], 1), ("skip", ["\U0001f600"], 1)]
)
def test_half_surrogate_pairs_in_json_are_bad_text(source, policy, expected, count):
    bad = TextDefects()
    file = source("a.jsonl", '{"text": "a\\ud83db"}\n{"text": "\\ud83d\\ude00"}\n')
    assert texts(file, policy, bad) == expected
    assert bad.documents == count
    assert bad.examples == ["a.jsonl, the row at 0"]


def test_half_surrogate_pairs_are_refused_with_bad_utf8_error(source):
    with pytest.raises(DataError, match="the row at 0: not UTF-8"):
        texts(source("a.jsonl", '{"text": "a\\ud83db"}\n'), "error")


@given(rows=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6))
def test_json_rows_are_read_unchanged(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"text": row}, ensure_ascii=len(row) % 2 == 0) + "\n" for row in rows) or "\n"
    )
    assert texts(open_file(path)) == [row for row in rows if row]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_long_documents_are_read_in_parts(source, name, monkeypatch):
    monkeypatch.setattr(file_ranges, "PART_BYTES", 64)
    monkeypatch.setattr(documents, "PART_BYTES", 64)
    long = "some words and more 中文\n" * 30
    file = source(name, long if name == "a.txt" else [long, "short", long])
    found = list(read_documents(FileRange(file), READING, TextDefects()))
    assert all(len(d.text.encode()) <= 64 for d in found)
    whole: list[str] = []
    for document in found:
        if document.starts_document:
            whole.append("")
        whole[-1] += document.text
        if document.ends_document:
            whole[-1] += "END"
    assert whole == [t + "END" for t in ([long] if name == "a.txt" else [long, "short", long])]


def test_pieces_of_a_long_document_begin_and_end_only_once(source):
    file = source("a.txt", "one two three")
    first = list(
        read_documents(FileRange(file, 0, 7, starts_document=True, ends_document=False), READING, TextDefects())
    )
    last = list(
        read_documents(FileRange(file, 7, None, starts_document=False, ends_document=True), READING, TextDefects())
    )
    assert [(d.text, d.starts_document, d.ends_document) for d in first + last] == [
        ("one two", True, False),
        (" three", False, True),
    ]


def test_bad_text_keeps_only_the_first_examples():
    bad = TextDefects()
    for i in range(20):
        bad.merge(TextDefects(1, 2, [f"place {i}"]))
    assert (bad.documents, bad.sequences, len(bad.examples)) == (20, 40, 5)


# rows that cannot be read: number of the row -> (format, content, row, problem)
BAD_ROWS = {
    "malformed line": ("a.jsonl", '{"text": "x"}\n\n{oops}\n{"text": "y"}\n', 3, "Expecting property name"),
    "a list": ("a.jsonl", '{"text": "x"}\n[1]\n{"text": "y"}\n', 2, "not a JSON object"),
    "another field": ("a.jsonl", '{"text": "x"}\n{"b": 1, "id": 2}\n{"text": "y"}', 2, "only b, id"),
    "no field": ("a.jsonl.gz", '{"text": "x"}\n{}\n{"text": "y"}', 2, "no field 'text', only none"),
    "a number": ("a.jsonl", '{"text": "x"}\n{"text": 7}\n{"text": "y"}', 2, "field 'text' is '7', not text"),
    "deep line": ("a.jsonl", '{"text": "x"}\n' + "[" * 100_000 + '\n{"text": "y"}', 2, "recursion"),
    "long number": ("a.jsonl", '{"text": "x"}\n{"a": ' + "1" * 5000 + '}\n{"text": "y"}', 2, "digits"),
    "of an array": ("a.json", '[{"text": "x"}, {"id": 1}, {"text": "y"}]', 2, "no field 'text', only id"),
    "value in array": ("a.json", '[{"text": "x"}, 3, {"text": "y"}]', 2, "not a JSON object"),
    "of a table": ("a.csv", 'text\nx\n' + "z" * 2000 + "\ny\n", 2, "field larger than field limit"),
    "of a parquet": ("a.parquet", ["x", "z" * 2000, "y"], 2, "more than 1024 bytes"),
}  # fmt: skip
SMALL_ROWS = replace(READING, max_document_bytes=1 << 10)


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_refused_with_its_number_or_skipped_and_counted(source, case):
    name, content, row, problem = BAD_ROWS[case]
    file, defects = source(name, content), TextDefects()
    reading = SMALL_ROWS if case in ("of a table", "of a parquet") else READING
    with pytest.raises(
        DataError, match=rf"a\.\S+, row {row}: .*{problem}.*data\.text_field .* data\.bad_rows to skip"
    ):
        texts(file, reading=reading)
    assert texts(file, bad=defects, reading=replace(reading, bad_rows="skip")) == ["x", "y"]
    assert defects.rows == 1
    assert defects.row_examples[0].startswith(f"{name}, row {row}: ")
    assert problem in defects.row_examples[0]


def test_wrong_row_in_a_later_piece_is_numbered_from_the_start_of_the_file(source):
    good = '{"text": "x"}\n'
    file = source("a.jsonl", good * 5 + "{oops\n")
    with pytest.raises(DataError, match="row 6:"):
        texts(file, start=len(good) * 3)


def test_many_bad_rows_are_counted_without_reading_the_file_again_for_each(source, monkeypatch, caplog):
    file, numbered = source("a.jsonl", "{oops\n" * 1000 + '{"text": "x"}\n'), []
    monkeypatch.setattr(documents._DocumentReader, "_line_number", lambda self, at: numbered.append(at) or 1)
    defects = TextDefects()
    assert texts(file, bad=defects, reading=replace(READING, bad_rows="skip")) == ["x"]
    assert (defects.rows, len(defects.row_examples), len(numbered)) == (1000, 5, 5)
    defects.warn()
    assert "1000 rows are left out, the first: a.jsonl, row 1: Expecting property name" in caplog.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"a": {"b": "x"}}\n{"a": {"b": null}}\n'),
        ("a.json", '[{"a": {"b": "x"}}, {"a": {"b": ""}}]'),
        ("a.csv", "id,a.b\n1,x\n"),
    ],
)
def test_a_nested_field_is_read(source, name, content):
    reading = Reading(field="a.b")
    assert texts(source(name, content), reading=reading) == ["x"]
    if name != "a.csv":
        with pytest.raises(DataError, match="row 1: no field 'a.c', only a"):
            texts(source(name, content), reading=Reading(field="a.c"))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.xz", "a.json", "a.json.bz2"])
def test_rows_that_are_not_lines_are_documents(source, name):
    content = json.dumps([{"text": "one\ntwo"}, {"text": ""}, {"text": "three"}])
    if not name.startswith("a.json"):
        content = 'text\n"one\ntwo"\n""\nthree\n'
    file = source(name, content)
    assert texts(file) == ["one\ntwo", "three"]
    assert [d.position for d in read_documents(FileRange(file), READING, TextDefects())] == [0, 2]
    assert count_documents(FileRange(file), READING) == 3
    assert count_documents(FileRange(file), READING, 2) == 2
    assert texts(file, start=1) == ["three"]
    assert texts(file, stop=2, duplicates=(0,)) == []


TYPES = [
    pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary_view(),
    pa.dictionary(pa.int32(), pa.string()),
]  # fmt: skip


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "stream.arrow"])
def test_every_kind_of_column_is_read(table, name, kind):
    file = table(name, pa.array(["one", None, "", "é日本", "one"]).cast(kind))
    assert texts(file) == ["one", "é日本", "one"]
    assert count_documents(FileRange(file), READING) == 5
    assert texts(table(name, pa.nulls(3))) == []


def test_bad_bytes_in_a_dictionary_follow_the_policy(table):
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int8()), pa.array([b"a\xffb", b"c"]))
    file, defects = table("a.parquet", column), TextDefects()
    assert texts(file, bad=defects) == ["a\ufffdb", "c", "a\ufffdb"]
    assert defects.documents == 1  # as it is stored
    assert texts(file, "skip") == ["c"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.parquet"])
def test_text_in_another_encoding_behind_a_good_beginning_is_refused(source, table, name):
    good, bad = "some good words here " * 10, "caf\xe9 cr\xe8me ".encode("latin-1") * 10
    rows = [good.encode()] * 400 + [bad] * 100
    if name == "a.parquet":
        file = table(name, rows)
    elif name == "a.jsonl":
        file = source(name, b"".join(b'{"text": "%s"}\n' % row for row in rows))
    else:
        file = source(name, b"\n".join([b"text", *rows]))
    with pytest.raises(
        DataError, match=r"places in \d+ bytes are not UTF-8: .*iconv -f ENCODING .*bad_utf8 to skip"
    ):
        texts(file)
    assert len(texts(file, "skip")) == (0 if name == "a.txt" else 400)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.json", "a.parquet"])
def test_stray_bad_bytes_below_a_thousandth_are_replaced(source, table, name):
    """Rows without damage count as text too: ten damaged ones of a hundred thousand are not another encoding."""
    rows = ["some good words here " * 10] * 400
    if name == "a.parquet":
        file = table(name, [b"a\xffb" if i % 40 == 0 else row.encode() for i, row in enumerate(rows)])
    elif name == "a.json":
        content = json.dumps([{"text": "a\ud83db" if i % 40 == 0 else row} for i, row in enumerate(rows)])
        file = source(name, content)
    else:
        line = b'{"text": "%s"}\n' if name == "a.jsonl" else b"%s\n"
        raws = [line % (b"a\xffb" if i % 40 == 0 else row.encode()) for i, row in enumerate(rows)]
        file = source(name, b"".join([b"text\n" if name == "a.csv" else b"", *raws]))
    defects = TextDefects()
    assert "".join(texts(file, bad=defects)).count("a\ufffdb") == 10
    assert defects.sequences == 10


def test_bombs_are_refused_or_bounded(source):
    line = source("a.jsonl.gz", '{"text": "' + "x" * (9 << 20) + '"}\n')
    assert line.bytes < 20_000
    with pytest.raises(DataError, match=r"a line of more than 1048576 bytes"):
        texts(line, reading=replace(READING, max_document_bytes=1 << 20))
    assert len("".join(texts(line))) == 9 << 20
    with pytest.raises(DataError, match=r"more than 4194304 when it is decompressed"):
        texts(replace(line, max_text_bytes=4 << 20))


def test_a_row_may_be_cut_in_two(source):
    file = source("a.jsonl", ["one", "beginning and end", "three"])
    position = row_offset(file, 1, READING)
    assert position is not None
    assert texts(file, cut=RowCut(position, 10, is_end=False)) == ["one", "beginning ", "three"]
    assert texts(file, start=position, cut=RowCut(position, 10, is_end=True)) == ["and end", "three"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.txt"])
def test_row_offset_is_the_start_of_the_range_from_a_row_on(source, name):
    rows = ["one", "two", "three"]
    contents = {"a.json": json.dumps([{"text": r} for r in rows]), "a.csv": "text\none\ntwo\nthree\n"}
    file = source(name, contents.get(name, "one\n\ntwo\nthree" if name == "a.txt" else rows), documents="line")
    for row in range(3):
        start = row_offset(file, row, READING)
        assert start is not None
        assert texts(file, start=start) == rows[row:]
    if file.is_addressed_by_bytes:
        assert row_offset(file, 3, READING) is None


def test_content_columns_are_those_of_text_or_of_chats(tmp_path):
    def columns(reading, **content) -> list[str]:
        pq.write_table(pa.table(content), tmp_path / "a.parquet")
        return content_columns(open_file(tmp_path / "a.parquet"), reading)

    assert columns(READING, text=["x"], id=[1]) == ["text"]
    chat = Reading("chat", field="messages")
    assert columns(chat, id=[1], messages=[[]]) == ["messages"]
    assert columns(chat, id=[1], conversations=[[]]) == ["conversations"]
    assert columns(chat, prompt=["x"], completion=["y"], id=[1]) == ["prompt", "completion"]
    assert columns(chat, text=["x"]) == ["messages"]
