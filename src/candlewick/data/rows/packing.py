"""A split as rows of whole documents: best fit decreasing, with as little padding as that leaves.

    documents  aaaaaaa bbb cc dddd      T = 5      rows  aaaaa | dddd_ | bbbaa | cc___

A document longer than T is cut into parts of T tokens and a rest. These pieces go, the longest first, each into
the row with the least room that still holds it, or into a new row (Johnson et al., Worst-Case Performance Bounds
for Simple One-Dimensional Packing Algorithms, SIAM Journal on Computing 3(4), 1974). The target of a token is the
one that follows it in the dataset, whatever stands next in the row. Padding is the delimiter; its targets do not
count.

Documents are packed in groups from one stretch of the dataset, and the rows of a group shuffled.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from candlewick.data.rows.chunking import Indices, Mask, Rows, mask_split
from candlewick.data.rows.permutation import permute
from candlewick.data.tokens.dataset import TokenSplit
from candlewick.errors import DataError

_BUCKET_DOCUMENTS = 1 << 18


class PackedRows:
    """Reads rows of a split, the same in every epoch. Raises DataError if the last document has no end."""

    def __init__(self, split: TokenSplit, sequence_length: int, *, needs_starts: bool = False) -> None:
        self.split = split
        self.sequence_length = sequence_length
        self._needs_starts = needs_starts
        self._masks = mask_split(split)
        shards = zip(split.shard_starts, split.document_ends, strict=True)
        ends = np.concatenate([start + own.astype(np.int64) for start, own in shards])
        if not ends.size or ends[-1] != split.num_tokens:
            raise DataError(f"the last document of {split.name} has no end", "prepare the dataset again")
        # pieces in the order of their rows: those of row i are from first[i] to first[i + 1]
        self._segment_starts, self._segment_tokens, self._first_segments = _pack_documents(ends, sequence_length)
        self._row_tokens = np.add.reduceat(self._segment_tokens, self._first_segments[:-1])
        self.num_rows = self._row_tokens.size

    def read(self, rows: Indices, _offsets: Indices | int) -> Rows:
        """Return rows; they lie on no grid that could be moved by the offsets."""
        tokens = np.full((len(rows), self.sequence_length), self.split.delimiter_id, np.int32)
        targets, starts = tokens.copy(), np.zeros(tokens.shape, np.bool_)
        for i, place, begin in self._segments(rows):
            found = self.split.read_tokens(begin, place.stop - place.start + 1)
            tokens[i, place], targets[i, place] = found[:-1], found[1:]
            starts[i, place.start] = True
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
        for i, place, begin in self._segments(rows):
            mask[i, place] = self._masks.read_tokens(begin + 1, place.stop - place.start)
        return mask

    def _segments(self, rows: Indices) -> Iterator[tuple[int, slice, int]]:
        """Yield (index in `rows`, place in the row, first token in the split) of every piece."""
        for i, row in enumerate(rows.tolist()):
            at = 0
            for piece in range(self._first_segments[row], self._first_segments[row + 1]):
                end = at + int(self._segment_tokens[piece])
                yield i, slice(at, end), int(self._segment_starts[piece])
                at = end


def _pack_documents(ends: Indices, length: int) -> tuple[Indices, NDArray[np.int32], Indices]:
    """Pack documents by their ends; return first token and tokens of each piece, and each row's first piece."""
    starts: list[Indices] = []
    tokens: list[NDArray[np.int32]] = []
    counts: list[Indices] = []  # pieces of each row
    begin = 0
    for low in range(0, ends.size, _BUCKET_DOCUMENTS):
        own = ends[low : low + _BUCKET_DOCUMENTS]
        piece_starts, piece_tokens = _cut_documents(begin, own, length)
        rows = pack(piece_tokens, length)
        num_rows = int(rows.max()) + 1
        rows = permute(np.arange(num_rows), num_rows, low)[rows]
        order = np.argsort(rows, kind="stable")
        starts.append(piece_starts[order])
        tokens.append(piece_tokens[order])
        counts.append(np.bincount(rows))
        begin = int(own[-1])
    first = np.concatenate(([0], np.cumsum(np.concatenate(counts))))
    return np.concatenate(starts), np.concatenate(tokens), first


def _cut_documents(begin: int, ends: Indices, length: int) -> tuple[Indices, NDArray[np.int32]]:
    """Return first token and tokens of the pieces of documents that lie one after another from `begin` on."""
    begins = np.concatenate(([begin], ends[:-1]))
    parts = (ends - begins + length - 1) // length
    place = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)  # of a piece in its document
    starts = np.repeat(begins, parts) + place * length
    return starts, np.minimum(np.repeat(ends, parts) - starts, length).astype(np.int32)


def pack(lengths: NDArray[np.int32], capacity: int) -> Indices:
    """Return the row of each piece, of 1..capacity tokens, by best fit decreasing; rows are numbered as opened."""
    row_of = np.empty(lengths.size, np.int64)
    # a short type, which numpy sorts by counting
    order = np.argsort((capacity - lengths).astype(np.min_scalar_type(capacity)), kind="stable")
    bounds = np.cumsum(np.bincount(capacity - lengths, minlength=capacity)).tolist()
    open_rows: dict[int, Indices] = {}  # by the room that they have left
    rooms = 0  # bit r: there are rows with room r
    num_rows = 0
    for length, begin, end in zip(range(capacity, 0, -1), [0, *bounds], bounds, strict=False):
        todo = order[begin:end]
        while todo.size:
            if fitting := rooms >> length:
                room = length + (fitting & -fitting).bit_length() - 1  # the lowest bit
                rows = open_rows.pop(room)
                rooms ^= 1 << room
            else:
                room = capacity
                rows = np.arange(num_rows, num_rows + max(1, todo.size // (room // length)))
                num_rows += rows.size
            # a row takes pieces until no other fits: after each it is the one with the least room
            per_row = min(room // length, todo.size)
            filled = rows[: todo.size // per_row]
            row_of[todo[: filled.size * per_row]] = np.repeat(filled, per_row)
            todo = todo[filled.size * per_row :]
            for left, own in ((room, rows[filled.size :]), (room - per_row * length, filled)):
                if left and own.size:
                    open_rows[left] = np.concatenate((open_rows[left], own)) if rooms >> left & 1 else own
                    rooms |= 1 << left
    return row_of
