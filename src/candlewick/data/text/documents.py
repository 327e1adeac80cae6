"""Pieces of files -> documents: text that goes through the tokenizer as one, with a delimiter before it.

    .txt       the whole file is one document, or each line that is not blank (`data.text.documents`)
    .jsonl     the field `data.text_field` of each line
    .parquet   the column of that name, row by row
    chats      the messages in each line of .jsonl (`data.text.chat`): one document, in a part for each message
    empty text is no document; a byte order mark at a file's start is dropped

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
from candlewick.data.text.chat import Message, chat_sha256, has_answer, parse_messages
from candlewick.data.text.file_ranges import BOM, PART_BYTES, FileRange, cut_into_parts
from candlewick.data.text.parquet import read_column, row_groups
from candlewick.errors import DataError
from candlewick.tokenizer.chat import Role, message_text

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_MAX_EXAMPLES = 5
logger = logging.getLogger(__name__)


class Document(NamedTuple):
    """A document, or one part of a very long one, or a message of a chat."""

    text: str
    source: str  # the file's name in the corpus
    position: int  # where it begins in the file: a row of a .parquet, else a byte of its text
    starts_document: bool = True  # False: it goes on from the item before
    ends_document: bool = True  # False: it goes on in the next item
    role: Role | None = None  # of a chat's message: who speaks; the text is `message_text`
    chat_sha256: str | None = None  # of a chat's first message: the hash of the conversation


@dataclass(slots=True)
class TextDefects:
    """What was not UTF-8: how many sequences in how many documents, and where the first are; idle chats."""

    documents: int = 0
    sequences: int = 0
    examples: list[str] = field(default_factory=list[str])
    unanswered: int = 0  # conversations that are left out because nobody answers in them

    def merge(self, other: "TextDefects") -> None:
        """Add another count to this one."""
        self.documents += other.documents
        self.sequences += other.sequences
        self.examples = (self.examples + other.examples)[:_MAX_EXAMPLES]
        self.unanswered += other.unanswered

    def warn(self) -> None:
        """Log how much was not UTF-8, if anything."""
        if self.documents:
            about = self.sequences, self.documents, self.examples[0]
            logger.warning("%d bad UTF-8 sequences in %d documents, the first: %s", *about)


def content_field(config: DataConfig) -> str:
    """Return the key of the text, or of a chat's messages, in a row."""
    return config.messages_field if config.format == "chat" else config.text_field


def read_documents(piece: FileRange, config: DataConfig, bad: TextDefects) -> Iterator[Document]:
    """Return the documents of a piece in order. Counts bad UTF-8 in `bad`. Raises DataError with file and row."""
    reader = _DocumentReader(piece, config, bad)
    kinds = {"text": reader.text, "lines": reader.lines, "parquet": reader.parquet}
    documents = kinds.get(piece.file.kind, reader.json)()
    dropped = frozenset(piece.duplicates)
    return (document for document in documents if document.position not in dropped) if dropped else documents


def count_documents(piece: FileRange, config: DataConfig, limit: int | None = None) -> int:
    """Count the rows that may be documents; of lines at most `limit`."""
    if piece.file.kind == "text":
        return 1
    if piece.file.kind == "parquet":
        return sum(rows for rows, _ in row_groups(piece.file, config.text_field))
    lines = (line for _, block in piece.read_lines() for line in block.split(b"\n") if line.strip())
    return sum(1 for _ in islice(lines, limit))


