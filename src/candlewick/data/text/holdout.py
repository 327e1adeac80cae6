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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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


_Cut = tuple[tuple[FileRange, ...], int]  # the ranges of a file, and how much of it is held out


@dataclass
class _Held:
    """What is held out so far: the places where texts are cut, and the sizes of rows, by their digests."""

    cuts: dict[str, int] = field(default_factory=dict[str, int])
    rows: dict[bytes, int] = field(default_factory=dict[bytes, int])
    cut_rows: dict[bytes, int] = field(default_factory=dict[bytes, int])  # whose end is held out


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
    tails, held, due, is_owing = Tails(), _Held(), 0.0, True
    for file, corpus in files:
        if file is corpus.files[0]:
            due, is_owing = 0.0, True
        size = sum(row.size for row in rows[file]) if file in rows else _text_size(file)
        due += share * size
        # the last file of a source gives something, if none before did
        is_owed = is_owing and file is corpus.files[-1]
        wanted = max(math.ceil(due), min(MIN_TAIL_BYTES, size // 10) if is_owed else 0)
        least = 1 if is_owed else MIN_TAIL_BYTES
        if file in rows:
            ranges, taken = _cut_rows(file, rows[file], wanted, least, corpus.reading, held)
        else:
            ranges, taken = _cut_text(file, size, wanted, least, held)
        due -= taken
        is_owing &= len(ranges) == 1
        tails.ranges[file] = ranges
    copies = held.rows | held.cut_rows
    for file, corpus in files:
        train, *tail = tails.ranges[file]
        if file in rows:
            train = _without_copies(train, rows[file], copies)
            tails.ranges[file], tails.copies[file] = (train, *tail), len(train.duplicates)
        # a longer file has more characters than any of these rows; of one that is cut the end is held out as well
        elif file.bytes <= 4 * max(copies.values(), default=0) and (held.rows if tail else copies).keys() & {
            row.digest for row in _read_rows(file, corpus)
        }:
            tails.ranges[file], tails.copies[file] = tuple(tail), 1
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


def _cut_text(file: TextFile, size: int, wanted: int, least: int, held: _Held) -> _Cut:
    """Return the ranges of a text, and how much is held out; a copy is cut at the same place and not counted."""
    sha256, tail = content_hash(file), min(wanted, size // 2)
    is_copy = sha256 in held.cuts
    if not is_copy:
        held.cuts[sha256] = _cut_near(file, size - tail) if tail >= least else size
    cut = held.cuts[sha256]
    if cut == size:
        return (FileRange(file, split="train"),), 0
    ranges = FileRange(file, 0, cut, split="train"), FileRange(file, cut, None, split="validation")
    return ranges, 0 if is_copy else size - cut


def _cut_rows(
    file: TextFile, rows: Sequence[_Row], wanted: int, least: int, reading: Reading, held: _Held
) -> _Cut:
    """Return the ranges of a file with rows, and how much is held out, which `held` gets."""
    taken, first, total = 0, len(rows), sum(row.size for row in rows)
    while first > 0 and taken < wanted:
        size = rows[first - 1].size
        is_fitting = taken + size <= 1.5 * wanted or (not taken and size <= MIN_TAIL_BYTES)
        if not is_fitting or taken + size > total / 2:
            break
        taken, first = taken + size, first - 1
    if taken:
        held.rows.update((row.digest, row.size) for row in rows[first:])
        start = rows[first].position
        return (FileRange(file, 0, start, split="train"), FileRange(file, start, None, split="validation")), taken
    tail = min(wanted, rows[-1].size // 2) if rows and reading.format == "text" else 0
    if tail < least or rows[-1].digest in held.rows | held.cut_rows:
        return (FileRange(file, split="train"),), 0
    last = rows[-1]  # it is too large to be held out: the tail of it is
    held.cut_rows[last.digest] = last.size
    text = _row_text(file, last, reading)
    cut = _nearest_end(text, len(text) - tail)
    kept, held_out = RowCut(last.position, cut, is_end=False), RowCut(last.position, cut, is_end=True)
    train = FileRange(file, 0, last.next, split="train", cut=kept)
    return (train, FileRange(file, last.position, last.next, split="validation", cut=held_out)), len(text) - cut


def _without_copies(part: FileRange, rows: Sequence[_Row], held: Mapping[bytes, int]) -> FileRange:
    """Return a range of training text without the rows that are held out elsewhere."""
    stop, own = math.inf if part.stop is None else part.stop, None if part.cut is None else part.cut.position
    copies = (r.position for r in rows if r.position < stop and r.position != own and r.digest in held)
    return replace(part, duplicates=tuple(copies))


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
