"""A key-value cache that grows by pages: memory for the tokens that there are, not for those that may come.

    pool    [ page 0 | page 1 | page 2 | page 3 | page 4 ]    each `page_size` tokens of one row
    row 0     pages 1, 4        its tokens 0 .. P-1 in page 1, P .. 2P-1 in page 4
    row 1     pages 0, 3        page 2 is free: it comes next

All layers use the same page numbers, each in a pool of its own. Pages are taken when tokens are reserved and given
back when the cache is rewound below them; the pool grows when none is free. This is PagedAttention
(arXiv:2309.06180) without its kernel: what attention reads is gathered anew in every pass, a copy of one layer's
past at a time.

The trade: `candlewick generate --max-new-tokens 30000` takes memory as the text grows, and mostly a text ends
early; each token costs that copy. The tokens are those of the contiguous cache, to the bit.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from candlewick.model.cache import CacheStatistics, KVCache, LayerCache, Shape


@dataclass(frozen=True, slots=True)
class _Gathered:
    """One layer's pools, and where in them the past and the new tokens of each row lie."""

    keys: Tensor  # (pool's tokens, K, d)
    values: Tensor  # (pool's tokens, K, d)
    places: Tensor  # (B, past + T)

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        new = self.places[:, -k.shape[2] :]  # (B, T)
        self.keys[new], self.values[new] = k.transpose(1, 2), v.transpose(1, 2)  # (B, T, K, d)
        return self.keys[self.places].transpose(1, 2), self.values[self.places].transpose(1, 2)


class PagedCache(KVCache):
    """A cache of pages of `page_size` tokens, at most as large as the longest text. ValueError for less than 1."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device, page_size: int) -> None:
        layers, rows, heads, max_tokens, width = shape
        super().__init__(max_tokens)
        if page_size < 1:
            raise ValueError(f"a page of the cache has at least 1 token, not {page_size}")
        self.page_size = min(page_size, max_tokens)
        empty = torch.empty(0, heads, width, dtype=dtype, device=device)
        self._keys, self._values = [empty] * layers, [empty] * layers
        self._tables: list[list[int]] = [[] for _ in range(rows)]  # the pages of each row, in order
        self._free: list[int] = []
        self._places = torch.empty(rows, 0, dtype=torch.int64, device=device)  # of every token in the tables
        self._end = 0

    def reserve(self, count: int) -> int:
        """Return the position of the first of `count` new tokens, whose pages are there. Raises ValueError."""
        start = super().reserve(count)
        self._end = start + count
        missing = -(-self._end // self.page_size) - len(self._tables[0])
        if missing > 0:
            self._grow(missing * len(self._tables) - len(self._free))
            for pages in self._tables:
                pages += [self._free.pop() for _ in range(missing)]
            device = self._places.device
            firsts = torch.tensor(self._tables, device=device) * self.page_size  # (B, pages of a row)
            self._places = (firsts[..., None] + torch.arange(self.page_size, device=device)).flatten(1)
        return start

    def _grow(self, pages: int) -> None:
        """Add free pages to the pools. One layer after the other: only one is there twice."""
        if pages <= 0:
            return
        first = len(self._keys[0]) // self.page_size
        for pools in (self._keys, self._values):
            for index, pool in enumerate(pools):
                pools[index] = pool.new_empty(len(pool) + pages * self.page_size, *pool.shape[1:])
                pools[index][: len(pool)] = pool
        self._free += range(first + pages - 1, first - 1, -1)

    def layer(self, index: int) -> LayerCache:
        """Return one layer, for the tokens reserved last."""
        return _Gathered(self._keys[index], self._values[index], self._places[:, : self._end])

    def rewind(self, length: int) -> None:
        """Forget all tokens but the first `length`, and give their pages back."""
        super().rewind(length)
        kept = -(-length // self.page_size)
        for pages in self._tables:
            self._free += pages[kept:]
            del pages[kept:]
        self._places = self._places[:, : kept * self.page_size]

    def statistics(self) -> CacheStatistics:
        """Return what it holds now."""
        pages = sum(map(len, self._tables))
        allocated = 2 * sum(pool.nbytes for pool in self._keys)
        all_pages = len(self._keys[0]) // self.page_size
        used = allocated // max(1, all_pages) * pages
        return CacheStatistics(len(self._tables) * self.length, pages, used, allocated)
