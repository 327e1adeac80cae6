"""A range of a text file is the unit of work; long documents are cut into parts at safe positions.

    file     |aaaaaaaaaaaa|bbbbbbbbbbb|cccccc|     ranges: [start, stop) in bytes of text, or rows of a .parquet
    document |part|part|part|part|part|part|       parts: at most a few MiB of text each, so that memory is bounded

Cut at a border that its pre-tokenizer draws, a text keeps its ids in byte-level BPE. Two borders are safe:

    ...word| word...      before a space that follows a visible ASCII character
    ...\\n|word...         after a newline before what is visible and no slash, as `\\s*[\\r\\n]+` of GPT-4

A text without either for `MAX_PART_BYTES` is cut between two characters: one pre-token becomes two.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from candlewick.errors import DataError

PART_BYTES = 1 << 20
MAX_PART_BYTES = 2 << 20
BLOCK_BYTES = 2 << 20
BOM = b"\xef\xbb\xbf"
_SAFE_CUTS = (
    re.compile(rb"(?<=[!-~])(?= )"),
    # lead bytes of UTF-8 that begin no white space: those of U+0080, U+1680, U+2000 and U+3000 are left out
    # GPT-4o's pattern takes slashes after a line end with the punctuation before it
    re.compile(rb"(?<=\n)(?=[!-.0-~\xc3-\xe0\xe4-\xf4])"),
)
Kind = Literal["text", "lines", "jsonl", "parquet", "chat"]
Compression = Literal["gzip", "zstd"]
Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A text file: path, name in its corpus, format, and the size and time that show a change."""

    path: Path
    name: str
    kind: Kind
    compression: Compression | None
    bytes: int  # on disk
    modified_ns: int

    @property
    def place(self) -> Path:
        """Where the file is, whatever its name."""
        return self.path

    def require_unchanged(self) -> None:
        """Raise DataError if the file is gone, or has another size or time than at first."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}", "restore it") from None
        if (status.st_size, status.st_mtime_ns) != (self.bytes, self.modified_ns):
            raise DataError(f"{self.path} changed while it was being used", "start again")


@dataclass(frozen=True, slots=True)
class FileRange:
    """A range of a file: bytes of its (decompressed) text, or rows of a .parquet; `stop` None is the end."""

    file: SourceFile
    start: int = 0
    stop: int | None = None
    starts_document: bool = True  # `text` only: the document begins in this range
    ends_document: bool = True  # and ends in it; a long document has several ranges
    split: Split | None = None  # None: decided by the hash of each document
    duplicates: tuple[int, ...] = ()  # positions of its documents that are left out

    def identity(self, content_sha256: str) -> list[object]:
        """Return all that decides the text of the range, for the key of its task."""
        file, bounds = self.file, (self.start, self.stop, self.starts_document, self.ends_document)
        return [file.name, content_sha256, file.kind, file.compression, *bounds, self.split, self.duplicates]

    def read_blocks(self, size: int = BLOCK_BYTES) -> Iterator[bytes]:
        """Yield the bytes of the range in blocks. Raises DataError if the file cannot be read."""
        self.file.require_unchanged()
        try:
            with pa.input_stream(str(self.file.path), compression=self.file.compression) as stream:
                yield from self._read_range(stream, size)
        except OSError as error:
            raise DataError(f"{self.file.path} cannot be read: {error}", "it is damaged: get it again") from None

    def _read_range(self, stream: Any, size: int) -> Iterator[bytes]:
        if self.file.compression is None:
            stream.seek(self.start)
        else:
            skip = self.start
            while skip and (block := stream.read(min(skip, BLOCK_BYTES))):
                skip -= len(block)
        remaining = (sys.maxsize if self.stop is None else self.stop) - self.start
        while remaining and (block := stream.read(min(size, remaining))):
            yield block
            remaining -= len(block)

    def read_lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield (offset in the file, block of whole lines), without a byte order mark."""
        offset, rest = self.start, [b""]
        for block in self.read_blocks():
            cut = block.rfind(b"\n") + 1
            if not cut:
                rest.append(block)
                continue
            lines = b"".join((*rest, block[:cut]))
            yield _strip_bom(offset, lines)
            offset += len(lines)
            rest = [block[cut:]]
        if last := b"".join(rest):
            yield _strip_bom(offset, last)


def cut_into_parts(blocks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Cut a stream of bytes at safe positions into (part, whether it is the last); memory stays bounded."""
    buffer = b""
    for block in blocks:
        buffer += block
        while len(buffer) > PART_BYTES:
            cut = find_last_cut(buffer[: PART_BYTES + 1])
            if not cut and len(buffer) <= MAX_PART_BYTES:
                cut = find_last_cut(buffer)
                if not cut:
                    break
            cut = cut or character_start(buffer, MAX_PART_BYTES)
            yield buffer[:cut], False
            buffer = buffer[cut:]
    if buffer:
        yield buffer, True


def find_last_cut(raw: bytes) -> int:
    """Return the last safe position to cut strictly inside of `raw`, or 0."""
    for length in (1 << 12, 1 << 16, len(raw)):
        for pattern in _SAFE_CUTS:
            cuts = [match.start() for match in pattern.finditer(raw, max(1, len(raw) - length))]
            if cuts:
                return cuts[-1]
    return 0


def character_start(raw: bytes, target: int) -> int:
    """Return the start of the UTF-8 character that `target` lies in."""
    return next((cut for cut in range(target, max(target - 4, 0), -1) if raw[cut] & 0xC0 != 0x80), target)


def _strip_bom(offset: int, raw: bytes) -> tuple[int, bytes]:
    return (len(BOM), raw[len(BOM) :]) if offset == 0 and raw.startswith(BOM) else (offset, raw)
