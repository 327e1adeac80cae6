import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlewick.config import DataConfig
from candlewick.data.text import documents, file_ranges
from candlewick.data.text.corpus import open_corpus
from candlewick.data.text.documents import TextDefects, count_documents, read_documents
from candlewick.data.text.file_ranges import FileRange, SourceFile
from candlewick.errors import DataError

BAD = b"fine\nbad \xff\xfe here\nend \xe4\xb8"


def texts(file: SourceFile, policy="replace", bad=None, **piece) -> list[str]:
    config = DataConfig.model_validate({"bad_utf8": policy})
    return [d.text for d in read_documents(FileRange(file, **piece), config, bad or TextDefects())]


@pytest.mark.parametrize("extension", ["", ".gz", ".zst"])
def test_text_file_is_one_document_with_every_byte(source, extension):
    text = "\n\n  Zwölf\r\nBoxkämpfer\x00 中文\n"
    assert texts(source(f"a.txt{extension}", text)) == [text]


def test_lines_that_are_not_blank_are_documents(source):
    file = source("a.txt", "one\n\n  \t\r\ntwo\r\n three \nfour\u2028more", documents="line")
    assert texts(file) == ["one", "two", " three ", "four\u2028more"]
    assert [d.position for d in read_documents(FileRange(file), DataConfig(), TextDefects())] == [0, 10, 15, 23]
    assert count_documents(FileRange(file), DataConfig()) == 4
    assert count_documents(FileRange(file), DataConfig(), 2) == 2


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_rows_that_are_not_empty_are_documents(source, name):
    rows = ["one", "", "two\nlines", None, " ", "中文\U0001f600"]
    file = source(name, rows)
    assert texts(file) == ["one", "two\nlines", " ", "中文\U0001f600"]
    assert count_documents(FileRange(file), DataConfig()) == 6
    places = [d.position for d in read_documents(FileRange(file), DataConfig(), TextDefects())]
    lines = [len(json.dumps({"text": row})) + 1 for row in rows]
    starts = range(6) if name.endswith("parquet") else [sum(lines[:i]) for i in range(6)]
    assert places == [starts[i] for i in (0, 2, 4, 5)]


def test_count_documents_counts_a_text_file_as_one(source):
    assert count_documents(FileRange(source("a.txt", "a\nb\n")), DataConfig()) == 1


@pytest.mark.parametrize("documents", ["file", "line"])
def test_a_byte_order_mark_is_dropped_at_the_start_only(source, documents):
    file = source("a.txt", b"\xef\xbb\xbfone\n\xef\xbb\xbftwo", documents=documents)
    assert "".join(texts(file)).replace("\n", "") == "one\ufefftwo"
    assert texts(source("b.txt", b"\xef\xbb\xbf", documents=documents)) == []
    assert texts(source("c.jsonl", b'\xef\xbb\xbf{"text": "x"}\n')) == ["x"]


def make_parquet(source, raws: list[bytes | None]) -> SourceFile:
    path = source("x.txt", "x").path.with_name("a.parquet")
    pq.write_table(pa.table({"text": pa.array(raws, pa.binary()).view(pa.string())}), path)
    return open_corpus([str(path)], DataConfig()).files[0]


def make_binary_parquet(source, raws: list[bytes | None]) -> SourceFile:
    path = source("x.txt", "x").path.with_name("a.parquet")
    pq.write_table(pa.table({"text": pa.array(raws, pa.binary())}), path)
    return open_corpus([str(path)], DataConfig()).files[0]


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


@pytest.mark.parametrize(
    ("policy", "expected", "count"), [("replace", ["a\ufffdb", "\U0001f600"], 1), ("skip", ["\U0001f600"], 1)]
)
def test_half_surrogate_pairs_in_json_are_bad_text(source, policy, expected, count):
    bad = TextDefects()
    file = source("a.jsonl", '{"text": "a\\ud83db"}\n{"text": "\\ud83d\\ude00"}\n')
    assert texts(file, policy, bad) == expected
    assert bad.documents == count
    assert bad.examples == ["a.jsonl, the row at byte 0"]


def test_half_surrogate_pairs_are_refused_with_bad_utf8_error(source):
    with pytest.raises(DataError, match="the row at byte 0: not UTF-8"):
        texts(source("a.jsonl", '{"text": "a\\ud83db"}\n'), "error")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops}", "Expecting property name"),
        ("[1]", "not a JSON object"),
        ('{"body": 1, "id": 2}', "no field 'text', only body, id"),
        ("{}", "no field 'text', only none"),
        ('{"text": 7}', "field 'text' is '7', not text"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_wrong_row_is_refused_with_its_number(source, line, message):
    file = source("a.jsonl", f'{{"text": "x"}}\n\n{line}\n')
    with pytest.raises(DataError, match=rf"a\.jsonl, row 3: .*{message}"):
        texts(file)


def test_wrong_row_in_a_later_piece_is_numbered_from_the_start_of_the_file(source):
    good = '{"text": "x"}\n'
    file = source("a.jsonl", good * 5 + "{oops\n")
    with pytest.raises(DataError, match="row 6:"):
        texts(file, start=len(good) * 3)


@given(rows=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6))
def test_json_rows_are_read_unchanged(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"text": row}, ensure_ascii=len(row) % 2 == 0) + "\n" for row in rows) or "\n"
    )
    assert texts(open_corpus([str(path)], DataConfig()).files[0]) == [row for row in rows if row]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_long_documents_are_read_in_parts(source, name, monkeypatch):
    monkeypatch.setattr(file_ranges, "PART_BYTES", 64)
    monkeypatch.setattr(documents, "PART_BYTES", 64)
    long = "some words and more 中文\n" * 30
    file = source(name, long if name == "a.txt" else [long, "short", long])
    found = list(read_documents(FileRange(file), DataConfig(), TextDefects()))
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
        read_documents(
            FileRange(file, 0, 7, starts_document=True, ends_document=False), DataConfig(), TextDefects()
        )
    )
    last = list(
        read_documents(
            FileRange(file, 7, None, starts_document=False, ends_document=True), DataConfig(), TextDefects()
        )
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
