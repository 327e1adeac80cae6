"""Exact duplicates: documents whose text stands earlier in the corpus already. The first of them stays.

    corpus --in processes--> hash of each document (128 bits) --one sort--> places to leave out

Memory: 24 bytes per document, and 24 to sort. What repeats a document of the *other* side stays.
"""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from candlewick.config import DataConfig
from candlewick.data.text.corpus import Corpus
from candlewick.data.text.documents import Document, TextDefects, read_documents
from candlewick.data.text.file_ranges import FileRange, SourceFile
from candlewick.data.tokens.plan import group_documents
from candlewick.data.tokens.workers import map_in_processes

logger = logging.getLogger(__name__)


def hash_documents(
    config: DataConfig, pieces: tuple[FileRange, ...]
) -> list[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
    """Return of each piece the places of its documents (n,) and their hashes (n, 2)."""
    found: list[tuple[NDArray[np.int64], NDArray[np.uint64]]] = []
    for piece in pieces:
        rows = list(_hash_each(read_documents(piece, config, TextDefects())))
        hashes = np.frombuffer(b"".join(digest for _, digest in rows), np.uint64).reshape(-1, 2)
        found.append((np.array([place for place, _ in rows], np.int64), hashes))
    return found


def _hash_each(parts: Iterator[Document]) -> Iterator[tuple[int, bytes]]:
    """Yield the position of each document and the hash of its text; `parts` may be parts of documents."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        if part.starts_document:
            state = hashlib.blake2b(digest_size=16)
        if part.role is None:
            state.update(part.text.encode())
        elif part.chat_sha256 is not None:
            state.update(part.chat_sha256.encode())
        if part.ends_document:
            yield part.position, state.digest()


def find_repeats(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return which of n hashes, (n, 2), stand earlier already, in order."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: of equal ones the first comes first
    ordered = hashes[order]
    return np.sort(order[1:][(ordered[1:] == ordered[:-1]).all(axis=1)])


def remove_duplicates(corpus: Corpus, workers: int) -> Corpus:
    """Return the corpus with the positions of its duplicates, if `data.deduplicate` asks for it."""
    if not corpus.config.deduplicate:
        return corpus
    groups, hashing = group_documents(corpus), partial(hash_documents, corpus.config)
    by_number = dict(map_in_processes(hashing, groups, workers))
    found = [item for number in range(len(groups)) for item in by_number[number]]
    files = [piece.file for group in groups for piece in group]
    doubles = find_repeats(np.concatenate([hashes for _, hashes in found]))
    places = np.concatenate([places for places, _ in found])[doubles].tolist()
    owners = np.searchsorted(np.cumsum([len(places) for places, _ in found]), doubles, "right").tolist()
    dropped: dict[SourceFile, tuple[int, ...]] = {}
    for file, own in groupby(zip(owners, places, strict=True), lambda item: files[item[0]]):
        dropped[file] = tuple(place for _, place in own)
    gone = {file for file in dropped if file.kind == "text"}
    kept = tuple(file for file in corpus.files if file not in gone)
    logger.info("%d documents are duplicates and are left out", len(doubles))
    return replace(corpus, files=kept, duplicates=dropped)
