"""How many validation documents are trained on too, exactly or nearly, by their tokens; how many are alike.

    train documents --hash of the first and the last 16 tokens--> candidates --compared in full--> exact, near

A document is near another one if its beginning and its end that are the same make up four fifths of the longer:
a word changed, added or left out anywhere. Of large splits evenly spread shards and documents are looked at. A
document that goes on in the next shard is not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candlewick.data.tokens.dataset import Indices, Tokens, TokenSplit
from candlewick.data.tokens.maps import require_readable

_ENDS_TOKENS = 16
_NEAR_SHARE = 0.8
_MAX_VALIDATION_DOCUMENTS = 20_000
_MAX_TRAINING_DOCUMENTS = 500_000
_MAX_OPEN_SHARDS = 64
_MAX_COMPARED = 200_000
_BLOCK_DOCUMENTS = 1 << 16  # that are hashed at a time
_MAX_ALIKE = 8  # validation documents with the same beginning that one is compared with
_FACTORS = np.cumprod(np.full(_ENDS_TOKENS, 0x9E3779B97F4A7C15, np.uint64))
Hashes = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Numbers of validation documents."""

    documents: int  # that were looked at
    exact: int  # that are trained on
    near: int  # that are trained on in nearly the same form
    is_sample: bool  # not all documents were looked at


def count_overlap(training: Sequence[TokenSplit], validation: TokenSplit) -> Overlap:
    """Count the documents of a validation split that a training split has too."""
    documents = [
        document for shard in _shards([validation], _MAX_VALIDATION_DOCUMENTS) for document in _cut(*shard)
    ]
    documents = documents[:: -(-len(documents) // _MAX_VALIDATION_DOCUMENTS) or 1]
    alike: dict[int | tuple[int, ...], list[int]] = {}
    for number, document in enumerate(documents):
        ends = np.array([0], np.int64), np.array([len(document)], np.int64)
        heads, tails = _hash_ends(document, *ends)
        for key in _keys(int(heads[0]), int(tails[0]), len(document)):
            alike.setdefault(key, []).append(number)
    known = np.array([key for key in alike if isinstance(key, int)], np.uint64)
    exact, near, compared, seen = set[int](), set[int](), 0, 0
    for tokens, starts, ends in _shards(training, _MAX_TRAINING_DOCUMENTS):
        heads, tails = _hash_ends(tokens, starts, ends)
        seen += starts.size
        for index in np.flatnonzero(np.isin(heads, known) | np.isin(tails, known)).tolist():
            document = tokens[starts[index] : ends[index]]
            for key in _keys(int(heads[index]), int(tails[index]), len(document)):
                for number in alike.get(key, ())[:_MAX_ALIKE] if compared < _MAX_COMPARED else ():
                    compared += 1
                    share = _common_share(documents[number], document)
                    if share >= _NEAR_SHARE:
                        (exact if share == 1 else near).add(number)
    total = sum(split.num_documents for split in training)
    is_sample = seen < total or len(documents) < validation.num_documents or compared == _MAX_COMPARED
    return Overlap(len(documents), len(exact), len(near - exact), is_sample)


def count_alike(folder: Path, details: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many documents share the most frequent beginning and end, and how many were looked at.

    `folder` has the shards that the `details` of a manifest list.
    """
    shards = details["shards"][:: -(-len(details["shards"]) // _MAX_OPEN_SHARDS)]
    paths = [folder / f"shards/{shard['name']}.bin" for shard in shards]
    dtype: np.dtype[Any] = np.dtype(details["dtype"])
    tokens = tuple(np.memmap(path, dtype, "r") for path in paths)
    ends = tuple(np.fromfile(path.with_suffix(".idx"), "<u8") for path in paths)
    both = TokenSplit("both", "", tokens, (), 0, 0, details["delimiter"]["id"], ends)
    hashes = [_hash_ends(*shard) for shard in _shards([both], _MAX_TRAINING_DOCUMENTS)]
    keys = np.concatenate([np.empty(0, np.uint64), *(heads * _FACTORS[0] + tails for heads, tails in hashes)])
    return int(np.unique(keys, return_counts=True)[1].max(initial=0)), keys.size


def _keys(head: int, tail: int, length: int) -> tuple[int | tuple[int, ...], ...]:
    """Return under what a document is found: first what exact copies have in common."""
    return (head, tail, length), head, tail


def _shards(splits: Sequence[TokenSplit], max_documents: int) -> Iterator[tuple[Tokens, Indices, Indices]]:
    """Yield tokens, starts and ends of the whole documents of shards in blocks; of too many, every n-th shard."""
    step = -(-sum(split.num_documents for split in splits) // max_documents) or 1
    for split in splits:
        for number in range(0, len(split.shards), step):
            tokens, ends = split.shards[number], split.document_ends[number].astype(np.int64)
            require_readable(tokens, [0], tokens.size)
            starts = np.concatenate(([0], ends[:-1])) if ends.size else ends
            if ends.size and tokens[0] != split.delimiter_id:  # it goes on with a document
                starts, ends = starts[1:], ends[1:]
            for low in range(0, ends.size, _BLOCK_DOCUMENTS):
                yield tokens, starts[low : low + _BLOCK_DOCUMENTS], ends[low : low + _BLOCK_DOCUMENTS]


def _cut(tokens: Tokens, starts: Indices, ends: Indices) -> Iterator[Tokens]:
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        yield tokens[start:end].copy()


def _hash_ends(tokens: Tokens, starts: Indices, ends: Indices) -> tuple[Hashes, Hashes]:
    """Return hashes of the first and of the last tokens of documents, the delimiter not counted."""
    offsets = np.arange(_ENDS_TOKENS)
    heads = starts[:, None] + 1 + offsets
    tails = ends[:, None] - 1 - offsets
    return tuple(_hash(tokens, places, starts, ends, i) for i, places in enumerate((heads, tails)))  # pyright: ignore[reportReturnType]


def _hash(tokens: Tokens, places: Indices, starts: Indices, ends: Indices, side: int) -> Hashes:
    inside = (places > starts[:, None]) & (places < ends[:, None])
    values = np.where(inside, tokens[np.clip(places, 0, max(len(tokens) - 1, 0))].astype(np.uint64) + 1, 0)
    return (values * _FACTORS).sum(axis=1, dtype=np.uint64) * np.uint64(2) + np.uint64(side)


def _common_share(first: Tokens, second: Tokens) -> float:
    """Return which share of the longer document its beginning and end are that the other one has too."""
    shorter, longer = min(len(first), len(second)), max(len(first), len(second))
    different = np.flatnonzero(first[:shorter] != second[:shorter])
    if not different.size and shorter == longer:
        return 1.0
    head = int(different[0]) if different.size else shorter
    rest = shorter - head
    different = np.flatnonzero(first[len(first) - rest :][::-1] != second[len(second) - rest :][::-1])
    tail = int(different[0]) if different.size else rest
    return min((head + tail) / longer, 1 - 1 / (longer + 1))
