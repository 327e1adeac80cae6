"""A key-value cache that grows by pages: memory for the tokens that there are, not for those that may come.

    pool    [ page 0 | page 1 | page 2 | page 3 | page 4 ]    each `page_size` tokens of one row
    row 0     pages 1, 4        its tokens 0 .. P-1 in page 1, P .. 2P-1 in page 4
    row 1     pages 0, 3        page 2 is free: it comes next

All layers use the same page numbers, each in a pool of its own. Pages are taken when tokens are reserved and given
back when the cache is rewound below them. This is PagedAttention (arXiv:2309.06180) without its kernel: what
attention reads is gathered in every pass, a copy of one layer's past, equal to the contiguous cache's to the bit.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from candlewick.model.cache import KVCache, LayerCache, Shape


@dataclass(frozen=True, slots=True)
class _Gathered:
    """One layer's pools, the pages in them of each row, and where the new tokens belong."""

    keys: Tensor  # (pages of the pool, P, K, d)
    values: Tensor  # (pages of the pool, P, K, d)
    pages: Tensor  # (B, pages of a row)
    new: Tensor  # (B, T), page * P + place in the page
    end: int

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self._append(self.keys, k), self._append(self.values, v)

    def _append(self, pool: Tensor, new: Tensor) -> Tensor:
        pool.flatten(0, 1)[self.new] = new.transpose(1, 2)  # (B, T, K, d)
        # by whole pages, which is as fast as a plain copy; by tokens it is not
        found = pool.index_select(0, self.pages.flatten()).view(len(self.pages), -1, *pool.shape[2:])
        return found[:, : self.end].transpose(1, 2)  # (B, K, past + T, d)


class PagedCache(KVCache):
    """A cache of pages of `page_size` tokens, at most as large as the longest text. ValueError for less than 1."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device, page_size: int) -> None:
        layers, rows, heads, max_tokens, width = shape
        super().__init__(max_tokens)
        if page_size < 1:
            raise ValueError(f"a page of the cache has at least 1 token, not {page_size}")
        self.page_size = min(page_size, max_tokens)
        empty = torch.empty(0, self.page_size, heads, width, dtype=dtype, device=device)
        self._keys, self._values = [empty] * layers, [empty] * layers
        self._tables: list[list[int]] = [[] for _ in range(rows)]  # the pages of each row, in order
        self._free: list[int] = []
        self._pages = torch.empty(rows, 0, dtype=torch.int64, device=device)  # the tables
        self._new, self._end = self._pages, 0  # where the tokens reserved last belong, and where they end

    def reserve(self, count: int) -> int:
        """Return the position of the first of `count` new tokens, whose pages are there. Raises ValueError."""
        start = super().reserve(count)
        self._end = start + count
        missing = -(-self._end // self.page_size) - len(self._tables[0])
        if missing > 0:
            self._grow(missing * len(self._tables) - len(self._free))
            for pages in self._tables:
                pages += [self._free.pop() for _ in range(missing)]
            self._pages = torch.tensor(self._tables, device=self._pages.device)
        positions = torch.arange(start, self._end, device=self._pages.device)
        firsts = self._pages[:, positions // self.page_size] * self.page_size
        self._new = firsts + positions % self.page_size  # (B, count)
        return start

    def _grow(self, pages: int) -> None:
        """Add free pages to the pools. One layer after the other: only one is there twice."""
        if pages <= 0:
            return
        first = len(self._keys[0])
        for pools in (self._keys, self._values):
            for index, pool in enumerate(pools):
                pools[index] = pool.new_empty(len(pool) + pages, *pool.shape[1:])
                pools[index][: len(pool)] = pool
        self._free += range(first + pages - 1, first - 1, -1)

    def layer(self, index: int) -> LayerCache:
        """Return one layer, for the tokens reserved last."""
        return _Gathered(self._keys[index], self._values[index], self._pages, self._new, self._end)

    def rewind(self, length: int) -> None:
        """Forget all tokens but the first `length`, and give their pages back."""
        super().rewind(length)
        kept = -(-length // self.page_size)
        for pages in self._tables:
            self._free += pages[kept:]
            del pages[kept:]
        self._pages = self._pages[:, :kept]
