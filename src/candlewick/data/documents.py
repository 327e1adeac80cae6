"""Pieces of files -> documents: text that goes through the tokenizer as one, with a delimiter before it.

    .txt       the whole file is one document, or each line that is not blank (`data.documents`)
    .jsonl     the field `data.text_field` of each line
    .parquet   the column of that name, row by row, streamed through Arrow
    empty text is no document; a byte order mark at a file's start is dropped

A very long document comes in parts, cut where every supported pre-tokenizer cuts (`data.pieces`). Text is
UTF-8. Other bytes (and half surrogate pairs in JSON) stop the program, become U+FFFD, or take the document
out, as `data.bad_utf8` says; each is counted, and the first are named with file and offset.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from candlewick.data.pieces import BLOCK_BYTES, BOM, PART_BYTES, Piece, SourceFile, parts
from candlewick.errors import DataError

Policy = Literal["error", "replace", "skip"]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_MAX_EXAMPLES = 5


class Document(NamedTuple):
    """A document, or one part of a very long one."""

    text: str
    source: str  # the file's name in the corpus
    index: int  # which row of what is read it was, from 0
    begins: bool = True  # False: it goes on from the item before
    ends: bool = True  # False: it goes on in the next item


@dataclass(slots=True)
class BadText:
    """What was not UTF-8: how many sequences in how many documents, and where the first are."""

    documents: int = 0
    sequences: int = 0
    examples: list[str] = field(default_factory=list[str])

    def add(self, where: str, sequences: int) -> None:
        """Count one document (or part of one) with so many bad sequences, the first at `where`."""
        self.merge(BadText(1, sequences, [where]))

    def merge(self, other: "BadText") -> None:
        """Add another count to this one."""
        self.documents += other.documents
        self.sequences += other.sequences
        self.examples = (self.examples + other.examples)[:_MAX_EXAMPLES]


def read(piece: Piece, text_field: str, policy: Policy, bad: BadText) -> Iterator[Document]:
    """Yield the documents of a piece in order. Counts bad UTF-8 in `bad`.

    Raises DataError with file and row for what is no valid row, and for bad UTF-8 if the policy says so.
    """
    match piece.file.kind:
        case "text":
            return _read_text(piece, policy, bad)
        case "lines":
            return _read_lines(piece, policy, bad)
        case "jsonl":
            return _read_jsonl(piece, text_field, policy, bad)
        case "parquet":
            return _read_parquet(piece, text_field, policy, bad)


def count_documents(piece: Piece, text_field: str, limit: int | None = None) -> int:
    """Count the rows that may be documents, at most `limit`."""
    if piece.file.kind == "text":
        return 1
    if piece.file.kind == "parquet":
        return sum(rows for rows, _ in row_groups(piece.file, text_field))
    lines = (line for _, block in piece.lines() for line in block.split(b"\n") if line.strip())
    return sum(1 for _ in islice(lines, limit))


def _decode(raw: bytes, policy: Policy, bad: BadText, where: Callable[[int], str]) -> str | None:
    """Return the text, or None if the document is to be left out. `where` names a byte of `raw`."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        place = where(error.start)
    if policy == "error":
        raise DataError(f"{place}: not UTF-8", "convert the file, or set data.bad_utf8 to replace or skip")
    text = raw.decode(errors="replace")
    bad.add(place, text.count(_REPLACEMENT) - raw.count(_REPLACEMENT.encode()))
    return text if policy == "replace" else None


def _read_text(piece: Piece, policy: Policy, bad: BadText) -> Iterator[Document]:
    if policy == "skip" and not _is_utf8(piece.file, bad if piece.start == 0 else BadText()):
        return
    offset, begins = piece.start, piece.begins
    for raw, is_last in parts(piece.blocks(PART_BYTES)):
        body = raw[len(BOM) :] if offset == 0 and raw.startswith(BOM) else raw
        first = offset + len(raw) - len(body)
        text = _decode(body, policy, bad, lambda at, first=first: f"{piece.file.name}, byte {first + at}")
        if text:
            yield Document(text, piece.source, 0, begins, is_last and piece.ends)
            begins = False
        offset += len(raw)


def _is_utf8(file: SourceFile, bad: BadText) -> bool:
    """Look through a whole file, since one bad byte anywhere takes out the document that it is."""
    offset = 0
    before = bad.documents
    for raw, _ in parts(Piece(file).blocks(PART_BYTES)):
        _decode(raw, "skip", bad, lambda at, first=offset: f"{file.name}, byte {first + at}")
        if bad.documents > before:
            return False
        offset += len(raw)
    return True


def _cut(text: str, source: str, index: int) -> Iterator[Document]:
    """A row of any length as documents of bounded length."""
    if len(text) <= PART_BYTES:
        if text:
            yield Document(text, source, index)
        return
    begins = True
    whole = text.encode()
    blocks = (whole[i : i + PART_BYTES] for i in range(0, len(whole), PART_BYTES))
    for raw, is_last in parts(blocks):
        yield Document(raw.decode(), source, index, begins, is_last)
        begins = False


