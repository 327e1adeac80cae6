"""The order of rows: which source a row is from, in which epoch, at which position in the order of that epoch.

    row g of the run --Mixture--> source, its row k --divmod--> epoch e, position --permute--> row of the dataset

`order: window` permutes windows of rows, and the rows in each: only the bytes of one window are read at a time.
A source that was prepared in several parts (`TokenSplit.before`) is read part by part in each epoch, so that a run
that has not read all of the first part goes on in the same rows when a second one is there.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise, takewhile
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

RowPositions = NDArray[np.int64]  # (3, rows): view, row in the view, offset of its grid
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
        self.sequence_length, self._seed = sequence_length, seed
        parts = [source.parts for source in sources]
        self._views = [open_rows(part, config, sequence_length) for source in parts for part in source]
        bounds = list(accumulate(map(len, parts), initial=0))
        self._sources = [self._views[low:high] for low, high in pairwise(bounds)]  # of each source its views
        self._first_views = bounds[:-1]
        self._mixture = Mixture([source.weight for source in config.mixture] or [1], seed)
        if len(sources) != len(self._mixture.weights):
            raise ValueError(f"{len(sources)} sources for {len(self._mixture.weights)} weights")
        self._window = None if config.order == "global" else config.shuffle_buffer_size or _WINDOW_ROWS
        self._block = lru_cache(2 * len(self._views))(_permute_block)  # two per view, as a batch may lie on a seam
        self._source_sizes = [sum(view.num_rows for view in views) for views in self._sources]
        self.num_rows = sum(self._source_sizes)
        ids = [part.dataset_id for part, *_ in parts]
        # all that decides the order, as JSON values
        self.identity: dict[str, Any] = {
            "dataset_id": ids[0] if len(ids) == 1 else json_sha256(ids),
            "weights": list(self._mixture.weights),
            "split": sources[0].name,
            "packing": config.packing,
            "window_rows": self._window,
            "seed": seed,
            "sequence_length": sequence_length,
        }
        if len(self._views) > len(sources):
            self.identity["more_parts"] = [[part.dataset_id for part in later] for _, *later in parts]

    def repetitions(self, rows: int) -> tuple[float, ...]:
        """Return how many times the first `rows` rows read each source."""
        counts = self._mixture.counts(rows)
        return tuple(count / size for count, size in zip(counts, self._source_sizes, strict=True))

    def begins_alike(self, more_parts: Any, rows: int) -> bool:
        """Return whether the first `rows` rows are those of an order that only differs in its `more_parts`."""
        none: list[list[str]] = [[] for _ in self._sources]
        now, former = self.identity.get("more_parts", none), more_parts or none
        if now == former:
            return True
        if not isinstance(former, list) or [type(parts) for parts in former] != [list] * len(self._sources):
            return False
        for views, count, *parts in zip(self._sources, self._mixture.counts(rows), now, former, strict=True):
            common = 1 + sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*parts, strict=False)))
            if count > sum(view.num_rows for view in views[:common]):
                return False
        return True

    def positions(self, first: int, count: int) -> RowPositions:
        """Return the positions of rows [first, first + count) of the run."""
        first_rows = self._mixture.counts(first)
        if len(self._sources) == 1:
            return self._source_rows(0, first_rows[0], count)
        positions, sources = np.empty((3, count), np.int64), self._mixture.sources(first, count)
        for source in np.unique(sources).tolist():
            chosen = np.flatnonzero(sources == source)
            positions[:, chosen] = self._source_rows(source, first_rows[source], chosen.size)
        return positions

    def read(self, positions: RowPositions) -> Rows:
        """Return the rows at `positions`, in that order."""
        if len(self._views) == 1:
            return self._views[0].read(positions[1], positions[2])
        shape = positions.shape[1], self.sequence_length
        tokens, targets = np.empty((2, *shape), np.int32)
        num_targets, starts = 0, None
        for view, chosen in self._by_view(positions):
            rows = self._views[view].read(*positions[1:, chosen])
            tokens[chosen], targets[chosen] = rows.tokens, rows.targets
            num_targets += rows.num_targets
            if rows.starts is not None:
                starts = np.empty(shape, np.bool_) if starts is None else starts
                starts[chosen] = rows.starts
        return Rows(tokens, targets, num_targets, starts)

    def num_targets(self, positions: RowPositions) -> int:
        """Return how many targets count at `positions`, without reading tokens."""
        total = 0
        for view, chosen in self._by_view(positions):
            rows, offsets = positions[1:, chosen]
            mask = self._views[view].loss_mask(rows, offsets)
            total += rows.size * self.sequence_length if mask is None else int(np.count_nonzero(mask))
        return total

    def _by_view(self, positions: RowPositions) -> list[tuple[int, Indices | slice]]:
        """Return each view in `positions`, with the indices of its positions."""
        if len(self._views) == 1:
            return [(0, slice(None))]
        return [(view, np.flatnonzero(positions[0] == view)) for view in np.unique(positions[0]).tolist()]

    def _source_rows(self, source: int, first: int, count: int) -> RowPositions:
        """Return the positions of rows [first, first + count) of one source."""
        out = np.empty((3, count), np.int64)
        filled = 0
        while filled < count:
            epoch, position = divmod(first + filled, self._source_sizes[source])
            number, views = self._first_views[source], self._sources[source]
            while position >= views[0].num_rows:
                position -= views[0].num_rows
                number, views = number + 1, views[1:]
            n, dataset_id = views[0].num_rows, views[0].split.dataset_id
            key = stateless_hash("rows", self._seed, epoch, dataset_id)
            block = self._block(n, key, self._window, position // _BLOCK)[position % _BLOCK :][: count - filled]
            shift = stateless_hash("offset", self._seed, epoch, dataset_id)
            for row, values in zip(out, (number, block, shift % self.sequence_length), strict=True):
                row[filled : filled + block.size] = values
            filled += block.size
        return out


def _permute_block(n: int, key: int, window: int | None, block: int) -> NDArray[np.int64]:
    positions = np.arange(block * _BLOCK, min(n, (block + 1) * _BLOCK))
    return permute(positions, n, key) if window is None else permute_in_windows(positions, n, window, key)
