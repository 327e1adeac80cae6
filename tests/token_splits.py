"""Splits of tokens in memory, whose tokens are their own positions, and shards written at once."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candlewick.artifacts.manifest import FileEntry, replace_durable
from candlewick.data.tokens.dataset import Shard, Tokens, TokenSplit


def count_up(bounds: Sequence[int], masks: Sequence[int] | None = None, **fields: Any) -> TokenSplit:
    """Return the training split of tokens 0, 1, 2, ... in shards between bounds; a token is 4 bytes of text."""
    spans = list(itertools.pairwise(bounds))
    return TokenSplit(
        name="train",
        dataset_id=fields.pop("dataset_id", "id"),
        shards=tuple(np.arange(low, high, dtype=np.uint16) for low, high in spans),
        shard_starts=tuple(bounds[:-1]),
        num_tokens=bounds[-1],
        num_bytes=4 * bounds[-1],
        masks=None if masks is None else tuple(np.array(masks[low:high], np.uint8) for low, high in spans),
        **fields,
    )


def make_split(
    documents: Sequence[int], cuts: Sequence[int] = (), masks: Sequence[int] | None = None, dataset_id: str = "id"
) -> TokenSplit:
    """Return a split of documents of these lengths, in shards that begin at `cuts`; 60,000 is the delimiter."""
    ends = np.cumsum(documents)
    total = int(ends[-1])
    bounds = sorted({0, total, *(cut % total for cut in cuts)})
    spans = itertools.pairwise(bounds)
    ends_of_shards = tuple((ends[(ends > low) & (ends <= high)] - low).astype(np.uint64) for low, high in spans)
    return count_up(bounds, masks, delimiter_id=60_000, document_ends=ends_of_shards, dataset_id=dataset_id)


def write_shard(
    folder: Path,
    shard: Shard,
    tokens: Iterable[Tokens],
    document_ends: NDArray[np.uint64],
    masks: Iterable[NDArray[np.uint8]] = (),
) -> list[FileEntry]:
    """Write the shard's files into `folder`/shards, durably; a reader never sees an incomplete file."""
    contents: dict[str, Iterable[NDArray[Any]]] = {"bin": tokens, "idx": [document_ends.astype("<u8")]}
    if shard.targets is not None:
        contents["msk"] = masks
    entries: list[FileEntry] = []
    for extension, arrays in contents.items():
        name = f"shards/{shard.name}.{extension}"
        entries.append(replace_durable(folder / name, (array.tobytes() for array in arrays), name))
    return entries
