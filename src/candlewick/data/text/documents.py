"""A reader turns ranges of files into documents: texts that are encoded as one, with a delimiter before.

    text       the whole file is one document, or each line that is not blank (`data.documents`)
    rows       the field `data.text_field` of each row: of JSON lines, arrays, .csv, .tsv, .parquet, .arrow
    chats      the messages of each row (`data.text.chat`): one document, with a part for each message
    empty text is not a document; a byte order mark at a file's start is dropped

A very long document comes in parts (`data.text.file_ranges`). Bytes that are not UTF-8 follow `data.bad_utf8`,
rows without text `data.bad_rows`.
"""

import csv
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa

from candlewick.data.text.chat import Message, chat_columns, chat_text, parse_messages
from candlewick.data.text.columns import column_names, read_column, read_columns, row_groups
from candlewick.data.text.file_ranges import BOM, PART_BYTES, FileRange, TextFile, cut_into_parts
from candlewick.data.text.formats import REPLACEMENT, allowed_bad
from candlewick.data.text.reading import Reading
from candlewick.data.text.rows import Row, find_value, parse_row, read_array, read_table
from candlewick.errors import DataError
from candlewick.tokenizer.chat import ANSWER, Role, message_text

_HALF_PAIR = re.compile("[\ud800-\udfff]")
_FIELDS = {"text": "text_field", "chat": "messages_field"}
_MAX_EXAMPLES = 5
EXPANSION = 4
"""Bytes of text per byte of a compressed file, about."""
logger = logging.getLogger(__name__)


class Document(NamedTuple):
    """A document, or one part of a very long document, or a message of a chat."""

    text: str
    source: str  # the file's name in the corpus
    position: int  # of its first byte in the text of the file, or of its row
    starts_document: bool = True  # False: it continues the item before
    ends_document: bool = True  # False: the next item continues it
    role: Role | None = None  # of a chat message: the speaker; the text is `message_text`
    chat_text: str | None = None  # of the conversation, without its system prompt, with its first message


@dataclass(slots=True)
class TextDefects:
    """Counts what is wrong with a text and keeps the first examples."""

    documents: int = 0  # with bad UTF-8
    sequences: int = 0  # of bytes that are not UTF-8
    examples: list[str] = field(default_factory=list[str])
    unanswered: int = 0  # conversations without an answer, which are left out
    rows: int = 0  # that could not be read, which are left out
    row_examples: list[str] = field(default_factory=list[str])

    def merge(self, other: "TextDefects") -> None:
        """Add another count to this one."""
        self.documents += other.documents
        self.sequences += other.sequences
        self.examples = (self.examples + other.examples)[:_MAX_EXAMPLES]
        self.unanswered += other.unanswered
        self.rows += other.rows
        self.row_examples = (self.row_examples + other.row_examples)[:_MAX_EXAMPLES]

    def warn(self) -> None:
        """Log what was wrong, with the first example of each kind."""
        if self.documents:
            about = self.sequences, self.documents, self.examples[0]
            logger.warning("%d bad UTF-8 sequences in %d documents, the first: %s", *about)
        if self.rows:
            logger.warning("%d rows are left out, the first: %s", self.rows, self.row_examples[0])
        if self.unanswered:
            logger.warning("%d conversations without an answer are left out", self.unanswered)


def read_documents(file_range: FileRange, reading: Reading, defects: TextDefects) -> Iterator[Document]:
    """Yield the documents of a range in order; count defects. Raises DataError, with the row."""
    reader = _DocumentReader(file_range, reading, defects)
    kind = file_range.file.kind
    documents = reader.text() if kind == "text" else reader.lines() if kind == "lines" else reader.rows()
    dropped = frozenset(file_range.duplicates)
    yield from (document for document in documents if document.position not in dropped) if dropped else documents
    reader.require_few_bad()


def decide_utf8(file: TextFile, reading: Reading) -> bool | None:
    """Return whether a file of plain text is UTF-8, None if it is read though it is not. Reads it whole.

    For whoever cuts a file into ranges: a reader of one that does not know it reads the whole file as well.
    """
    if file.kind != "text" or reading.bad_utf8 != "skip":
        return None
    return _DocumentReader(FileRange(file), reading, TextDefects()).is_utf8()


