"""A piece of a text file, the unit of work, and the places where a long text may be cut.

    file     |aaaaaaaaaaaa|bbbbbbbbbbb|cccccc|     pieces: [start, stop) in bytes of text, or rows of a .parquet
    document |part|part|part|part|part|part|       parts: at most a few MiB of text each, so that memory is bounded

Cut at a border that its pre-tokenizer draws, a text has the same ids as whole in byte-level BPE. Two are sure:

    ...word| word...      before a space that follows a visible ASCII character
    ...\\n|word...         after a newline that a visible character follows, as `\\s*[\\r\\n]+` of GPT-4 and later

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
    re.compile(rb"(?<=\n)(?=[!-~\xc3-\xe0\xe4-\xf4])"),
)
Kind = Literal["text", "lines", "jsonl", "parquet", "chat"]
Compression = Literal["gzip", "zstd"]
Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of text: where it is, what a corpus calls it, how to read it, and how to see that it changed."""

    path: Path
    name: str
    kind: Kind
    compression: Compression | None
    bytes: int  # on disk
    modified_ns: int

    def require_unchanged(self) -> None:
        """Raise DataError if the file is gone or is not the one that was found first."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}", "restore it") from None
        if (status.st_size, status.st_mtime_ns) != (self.bytes, self.modified_ns):
            raise DataError(f"{self.path} changed while it was being used", "start again")


@dataclass(frozen=True, slots=True)
class FileRange:
    """Part of a file: bytes of its (decompressed) text, or rows of a .parquet; `stop` None is the end."""

    file: SourceFile
    start: int = 0
    stop: int | None = None
    starts_document: bool = True  # `text` only: a document begins here,
    ends_document: bool = True  # and ends here; a long document has several pieces
    split: Split | None = None  # None: each document's hash decides
    duplicates: tuple[int, ...] = ()  # places of documents in it that are left out

    def read_blocks(self, size: int = BLOCK_BYTES) -> Iterator[bytes]:
        """Yield the bytes of the piece in blocks. Raises DataError for what cannot be read."""
        self.file.require_unchanged()
        try:
            with pa.input_stream(str(self.file.path), compression=self.file.compression) as stream:
                yield from self._read_range(stream, size)
        except OSError as error:
            raise DataError(
                f"{self.file.path} cannot be read: {error}", "it is damaged or cut short: get it again"
            ) from None

    def _read_range(self, stream: Any, size: int) -> Iterator[bytes]:
        if self.file.compression is None:
            stream.seek(self.start)
        else:
            skip = self.start
            while skip and (block := stream.read(min(skip, BLOCK_BYTES))):
                skip -= len(block)
        left = (sys.maxsize if self.stop is None else self.stop) - self.start
        while left and (block := stream.read(min(size, left))):
            yield block
            left -= len(block)

    def read_lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield (offset of its first byte in the file, block of whole lines), without a byte order mark."""
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
    """Cut a stream of bytes at safe places into (part, whether it is the last); memory stays bounded."""
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
    """Return the last safe place to cut strictly inside of `raw`, or 0."""
    for window in (1 << 12, 1 << 16, len(raw)):
        for pattern in _SAFE_CUTS:
            places = [place.start() for place in pattern.finditer(raw, max(1, len(raw) - window))]
            if places:
                return places[-1]
    return 0


def character_start(raw: bytes, target: int) -> int:
    """Return the start of the UTF-8 character that `target` lies in."""
    return next((cut for cut in range(target, max(target - 4, 0), -1) if raw[cut] & 0xC0 != 0x80), target)


def _strip_bom(offset: int, raw: bytes) -> tuple[int, bytes]:
    return (len(BOM), raw[len(BOM) :]) if offset == 0 and raw.startswith(BOM) else (offset, raw)
