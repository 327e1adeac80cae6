"""A split as rows of exactly T tokens and their targets, on a circle.

    tokens of the split   0 1 2 3 4 5 6 7 8 9 | 0 1 ...      N = 10, after the last comes the first
    offset 3, T = 4       . . . a a a a b b b   c c x x      n = ceil(N / T) = 3 rows; x counts for nothing

Over the n rows every token is a target exactly once: of the last row only the first N - (n - 1) T targets count.
The offset changes with the epoch. Targets that do not count, as masks say, are replaced by `IGNORE_INDEX`.
"""

from dataclasses import dataclass, replace
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray

from candlewick.data.tokens.dataset import Indices, Tokens, TokenSplit
from candlewick.data.tokens.maps import MappedFiles, require_readable

Mask = NDArray[np.bool_]
IGNORE_INDEX = -100  # as in torch's cross_entropy


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of T tokens, as arrays (rows, T)."""

    tokens: NDArray[np.int32]
    targets: NDArray[np.int32]  # the token after each; IGNORE_INDEX: it does not count
    num_targets: int  # that count
    starts: Mask | None  # where documents begin, if `needs_starts`

    @classmethod
    def from_mask(
        cls, tokens: NDArray[np.int32], targets: NDArray[np.int32], loss_mask: Mask | None, starts: Mask | None
    ) -> Self:
        """Make rows in which a target counts where `loss_mask` is true; None: all count. Writes into `targets`."""
        if loss_mask is None:
            return cls(tokens, targets, targets.size, starts)
        # IGNORE_INDEX where the mask is false: arithmetic is many times faster than choosing
        targets -= IGNORE_INDEX
        targets *= loss_mask
        targets += IGNORE_INDEX
        return cls(tokens, targets, int(np.count_nonzero(loss_mask)), starts)


def mask_split(split: TokenSplit) -> TokenSplit | None:
    """Return a split whose tokens are the masks of `split`: 1 if the token counts as a target, else 0."""
    if split.masks is None:
        return None
    return replace(split, shards=cast("MappedFiles | tuple[Tokens, ...]", split.masks), masks=None)


class ChunkedRows:
    """Reads rows of a split on a grid of T tokens. All positions are token numbers in the split."""

    def __init__(self, split: TokenSplit, sequence_length: int, *, needs_starts: bool = False) -> None:
        self.split = split
        self.sequence_length = sequence_length
        self.num_rows = -(-split.num_tokens // sequence_length)
        self.last_row_tokens = split.num_tokens - (self.num_rows - 1) * sequence_length
        self._needs_starts = needs_starts
        self._starts = np.array(split.shard_starts, np.int64)
        masks = mask_split(split)
        self._masks = None if masks is None else ChunkedRows(masks, sequence_length)

    def read(self, rows: Indices, offsets: Indices | int) -> Rows:
        """Return rows of the grid that begins at `offsets` (one, or one per row; 0 <= offset < T)."""
        windows = self.gather(rows, offsets)
        # two copies, as targets are written to; 32 bits: int64 on the CPU costs more than the reading
        tokens, targets = windows[:, :-1].astype(np.int32), windows[:, 1:].astype(np.int32)
        starts = tokens == self.split.delimiter_id if self._needs_starts else None
        return Rows.from_mask(tokens, targets, self.loss_mask(rows, offsets), starts)

    def gather(self, rows: Indices, offsets: Indices | int) -> Tokens:
        """Return the T + 1 tokens of each row: (rows, T + 1), a copy."""
        width = self.sequence_length + 1
        positions = (offsets + rows * self.sequence_length) % self.split.num_tokens
        numbers = np.searchsorted(self._starts, positions, "right") - 1
        out = np.empty((len(rows), width), self.split.shards[int(numbers[0])].dtype)
        for number in set(numbers.tolist()):
            chosen, shard = np.flatnonzero(numbers == number), self.split.shards[number]
            firsts = (positions[chosen] - self._starts[number]).tolist()
            last = shard.size - width  # of the rows that lie in this shard alone
            require_readable(shard, [first for first in firsts if first <= last], width)
            for i, first in zip(chosen.tolist(), firsts, strict=True):
                is_whole = first <= last
                out[i] = (
                    shard[first : first + width] if is_whole else self.split.read_tokens(int(positions[i]), width)
                )
        return out

    def loss_mask(self, rows: Indices, offsets: Indices | int) -> Mask | None:
        """Return which targets count, (rows, T), or None if all do. Reads no tokens."""
        is_last = rows == self.num_rows - 1
        if self._masks is not None:
            mask = self._masks.gather(rows, offsets)[:, 1:].view(np.bool_)
        elif self.last_row_tokens == self.sequence_length or not is_last.any():
            return None
        else:
            mask = np.ones((len(rows), self.sequence_length), np.bool_)
        mask[is_last, self.last_row_tokens :] = False
        return mask