def count_documents(file_range: FileRange, reading: Reading, limit: int | None = None) -> int:
    """Return the number of rows that may be documents; of lines at most `limit`."""
    kind = file_range.file.kind
    if kind == "text":
        return 1
    if kind in ("parquet", "arrow"):
        rows = sum(rows for rows, _ in row_groups(file_range.file, content_columns(file_range.file, reading)))
        stop = rows if file_range.stop is None else min(file_range.stop, rows)
        return max(0, stop - file_range.start)
    if file_range.file.is_addressed_by_bytes:
        lines = (line for _, block in file_range.read_lines() for line in block.split(b"\n") if line.strip())
        return sum(1 for _ in islice(lines, limit))
    return sum(1 for _ in islice(_iter_rows(file_range, reading), limit))


def text_size(file: TextFile, reading: Reading) -> int:
    """Return how many bytes of text a file of this disk has, about."""
    if file.kind in ("parquet", "arrow"):
        return sum(size for _, size in row_groups(file, content_columns(file, reading)))
    return file.bytes * (1 if file.compression is None else EXPANSION)


def row_offset(file: TextFile, row: int, reading: Reading) -> int | None:
    """Return the start of the range that begins with row number `row`, None if there are not so many."""
    if not file.is_addressed_by_bytes:
        return next(islice(count(), row, None))
    return next(islice(_line_offsets(file, reading), row, None), None)


def _line_offsets(file: TextFile, reading: Reading) -> Iterator[int]:
    for offset, block in FileRange(file).read_lines(reading.max_document_bytes):
        for line in block.split(b"\n"):
            if line.strip():
                yield offset
            offset += len(line) + 1


def content_columns(file: TextFile, reading: Reading) -> list[str]:
    """Return the columns of a .parquet or .arrow file that are read. Raises DataError if it cannot be read."""
    if reading.format == "text":
        return [reading.field]
    return chat_columns(column_names(file), reading.field)


def _iter_rows(file_range: FileRange, reading: Reading) -> Iterator[tuple[int, object]]:
    if file_range.file.kind == "array":
        return read_array(file_range, reading.max_document_bytes)
    return read_table(file_range, reading.field, reading.max_document_bytes)


