"""A split as rows of exactly T tokens and their targets, on a circle.

    tokens of the split   0 1 2 3 4 5 6 7 8 9 | 0 1 ...      N = 10, after the last comes the first
    offset 3, T = 4       . . . a a a a b b b   c c x x      n = ceil(N / T) = 3 rows; x counts for nothing

Row i reads the tokens from offset + i T on, and predicts for each the next one. Over the n rows every token is
a target exactly once: nothing is dropped, repeated or padded. Where the grid begins is moved at every epoch, so
that the rows are not the same again. Of the last row only the first N - (n - 1) T targets count (weight 1).
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from candlewick.data.token_shards import Tokens, TokenSplit


class Windows:
    """Reads rows of a split. All positions are token numbers in the split."""

    def __init__(self, split: TokenSplit, sequence_length: int) -> None:
        self.split = split
        self.sequence_length = sequence_length
        self.num_rows = -(-split.num_tokens // sequence_length)
        self.last_row_tokens = split.num_tokens - (self.num_rows - 1) * sequence_length
        self._starts = np.array(split.starts, np.int64)
        width = sequence_length + 1
        # indexing these views copies only the rows asked for; np.take would copy the file
        self._views = [sliding_window_view(s, width) if len(s) >= width else None for s in split.shards]

    def gather(self, rows: NDArray[np.int64], offsets: NDArray[np.int64] | int) -> Tokens:
        """Return the T + 1 tokens of each row: (rows, T + 1), a copy."""
        width = self.sequence_length + 1
        positions = (offsets + rows * self.sequence_length) % self.split.num_tokens
        numbers = np.searchsorted(self._starts, positions, "right") - 1
        out = np.empty((len(rows), width), self.split.shards[0].dtype)
        for number in np.unique(numbers):
            chosen = np.flatnonzero(numbers == number)
            local = positions[chosen] - self._starts[number]
            fits = local + width <= len(self.split.shards[number])
            view = self._views[number]
            if view is not None and fits.any():
                out[chosen[fits]] = view[local[fits]]
            for i in chosen[~fits]:
                out[i] = self.split.window(int(positions[i]), width)
        return out

    def weights(self, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Return which targets of each row count, (rows, T), or None if all do."""
        is_last = rows == self.num_rows - 1
        if self.last_row_tokens == self.sequence_length or not is_last.any():
            return None
        weights = np.ones((len(rows), self.sequence_length), np.float32)
        weights[is_last, self.last_row_tokens :] = 0
        return weights

    def weight_sum(self, rows: NDArray[np.int64]) -> float:
        """Return how many targets count in these rows."""
        missing = self.sequence_length - self.last_row_tokens
        return float(len(rows) * self.sequence_length - missing * np.count_nonzero(rows == self.num_rows - 1))
