"""Readers of rows that are not lines: JSON arrays, .csv and .tsv files with a header. Rows count from 0."""

import codecs
import csv
import json
import re
from collections.abc import Iterable, Iterator
from typing import Self, cast

from candlewick.data.text.file_ranges import FileRange, TextFile
from candlewick.errors import DataError

Row = dict[str, object]
MAX_VALUES = 1 << 21  # of a row, each of which takes some 100 bytes of memory
_SPACE = re.compile(r"[\s,]*")


def find_value(row: Row, field: str) -> object:
    """Return the value of a field, or of a path `a.b` into objects. Raises KeyError if there is none."""
    if field in row:
        return row[field]
    value: object = row
    for name in field.split("."):
        if not isinstance(value, dict):
            raise KeyError(field)
        value = value[name]
    return value


def parse_row(text: str) -> object:
    """Return the value of a line of JSON. Raises ValueError if it is malformed, or a bomb of small values."""
    _require_few_values(text)
    return json.loads(text)


def _require_few_values(text: str) -> None:
    if len(text) > MAX_VALUES and text.count(",") > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values or commas")


def read_array(file_range: FileRange, max_row_bytes: int) -> Iterator[tuple[int, object]]:
    """Yield (number, value) of the elements of a JSON array. Raises DataError where it is malformed."""
    path, decoder, text = file_range.file.path, json.JSONDecoder(), _GrowingText(file_range)
    while not (content := text.content.lstrip()) and text.read():
        pass
    if not content.startswith("["):
        raise DataError(f"{path} is not a JSON array", "name JSON lines .jsonl")
    text.content, text.position = content, 1
    number = 0
    while file_range.stop is None or number < file_range.stop:
        start = cast("re.Match[str]", _SPACE.match(text.content, text.position)).end()
        if text.content.startswith("]", start):
            return
        try:
            value, text.position = decoder.raw_decode(text.content, start)
        except ValueError as error:
            # a value is parsed from its begin again
            is_small = len(text.content) - start <= max_row_bytes and text.content.count(",", start) <= MAX_VALUES
            if not is_small or not text.read():
                raise DataError(
                    f"{path}, row {number + 1}: malformed, or more than {max_row_bytes} bytes ({error})",
                    "fix the row, get the file again, or raise data.max_document_bytes",
                ) from None
            continue
        except RecursionError:
            raise DataError(f"{path}, row {number + 1}: it is nested too deeply", "fix the row") from None
        if number >= file_range.start:
            yield number, value
        number += 1


class _GrowingText:
    """The decoded text of a file, from `position` on as much as was read."""

    def __init__(self, file_range: FileRange) -> None:
        self._blocks = _decode(FileRange(file_range.file).read_blocks())
        self.content, self.position = "", 0

    def read(self) -> str:
        """Read as much as there is, so that all readings together take linear time; return what is new."""
        self.content, self.position = self.content[self.position :], 0
        pieces, size = list[str](), 0
        for block in self._blocks:
            pieces.append(block)
            size += len(block)
            if size > len(self.content):
                break
        new = "".join(pieces)
        self.content += new
        return new


def read_table(file_range: FileRange, field: str, max_row_bytes: int) -> Iterator[tuple[int, str | csv.Error]]:
    """Yield (number, value of a column) of the rows of a .csv or .tsv, or the error of a row. Raises DataError.

    Bytes that are not UTF-8 are single surrogates, as of the error handler `surrogateescape`.
    """
    file = file_range.file
    csv.field_size_limit(max_row_bytes)  # of this process
    delimiter = "\t" if file.kind == "tsv" else ","
    lines = _RowLines(_lines(_decode(FileRange(file).read_blocks()), file, max_row_bytes), delimiter)
    rows = csv.reader(lines, delimiter=delimiter)
    try:
        header = [name.strip() for name in next(rows, [])]
    except csv.Error as error:
        raise DataError(f"{file.path} has no line with the names of its columns: {error}", "add one") from None
    if field not in header:
        raise DataError(
            f"{file.path} has no column {field!r}, only {', '.join(header)[:200]}",
            "name the column with the text: --text-column NAME, or data.text_field",
        )
    column, number = header.index(field), 0
    while file_range.stop is None or number < file_range.stop:
        lines.num_delimiters = 0
        try:
            row: list[str] | csv.Error = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            row = error
        if row and number >= file_range.start:
            if not isinstance(row, csv.Error) and len(row) != len(header):
                row = csv.Error(f"{len(row)} fields, the header has {len(header)}")
            yield number, row if isinstance(row, csv.Error) else row[column]
        number += 1


class _RowLines:
    """The lines of a table; csv.Error for a row with too many fields."""

    def __init__(self, lines: Iterator[str], delimiter: str) -> None:
        self._lines, self._delimiter, self.num_delimiters = lines, delimiter, 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.num_delimiters += line.count(self._delimiter)
        if self.num_delimiters > MAX_VALUES:
            raise csv.Error(f"more than {MAX_VALUES} fields, or an open quote")
        return line


def _decode(blocks: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
    for block in blocks:
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def _lines(blocks: Iterable[str], file: TextFile, max_line_bytes: int) -> Iterator[str]:
    rest, size = list[str](), 0
    for block in blocks:
        *lines, last = block.split("\n")
        for line in lines:
            yield "".join((*rest, line, "\n"))
            rest, size = [], 0
        rest.append(last)
        size += len(last)
        if size > max_line_bytes:
            raise DataError(
                f"{file.path} has a line of more than {max_line_bytes} bytes",
                "raise data.max_document_bytes, or cut the line",
            )
    if size:
        yield "".join(rest)