@dataclass(frozen=True, slots=True)
class _DocumentReader:
    piece: FileRange
    config: DataConfig
    bad: TextDefects

    def text(self) -> Iterator[Document]:
        piece = self.piece
        if self.config.bad_utf8 == "skip" and not self._is_utf8():
            return
        offset, begins = piece.start, piece.starts_document
        for raw, is_last in cut_into_parts(piece.read_blocks(PART_BYTES)):
            body = raw.removeprefix(BOM) if offset == 0 else raw
            first = offset + len(raw) - len(body)
            text = self._decode(body, lambda at, first=first: f"byte {first + at}")
            if text:
                yield Document(text, piece.file.name, piece.start, begins, is_last and piece.ends_document)
                begins = False
            offset += len(raw)

    def _is_utf8(self) -> bool:
        # of the whole file: one bad byte anywhere takes out the document that it is
        found = TextDefects()
        whole, offset = _DocumentReader(FileRange(self.piece.file), self.config, found), 0
        for raw, _ in cut_into_parts(whole.piece.read_blocks(PART_BYTES)):
            whole._decode(raw, lambda at, first=offset: f"byte {first + at}")
            if found.documents:
                if self.piece.start == 0:  # else another piece counts it
                    self.bad.merge(found)
                return False
            offset += len(raw)
        return True

    def lines(self) -> Iterator[Document]:
        for place, line in self._lines():
            yield from self._split_long(line, place)

    def json(self) -> Iterator[Document]:
        is_chat, field = self.piece.file.kind == "chat", content_field(self.config)
        for place, line in self._lines():
            try:
                record: object = json.loads(line)
                found = parse_messages(record, field) if is_chat else _get_text(record, field)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{self.piece.file.path}, row {self._line_number(place)}: {error}",
                    f"mend the row, or set data.{'messages' if is_chat else 'text'}_field to the name in it",
                ) from None
            if isinstance(found, list):
                yield from self._read_chat(found, place, may_be_bad="\\u" in line)
            elif found and (text := self._replace_half_pairs(found, place) if "\\u" in line else found):
                yield from self._split_long(text, place)

    def _read_chat(self, messages: list[Message], place: int, *, may_be_bad: bool) -> Iterator[Document]:
        if may_be_bad:
            mended = [(message, self._replace_half_pairs(message.content, place)) for message in messages]
            messages = [message._replace(content=content) for message, content in mended if content is not None]
            if len(messages) < len(mended):
                return
        if not has_answer(messages):
            self.bad.unanswered += 1
            return
        last = len(messages) - 1
        for number, (role, content) in enumerate(messages):
            own = chat_sha256(messages) if number == 0 else None
            text = message_text(role, content)
            yield Document(text, self.piece.file.name, place, number == 0, number == last, role, own)

    def parquet(self) -> Iterator[Document]:
        for first, column in read_column(self.piece, self.config.text_field):
            for number, text in enumerate(self._decode_column(first, column), first):
                if text:
                    yield from self._split_long(text, number)

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Yield (place, text) of the lines that are neither blank nor left out."""
        for offset, raw in self.piece.read_lines():
            breaks = np.flatnonzero(np.frombuffer(raw, np.uint8) == ord("\n"))
            places: list[int] = [offset, *(breaks + (offset + 1)).tolist()]
            try:
                lines: list[str | None] = [*raw.decode().split("\n")]
            except UnicodeDecodeError:
                lines = []
                for place, line in zip(places, raw.split(b"\n"), strict=True):
                    lines.append(self._decode(line, lambda at, place=place: f"byte {place + at}"))
            for place, line in zip(places, lines, strict=True):
                if line and not line.isspace():
                    yield place, line.removesuffix("\r")

    def _line_number(self, place: int) -> int:
        before = FileRange(self.piece.file, 0, place).read_blocks() if place else ()
        return sum(block.count(b"\n") for block in before) + 1

    def _decode_column(self, first: int, column: Any) -> Iterable[str | None]:
        if column.type in (pa.string(), pa.large_string()):
            try:
                return column.to_numpy(zero_copy_only=False)  # many times faster than `to_pylist`
            except pa.ArrowException:
                pass  # a value is not UTF-8: one at a time
        return [
            None if raw is None else self._decode(raw, lambda at, row=row: f"row {row}, byte {at}")
            for row, raw in enumerate(column.cast(pa.large_binary()).to_pylist(), first + 1)
        ]

    def _decode(self, raw: bytes, where: Callable[[int], str]) -> str | None:
        """Return the text, or None if the document is to be left out. `where` names a byte of `raw`."""
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            place = where(error.start)
        text = raw.decode(errors="replace")
        return self._apply_policy(text, text.count(_REPLACEMENT) - raw.count(_REPLACEMENT.encode()), place)

    def _replace_half_pairs(self, text: str, place: int) -> str | None:
        mended, halves = _HALF_PAIR.subn(_REPLACEMENT, text)
        return self._apply_policy(mended, halves, f"the row at byte {place}") if halves else text

    def _apply_policy(self, mended: str, sequences: int, place: str) -> str | None:
        if self.config.bad_utf8 == "error":
            raise DataError(
                f"{self.piece.file.path}, {place}: not UTF-8",
                "convert the file, or set data.bad_utf8 to replace or skip",
            )
        self.bad.merge(TextDefects(1, sequences, [f"{self.piece.file.name}, {place}"]))
        return mended if self.config.bad_utf8 == "replace" else None

    def _split_long(self, text: str, place: int) -> Iterator[Document]:
        if len(text) <= PART_BYTES:
            yield Document(text, self.piece.file.name, place)
            return
        whole = text.encode()
        blocks = (whole[i : i + PART_BYTES] for i in range(0, len(whole), PART_BYTES))
        for number, (raw, is_last) in enumerate(cut_into_parts(blocks)):
            yield Document(raw.decode(), self.piece.file.name, place, number == 0, is_last)


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
