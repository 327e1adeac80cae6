"""The key-value cache: what attention needs of the tokens already read, so that they are not read again.

    keys, values   (L, B, K, max_tokens, d)   allocated once, filled from the left
                   [ past ......... | new | free ............ ]
                     0 .. length      +T

The model takes the cache as an argument, and the positions of new tokens from its length; each layer appends
its keys and values, and after the last layer the length moves on. Memory is allocated whole at the start: a
cache that grew would copy itself at every step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer's slice of the cache, for tokens that come after the first `start`."""

    keys: Tensor  # (B, K, max_tokens, d)
    values: Tensor  # (B, K, max_tokens, d)
    start: int

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, K, T, d); return past and new together, (B, K, start + T, d)."""
        end = self.start + k.shape[2]
        self.keys[:, :, self.start : end] = k
        self.values[:, :, self.start : end] = v
        return self.keys[:, :, :end], self.values[:, :, :end]


class KVCache:
    """Keys and values of all layers for B rows of equal length."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        """Take two tensors (L, B, K, max_tokens, d); `Transformer.new_cache` makes them for a model."""
        self.keys, self.values = keys, values
        self.length = 0

    @property
    def max_tokens(self) -> int:
        """How many tokens fit."""
        return self.keys.shape[3]

    def reserve(self, count: int) -> int:
        """Return the position of the first of `count` new tokens. Raises ValueError if they do not fit."""
        if self.length + count > self.max_tokens:
            raise ValueError(
                f"the cache holds {self.max_tokens} tokens: {count} more do not fit after {self.length}"
            )
        return self.length

    def layer(self, index: int) -> LayerCache:
        """Return the slice of one layer."""
        return LayerCache(self.keys[index], self.values[index], self.length)

    def advance(self, count: int) -> None:
        """Count `count` tokens as read; called once per pass, after the last layer."""
        self.length += count

    def rewind(self, length: int) -> None:
        """Forget all tokens but the first `length`."""
        self.length = length


def allocate(shape: tuple[int, int, int, int, int], dtype: torch.dtype, device: torch.device) -> KVCache:
    """Make an empty cache of shape (L, B, K, max_tokens, d)."""
    return KVCache(*(torch.empty(shape, dtype=dtype, device=device) for _ in range(2)))
