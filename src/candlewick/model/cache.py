"""The key-value cache: what attention needs of the tokens already read, so that they are not read again.

    keys, values   (L, B, K, max_tokens, d)   allocated once, filled from the left
                   [ past ......... | new | free ............ ]
                     0 .. length      +T

Positions of new tokens come from its length, which moves on after the last layer. What attention reads is a view:
no step copies the past. `paged` is the same for texts that may end early.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Shape = tuple[int, int, int, int, int]
"""(L, B, K, max_tokens, d)"""


class LayerCache(Protocol):
    """One layer of a cache."""

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, K, T, d); return past and new together, (B, K, past + T, d)."""
        ...


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
    def layer(self, index: int) -> LayerCache:
        """Return one layer, for the tokens reserved last."""

    def advance(self, count: int) -> None:
        """Count `count` tokens as read; called once per pass, after the last layer."""
        self.length += count

    def rewind(self, length: int) -> None:
        """Forget all tokens but the first `length`."""
        self.length = length


@dataclass(frozen=True, slots=True)
class _Slice:
    """One layer's slice of the cache, for tokens that come after the first `start`."""

    keys: Tensor  # (B, K, max_tokens, d)
    values: Tensor  # (B, K, max_tokens, d)
    start: int

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        end = self.start + k.shape[2]
        self.keys[:, :, self.start : end] = k
        self.values[:, :, self.start : end] = v
        return self.keys[:, :, :end], self.values[:, :, :end]


class ContiguousCache(KVCache):
    """A cache whose memory is allocated at the start."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(shape[3])
        self.keys, self.values = (torch.empty(shape, dtype=dtype, device=device) for _ in range(2))

    def layer(self, index: int) -> LayerCache:
        """Return a view of one layer."""
        return _Slice(self.keys[index], self.values[index], self.length)
