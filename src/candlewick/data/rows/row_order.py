"""The order of rows: which source a row is from, in which epoch, at which position in the order of that epoch.

    row g of the run --Mixture--> source, its row k --divmod--> epoch e, position --permute--> row of the dataset

`order: window` permutes windows of rows, and the rows in each: only the bytes of one window are read at a time.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candlewick.artifacts.manifest import json_sha256
from candlewick.config import DataConfig
from candlewick.data.rows.chunking import ChunkedRows, Rows
from candlewick.data.rows.mixture import Mixture
from candlewick.data.rows.packing import PackedRows
from candlewick.data.rows.permutation import permute, permute_in_windows, stateless_hash
from candlewick.data.tokens.dataset import Indices, TokenSplit

RowPositions = NDArray[np.int64]  # (3, rows): source, row in the source, offset of its grid
_WINDOW_ROWS = 65_536
_BLOCK = 4096  # positions of a permutation that are computed at a time


def open_rows(split: TokenSplit, config: DataConfig, sequence_length: int) -> ChunkedRows | PackedRows:
    """Return a split as rows of T tokens by `data.packing`; with `data.document_mask` rows have `starts`."""
    needs_starts = config.document_mask
    if config.packing == "chunk":
        return ChunkedRows(split, sequence_length, needs_starts=needs_starts)
    return PackedRows(split, sequence_length, needs_starts=needs_starts, cache=config.cache_dir)


class RowOrder:
    """Orders the rows of a run, without end. `sources` are one split, or one per entry of `config.mixture`."""

    def __init__(
        self, sources: Sequence[TokenSplit], config: DataConfig, *, sequence_length: int, seed: int
    ) -> None:
        self._ids = [split.dataset_id for split in sources]
        self.sequence_length, self._seed = sequence_length, seed
        self._views = [open_rows(split, config, sequence_length) for split in sources]
        self._mixture = Mixture([source.weight for source in config.mixture] or [1], seed)
        if len(sources) != len(self._mixture.weights):
            raise ValueError(f"{len(sources)} sources for {len(self._mixture.weights)} weights")
        self._window = None if config.order == "global" else config.shuffle_buffer_size or _WINDOW_ROWS
        self._block = lru_cache(2 * len(sources))(_permute_block)  # two per source, as a batch may lie on a seam
        self.num_rows = sum(view.num_rows for view in self._views)
        # all that decides the order, as JSON values
        self.identity: dict[str, Any] = {
            "dataset_id": self._ids[0] if len(self._ids) == 1 else json_sha256(self._ids),
            "weights": list(self._mixture.weights),
            "split": sources[0].name,
            "packing": config.packing,
            "window_rows": self._window,
            "seed": seed,
            "sequence_length": sequence_length,
        }

    def repetitions(self, rows: int) -> tuple[float, ...]:
        """Return how many times the first `rows` rows read each source."""
        counts = self._mixture.counts(rows)
        return tuple(count / view.num_rows for count, view in zip(counts, self._views, strict=True))

    def positions(self, first: int, count: int) -> RowPositions:
        """Return the positions of rows [first, first + count) of the run."""
        positions = np.zeros((3, count), np.int64)
        if len(self._views) > 1:
            positions[0] = self._mixture.sources(first, count)
        first_rows = self._mixture.counts(first)
        for source, mask in self._by_source(positions):
            positions[1:, mask] = self._source_rows(source, first_rows[source], positions[0, mask].size)
        return positions

    def read(self, positions: RowPositions) -> Rows:
        """Return the rows at `positions`, in that order."""
        if len(self._views) == 1:
            return self._views[0].read(positions[1], positions[2])
        shape = positions.shape[1], self.sequence_length
        tokens, targets = np.empty((2, *shape), np.int32)
        num_targets, starts = 0, None
        for source, chosen in self._by_source(positions):
            rows = self._views[source].read(*positions[1:, chosen])
            tokens[chosen], targets[chosen] = rows.tokens, rows.targets
            num_targets += rows.num_targets
            if rows.starts is not None:
                starts = np.empty(shape, np.bool_) if starts is None else starts
                starts[chosen] = rows.starts
        return Rows(tokens, targets, num_targets, starts)

    def num_targets(self, positions: RowPositions) -> int:
        """Return how many targets count at `positions`, without reading tokens."""
        total = 0
        for source, chosen in self._by_source(positions):
            rows, offsets = positions[1:, chosen]
            mask = self._views[source].loss_mask(rows, offsets)
            total += rows.size * self.sequence_length if mask is None else int(np.count_nonzero(mask))
        return total

    def _by_source(self, positions: RowPositions) -> list[tuple[int, Indices | slice]]:
        """Return each source in `positions`, with the indices of its positions."""
        if len(self._views) == 1:
            return [(0, slice(None))]
        return [(source, np.flatnonzero(positions[0] == source)) for source in np.unique(positions[0]).tolist()]

    def _source_rows(self, source: int, first: int, count: int) -> NDArray[np.int64]:
        """Return row and grid offset, (2, count), of rows [first, first + count) of one source."""
        n, dataset_id = self._views[source].num_rows, self._ids[source]
        out = np.empty((2, count), np.int64)
        filled = 0
        while filled < count:
            epoch, position = divmod(first + filled, n)
            key = stateless_hash("rows", self._seed, epoch, dataset_id)
            block = self._block(n, key, self._window, position // _BLOCK)[position % _BLOCK :][: count - filled]
            out[0, filled : filled + block.size] = block
            shift = stateless_hash("offset", self._seed, epoch, dataset_id)
            out[1, filled : filled + block.size] = shift % self.sequence_length
            filled += block.size
        return out


def _permute_block(n: int, key: int, window: int | None, block: int) -> NDArray[np.int64]:
    positions = np.arange(block * _BLOCK, min(n, (block + 1) * _BLOCK))
    return permute(positions, n, key) if window is None else permute_in_windows(positions, n, window, key)
