"""From a number to a row: which source is read, in which of its epochs, at which place in the order of that epoch.

    row g of the run --Mixture--> source, its row k --divmod--> epoch e, place --permute--> row of the dataset

`order: window` permutes windows of rows, and the rows in each: only the bytes of one window are read at a time.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candlewick.artifacts.manifest import json_sha256
from candlewick.config import DataConfig
from candlewick.data.rows.chunking import ChunkedRows, Indices, Rows
from candlewick.data.rows.mixture import Mixture
from candlewick.data.rows.packing import PackedRows
from candlewick.data.rows.permutation import permute, permute_in_windows, stateless_hash
from candlewick.data.tokens.dataset import TokenSplit

RowPositions = NDArray[np.int64]  # (3, rows): source, row in it, offset of the grid of its rows
_WINDOW_ROWS = 65_536
_BLOCK = 4096  # places of a permutation that are computed at a time


def open_rows(split: TokenSplit, config: DataConfig, sequence_length: int) -> ChunkedRows | PackedRows:
    """Return a split as rows of T tokens, as `packing` says; `document_mask` decides if `starts` are found."""
    kind = PackedRows if config.packing == "bfd" else ChunkedRows
    return kind(split, sequence_length, needs_starts=config.document_mask)


class RowOrder:
    """All rows of a run in order, without end. `sources` are one split, or one per entry of `config.mixture`."""

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
        self._block = lru_cache(2 * len(sources))(_permute_block)  # two each, as a batch may lie on a seam
        self.num_rows = sum(view.num_rows for view in self._views)
        # all that decides the order, in values that JSON keeps
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
        """Return how often the first `rows` read each source."""
        counts = self._mixture.counts(rows)
        return tuple(count / view.num_rows for count, view in zip(counts, self._views, strict=True))

    def positions(self, first: int, count: int) -> RowPositions:
        """Return where rows [first, first + count) of the run lie."""
        places = np.zeros((3, count), np.int64)
        if len(self._views) > 1:
            places[0] = self._mixture.sources(first, count)
        begins = self._mixture.counts(first)
        for source, own in self._by_source(places):
            places[1:, own] = self._source_rows(source, begins[source], places[0, own].size)
        return places

    def read(self, places: RowPositions) -> Rows:
        """Return the rows at some places, in their order."""
        if len(self._views) == 1:
            return self._views[0].read(places[1], places[2])
        shape = places.shape[1], self.sequence_length
        tokens, targets = np.empty((2, *shape), np.int32)
        num_targets, starts = 0, None
        for source, own in self._by_source(places):
            part = self._views[source].read(*places[1:, own])
            tokens[own], targets[own] = part.tokens, part.targets
            num_targets += part.num_targets
            if part.starts is not None:
                starts = np.empty(shape, np.bool_) if starts is None else starts
                starts[own] = part.starts
        return Rows(tokens, targets, num_targets, starts)

    def num_targets(self, places: RowPositions) -> int:
        """Return how many targets count at some places, without reading tokens."""
        total = 0
        for source, own in self._by_source(places):
            rows, offsets = places[1:, own]
            mask = self._views[source].loss_mask(rows, offsets)
            total += rows.size * self.sequence_length if mask is None else int(np.count_nonzero(mask))
        return total

    def _by_source(self, places: RowPositions) -> list[tuple[int, Indices | slice]]:
        """Return each source that is there and which of the places are its own."""
        if len(self._views) == 1:
            return [(0, slice(None))]
        return [(source, np.flatnonzero(places[0] == source)) for source in np.unique(places[0]).tolist()]

    def _source_rows(self, source: int, first: int, count: int) -> NDArray[np.int64]:
        """Return row and grid offset, (2, count), of rows [first, first + count) that are read of one source."""
        n, dataset_id = self._views[source].num_rows, self._ids[source]
        out = np.empty((2, count), np.int64)
        done = 0
        while done < count:
            epoch, place = divmod(first + done, n)
            key = stateless_hash("rows", self._seed, epoch, dataset_id)
            block = self._block(n, key, self._window, place // _BLOCK)[place % _BLOCK :][: count - done]
            out[0, done : done + block.size] = block
            shift = stateless_hash("offset", self._seed, epoch, dataset_id)
            out[1, done : done + block.size] = shift % self.sequence_length
            done += block.size
        return out


def _permute_block(n: int, key: int, window: int | None, number: int) -> NDArray[np.int64]:
    places = np.arange(number * _BLOCK, min(n, (number + 1) * _BLOCK))
    return permute(places, n, key) if window is None else permute_in_windows(places, n, window, key)
