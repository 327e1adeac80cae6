"""The key-value cache: what attention needs of the tokens already read, so that they are not read again.

    keys, values   (L, B, K, max_tokens, d)   allocated once, filled from the left
                   [ past ......... | new | free ............ ]
                     0 .. length      +T

Positions of new tokens come from its length, which moves on after the last layer. What attention reads is a view:
no step copies the past. `paged` is the same for texts that may end early.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

Shape = tuple[int, int, int, int, int]
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
        """Store a layer's keys and values (B, K, T, d) of the tokens reserved last.

        Returns the past ones and these together, each (B, K, past + T, d).
        """

    def advance(self, count: int) -> None:
        """Count `count` tokens as read; called once per pass, after the last layer."""
        self.length += count

    def rewind(self, length: int) -> None:
        """Forget all tokens but the first `length`."""
        self.length = length


class ContiguousCache(KVCache):
    """A cache whose memory is allocated at the start."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(shape[3])
        self.keys, self.values = (torch.empty(shape, dtype=dtype, device=device) for _ in range(2))

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Copy keys and values behind the past ones of a layer; what is returned are views."""
        keys, values, end = self.keys[layer], self.values[layer], self.length + k.shape[2]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]
