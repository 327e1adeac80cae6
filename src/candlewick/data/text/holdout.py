"""Validation text is held out per document, never by the layout of the work.

given      nothing of the training text is held out: there is a validation corpus, or none is wanted
hash       1,000 documents or more: a document is held out if its hash falls into the share, so that
           copies of a text are all on the same side, and added files move nothing
tails      fewer documents: the tails of files, cut after a newline, or whole rows at a file's end
"""

import hashlib
import math
from collections.abc import Iterator
from itertools import count, islice
from typing import Literal

from candlewick.data.text.corpus import Corpus
from candlewick.data.text.documents import count_documents
from candlewick.data.text.file_ranges import FileRange, SourceFile, Split, character_start

Holdout = Literal["given", "hash", "tails"]
MIN_HASHED_DOCUMENTS = 1000
MIN_TAIL_BYTES = 2048


def document_split(text: str, share: float, digest: str | None = None) -> Split:
    """Return the split of a document by its digest, else by that of its length and its first 1,024 characters."""
    head = f"{len(text)}\n{text[:1024]}".encode()
    return hash_split(digest or hashlib.sha256(head).hexdigest(), share)


def hash_split(sha256: str, share: float) -> Split:
    """Return the split that a hash in hex stands for: validation for about `share` of all hashes."""
    return "validation" if int(sha256[:16], 16) < share * 2.0**64 else "train"


def choose_holdout(corpus: Corpus) -> Literal["hash", "tails"]:
    """Return how validation text is held out of a corpus, by its number of documents."""
    num_documents = 0
    for file in corpus.files:
        num_duplicates = len(corpus.duplicates.get(file, ()))
        limit = MIN_HASHED_DOCUMENTS - num_documents + num_duplicates
        num_documents += count_documents(FileRange(file), corpus.config, limit) - num_duplicates
        if num_documents >= MIN_HASHED_DOCUMENTS:
            return "hash"
    return "tails"


def assign_splits(corpus: Corpus, holdout: Holdout) -> Iterator[FileRange]:
    """Yield every file as ranges with a split; rows held out by hash get theirs while they are read."""
    if holdout == "tails":
        yield from _hold_tails(corpus)
        return
    for file, sha256 in zip(corpus.files, corpus.hashes, strict=True):
        by_hash = hash_split(sha256, corpus.config.validation_fraction) if file.kind == "text" else None
        yield FileRange(file, split="train" if holdout == "given" else by_hash)


def _hold_tails(corpus: Corpus) -> Iterator[FileRange]:
    share = corpus.config.validation_fraction
    due_bytes, due_rows = 0.0, 0.0
    last_text = next((file for file in reversed(corpus.files) if file.kind == "text"), None)
    is_owing = True  # until something is held out
    for file in corpus.files:
        cut = None
        if file.kind == "text":
            size = file.bytes if file.compression is None else sum(map(len, FileRange(file).read_blocks()))
            due_bytes += share * size
            tail = min(math.ceil(due_bytes), size // 2)
            if tail >= MIN_TAIL_BYTES or (tail and is_owing and file is last_text):
                cut = _cut_near(file, size - tail)
                due_bytes -= size - cut
        else:
            duplicates = frozenset(corpus.duplicates.get(file, ()))
            rows = count_documents(FileRange(file), corpus.config) - len(duplicates)
            due_rows += share * rows
            held = min(math.ceil(due_rows), rows)
            due_rows -= held
            cut = row_offset(file, rows - held, duplicates) if held else None
        is_owing &= cut is None
        if cut != 0:
            yield FileRange(file, 0, cut, split="train")
        if cut is not None:
            yield FileRange(file, cut, None, split="validation")


def _cut_near(file: SourceFile, target: int) -> int:
    """Return the position after the newline nearest to byte `target`, or the start of the character there."""
    low = max(0, target - MIN_TAIL_BYTES // 2)
    nearby = b"".join(FileRange(file, low, target + MIN_TAIL_BYTES // 2).read_blocks())
    middle = target - low
    cuts = [nearby.rfind(b"\n", 0, middle) + 1, nearby.find(b"\n", middle) + 1]
    inner = [cut for cut in cuts if 0 < cut < len(nearby)]
    if not inner:
        return low + character_start(nearby, middle)
    return low + min(inner, key=lambda cut: abs(cut - middle))


def row_offset(file: SourceFile, row: int, duplicates: frozenset[int]) -> int | None:
    """Return the start of the range that begins with row number `row`, `duplicates` not counted."""
    offsets = count() if file.kind == "parquet" else _row_offsets(file)
    return next(islice((offset for offset in offsets if offset not in duplicates), row, None), None)


def _row_offsets(file: SourceFile) -> Iterator[int]:
    for offset, block in FileRange(file).read_lines():
        for line in block.split(b"\n"):
            if line.strip():
                yield offset
            offset += len(line) + 1
