"""A reader turns ranges of files into documents: texts that are encoded as one, with a delimiter before.

    .txt       the whole file is one document, or each line that is not blank (`data.documents`)
    .jsonl     the field `data.text_field` of each line
    .parquet   the column of that name, row by row
    chats      the messages in each line of .jsonl (`data.text.chat`): one document, with a part for each message
    empty text is not a document; a byte order mark at a file's start is dropped

A very long document comes in parts (`data.text.file_ranges`). Bytes that are not UTF-8 follow `data.bad_utf8`.
"""

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa

from candlewick.config import DataConfig
from candlewick.data.text.chat import Message, chat_sha256, parse_messages
from candlewick.data.text.file_ranges import BOM, PART_BYTES, FileRange, cut_into_parts
from candlewick.data.text.parquet import read_column, row_groups
from candlewick.errors import DataError
from candlewick.tokenizer.chat import ANSWER, Role, message_text

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_MAX_EXAMPLES = 5
logger = logging.getLogger(__name__)


class Document(NamedTuple):
    """A document, or one part of a very long document, or a message of a chat."""

    text: str
    source: str  # the file's name in the corpus
    position: int  # of its first byte in the text of the file; in a .parquet, of its row
    starts_document: bool = True  # False: it continues the item before
    ends_document: bool = True  # False: the next item continues it
    role: Role | None = None  # of a chat message: the speaker; the text is `message_text`
    chat_sha256: str | None = None  # of the conversation, with its first message


@dataclass(slots=True)
class TextDefects:
    """Counts bad UTF-8 sequences, documents with one, and chats without an answer; keeps the first examples."""

    documents: int = 0
    sequences: int = 0
    examples: list[str] = field(default_factory=list[str])
    unanswered: int = 0  # conversations without an answer, which are left out

    def merge(self, other: "TextDefects") -> None:
        """Add another count to this one."""
        self.documents += other.documents
        self.sequences += other.sequences
        self.examples = (self.examples + other.examples)[:_MAX_EXAMPLES]
        self.unanswered += other.unanswered

    def warn(self) -> None:
        """Log the number of bad UTF-8 sequences, if there are any."""
        if self.documents:
            about = self.sequences, self.documents, self.examples[0]
            logger.warning("%d bad UTF-8 sequences in %d documents, the first: %s", *about)


def content_field(config: DataConfig) -> str:
    """Return the key of the text, or of a chat's messages, in a row."""
    return config.messages_field if config.format == "chat" else config.text_field


def read_documents(file_range: FileRange, config: DataConfig, defects: TextDefects) -> Iterator[Document]:
    """Return the documents of a range in order; count bad UTF-8 in `defects`. Raises DataError, with the row."""
    reader = _DocumentReader(file_range, config, defects)
    kinds = {"text": reader.text, "lines": reader.lines, "parquet": reader.parquet}
    documents = kinds.get(file_range.file.kind, reader.json)()
    dropped = frozenset(file_range.duplicates)
    return (document for document in documents if document.position not in dropped) if dropped else documents


def count_documents(file_range: FileRange, config: DataConfig, limit: int | None = None) -> int:
    """Return the number of rows that may be documents; of lines at most `limit`."""
    if file_range.file.kind == "text":
        return 1
    if file_range.file.kind == "parquet":
        return sum(rows for rows, _ in row_groups(file_range.file, config.text_field))
    lines = (line for _, block in file_range.read_lines() for line in block.split(b"\n") if line.strip())
    return sum(1 for _ in islice(lines, limit))


