"""A key-value cache that grows by pages: memory for the tokens that there are, not for the longest text.

    pool    [ page 0 | page 1 | page 2 | page 3 | page 4 ]    each `page_size` tokens of one row
    row 0     pages 1, 4        its tokens 0 .. P-1 in page 1, P .. 2P-1 in page 4
    row 1     pages 0, 3        page 2 is free: it is used next

Each layer has its own pool; all use the same page numbers. Pages are taken when tokens are reserved and freed when
the cache is rewound below them. This is PagedAttention (arXiv:2309.06180) without its kernel: every pass gathers a
copy of each layer's past, equal to the contiguous cache's to the bit.
"""

import torch
from torch import Tensor

from candlewick.model.cache import CacheShape, KVCache


class PagedCache(KVCache):
    """A cache of pages of `page_size` tokens, at most `max_tokens`. Raises ValueError for a size below 1."""

    def __init__(self, shape: CacheShape, dtype: torch.dtype, device: torch.device, page_size: int) -> None:
        layers, rows, heads, max_tokens, width = shape
        super().__init__(max_tokens)
        if page_size < 1:
            raise ValueError(f"a page of the cache has at least 1 token, not {page_size}")
        self.page_size = min(page_size, max_tokens)
        empty = torch.empty(0, self.page_size, heads, width, dtype=dtype, device=device)
        self._keys, self._values = [empty] * layers, [empty] * layers  # pools (pages, P, K, d) of each layer
        self._pages: list[list[int]] = [[] for _ in range(rows)]  # the pages of each row, in order
        self._free: list[int] = []
        self._page_table = torch.empty(rows, 0, dtype=torch.int64, device=device)  # the same, on the device
        self._slots = self._page_table  # (B, T), page * P + place in the page, of the tokens reserved last

    def reserve(self, count: int) -> int:
        """Take pages for `count` new tokens; return the position of the first. Raises ValueError as `KVCache`."""
        start = super().reserve(count)
        missing = -(-(start + count) // self.page_size) - len(self._pages[0])
        if missing > 0:
            self._grow(missing * len(self._pages) - len(self._free))
            for pages in self._pages:
                pages += [self._free.pop() for _ in range(missing)]
            self._page_table = torch.tensor(self._pages, device=self._page_table.device)
        positions = torch.arange(start, start + count, device=self._page_table.device)
        firsts = self._page_table[:, positions // self.page_size] * self.page_size
        self._slots = firsts + positions % self.page_size
        return start

    def _grow(self, pages: int) -> None:
        """Add free pages to the pools, one layer after the other: at most one pool is copied at a time."""
        if pages <= 0:
            return
        first = len(self._keys[0])
        for pools in (self._keys, self._values):
            for index, pool in enumerate(pools):
                pools[index] = pool.new_empty(len(pool) + pages, *pool.shape[1:])
                pools[index][: len(pool)] = pool
        self._free += range(first + pages - 1, first - 1, -1)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store and return them as `KVCache.append` does; the results are copies."""
        return self._append(self._keys[layer], k), self._append(self._values[layer], v)

    def _append(self, pool: Tensor, new: Tensor) -> Tensor:
        pool.flatten(0, 1)[self._slots] = new.transpose(1, 2)  # (B, T, K, d)
        # an index by pages is as fast as a plain copy; one by tokens is slower
        gathered = pool.index_select(0, self._page_table.flatten()).view(
            len(self._page_table), -1, *pool.shape[2:]
        )
        return gathered[:, : self.length + new.shape[2]].transpose(1, 2)  # (B, K, past + T, d)

    def rewind(self, length: int) -> None:
        """Forget all tokens but the first `length`, and free their pages."""
        super().rewind(length)
        num_pages = -(-length // self.page_size)
        for pages in self._pages:
            self._free += pages[num_pages:]
            del pages[num_pages:]
        self._page_table = self._page_table[:, :num_pages]
