"""Tensors in chunks of bounded size, so that the temporary tensors of an update are small beside the weights."""

from collections.abc import Iterable, Iterator

MAX_NUMBERS = 1 << 24  # of all tensors in a chunk: 64 MiB of float32


def chunks(sizes: Iterable[int]) -> Iterator[slice]:
    """Yield the slices of consecutive tensors of these sizes that hold MAX_NUMBERS at most, or one tensor."""
    first = stop = total = 0
    for size in sizes:
        if total and total + size > MAX_NUMBERS:
            yield slice(first, stop)
            first, total = stop, 0
        stop, total = stop + 1, total + size
    if stop > first:
        yield slice(first, stop)
