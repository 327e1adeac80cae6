"""Several sources by weight: which one each row of a run is from, as a function of its number alone.

    weights 3, 1, 2 (W = 6)     0 2 0 1 0 2 | 0 2 0 1 0 2 | ...

Of the first g rows, floor((g w + phase) / W) are from the first source, of weight w; those that are left are
dealt to the other sources in the same way, as a line is drawn on a grid (Bresenham, IBM Systems Journal 4, 1965).
Every W rows hold exactly w_i of source i. The phases, from the seed, keep rare sources from meeting in one place.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from candlewick.data.rows.permutation import stateless_hash


class Mixture:
    """Assigns the rows of a run to sources by integer `weights`, each below 2^32."""

    def __init__(self, weights: Sequence[int], seed: int) -> None:
        self.weights = tuple(weights)
        rests = [sum(weights[i:]) for i in range(len(weights))]
        phases = [stateless_hash("mixture", seed, i) % rest for i, rest in enumerate(rests)]
        self._deals = tuple(zip(self.weights, rests, phases, strict=True))

    def counts(self, rows: int) -> tuple[int, ...]:
        """Return how many of the first `rows` are from each source."""
        counts: list[int] = []
        for weight, rest, phase in self._deals:
            counts.append((rows * weight + phase) // rest)
            rows -= counts[-1]
        return tuple(counts)

    def sources(self, first: int, count: int) -> NDArray[np.int64]:
        """Return the sources of rows [first, first + count)."""
        sources = np.empty(count, np.int64)
        numbers = np.arange(count)  # not dealt yet; numbers offered to a source have no gaps
        for source, (weight, rest, start) in enumerate(self._deals):
            dealt, phase = divmod(first * weight + start, rest)
            is_dealt = np.diff((phase + np.arange(numbers.size + 1) * weight) // rest) > 0
            sources[numbers[is_dealt]] = source
            numbers = numbers[~is_dealt]
            first -= dealt
        return sources
