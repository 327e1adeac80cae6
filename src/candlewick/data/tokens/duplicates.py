"""Exact duplicates are documents whose text occurs earlier in the corpus; the first occurrence stays.

    corpus --in processes--> hash of each document (128 bits) --one sort--> positions to leave out

Memory: 24 bytes per document, and 24 to sort. A copy of a document of the *other* split stays.
"""

import hashlib
import logging
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from candlewick.data.text.corpus import Corpus, Positions
from candlewick.data.text.documents import TextDefects, read_documents
from candlewick.data.text.file_ranges import FileRange, TextFile
from candlewick.data.text.reading import Reading
from candlewick.data.tokens.plan import group_documents
from candlewick.data.tokens.workers import map_in_order

Hashes = tuple[NDArray[np.int64], NDArray[np.uint64]]  # positions of documents (n,), hashes (n, 2)
logger = logging.getLogger(__name__)


def hash_documents(reading: Reading, file_ranges: tuple[FileRange, ...]) -> list[Hashes]:
    """Return the positions and hashes of the documents of each range."""
    hashes_of_ranges: list[Hashes] = []
    for file_range in file_ranges:
        positions, digests = list[int](), list[bytes]()
        state = hashlib.blake2b(digest_size=16)
        for part in read_documents(file_range, reading, TextDefects()):
            if part.starts_document:
                state = hashlib.blake2b(digest_size=16)
            state.update((part.text if part.role is None else f"{part.text}\n").encode())
            if part.ends_document:
                positions.append(part.position)
                digests.append(state.digest())
        hashes = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)
        hashes_of_ranges.append((np.array(positions, np.int64), hashes))
    return hashes_of_ranges


def find_repeats(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the indices of the hashes, of (n, 2), that occur earlier already, in order."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: of equal ones the first comes first
    ordered = hashes[order]
    return np.sort(order[1:][(ordered[1:] == ordered[:-1]).all(axis=1)])


def remove_duplicates(corpus: Corpus, workers: int, group_bytes: int) -> Corpus:
    """Return the corpus with the positions of its duplicates."""
    files, results = list[TextFile](), list[Hashes]()
    hashing = partial(hash_documents, corpus.reading)
    for ranges, hashes in map_in_order(hashing, group_documents(corpus, group_bytes), workers):
        files += [file_range.file for file_range in ranges]
        results += hashes
    repeats = find_repeats(np.concatenate([hashes for _, hashes in results]))
    positions = np.concatenate([positions for positions, _ in results])[repeats]
    ends = np.cumsum([len(positions) for positions, _ in results])
    parts = np.split(positions, np.searchsorted(repeats, ends[:-1]))
    found: dict[TextFile, list[Positions]] = {}
    for file, part in zip(files, parts, strict=True):
        if part.size:
            found.setdefault(file, []).append(part)
    dropped = {file: np.concatenate(parts) for file, parts in found.items()}
    dropped_files = {file for file in dropped if file.kind == "text"}
    kept = tuple(file for file in corpus.files if file not in dropped_files)
    logger.info("%d documents are duplicates and are left out", len(repeats))
    return replace(corpus, files=kept, duplicates=dropped)
