"""Names, first bytes and what they say of a file."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from candlewick.data.text.file_ranges import Kind, TextFile
from candlewick.data.text.formats import (
    LeftOut,
    NotText,
    allowed_bad,
    count_bad,
    describe_file,
    find_format,
    name_format,
)
from candlewick.data.text.reading import Reading
from candlewick.errors import DataError

TEXT, CHAT = Reading(), Reading("chat", field="messages")


def opened(path, reading=TEXT, is_named=True) -> TextFile:
    return find_format(describe_file(path, path.name, reading), reading, is_named=is_named)


@pytest.mark.parametrize(
    ("name", "kind", "compression"),
    [
        ("notes.md", "text", None), ("Makefile", "text", None), ("a.b.c", "text", None),
        ("mail.mbox", "text", None),
        ("A.TXT", "text", None), ("a.txt.gz", "text", "gzip"), ("a.TXT.GZ", "text", "gzip"),
        ("a.py.bz2", "text", "bz2"), ("a.xz", "text", "xz"), ("a.JSONL.Zst", "jsonl", "zstd"),
        ("a.ndjson", "jsonl", None), ("a.json.gz", "array", "gzip"), ("a.CSV", "csv", None),
        ("a.tsv.xz", "tsv", "xz"), ("a.parquet", "parquet", None), ("a.arrow", "arrow", None),
        ("a.feather", "arrow", None), (".gz", "text", None),
    ],
)  # fmt: skip
def test_a_name_stands_for_a_format(name, kind, compression):
    assert name_format(name, TEXT) == (kind, compression)


def test_plain_text_is_read_by_lines_if_the_settings_say_so():
    assert name_format("a.md", Reading(documents="line")) == ("lines", None)
    assert name_format("a.csv", Reading(documents="line")) == ("csv", None)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ('[{"text": "x"}]', "array"), ('\n [\n {"text": "x"}', "array"),
        ('{"text": "x"}\n{"text": "y"}\n', "jsonl"),
        ("{}", "jsonl"),
        ('{"text": "x"}', "jsonl"), ('\ufeff{"text": "x"}\n', "jsonl"), ('{\n "text": "x"\n}', "text"),
        ('"text"', "text"), ("3\n4\n", "text"), ('{"text": "' + "x" * 100_000 + '"}\n', "jsonl"),
        ("{oops\n", "text"), ("[" * 70_000, "array"),
    ],
)  # fmt: skip
def test_a_json_file_is_an_array_or_lines_or_plain_text_by_its_beginning(write, content, kind):
    assert opened(write("a.json", content)).kind == kind


ROWS: list[tuple[str, str, Kind, Kind]] = [
    ("a.jsonl", '{"text": "x"}\n', "jsonl", "jsonl"),
    ("a.jsonl", '{"text": null}\n', "jsonl", "jsonl"),
    ("a.jsonl", "{oops\n", "jsonl", "jsonl"),  # a bad row: `data.bad_rows`
    ("a.json", "[]", "text", "array"),
    ("a.json", "[ // a comment\n]", "text", "array"),
    ("a.json", '[{"text": "x" /* a comment */}]', "text", "array"),
    ("a.json", '[{"text": "x' + "y" * 70_000 + '"}]', "array", "array"),
    ("a.json", '[{"text": "x\n' + "y" * 70_000 + '"}]', "text", "array"),
    ("a.json", '[{"a": [' + "1, " * 30_000 + '1], "text": "x"}]', "array", "array"),
    ("a.json", "[" * 70_000, "text", "array"),
    ("a.json", '{"text": "x', "text", "jsonl"),
    ("a.json", "[null]", "text", "array"),
    ("a.json", '{"name": "x"}', "text", "jsonl"),
    ("a.json", '{"text": "x"}', "jsonl", "jsonl"),
    ("a.json", "[1, 2]", "text", "array"),
    ("a.json", '[{"text": "x"}, 2]', "array", "array"),
    ("a.csv", 'id,text\n1,"x"\n', "csv", "csv"),
    ("a.csv", '"two\nlines",text\n1,x\n', "csv", "csv"),
    ("a.tsv", "id\ttext\n1\tx\n", "tsv", "tsv"),
    ("a.tsv", "\ttext\n1\tx\n", "tsv", "tsv"),
]


@pytest.mark.parametrize(("name", "content", "in_folder", "named"), ROWS)
def test_what_is_no_json_or_has_no_text_in_a_json_file_of_a_folder_is_plain_text(
    write, name, content, in_folder, named
):
    path = write(name, content)
    assert opened(path, is_named=False).kind == in_folder
    assert opened(path).kind == named


WITHOUT_TEXT = [
    ("a.jsonl", '{"text": 3}\n', "text"),
    ("a.jsonl", '{"name": "x", "body": "y"}\n', "name, body"),
    ("a.jsonl.gz", '\n{"name": "x"}\n', "name"),
    ("a.jsonl", "[1]\n", "there are none"),
    ("a.csv", "id,body\n1,x\n", "id, body"),
    ("a.csv", "a\rb,text\rc,d\n", "there are none"),
    ("a.csv", '"id,text\n1,x\n', "id,text"),
    ("a.csv", "\n", "there are none"),
    ("a.tsv", "id,text\n1,x\n", "id,text"),
]


@pytest.mark.parametrize(("name", "content", "columns"), WITHOUT_TEXT)
def test_rows_without_the_column_of_text_in_a_folder_are_no_text(write, name, content, columns):
    path = write(name, content)
    with pytest.raises(NotText, match="rows without 'text'") as caught:
        opened(path, is_named=False)
    assert caught.value.is_promised
    assert caught.value.fix.startswith(f"set data.text_field to one of its columns: {columns}")
    assert opened(path).kind == path.suffixes[0][1:]


@pytest.mark.parametrize("size", [10, 100_000])
def test_array_in_a_folder_that_is_cut_is_no_text(write, size):
    path = write("a.json", json.dumps([{"text": "x"}, {"text": "y" * size}]) + "\n")
    assert opened(path, is_named=False).kind == "array"
    path = write("a.json", path.read_text()[:-9])
    with pytest.raises(NotText, match="arrays that are cut"):
        opened(path, is_named=False)
    assert opened(path).kind == "array"
    assert opened(write("a.json.gz", '[{"text": "x"}' + " " * 70_000), is_named=False).kind == "array"


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.jsonl.gz", "a.txt.xz", "a.parquet.gz"])
def test_damage_that_the_first_bytes_show_is_no_text_in_a_folder(tmp_path, name):
    (tmp_path / name).write_bytes(b"no such thing " * 100)
    with pytest.raises(NotText, match="damaged, or not|compressed by") as caught:
        opened(tmp_path / name, is_named=False)
    assert caught.value.is_promised
    (tmp_path / name).write_bytes(b"")
    for is_named in (True, False):
        with pytest.raises(NotText, match="empty"):
            opened(tmp_path / name, is_named=is_named)


def test_reasons_are_counted_and_each_is_warned_of_with_its_first_file(tmp_path, caplog):
    left_out = LeftOut()
    left_out.warn("corpus")
    left_out.add(tmp_path / "a", NotText("binary", "give text"))
    assert (caplog.text, left_out.fix("another")) == ("", "another")
    for name in "bcd":
        left_out.add(tmp_path / name, NotText("rows without 'text'", f"fix {name}", is_promised=True))
    left_out.add(tmp_path / "e", NotText("damaged", "fix e", is_promised=True))
    assert left_out.counts == {"binary": 1, "rows without 'text'": 3, "damaged": 1}
    assert left_out.fix("another") == f"{tmp_path}/b: fix b"
    left_out.warn("corpus")
    assert caplog.messages == [
        f"corpus: 3 files are left out: rows without 'text', the first: {tmp_path}/b (fix: fix b)",
        f"corpus: 1 files are left out: damaged, the first: {tmp_path}/e (fix: fix e)",
    ]


def test_a_nested_field_makes_rows_of_text(write):
    path = write("a.jsonl", '{"a": {"b": "x"}}\n')
    assert opened(path, Reading(field="a.b"), is_named=False).kind == "jsonl"
    with pytest.raises(NotText, match=r"rows without 'a\.c'"):
        opened(path, Reading(field="a.c"), is_named=False)


def test_chats_in_a_folder_are_rows_with_a_conversation(write):
    rows = ({"messages": []}, {"conversations": [{}]}, {"prompt": "x", "completion": "y"})
    for row in rows:
        path = write("a.jsonl", json.dumps(row) + "\n")
        assert opened(path, CHAT, is_named=False).kind == "jsonl"
        assert opened(write("a.json", json.dumps([row])), CHAT, is_named=False).kind == "array"
    for name, content in (("b.json", '{"text": "x"}\n'), ("b.txt", "x"), ("b.csv", "messages\nx\n")):
        with pytest.raises(NotText, match="without chats") as caught:
            opened(write(name, content), CHAT, is_named=False)
        assert not caught.value.is_promised
    with pytest.raises(NotText, match="rows without 'messages'") as caught:
        opened(write("b.jsonl", '{"text": "x"}\n'), CHAT, is_named=False)
    assert caught.value.fix.startswith("set data.messages_field to one of its columns: text")
    with pytest.raises(NotText, match="without chats"):
        opened(write("b.csv", "messages\nx\n"), CHAT)
    assert opened(write("b.jsonl", '{"text": "x"}\n'), CHAT).kind == "jsonl"  # named: its first row is told


def test_tables_in_a_folder_without_the_column_are_left_out(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["x"], "a": [{"b": "x"}], "n": [3]}), path)
    for field in ("text", "a.c", "n", "a"):
        with pytest.raises(NotText, match=f"rows without '{field}'"):
            opened(path, Reading(field=field), is_named=False)
    assert opened(path).kind == "parquet"
    for field in ("body", "a.b"):
        assert opened(path, Reading(field=field), is_named=False).kind == "parquet"
    with pytest.raises(NotText, match="rows without 'messages'"):
        opened(path, CHAT, is_named=False)
    pq.write_table(pa.table({"prompt": ["x"], "completion": ["x"]}), path)
    assert opened(path, CHAT, is_named=False).kind == "parquet"


ENGLISH = "Some English text, with a line.\n" * 40


@pytest.mark.parametrize(
    ("raw", "what", "fix"),
    [
        (ENGLISH.encode("utf-16"), "UTF-16", "iconv -f UTF-16 -t UTF-8 FILE"),
        (b"\xfe\xff" + ENGLISH.encode("utf-16-be"), "UTF-16", "iconv -f UTF-16 "),
        (ENGLISH.encode("utf-32"), "UTF-32", "iconv -f UTF-32 "),
        (b"\0\0\xfe\xff" + ENGLISH.encode("utf-32-be"), "UTF-32", "iconv -f UTF-32 "),
        (ENGLISH.encode("utf-16-le"), "UTF-16", "iconv -f UTF-16 "),
        (ENGLISH.encode("utf-16-be"), "UTF-16", "iconv -f UTF-16 "),
        (ENGLISH.encode() + b"\0", "binary", "give text"),
        ((ENGLISH + "“quotes” " * 20).encode("cp1252"), "in another encoding than UTF-8", "iconv -f ENCODING"),
        (b"\x1f\x8b\x08\0", "compressed by gzip", "name it .gz"),
        (b"\x28\xb5\x2f\xfd\0", "compressed by zstd", "name it .zst"),
        (b"BZh91AY", "compressed by bzip2", "name it .bz2"),
        (b"\xfd7zXZ\0\0", "compressed by xz", "name it .xz"),
        (b"PK\x03\x04\x14", "a zip archive", "unpack it"),
        (b"%PDF-1.7\n", "a PDF", "extract its text"),
        (b"PAR1\x15", "Parquet", "name it .parquet"),
        (b"ARROW1\0\0", "Arrow", "name it .arrow"),
        (b"", "empty", "give a file with text in it"),
    ],
)  # fmt: skip
def test_what_is_not_text_is_named_with_the_fix(write, raw, what, fix):
    for name in ("a.txt", "a.md", "a.jsonl", "a.csv"):
        with pytest.raises(NotText) as caught:
            opened(write(name, raw))
        assert caught.value.what.startswith(what)
        assert caught.value.fix.startswith(fix) or fix in caught.value.fix


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.zst", "a.txt.bz2", "a.txt.xz"])
def test_a_file_that_is_not_compressed_as_its_name_says_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"plain text, more than a few bytes of it")
    with pytest.raises(NotText, match="damaged, or not"):
        opened(tmp_path / name)


def test_the_text_inside_of_a_compressed_file_is_looked_at(write):
    with pytest.raises(NotText, match="UTF-16"):
        opened(write("a.txt.gz", ENGLISH.encode("utf-16")))
    with pytest.raises(NotText, match="parquet compressed by gzip"):
        opened(write("a.parquet.gz", b"PAR1"))


def test_few_bad_bytes_are_damage_and_more_than_a_thousandth_another_encoding(write):
    words = b"some words " * 6000
    assert opened(write("a.txt", words[:60_000] + b"\xff" * 50)).kind == "text"
    assert opened(write("a.txt", b"\xff a \xff")).kind == "text"  # in a short text as well
    bad = write("a.txt", words[:60_000] + b"\xff " * 70)
    with pytest.raises(NotText, match="another encoding"):
        opened(bad)
    assert opened(bad, Reading(bad_utf8="skip")).kind == "text"  # documents are left out one by one
    assert [allowed_bad(size) for size in (0, 8000, 10_000)] == [8, 8, 10]


def test_a_character_across_the_end_of_the_head_is_not_bad(write):
    text = "x" + "\U0001f600" * 20_000
    assert opened(write("a.txt", text)).kind == "text"
    assert count_bad(b"a\xff\xfeb") == 2
    assert count_bad("\ufffd".encode() + b"\xff") == 1
    assert count_bad("\ufffd".encode()) == 0


def test_a_file_that_cannot_be_read_is_refused_by_name(write, monkeypatch):
    monkeypatch.setattr("candlewick.data.text.formats.os.access", lambda path, mode: False)
    with pytest.raises(DataError, match=r"a\.txt cannot be read .*permissions"):
        opened(write("a.txt", "x"))