@dataclass(slots=True)
class _DocumentReader:
    file_range: FileRange
    reading: Reading
    defects: TextDefects
    num_bytes: int = 0  # of text that were decoded
    bad: int = 0  # sequences among them

    def require_few_bad(self) -> None:
        """Raise DataError if more of the text was replaced than a damage explains."""
        if self.bad > allowed_bad(self.num_bytes) and self.reading.bad_utf8 == "replace":
            raise DataError(
                f"{self.file_range.file.path}: {self.bad} places in {self.num_bytes} bytes are not UTF-8: it is "
                "in another encoding, or no text",
                "convert it: iconv -f ENCODING -t UTF-8 FILE > NEW_FILE; or set data.bad_utf8 to skip",
            )

    def text(self) -> Iterator[Document]:
        file_range = self.file_range
        if self.reading.bad_utf8 == "skip" and not self.is_utf8():
            return
        offset, is_start = file_range.start, file_range.starts_document
        for raw, is_last in cut_into_parts(file_range.read_blocks(PART_BYTES)):
            body = raw.removeprefix(BOM) if offset == 0 else raw
            first = offset + len(raw) - len(body)
            text = self._decode(body, lambda byte, first=first: f"byte {first + byte}")
            if text:
                is_end = is_last and file_range.ends_document
                yield Document(text, file_range.file.name, file_range.start, is_start, is_end)
                is_start = False
            offset += len(raw)

    def is_utf8(self) -> bool:
        """Return whether the whole file is UTF-8: one bad byte anywhere leaves it out, as one document."""
        known, defects = self.file_range.is_utf8, TextDefects()
        if known is not None and (known or self.file_range.start):
            return known
        reader, offset = _DocumentReader(FileRange(self.file_range.file), self.reading, defects), 0
        for raw, _ in cut_into_parts(reader.file_range.read_blocks(PART_BYTES)):
            reader._decode(raw, lambda byte, first=offset: f"byte {first + byte}")
            if defects.documents:
                if self.file_range.start == 0:  # else another range counts it
                    self.defects.merge(defects)
                return False
            offset += len(raw)
        return True

    def lines(self) -> Iterator[Document]:
        for position, line in self._lines():
            yield from self._split_long(line, position)

    def rows(self) -> Iterator[Document]:
        """Yield the documents of rows."""
        kind, is_chat = self.file_range.file.kind, self.reading.format == "chat"
        if kind in ("parquet", "arrow") and not is_chat:
            yield from self._column()
            return
        for position, content in self._contents():
            if isinstance(content, list):
                yield from self._read_chat(content, position)
            elif content:
                yield from self._split_long(content, position)

    def _contents(self) -> Iterator[tuple[int, str | list[Message] | None]]:
        """Yield (position, text or messages) of the rows that can be read."""
        for position, row in self._records():
            try:
                if isinstance(row, csv.Error):
                    raise ValueError(str(row))
                if isinstance(row, str) and self.file_range.file.kind == "jsonl":
                    row = parse_row(row)
                content = self._content(row, position)
            except (ValueError, RecursionError) as error:
                self._leave_out(position, str(error))
                continue
            yield position, content

    def _records(self) -> Iterator[tuple[int, object]]:
        file_range = self.file_range
        if file_range.file.kind == "jsonl":
            yield from self._lines()
        elif file_range.file.kind in ("parquet", "arrow"):
            for first, batch in read_columns(file_range, content_columns(file_range.file, self.reading)):
                try:
                    rows = batch.to_pylist()
                except (ValueError, OverflowError) as error:
                    problem = " ".join(str(error).split())[:200]
                    raise DataError(
                        f"{file_range.file.path}, rows from {first + 1}: {problem}", "it is damaged: get it again"
                    ) from None
                yield from enumerate(rows, first)
        else:
            yield from _iter_rows(file_range, self.reading)

    def _content(self, row: object, position: int) -> str | list[Message] | None:
        """Return the text or the messages of a row, None for one that is left out. Raises ValueError."""
        if isinstance(row, str):  # of a table
            self.num_bytes += len(row)
            try:
                return row.encode().decode()
            except UnicodeEncodeError:
                raw = row.encode(errors="surrogateescape")
                return self._decode(raw, lambda byte: f"row {position + 1}, byte {byte}")
        if self.reading.format == "chat":
            contents = [
                (m, self._replace_half_pairs(m.content, position)) for m in parse_messages(row, self.reading.field)
            ]
            messages = [message._replace(content=content) for message, content in contents if content is not None]
            return messages if len(messages) == len(contents) else None
        text = _get_text(row, self.reading.field)
        return text and self._replace_half_pairs(text, position)

    def _leave_out(self, position: int, problem: str) -> None:
        """Count a row that cannot be read. Raises DataError if that is an error."""
        if self.reading.bad_rows == "skip" and len(self.defects.row_examples) == _MAX_EXAMPLES:
            self.defects.rows += 1  # its number would need another reading of the file
            return
        file, is_byte = self.file_range.file, self.file_range.file.is_addressed_by_bytes
        number = self._line_number(position) if is_byte else position + 1
        if self.reading.bad_rows == "error":
            raise DataError(
                f"{file.path}, row {number}: {problem}",
                f"fix it, set data.{_FIELDS[self.reading.format]} to the name in it, or data.bad_rows to skip",
            )
        self.defects.merge(TextDefects(rows=1, row_examples=[f"{file.name}, row {number}: {problem[:200]}"]))

    def _read_chat(self, messages: list[Message], position: int) -> Iterator[Document]:
        if not any(message.role == ANSWER and message.content for message in messages):
            self.defects.unanswered += 1
            return
        last = len(messages) - 1
        for number, (role, content) in enumerate(messages):
            whole = chat_text(messages) if number == 0 else None
            text = message_text(role, content)
            yield Document(text, self.file_range.file.name, position, number == 0, number == last, role, whole)

    def _column(self) -> Iterator[Document]:
        for first, column in read_column(self.file_range, self.reading.field):
            self.num_bytes += column.nbytes
            for number, text in enumerate(self._decode_column(first, column), first):
                if text and len(text) > self.reading.max_document_bytes:
                    self._leave_out(number, f"more than {self.reading.max_document_bytes} bytes")
                elif text:
                    yield from self._split_long(text, number)

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Yield (position, text) of the lines that are neither blank nor left out."""
        for offset, raw in self.file_range.read_lines(self.reading.max_document_bytes, self.reading.block_bytes):
            breaks = np.flatnonzero(np.frombuffer(raw, np.uint8) == ord("\n"))
            positions: list[int] = [offset, *(breaks + (offset + 1)).tolist()]
            try:
                lines: list[str | None] = [*raw.decode().split("\n")]
                self.num_bytes += len(raw)
            except UnicodeDecodeError:
                lines = []
                for position, line in zip(positions, raw.split(b"\n"), strict=True):
                    lines.append(self._decode(line, lambda byte, position=position: f"byte {position + byte}"))
            for position, line in zip(positions, lines, strict=True):
                if line and not line.isspace():
                    yield position, line.removesuffix("\r")

    def _line_number(self, position: int) -> int:
        blocks = FileRange(self.file_range.file, 0, position).read_blocks() if position else ()
        return sum(block.count(b"\n") for block in blocks) + 1

    def _decode_column(self, first: int, column: Any) -> Iterable[str | None]:
        if pa.types.is_dictionary(column.type):  # the values are large, and may be repeated
            texts = list(self._decode_column(first, column.dictionary))
            return (None if i is None else texts[i] for i in column.indices.to_pylist())
        if any(test(column.type) for test in _TEXT_TYPES):
            try:
                return column.to_numpy(zero_copy_only=False)  # many times faster than `to_pylist`
            except pa.ArrowException:
                pass  # a value is not UTF-8: one at a time
        return [
            None if raw is None else self._decode(raw, lambda byte, row=row: f"row {row}, byte {byte}")
            for row, raw in enumerate(column.cast(pa.large_binary()).to_pylist(), first + 1)
        ]

    def _decode(self, raw: bytes, where: Callable[[int], str]) -> str | None:
        """Return the text, or None if the document is left out. `where` names a byte of `raw`."""
        self.num_bytes += len(raw)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            location = where(error.start)
        text = raw.decode(errors="replace")
        return self._apply_policy(text, text.count(REPLACEMENT) - raw.count(REPLACEMENT.encode()), location)

    def _replace_half_pairs(self, text: str, position: int) -> str | None:
        self.num_bytes += len(text)
        if text.isascii() or not _HALF_PAIR.search(text):
            return text
        replaced, halves = _HALF_PAIR.subn(REPLACEMENT, text)
        return self._apply_policy(replaced, halves, f"the row at {position}")

    def _apply_policy(self, replaced: str, sequences: int, location: str) -> str | None:
        if self.reading.bad_utf8 == "error":
            raise DataError(
                f"{self.file_range.file.path}, {location}: not UTF-8",
                "convert the file, or set data.bad_utf8 to replace or skip",
            )
        self.bad += sequences
        self.defects.merge(TextDefects(1, sequences, [f"{self.file_range.file.name}, {location}"]))
        return replaced if self.reading.bad_utf8 == "replace" else None

    def _split_long(self, text: str, position: int) -> Iterator[Document]:
        if (cut := self.file_range.cut) is not None and cut.position == position:
            text = text[cut.characters :] if cut.is_end else text[: cut.characters]
        if len(text) <= PART_BYTES:
            yield Document(text, self.file_range.file.name, position)
            return
        encoded = text.encode()
        blocks = (encoded[i : i + PART_BYTES] for i in range(0, len(encoded), PART_BYTES))
        for number, (raw, is_last) in enumerate(cut_into_parts(blocks)):
            yield Document(raw.decode(), self.file_range.file.name, position, number == 0, is_last)


_TEXT_TYPES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


def _get_text(record: object, field: str) -> str | None:
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    row = cast(Row, record)
    try:
        text = find_value(row, field)
    except KeyError:
        raise ValueError(f"no field {field!r}, only {', '.join(row)[:200] or 'none'}") from None
    if not isinstance(text, str | None):
        raise ValueError(f"field {field!r} is {str(text)[:40]!r}, not text")
    return text
