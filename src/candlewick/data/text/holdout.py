"""Validation text is held out per document, by one rule for all sources of a run, never by the layout of the work.

given      nothing of the training text is held out: there is a validation corpus, or none is wanted
hash       1,000 documents or more: a document is held out if the hash of its two ends falls into the share, so
           that copies are on one side, whatever their source, case and spaces; added files move nothing
tails      fewer documents: the tails of files, cut after a newline; of rows the last ones of a file, by their size
           A copy of a row that is held out is not trained on, be it a file; copies of a file are cut where it is.
"""

import hashlib
import logging
import math
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal
from zlib import crc32

from candlewick.data.text.corpus import Corpus, content_hash
from candlewick.data.text.documents import Document, TextDefects, read_documents
from candlewick.data.text.file_ranges import FileRange, RowCut, Split, TextFile, character_start
from candlewick.data.text.reading import Reading

Holdout = Literal["given", "hash", "tails"]
MIN_HASHED_DOCUMENTS = 1000
MIN_TAIL_BYTES = 2048
HASHED_CHARACTERS = 1 << 16
"""A longer document is hashed by so many of its first characters, which its first part has."""
_END_BYTES = 64
_END_CHARACTERS = 144  # have so many bytes of letters, mostly
_LOWER = bytes(range(256)).lower()
_IGNORED = (string.whitespace + string.punctuation).encode()
logger = logging.getLogger(__name__)


def document_split(text: str, share: float, seed: int = 0) -> Split:
    """Return the split of a document by the hash of its two ends, which `share` of all hashes hold out."""
    # the factor spreads check sums of texts that differ in few places; SHA-256 costs half a microsecond more
    return "validation" if crc32(find_ends(text), seed) * 0x9E3779B1 % 2**32 < share * 2.0**32 else "train"


def find_ends(text: str) -> bytes:
    """Return the first and the last 64 bytes of a normalized document, with a newline between."""
    text, length = text[:HASHED_CHARACTERS], _END_CHARACTERS
    first, last = normalize(text[:length]), normalize(text[-length:])
    while (len(first) < _END_BYTES or len(last) < _END_BYTES) and length < len(text):
        length *= 2
        first, last = normalize(text[:length]), normalize(text[-length:])
    return first[:_END_BYTES] + b"\n" + last[-_END_BYTES:]


def normalize(text: str) -> bytes:
    """Return a text in UTF-8 without case, and without white space and punctuation of ASCII."""
    encoded = text.encode() if text.isascii() else text.casefold().encode(errors="replace")
    return encoded.translate(_LOWER, _IGNORED)


def explain_share(trained: int, held_out: int, share: float, count_alike: Callable[[], tuple[int, int]]) -> str:
    """Return why far more or fewer documents are held out than `share`, if so many are alike, else "".

    `count_alike` counts the documents with the most frequent ends, and those that it looked at. A warning says the
    same, unless one side is empty, which is the caller's error.
    """
    total = trained + held_out
    wanted = share * total
    error = abs(held_out - wanted)
    if error <= max(wanted / 2, 3 * wanted**0.5):
        return ""
    alike, looked_at = count_alike()
    if alike * total <= error * looked_at / 2:
        return ""
    reason = f"{alike:,} of {looked_at:,} documents share one beginning and end"
    if trained and held_out:
        logger.warning("%d documents are held out, some %d were wanted: %s", held_out, wanted, reason)
    return reason


def choose_holdout(corpora: Sequence[Corpus]) -> Literal["hash", "tails"]:
    """Return how validation text is held out of the sources of a run, by the number of their documents."""
    if not all(corpus.is_local for corpus in corpora):
        return "hash"
    starts = (document for corpus in corpora for document in _starts(corpus))
    return "hash" if sum(1 for _ in islice(starts, MIN_HASHED_DOCUMENTS)) == MIN_HASHED_DOCUMENTS else "tails"


def _starts(corpus: Corpus) -> Iterator[object]:
    """Yield one item for each document; a file that is one is not read."""
    for file in corpus.files:
        if file.kind == "text":
            yield file
        else:
            for document in read_documents(FileRange(file), corpus.reading, TextDefects()):
                if document.starts_document:
                    yield document


