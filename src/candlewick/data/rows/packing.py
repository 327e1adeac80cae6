"""A split as rows of whole documents: best fit decreasing, with as little padding as that leaves.

    documents  aaaaaaa bbb cc dddd      T = 5      rows  aaaaa | dddd_ | bbbaa | cc___

A document longer than T is cut into segments of T tokens and a rest. Each segment goes, the longest first, into
the row with the least room that still holds it, or into a new row (Johnson et al., Worst-Case Performance Bounds
for Simple One-Dimensional Packing Algorithms, SIAM Journal on Computing 3(4), 1974). The target of a token is the
one that follows it in the dataset, whatever stands next in the row. Padding is the delimiter; its targets do not
count.

Documents are packed in buckets, each from one stretch of the dataset; the rows of a bucket are shuffled. See
`data.rows.packing_plan`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from candlewick.data.rows.chunking import Mask, Rows, mask_split
from candlewick.data.rows.packing_plan import PackingPlan
from candlewick.data.tokens.dataset import Indices, TokenSplit


class PackedRows:
    """Reads the rows of a split, the same in every epoch. Raises DataError if the last document has no end."""

    def __init__(
        self,
        split: TokenSplit,
        sequence_length: int,
        *,
        needs_starts: bool = False,
        cache: Path | None = None,  # for the plan of a large split
    ) -> None:
        self.split = split
        self.sequence_length = sequence_length
        self._needs_starts = needs_starts
        self._masks = mask_split(split)
        self._plan = PackingPlan(split, sequence_length, cache)
        self.num_rows = self._plan.num_rows

    def read(self, rows: Indices, _offsets: Indices | int) -> Rows:
        """Return rows. Packed rows have no offset: the argument is ignored."""
        tokens = np.full((len(rows), self.sequence_length), self.split.delimiter_id, np.int32)
        targets, starts = tokens.copy(), np.zeros(tokens.shape, np.bool_)
        for i, span, first in self._segments(rows):
            tokens_of_segment = self.split.read_tokens(first, span.stop - span.start + 1)
            tokens[i, span], targets[i, span] = tokens_of_segment[:-1], tokens_of_segment[1:]
            starts[i, span.start] = True
        used = self._plan.tokens(rows)
        padded = np.flatnonzero(used < self.sequence_length)
        starts[padded, used[padded]] = True
        mask = self.loss_mask(rows, _offsets)
        return Rows.from_mask(tokens, targets, mask, starts if self._needs_starts else None)

    def loss_mask(self, rows: Indices, _offsets: Indices | int) -> Mask | None:
        """Return which targets count, (rows, T), or None if all do. Reads no tokens."""
        if self._masks is None:
            used = self._plan.tokens(rows)[:, None]
            return None if (used == self.sequence_length).all() else np.arange(self.sequence_length) < used
        mask = np.zeros((len(rows), self.sequence_length), np.bool_)
        for i, span, first in self._segments(rows):
            mask[i, span] = self._masks.read_tokens(first + 1, span.stop - span.start)
        return mask

    def _segments(self, rows: Indices) -> Iterator[tuple[int, slice, int]]:
        """Yield (index in `rows`, span in the row, first token in the split) of every segment."""
        for i, segments in enumerate(self._plan.segments(rows)):
            start = 0
            for first, size in segments:
                yield i, slice(start, start + size), first
                start += size
