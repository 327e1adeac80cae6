"""JSON arrays and tables of text."""

import csv
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.data.conftest import open_file

from candlewick.data.text import rows
from candlewick.data.text.file_ranges import FileRange
from candlewick.data.text.rows import find_value, parse_row, read_array, read_table
from candlewick.errors import DataError

LIMIT = 1 << 20


def array(file, **bounds) -> list[tuple[int, Any]]:
    return list(read_array(FileRange(file, **bounds), LIMIT))


def table(file, field="text", limit=LIMIT, **bounds) -> list[tuple[int, Any]]:
    return list(read_table(FileRange(file, **bounds), field, limit))


def test_find_value_returns_a_field_or_a_path_into_objects():
    row: dict[str, Any] = {"a": {"b": {"c": "x"}}, "a.b": "flat", "n": None}
    assert find_value(row, "a") == {"b": {"c": "x"}}
    assert find_value(row, "a.b") == "flat"  # a field of that name comes first
    assert find_value(row, "a.b.c") == "x"
    assert find_value(row, "n") is None
    for missing in ("b", "a.c", "a.b.c.d", "n.x", ""):
        with pytest.raises(KeyError):
            find_value(row, missing)


VALUES: list[Any] = [{"text": "a\nb"}, [], {"text": 'é " ] , \\'}, 3, None, {"x": [1, {"text": "]"}]}, "s"]


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}])
def test_elements_of_an_array_are_rows(source, name, layout, monkeypatch):
    for size in (1, 7, 1 << 20):
        monkeypatch.setattr(FileRange.read_blocks, "__defaults__", (size,))
        file = source(name, json.dumps(VALUES, **layout))
        assert array(file) == list(enumerate(VALUES))
        assert array(file, start=2, stop=4) == list(enumerate(VALUES))[2:4]
        assert array(file, start=7) == []


def test_an_array_may_be_empty_and_have_a_byte_order_mark(source):
    assert array(source("a.json", " [ ] ")) == []
    assert array(source("b.json", '\ufeff\n[{"text": "x"}]\n')) == [(0, {"text": "x"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "x"}, {"text": "y"', "row 2: malformed"),
        ('[{"text": "x"}', "row 2: malformed"),
        ('[{"text": "x"} {oops}]', "row 2: malformed"),
        ("[" * 100_000, "row 1: it is nested too deeply"),
        ("[" + "1" * 5000 + "]", "row 1: malformed"),
    ],
)
def test_a_malformed_array_is_refused_with_the_row(source, content, message):
    with pytest.raises(DataError, match=rf"a\.json, {message}"):
        array(source("a.json", content))


def test_a_row_of_an_array_that_is_too_long_is_refused(source):
    file = source("a.json.gz", '[{"text": "' + "x" * (9 << 20))
    with pytest.raises(DataError, match=r"row 1: malformed, or more than 1048576 bytes .*max_document_bytes"):
        array(file)


def test_rows_of_very_many_small_values_are_refused(source, monkeypatch):
    """They take some forty times the memory of their text."""
    monkeypatch.setattr(rows, "MAX_VALUES", 1000)
    row = '{"text": "x", "a": [' + "[]," * 2000 + "3]}"
    with pytest.raises(ValueError, match="more than 1000 values"):
        parse_row(row)
    assert parse_row('{"text": "' + "words " * 2000 + '"}')
    monkeypatch.setattr(FileRange.read_blocks, "__defaults__", (1000,))
    with pytest.raises(DataError, match="row 1: malformed, or more than"):
        array(source("a.json", f"[{row}]"))
    found = table(source("a.csv", "id,text\n1,x\n" + "ab," * 2000 + "\n" + '"\n",' * 2000 + "\n2,y\n"))
    assert found[0] == (0, "x")
    assert [str(error) for _, error in found[1:3]] == ["more than 1000 fields, or an open quote"] * 2
    with pytest.raises(
        DataError, match=r"a\.csv has no line with the names of its columns: more than 1000 fields"
    ):
        table(source("a.csv", "ab," * 2000 + "\n1\n"))


def test_an_array_is_read_in_linear_time(source, monkeypatch):
    """A long row is parsed again with twice as much text each time, not with one block more."""
    monkeypatch.setattr(FileRange.read_blocks, "__defaults__", (1000,))
    read = []
    real = rows._GrowingText.read
    monkeypatch.setattr(rows._GrowingText, "read", lambda self: read.append(1) or real(self))
    assert len(array(source("a.json", json.dumps(["x" * 500_000])))) == 1
    assert len(read) < 15


ROWS = ["plain", 'quotes " and, commas', "lines\nand\r\nlines", "", "é日本", "  spaces ", "tab\there"]


@pytest.mark.parametrize(("name", "dialect"), [("a.csv", "excel"), ("a.csv.gz", "unix"), ("a.tsv", "excel-tab")])
def test_a_column_of_a_table_is_read_with_quotes_and_line_ends(source, tmp_path, name, dialect, monkeypatch):
    with open(tmp_path / "t", "w", newline="") as stream:  # noqa: PTH123
        writer = csv.writer(stream, dialect)
        writer.writerows([["id", " text "], *([i, row] for i, row in enumerate(ROWS))])
    for size in (1, 5, 1 << 20):
        monkeypatch.setattr(FileRange.read_blocks, "__defaults__", (size,))
        file = source(name, (tmp_path / "t").read_bytes())
        assert table(file) == list(enumerate(ROWS))
        assert table(file, start=2, stop=5) == list(enumerate(ROWS))[2:5]
        assert [text for _, text in table(file, "id")] == [str(i) for i in range(len(ROWS))]


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), max_size=6))
def test_any_text_in_a_table_is_read_unchanged(texts, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([["text"], *([text] for text in texts)])
    assert [text for _, text in table(open_file(path))] == texts


def test_blank_lines_count_and_rows_with_other_fields_than_the_header_are_bad(source):
    found = table(source("a.csv", "id,text\n1,x\n\n2\n3,hello, world\n4,\n"))
    assert [number for number, _ in found] == [0, 2, 3, 4]
    assert [str(text) for _, text in found] == [
        "x",
        "1 fields, the header has 2",
        "3 fields, the header has 2",
        "",
    ]
    assert table(source("b.csv", "\ufefftext\nx")) == [(0, "x")]


def test_bytes_that_are_not_utf8_are_single_surrogates(source):
    assert table(source("a.csv", b"text\na\xffb\n")) == [(0, "a\udcffb")]


def test_a_table_without_the_column_is_refused_with_the_names_of_the_others(source):
    with pytest.raises(DataError, match=r"a\.csv has no column 'text', only id, body .*data\.text_field"):
        table(source("a.csv", "id,body\n1,x\n"))


def test_a_field_that_is_too_long_is_the_error_of_a_row(source):
    found = table(source("a.csv", 'text\nfine\n"' + "line\n" * 1000 + '"\nlast\n'), limit=2000)
    assert found[0] == (0, "fine")
    assert isinstance(found[1][1], csv.Error)
    assert found[2] == (2, "line")


def test_a_line_of_a_table_that_is_too_long_is_refused(source):
    file = source("a.csv.gz", "text\n" + "x" * (9 << 20))
    with pytest.raises(DataError, match=r"has a line of more than 1048576 bytes .*data\.max_document_bytes"):
        table(file)
