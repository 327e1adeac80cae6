"""The order of the data: a keyed permutation of 0..n-1 that is computed, never stored.

    number --> L | R --6 Feistel rounds--> below n? --> position
                ^                            | no
                `---------- again <----------'           (cycle walking)

One round maps (L, R) to (R, L xor mix(R, round key)), so six rounds are a bijection of all numbers with that many
bits. Of these, fewer than half are n or more; they are sent through again until they fall below n, which keeps it
a bijection of 0..n-1 (Black and Rogaway, CT-RSA 2002). All is 64-bit integer arithmetic, the same on every
platform.

    window w     1 4 0 2 3|3 ...  ->  rows 12 10 13 14 11 | 6 7 9 5 8 | ...      `permute_in_windows`
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6
_MIN_BITS = 6  # with fewer the halves are so short that small permutations come out uneven
_GOLDEN = 0x9E3779B97F4A7C15
# the multipliers of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def stateless_hash(*values: int | str) -> int:
    """Return 64 bits that depend on the values and on nothing else."""
    text = "\x1f".join(str(value) for value in values)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def permute(numbers: NDArray[np.integer], n: int, key: int | NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the position of each number in the permutation of 0..n-1 by a 64-bit `key`, or by one key per number.

    Raises ValueError for numbers outside of 0..n-1.
    """
    if n < 1 or n > 1 << 62:
        raise ValueError(f"a permutation of {n} numbers")
    if numbers.size and (int(numbers.min()) < 0 or int(numbers.max()) >= n):
        raise ValueError(f"numbers outside of 0..{n - 1}")
    if n == 1:
        return np.zeros(numbers.shape, np.int64)
    bits = max(_MIN_BITS, (n - 1).bit_length())
    flat = numbers.astype(np.uint64).reshape(-1)
    keys = np.broadcast_to(np.asarray(key, np.uint64).reshape(-1), flat.shape)
    positions = _feistel(flat, bits, keys)
    outside = np.flatnonzero(positions >= np.uint64(n))
    while outside.size:
        positions[outside] = _feistel(positions[outside], bits, keys[outside])
        outside = outside[positions[outside] >= np.uint64(n)]
    return positions.astype(np.int64).reshape(numbers.shape)


def permute_in_windows(numbers: NDArray[np.integer], n: int, window: int, key: int) -> NDArray[np.int64]:
    """Return the positions of `numbers` (1-D) in an order of 0..n-1 that reads one window at a time."""
    window = min(window, n)
    num_full = n // window * window  # positions in full windows
    positions = np.empty(numbers.shape, np.int64)
    inside = numbers < num_full
    window_number, position = np.divmod(numbers[inside], window)
    window_number = permute(window_number, n // window, key)
    # the keys of windows are the stream of splitmix64 that begins at `key`
    keys = _mix((window_number.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN) + np.uint64(key))
    positions[inside] = window_number * window + permute(position, window, keys)
    if not inside.all():
        positions[~inside] = num_full + permute(numbers[~inside] - num_full, n - num_full, key)
    return (positions + key % n) % n


def _feistel(numbers: NDArray[np.uint64], bits: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # the halves swap at each round: unequal ones are back after an even number
    low = bits // 2
    left, right = numbers >> np.uint64(low), numbers & np.uint64((1 << low) - 1)
    width = bits - low  # of `left`
    for i in range(_ROUNDS):
        round_keys = keys + np.uint64((i + 1) * _GOLDEN % (1 << 64))
        mixed = _mix(right + round_keys) >> np.uint64(64 - width)
        left, right = right, left ^ mixed
        width = bits - width
    return (left << np.uint64(low)) | right


def _mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64: every bit in changes every bit out half of the time."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _FIRST
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _SECOND
    return numbers ^ (numbers >> np.uint64(31))
