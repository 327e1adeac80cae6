"""Splits of tokens in memory, whose tokens are their own positions."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from candlewick.data.tokens.dataset import TokenSplit


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