@dataclass(frozen=True, slots=True)
class _Row:
    position: int
    next: int | None  # the position of the next row
    size: int  # in characters
    digest: bytes


@dataclass
class Tails:
    """What is held out of the sources of a run that have few documents, file by file."""

    ranges: dict[TextFile, tuple[FileRange, ...]] = field(default_factory=dict[TextFile, tuple[FileRange, ...]])
    copies: dict[TextFile, int] = field(default_factory=dict[TextFile, int])
    """Rows of each file that are not trained on, as they are held out elsewhere; 1 for a file that is a copy."""


def hold_tails(corpora: Sequence[Corpus], share: float) -> Tails:
    """Return the ranges of each file: its beginning for training, and a tail that is held out."""
    files = [(file, corpus) for corpus in corpora for file in corpus.files]
    rows = {file: _read_rows(file, corpus) for file, corpus in files if file.kind != "text"}
    tails, cuts, due, is_owing = Tails(), dict[str, int | None](), 0.0, True
    held, cut_rows = set[bytes](), set[bytes]()  # digests of rows; of a cut one the end is held out
    for file, corpus in files:
        if file is corpus.files[0]:
            due, is_owing = 0.0, True
        is_last = file is corpus.files[-1]
        size = _text_size(file) if file.kind == "text" else sum(row.size for row in rows[file])
        due += share * size
        # the last file of a source gives something, if none before did
        is_owed = is_owing and is_last
        wanted = max(math.ceil(due), min(MIN_TAIL_BYTES, size // 10) if is_owed else 0)
        if file.kind == "text":
            sha256 = content_hash(file)
            if sha256 not in cuts:
                tail = min(wanted, size // 2)
                is_held = tail >= MIN_TAIL_BYTES or (tail > 0 and is_owed)
                cuts[sha256] = _cut_near(file, size - tail) if is_held else None
                due -= size - (cuts[sha256] or size)
            ranges = _cut_text(file, cuts[sha256])
        else:
            ranges, taken = _cut_rows(file, rows[file], wanted, size, held)
            last = rows[file][-1] if rows[file] and corpus.reading.format == "text" else None
            if not taken and last is not None and last.digest not in held | cut_rows:
                least = 1 if is_owed else MIN_TAIL_BYTES
                ranges, taken = _cut_last_row(file, last, least, wanted, corpus.reading)
                cut_rows |= {last.digest} if taken else set()
            due -= taken
        is_owing &= len(ranges) == 1 and ranges[0].split == "train"
        tails.ranges[file] = ranges
    for file, file_rows in rows.items():
        copies = held | cut_rows
        tails.ranges[file] = tuple(_without_copies(part, file_rows, copies, tails) for part in tails.ranges[file])
    sizes = {row.digest: row.size for file_rows in rows.values() for row in file_rows}
    for file, corpus in files:
        copies = held | cut_rows if len(tails.ranges[file]) == 1 else held  # its own end is held out as well
        # a longer file has more characters than any of these rows
        is_short = file.kind == "text" and file.bytes <= 4 * max((sizes[digest] for digest in copies), default=0)
        if is_short and copies.intersection(row.digest for row in _read_rows(file, corpus)):
            tails.ranges[file] = tuple(part for part in tails.ranges[file] if part.split != "train")
            tails.copies[file] = 1
    return tails


def _read_rows(file: TextFile, corpus: Corpus) -> list[_Row]:
    """Return the documents of a file, without those that the corpus leaves out."""
    duplicates = tuple(corpus.duplicates[file].tolist()) if file in corpus.duplicates else ()
    found: list[tuple[int, int, bytes]] = []
    state, size = hashlib.blake2b(digest_size=16), 0
    for part in read_documents(FileRange(file, duplicates=duplicates), corpus.reading, TextDefects()):
        if part.starts_document:
            state, size = hashlib.blake2b(digest_size=16), 0
        if part.chat_text is not None or part.role is None:
            state.update(normalize(part.chat_text or part.text))
        size += len(part.text)
        if part.ends_document:
            found.append((part.position, size, state.digest()))
    nexts = [*(position for position, _, _ in found), None][1:]
    return [_Row(position, n, size, digest) for (position, size, digest), n in zip(found, nexts, strict=True)]


def _cut_text(file: TextFile, cut: int | None) -> tuple[FileRange, ...]:
    if cut is None:
        return (FileRange(file, split="train"),)
    return FileRange(file, 0, cut, split="train"), FileRange(file, cut, None, split="validation")


def _cut_rows(
    file: TextFile, rows: Sequence[_Row], wanted: int, total: int, held: set[bytes]
) -> tuple[tuple[FileRange, ...], int]:
    """Return the ranges of a file with rows, and how much is held out; adds its digests to `held`."""
    taken, first = 0, len(rows)
    while first > 0 and taken < wanted:
        size = rows[first - 1].size
        is_fitting = taken + size <= 1.5 * wanted or (not taken and size <= MIN_TAIL_BYTES)
        if not is_fitting or taken + size > total / 2:
            break
        taken, first = taken + size, first - 1
    if not taken:
        return (FileRange(file, split="train"),), 0
    start = rows[first].position
    held.update(row.digest for row in rows[first:])
    train = () if first == 0 else (FileRange(file, 0, start, split="train"),)
    return (*train, FileRange(file, start, None, split="validation")), taken


def _cut_last_row(
    file: TextFile, row: _Row, least: int, wanted: int, reading: Reading
) -> tuple[tuple[FileRange, ...], int]:
    """Return the ranges of a file whose last row is too large to be held out: the tail of that row is."""
    tail = min(wanted, row.size // 2)
    if tail < least:
        return (FileRange(file, split="train"),), 0
    text = _row_text(file, row, reading)
    cut = _nearest_end(text, len(text) - tail)
    kept, held_out = RowCut(row.position, cut, is_end=False), RowCut(row.position, cut, is_end=True)
    train = FileRange(file, 0, row.next, split="train", cut=kept)
    return (train, FileRange(file, row.position, row.next, split="validation", cut=held_out)), len(text) - cut


def _without_copies(part: FileRange, rows: Sequence[_Row], held: set[bytes], tails: Tails) -> FileRange:
    """Return a range of training text without the rows that are held out elsewhere."""
    if part.split != "train":
        return part
    stop, own = math.inf if part.stop is None else part.stop, None if part.cut is None else part.cut.position
    copies = tuple(r.position for r in rows if r.position < stop and r.position != own and r.digest in held)
    tails.copies[part.file] = len(copies)
    return FileRange(part.file, part.start, part.stop, split=part.split, duplicates=copies, cut=part.cut)


def _row_text(file: TextFile, row: _Row, reading: Reading) -> str:
    parts: Iterator[Document] = read_documents(FileRange(file, row.position, row.next), reading, TextDefects())
    return "".join(part.text for part in parts)


def _text_size(file: TextFile) -> int:
    return file.bytes if file.compression is None else sum(map(len, FileRange(file).read_blocks()))


def _nearest_end(text: str, target: int) -> int:
    """Return the place after the line end, else the space, that is nearest to `target`, if one is near."""
    low, high = max(1, target - MIN_TAIL_BYTES // 2), min(len(text) - 1, target + MIN_TAIL_BYTES // 2)
    for end in ("\n", " "):
        cuts = [text.rfind(end, low, target) + 1, text.find(end, target, high) + 1]
        if inner := [cut for cut in cuts if cut]:
            return min(inner, key=lambda cut: abs(cut - target))
    return target


def _cut_near(file: TextFile, target: int) -> int:
    """Return the position after the newline nearest to byte `target`, or the start of the character there."""
    low = max(0, target - MIN_TAIL_BYTES // 2)
    nearby = b"".join(FileRange(file, low, target + MIN_TAIL_BYTES // 2).read_blocks())
    middle = target - low
    cuts = [nearby.rfind(b"\n", 0, middle) + 1, nearby.find(b"\n", middle) + 1]
    inner = [cut for cut in cuts if 0 < cut < len(nearby)]
    if not inner:
        return low + character_start(nearby, middle)
    return low + min(inner, key=lambda cut: abs(cut - middle))
