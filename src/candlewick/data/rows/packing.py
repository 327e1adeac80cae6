"""A split as rows of whole documents: best fit decreasing, with as little padding as that leaves.

    documents  aaaaaaa bbb cc dddd      T = 5      rows  aaaaa | dddd_ | bbbaa | cc___

A document longer than T is cut into segments of T tokens and a rest. Each segment goes, the longest first, into
the row with the least room that still holds it, or into a new row (Johnson et al., Worst-Case Performance Bounds
for Simple One-Dimensional Packing Algorithms, SIAM Journal on Computing 3(4), 1974). The target of a token is the
one that follows it in the dataset, whatever stands next in the row. Padding is the delimiter; its targets do not
count.

Documents are packed in buckets, each from one stretch of the dataset; the rows of a bucket are shuffled.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from candlewick.data.rows.chunking import Mask, Rows, mask_split
from candlewick.data.rows.permutation import permute
from candlewick.data.tokens.dataset import Indices, TokenSplit
from candlewick.data.tokens.maps import require_readable
from candlewick.errors import DataError

_BUCKET_DOCUMENTS = 1 << 18


class PackedRows:
    """Reads the rows of a split, the same in every epoch. Raises DataError if the last document has no end."""

    def __init__(self, split: TokenSplit, sequence_length: int, *, needs_starts: bool = False) -> None:
        self.split = split
        self.sequence_length = sequence_length
        self._needs_starts = needs_starts
        self._masks = mask_split(split)
        for ends in split.document_ends:
            require_readable(ends, [0], ends.size)
        shards = zip(split.shard_starts, split.document_ends, strict=True)
        ends = np.concatenate([start + shard_ends.astype(np.int64) for start, shard_ends in shards])
        if not ends.size or ends[-1] != split.num_tokens:
            raise DataError(f"the last document of {split.name} has no end", "prepare the dataset again")
        # segments in the order of their rows: those of row i are first_segments[i] to first_segments[i + 1]
        self._segment_starts, self._segment_tokens, self._first_segments = _pack_documents(ends, sequence_length)
        self._row_tokens = np.add.reduceat(self._segment_tokens, self._first_segments[:-1])
        self.num_rows = self._row_tokens.size

    def read(self, rows: Indices, _offsets: Indices | int) -> Rows:
        """Return rows. Packed rows have no offset: the argument is ignored."""
        tokens = np.full((len(rows), self.sequence_length), self.split.delimiter_id, np.int32)
        targets, starts = tokens.copy(), np.zeros(tokens.shape, np.bool_)
        for i, span, first in self._segments(rows):
            tokens_of_segment = self.split.read_tokens(first, span.stop - span.start + 1)
            tokens[i, span], targets[i, span] = tokens_of_segment[:-1], tokens_of_segment[1:]
            starts[i, span.start] = True
        used = self._row_tokens[rows]
        padded = np.flatnonzero(used < self.sequence_length)
        starts[padded, used[padded]] = True
        mask = self.loss_mask(rows, _offsets)
        return Rows.from_mask(tokens, targets, mask, starts if self._needs_starts else None)

    def loss_mask(self, rows: Indices, _offsets: Indices | int) -> Mask | None:
        """Return which targets count, (rows, T), or None if all do. Reads no tokens."""
        used = self._row_tokens[rows, None]
        if self._masks is None:
            return None if (used == self.sequence_length).all() else np.arange(self.sequence_length) < used
        mask = np.zeros((len(rows), self.sequence_length), np.bool_)
        for i, span, first in self._segments(rows):
            mask[i, span] = self._masks.read_tokens(first + 1, span.stop - span.start)
        return mask

    def _segments(self, rows: Indices) -> Iterator[tuple[int, slice, int]]:
        """Yield (index in `rows`, span in the row, first token in the split) of every segment."""
        for i, row in enumerate(rows.tolist()):
            start = 0
            for segment in range(self._first_segments[row], self._first_segments[row + 1]):
                end = start + int(self._segment_tokens[segment])
                yield i, slice(start, end), int(self._segment_starts[segment])
                start = end


def _pack_documents(ends: Indices, length: int) -> tuple[Indices, NDArray[np.int32], Indices]:
    """Pack documents by their ends; return first token and size of each segment, and each row's first segment."""
    starts: list[Indices] = []
    tokens: list[NDArray[np.int32]] = []
    counts: list[Indices] = []  # segments of each row
    first_token = 0
    for low in range(0, ends.size, _BUCKET_DOCUMENTS):
        bucket_ends = ends[low : low + _BUCKET_DOCUMENTS]
        segment_starts, segment_tokens = _cut_documents(first_token, bucket_ends, length)
        rows = pack(segment_tokens, length)
        num_rows = int(rows.max()) + 1
        rows = permute(np.arange(num_rows), num_rows, low)[rows]
        order = np.argsort(rows, kind="stable")
        starts.append(segment_starts[order])
        tokens.append(segment_tokens[order])
        counts.append(np.bincount(rows))
        first_token = int(bucket_ends[-1])
    first = np.concatenate(([0], np.cumsum(np.concatenate(counts))))
    return np.concatenate(starts), np.concatenate(tokens), first


def _cut_documents(first_token: int, ends: Indices, length: int) -> tuple[Indices, NDArray[np.int32]]:
    """Cut consecutive documents, from `first_token` on; return first token and size of each segment."""
    document_starts = np.concatenate(([first_token], ends[:-1]))
    counts = (ends - document_starts + length - 1) // length
    index = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # of a segment in its document
    starts = np.repeat(document_starts, counts) + index * length
    return starts, np.minimum(np.repeat(ends, counts) - starts, length).astype(np.int32)


def pack(lengths: NDArray[np.int32], capacity: int) -> Indices:
    """Return the row of each segment of 1..capacity tokens, by best fit decreasing, numbered in order."""
    row_of = np.empty(lengths.size, np.int64)
    # a short type, which numpy sorts by counting
    order = np.argsort((capacity - lengths).astype(np.min_scalar_type(capacity)), kind="stable")
    bounds = np.cumsum(np.bincount(capacity - lengths, minlength=capacity)).tolist()
    open_rows: dict[int, Indices] = {}  # by the room left in them
    rooms = 0  # bit r: there are rows with room r
    num_rows = 0
    for length, low, high in zip(range(capacity, 0, -1), [0, *bounds], bounds, strict=False):
        remaining = order[low:high]
        while remaining.size:
            if fitting := rooms >> length:
                space = length + (fitting & -fitting).bit_length() - 1  # the lowest bit
                rows = open_rows.pop(space)
                rooms ^= 1 << space
            else:
                space = capacity
                rows = np.arange(num_rows, num_rows + max(1, remaining.size // (space // length)))
                num_rows += rows.size
            # a row takes segments until no other fits: after each it is the row with the least room
            per_row = min(space // length, remaining.size)
            filled = rows[: remaining.size // per_row]
            row_of[remaining[: filled.size * per_row]] = np.repeat(filled, per_row)
            remaining = remaining[filled.size * per_row :]
            for room, chosen in ((space, rows[filled.size :]), (space - per_row * length, filled)):
                if room and chosen.size:
                    open_rows[room] = np.concatenate((open_rows[room], chosen)) if rooms >> room & 1 else chosen
                    rooms |= 1 << room
    return row_of