def _lines(piece: Piece, policy: Policy, bad: BadText) -> Iterator[tuple[int, str]]:
    """Yield (number, text) of the lines that are not blank and not left out."""
    number = 0
    for offset, raw in piece.lines():
        try:
            lines: list[str | None] = [*raw.decode().split("\n")]
        except UnicodeDecodeError:
            lines = []
            for line in raw.split(b"\n"):
                lines.append(
                    _decode(line, policy, bad, lambda at, o=offset: f"{piece.file.name}, byte {o + at}")
                )
                offset += len(line) + 1
        for i, line in enumerate(lines):
            if line and not line.isspace():
                yield number + i, line.removesuffix("\r")
        number += raw.count(b"\n")


def _read_lines(piece: Piece, policy: Policy, bad: BadText) -> Iterator[Document]:
    for number, line in _lines(piece, policy, bad):
        yield from _cut(line, piece.source, number)


def _read_jsonl(piece: Piece, text_field: str, policy: Policy, bad: BadText) -> Iterator[Document]:
    for number, line in _lines(piece, policy, bad):
        try:
            record: object = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not a JSON object")
            fields = cast("dict[str, object]", record)
            if text_field not in fields:
                raise ValueError(f"no field {text_field!r}, only {', '.join(fields)[:200] or 'none'}")
            text = fields[text_field]
            if not isinstance(text, str | None):
                raise ValueError(f"field {text_field!r} is {str(text)[:40]!r}, not text")
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{piece.file.path}, row {_row(piece, number)}: {error}",
                "mend the row, or set data.text_field to the name of the field with the text",
            ) from None
        if text and "\\u" in line:
            text = _mend(text, policy, bad, f"{piece.file.name}, row {number}")
        if text:
            yield from _cut(text, piece.source, number)


def _row(piece: Piece, number: int) -> int:
    """Turn the number of a line in a piece into that in its file, from 1."""
    before = Piece(piece.file, 0, piece.start).blocks() if piece.start else ()
    return sum(block.count(b"\n") for block in before) + number + 1


def _mend(text: str, policy: Policy, bad: BadText, where: str) -> str | None:
    mended, halves = _HALF_PAIR.subn(_REPLACEMENT, text)
    if not halves:
        return text
    if policy == "error":
        raise DataError(f"{where}: half a surrogate pair", "mend it, or set data.bad_utf8 to replace or skip")
    bad.add(where, halves)
    return mended if policy == "replace" else None


def row_groups(file: SourceFile, text_field: str) -> list[tuple[int, int]]:
    """Return (rows, bytes of text, about) of each row group of a .parquet file.

    Raises DataError if it is no .parquet file or has no text column of that name.
    """
    with _open_parquet(file, text_field) as parquet:
        return _row_groups(parquet, text_field)


def _row_groups(parquet: pq.ParquetFile, text_field: str) -> list[tuple[int, int]]:
    leaf = [parquet.schema.column(i).path for i in range(len(parquet.schema))].index(text_field)
    groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
    return [(group.num_rows, group.column(leaf).total_uncompressed_size) for group in groups]


def _open_parquet(file: SourceFile, text_field: str) -> pq.ParquetFile:
    file.require_unchanged()
    try:
        # buffered reads: otherwise the whole column of a row group is read at once
        parquet = pq.ParquetFile(str(file.path), buffer_size=1 << 20)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file.path} is no readable .parquet file: {error}", "get it again") from None
    schema = parquet.schema_arrow
    if (index := schema.get_field_index(text_field)) < 0:
        raise DataError(
            f"{file.path} has no column {text_field!r}, only {', '.join(schema.names)[:200]}",
            "set data.text_field to the column with the text",
        )
    kind = schema.field(index).type
    if kind not in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        raise DataError(
            f"{file.path}: column {text_field!r} holds {kind}, not text",
            "set data.text_field to the column with the text",
        )
    return parquet


def _read_parquet(piece: Piece, text_field: str, policy: Policy, bad: BadText) -> Iterator[Document]:
    file, row = piece.file, piece.start
    try:
        for column in _columns(piece, text_field):
            for i, text in enumerate(_texts(column, row, file.name, policy, bad), row):
                if text:
                    yield from _cut(text, file.name, i)
            row += len(column)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file.path} cannot be read: {error}", "it is damaged: get it again") from None


def _texts(column: pa.Array, row: int, name: str, policy: Policy, bad: BadText) -> Iterable[str | None]:
    if not pa.types.is_binary(column.type) and not pa.types.is_large_binary(column.type):
        try:
            return column.to_numpy(zero_copy_only=False)  # many times faster than `to_pylist`
        except pa.ArrowException:
            pass  # a value that is not UTF-8: one at a time
    return [
        None if raw is None else _decode(raw, policy, bad, lambda at, i=i: f"{name}, row {i + 1}, byte {at}")
        for i, raw in enumerate(column.cast(pa.large_binary()).to_pylist(), row)
    ]


def _columns(piece: Piece, text_field: str) -> Iterator[pa.Array]:
    """Yield the text of rows [start, stop) in arrays of about a block each."""
    first = 0
    with _open_parquet(piece.file, text_field) as parquet:
        stop = parquet.metadata.num_rows if piece.stop is None else piece.stop
        for group, (rows, size) in enumerate(_row_groups(parquet, text_field)):
            if first < stop and first + rows > piece.start:
                batch_rows = max(1, rows * BLOCK_BYTES // max(size, 1))
                row = first
                for batch in parquet.iter_batches(batch_rows, [group], [text_field]):
                    low, high = max(piece.start - row, 0), min(stop - row, len(batch))
                    if low < high:
                        yield batch.column(0).slice(low, high - low)
                    row += len(batch)
            first += rows
