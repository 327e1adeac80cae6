"""A key-value cache that grows by pages: memory for the tokens that there are, not for those that may come.

    pool    [ page 0 | page 1 | page 2 | page 3 | page 4 ]    each `page_size` tokens of one row
    row 0     pages 1, 4        its tokens 0 .. P-1 in page 1, P .. 2P-1 in page 4
    row 1     pages 0, 3        page 2 is free: it comes next

All layers use the same page numbers, each in a pool of its own. Pages are taken when tokens are reserved and given
back when the cache is rewound below them. This is PagedAttention (arXiv:2309.06180) without its kernel: what
attention reads is gathered in every pass, a copy of one layer's past, equal to the contiguous cache's to the bit.
"""

import torch
from torch import Tensor

from candlewick.model.cache import KVCache, Shape


class PagedCache(KVCache):
    """A cache of pages of `page_size` tokens, at most as large as the longest text. ValueError for less than 1."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device, page_size: int) -> None:
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
        """Return the position of the first of `count` new tokens, whose pages are there. Raises ValueError."""
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
        """Add free pages to the pools. One layer after the other: only one is there twice."""
        if pages <= 0:
            return
        first = len(self._keys[0])
        for pools in (self._keys, self._values):
            for index, pool in enumerate(pools):
                pools[index] = pool.new_empty(len(pool) + pages, *pool.shape[1:])
                pools[index][: len(pool)] = pool
        self._free += range(first + pages - 1, first - 1, -1)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Copy keys and values into the pages of a layer; what is returned are copies."""
        return self._append(self._keys[layer], k), self._append(self._values[layer], v)

    def _append(self, pool: Tensor, new: Tensor) -> Tensor:
        pool.flatten(0, 1)[self._slots] = new.transpose(1, 2)  # (B, T, K, d)
        # by whole pages, which is as fast as a plain copy; by tokens it is not
        gathered = pool.index_select(0, self._page_table.flatten()).view(
            len(self._page_table), -1, *pool.shape[2:]
        )
        return gathered[:, : self.length + new.shape[2]].transpose(1, 2)  # (B, K, past + T, d)

    def rewind(self, length: int) -> None:
        """Forget all tokens but the first `length`, and give their pages back."""
        super().rewind(length)
        kept = -(-length // self.page_size)
        for pages in self._pages:
            self._free += pages[kept:]
            del pages[kept:]
        self._page_table = self._page_table[:, :kept]
