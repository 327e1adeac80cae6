"""The key-value cache: keys and values of past tokens, so that each token is computed once.

    keys, values   (L, B, K, max_tokens, d)   allocated once, filled from the left
                   [ past ......... | new | free ............ ]
                     0 .. length      +T

New tokens begin at the position `length`, which grows after the last layer. Attention reads views: no step copies
the past. `paged` is a cache for texts that may end early.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

CacheShape = tuple[int, int, int, int, int]
"""(L, B, K, max_tokens, d)"""


class KVCache(ABC):
    """Keys and values of all layers for B rows of equal length, up to `max_tokens`."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens, self.length = max_tokens, 0

    def reserve(self, count: int) -> int:
        """Return the position of the first of `count` new tokens. Raises ValueError if they do not fit."""
        if self.length + count > self.max_tokens:
            raise ValueError(
                f"the cache holds {self.max_tokens} tokens: {count} more do not fit after {self.length}"
            )
        return self.length

    @abstractmethod
    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's keys and values (B, K, T, d) of the tokens that were reserved last.

        Returns those of the past and the new tokens, each (B, K, past + T, d).
        """

    def rewind(self, length: int) -> None:
        """Forget all tokens but the first `length`."""
        self.length = length


class ContiguousCache(KVCache):
    """A cache whose memory is allocated when it is made."""

    def __init__(self, shape: CacheShape, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(shape[3])
        self.keys, self.values = (torch.empty(shape, dtype=dtype, device=device) for _ in range(2))

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store and return them as `KVCache.append` does; the results are views."""
        keys, values, end = self.keys[layer], self.values[layer], self.length + k.shape[2]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]
