"""Exact duplicates are documents whose text occurs earlier in the corpus; the first occurrence stays.

    corpus --in processes--> hash of each document (128 bits) --one sort--> positions to leave out

Memory: 24 bytes per document, and 24 to sort. A copy of a document of the *other* split stays.
"""

import hashlib
import logging
from dataclasses import replace
from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from candlewick.config import DataConfig
from candlewick.data.text.corpus import Corpus
from candlewick.data.text.documents import TextDefects, read_documents
from candlewick.data.text.file_ranges import FileRange, SourceFile
from candlewick.data.tokens.plan import group_documents
from candlewick.data.tokens.workers import map_in_processes

Hashes = tuple[NDArray[np.int64], NDArray[np.uint64]]  # positions of documents (n,), hashes (n, 2)
logger = logging.getLogger(__name__)


def hash_documents(config: DataConfig, file_ranges: tuple[FileRange, ...]) -> list[Hashes]:
    """Return the positions and hashes of the documents of each range."""
    hashes_of_ranges: list[Hashes] = []
    for file_range in file_ranges:
        positions, digests = list[int](), list[bytes]()
        state = hashlib.blake2b(digest_size=16)
        for part in read_documents(file_range, config, TextDefects()):
            if part.starts_document:
                state = hashlib.blake2b(digest_size=16)
            if part.role is None:
                state.update(part.text.encode())
            elif part.chat_sha256 is not None:
                state.update(part.chat_sha256.encode())
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


def remove_duplicates(corpus: Corpus, workers: int) -> Corpus:
    """Return the corpus with the positions of its duplicates, if `data.deduplicate` asks for it."""
    if not corpus.config.deduplicate:
        return corpus
    range_groups, hashing = group_documents(corpus), partial(hash_documents, corpus.config)
    by_number = dict(map_in_processes(hashing, range_groups, workers))
    results = [item for number in range(len(range_groups)) for item in by_number[number]]
    files = [file_range.file for range_group in range_groups for file_range in range_group]
    repeats = find_repeats(np.concatenate([hashes for _, hashes in results]))
    positions = np.concatenate([positions for positions, _ in results])[repeats].tolist()
    owners = np.searchsorted(np.cumsum([len(positions) for positions, _ in results]), repeats, "right").tolist()
    dropped: dict[SourceFile, tuple[int, ...]] = {}
    for file, items in groupby(zip(owners, positions, strict=True), lambda item: files[item[0]]):
        dropped[file] = tuple(position for _, position in items)
    dropped_files = {file for file in dropped if file.kind == "text"}
    kept = tuple(file for file in corpus.files if file not in dropped_files)
    logger.info("%d documents are duplicates and are left out", len(repeats))
    return replace(corpus, files=kept, duplicates=dropped)