@dataclass(frozen=True, slots=True)
class _DocumentReader:
    file_range: FileRange
    config: DataConfig
    defects: TextDefects

    def text(self) -> Iterator[Document]:
        file_range = self.file_range
        if self.config.bad_utf8 == "skip" and not self._is_utf8():
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

    def _is_utf8(self) -> bool:
        # the whole file is one document: one bad byte anywhere leaves it out
        defects = TextDefects()
        reader, offset = _DocumentReader(FileRange(self.file_range.file), self.config, defects), 0
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

    def json(self) -> Iterator[Document]:
        is_chat, field = self.file_range.file.kind == "chat", content_field(self.config)
        for position, line in self._lines():
            try:
                record: object = json.loads(line)
                content = parse_messages(record, field) if is_chat else _get_text(record, field)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{self.file_range.file.path}, row {self._line_number(position)}: {error}",
                    f"fix the row, or set data.{'messages' if is_chat else 'text'}_field to the name in it",
                ) from None
            if isinstance(content, list):
                yield from self._read_chat(content, position, may_be_bad="\\u" in line)
            elif content and (text := self._replace_half_pairs(content, position) if "\\u" in line else content):
                yield from self._split_long(text, position)

    def _read_chat(self, messages: list[Message], position: int, *, may_be_bad: bool) -> Iterator[Document]:
        if may_be_bad:
            contents = [(message, self._replace_half_pairs(message.content, position)) for message in messages]
            messages = [message._replace(content=content) for message, content in contents if content is not None]
            if len(messages) < len(contents):
                return
        if not any(message.role == ANSWER and message.content for message in messages):
            self.defects.unanswered += 1
            return
        last = len(messages) - 1
        for number, (role, content) in enumerate(messages):
            sha256 = chat_sha256(messages) if number == 0 else None
            text = message_text(role, content)
            yield Document(text, self.file_range.file.name, position, number == 0, number == last, role, sha256)

    def parquet(self) -> Iterator[Document]:
        for first, column in read_column(self.file_range, self.config.text_field):
            for number, text in enumerate(self._decode_column(first, column), first):
                if text:
                    yield from self._split_long(text, number)

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Yield (position, text) of the lines that are neither blank nor left out."""
        for offset, raw in self.file_range.read_lines():
            breaks = np.flatnonzero(np.frombuffer(raw, np.uint8) == ord("\n"))
            positions: list[int] = [offset, *(breaks + (offset + 1)).tolist()]
            try:
                lines: list[str | None] = [*raw.decode().split("\n")]
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
        if column.type in (pa.string(), pa.large_string()):
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
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            location = where(error.start)
        text = raw.decode(errors="replace")
        return self._apply_policy(text, text.count(_REPLACEMENT) - raw.count(_REPLACEMENT.encode()), location)

    def _replace_half_pairs(self, text: str, position: int) -> str | None:
        replaced, halves = _HALF_PAIR.subn(_REPLACEMENT, text)
        return self._apply_policy(replaced, halves, f"the row at byte {position}") if halves else text

    def _apply_policy(self, replaced: str, sequences: int, location: str) -> str | None:
        if self.config.bad_utf8 == "error":
            raise DataError(
                f"{self.file_range.file.path}, {location}: not UTF-8",
                "convert the file, or set data.bad_utf8 to replace or skip",
            )
        self.defects.merge(TextDefects(1, sequences, [f"{self.file_range.file.name}, {location}"]))
        return replaced if self.config.bad_utf8 == "replace" else None

    def _split_long(self, text: str, position: int) -> Iterator[Document]:
        if len(text) <= PART_BYTES:
            yield Document(text, self.file_range.file.name, position)
            return
        encoded = text.encode()
        blocks = (encoded[i : i + PART_BYTES] for i in range(0, len(encoded), PART_BYTES))
        for number, (raw, is_last) in enumerate(cut_into_parts(blocks)):
            yield Document(raw.decode(), self.file_range.file.name, position, number == 0, is_last)


def _get_text(record: object, field: str) -> str | None:
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    fields = cast("dict[str, object]", record)
    if field not in fields:
        raise ValueError(f"no field {field!r}, only {', '.join(fields)[:200] or 'none'}")
    text = fields[field]
    if not isinstance(text, str | None):
        raise ValueError(f"field {field!r} is {str(text)[:40]!r}, not text")
    return text
