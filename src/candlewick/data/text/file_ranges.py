"""A range of a text file is the unit of work; long documents are cut into parts at safe positions.

    file     |aaaaaaaaaaaa|bbbbbbbbbbb|cccccc|     ranges: [start, stop) in bytes of text, or rows of a .parquet
    document |part|part|part|part|part|part|       parts: at most a few MiB of text each, so that memory is bounded

Cut at a border that its pre-tokenizer draws, a text keeps its ids in byte-level BPE. Two borders are safe:

    ...word| word...      before a space that follows a visible ASCII character
    ...\\n|word...         after a newline before what is visible and no slash, as `\\s*[\\r\\n]+` of GPT-4

A text without either for `MAX_PART_BYTES` is cut between two characters: one pre-token becomes two.
"""

import lzma
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from candlewick.errors import DataError
from candlewick.hub import HubFile, HubUri

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
Kind = Literal["text", "lines", "jsonl", "array", "csv", "tsv", "parquet", "arrow", "tokens"]
"""text: one document; lines: one in each line; tokens: ids; the others hold rows, array those of a JSON array."""
READ_ERRORS = (OSError, EOFError, MemoryError, lzma.LZMAError, pa.ArrowException)
"""What reading a compressed file that is damaged raises."""
Compression = Literal["gzip", "zstd", "bz2", "xz"]
Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file of text: name in its corpus, format, size. One of the Hub has no path before it is downloaded."""

    name: str
    kind: Kind
    compression: Compression | None
    bytes: int
    path: Path = Path()
    modified_ns: int = 0  # with the size it shows a change
    hub: tuple[HubUri, HubFile] | None = None  # where it lies on the Hub
    max_text_bytes: int = sys.maxsize  # that it may have when it is decompressed
    index: "TextFile | None" = None  # of tokens: NAME.idx beside it, which may say where documents begin

    @property
    def place(self) -> Path | tuple[str, str]:
        """Where the file is, whatever its name, and on the Hub at whichever commit."""
        return self.path if self.hub is None else (self.hub[0].name, self.hub[1].path)

    @property
    def is_addressed_by_bytes(self) -> bool:
        """Whether ranges are of bytes of text; else they are of rows."""
        return self.kind in ("text", "lines", "jsonl")

    def require_unchanged(self) -> None:
        """Raise DataError if the file is gone, or has another size or time than at first."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}", "restore it") from None
        if (status.st_size, status.st_mtime_ns) != (self.bytes, self.modified_ns):
            raise DataError(f"{self.path} changed while it was being used", "start again")
        if self.index is not None:
            self.index.require_unchanged()


class RowCut(NamedTuple):
    """A row of a range that is not read whole: its end from a place on, or its beginning up to there."""

    position: int  # of the row
    characters: int
    is_end: bool


@dataclass(frozen=True, slots=True)
class FileRange:
    """A range of a file: bytes of its (decompressed) text, rows, or ids; `stop` None is the end."""

    file: TextFile
    start: int = 0
    stop: int | None = None
    starts_document: bool = True  # `text` only: the document begins in this range
    ends_document: bool = True  # and ends in it; a long document has several ranges
    split: Split | None = None  # None: decided by the hash of each document
    duplicates: tuple[int, ...] = ()  # positions of its documents that are left out
    cut: RowCut | None = None
    is_utf8: bool | None = None  # the whole file; None: not known, see `decide_utf8`

    def identity(self, content_sha256: str) -> list[object]:
        """Return all that decides the text of the range, for the key of its task."""
        file, bounds = self.file, (self.start, self.stop, self.starts_document, self.ends_document)
        return [
            file.name,
            content_sha256,
            file.kind,
            file.compression,
            *bounds,
            self.split,
            self.duplicates,
            self.cut,
        ]

    def read_blocks(self, size: int = BLOCK_BYTES) -> Iterator[bytes]:
        """Yield the bytes of the range in blocks. Raises DataError if the file cannot be read."""
        self.file.require_unchanged()
        try:
            with closing(open_stream(self.file.path, self.file.compression)) as stream:
                yield from self._read_range(stream, size)
        except READ_ERRORS as error:
            raise DataError(
                f"{self.file.path} cannot be read: {str(error)[:200]}", "it is damaged: get it again"
            ) from None

    def _read_range(self, stream: Any, size: int) -> Iterator[bytes]:
        if self.file.compression is None:
            stream.seek(self.start)
        else:
            skip = self.start
            while skip and (block := stream.read(min(skip, BLOCK_BYTES))):
                skip -= len(block)
        remaining = (sys.maxsize if self.stop is None else self.stop) - self.start
        offset = self.start
        while remaining and (block := stream.read(min(size, remaining))):
            yield block
            remaining -= len(block)
            offset += len(block)
            if offset > self.file.max_text_bytes:
                raise DataError(
                    f"{self.file.path} has {self.file.bytes} bytes, and more than {self.file.max_text_bytes} when "
                    "it is decompressed",
                    "raise data.max_expansion if that is right",
                )

    def read_lines(
        self, max_line_bytes: int = sys.maxsize, block_bytes: int = BLOCK_BYTES
    ) -> Iterator[tuple[int, bytes]]:
        """Yield (offset in the file, block of whole lines), without a byte order mark. Raises DataError."""
        offset, rest, size = self.start, [b""], 0
        for block in self.read_blocks(block_bytes):
            cut = block.rfind(b"\n") + 1
            size += len(block)
            if not cut:
                rest.append(block)
                if size > max_line_bytes:
                    raise DataError(
                        f"{self.file.path}, byte {offset}: a line of more than {max_line_bytes} bytes",
                        "raise data.max_document_bytes, or cut the line",
                    )
                continue
            size = len(block) - cut
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
    if b" " not in raw and b"\n" not in raw:
        return 0  # the patterns would look at each byte
    for length in (1 << 12, 1 << 16, len(raw)):
        for pattern in _SAFE_CUTS:
            cuts = [match.start() for match in pattern.finditer(raw, max(1, len(raw) - length))]
            if cuts:
                return cuts[-1]
    return 0


def character_start(raw: bytes, target: int) -> int:
    """Return the start of the UTF-8 character that `target` lies in."""
    return next((cut for cut in range(target, max(target - 4, 0), -1) if raw[cut] & 0xC0 != 0x80), target)


def open_stream(path: Path, compression: Compression | None) -> Any:
    """Open a file for reading its decompressed bytes. Raises OSError."""
    if compression == "xz":
        return lzma.open(path)
    return (
        path.open("rb", buffering=0)
        if compression is None
        else pa.input_stream(str(path), compression=compression)
    )


def _strip_bom(offset: int, raw: bytes) -> tuple[int, bytes]:
    return (len(BOM), raw[len(BOM) :]) if offset == 0 and raw.startswith(BOM) else (offset, raw)
