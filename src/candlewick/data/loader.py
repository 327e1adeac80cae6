"""Token shards -> batches, in an order that is a function of one integer.

    global sample g      epoch e, k = divmod(g, rows per epoch)
    its row              permute(k) with a key made of (seed, e, dataset), on a grid shifted by (seed, e, dataset)
    update s             samples [s G, (s + 1) G);  rank r of W takes the r-th of W equal slices of them,
                         in micro-batches of B rows

So the state is the number of samples handed out. Ranks, micro-batch size and prefetch are not in it: a run can go
on with others and sees the same tokens in the same order. One thread prepares the next updates. What it has
prepared and not handed out is not in the state either, so nothing is lost or repeated by a stop.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candlewick.data.order import permute, stateless_hash
from candlewick.data.token_shards import TokenSplit
from candlewick.data.windows import Windows
from candlewick.errors import ConfigError, DataError

STATE_VERSION = 1
_PREFETCHED = 2  # updates
_BLOCK = 4096  # places of the permutation that are computed at a time


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows for one forward pass. Weights of full rows are shared between batches: do not write into them."""

    tokens: Tensor  # (B, T) int32
    targets: Tensor  # (B, T) int32, the token after each
    weights: Tensor  # (B, T) float32, 1: this target counts, 0: it does not

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device."""
        return type(self)(*(_to(tensor, device) for tensor in (self.tokens, self.targets, self.weights)))


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":  # pragma: cuda
        # from pageable memory the copy would wait for all that the device still has to compute
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True, slots=True)
class Update:
    """What one rank reads for one update."""

    micro_batches: tuple[Batch, ...]
    weight_sum: float  # of the global batch, over all ranks


@dataclass
class Loader:
    """Hands out updates of a split without end. `samples` is how many rows all ranks together have read.

    Raises ConfigError if the global batch is not a whole number of micro-batches on each rank.
    """

    split: TokenSplit
    _: KW_ONLY
    sequence_length: int
    micro_batch_size: int
    global_batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    samples: int = 0
    wait_seconds: float = field(default=0.0, init=False)  # that `next` had to wait for the thread

    def __post_init__(self) -> None:
        rows = self.world_size * self.micro_batch_size
        if self.global_batch_size % rows:
            near = max(1, round(self.global_batch_size / rows)) * rows
            raise ConfigError(
                f"a global batch of {self.global_batch_size} rows is not a multiple of {self.world_size} ranks "
                f"x micro_batch_size {self.micro_batch_size} = {rows} rows",
                f"set data.global_batch_size to {near}, or change data.micro_batch_size",
            )
        self._windows = Windows(self.split, self.sequence_length)
        self._ones = torch.ones(self.micro_batch_size, self.sequence_length)
        self._thread = ThreadPoolExecutor(1, "loader")
        self._coming: deque[Future[Update]] = deque()
        self._next_sample = self.samples  # that the thread has not been asked for yet

    @property
    def epoch(self) -> float:
        """Passes over the split so far."""
        return self.samples / self._windows.num_rows

    def next(self) -> Update:
        """Return the next update of this rank. Raises what went wrong in reading it."""
        while len(self._coming) < 1 + _PREFETCHED:
            self._coming.append(self._thread.submit(self._read, self._next_sample))
            self._next_sample += self.global_batch_size
        began = time.perf_counter()
        update = self._coming.popleft().result()
        self.wait_seconds += time.perf_counter() - began
        self.samples += self.global_batch_size
        return update

    def state(self) -> dict[str, Any]:
        """Return the place in the data, after what was handed out; see `restored_samples`."""
        return {
            "version": STATE_VERSION,
            "dataset_id": self.split.dataset_id,
            "split": self.split.name,
            "seed": self.seed,
            "sequence_length": self.sequence_length,
            "samples": self.samples,
        }

    def close(self) -> None:
        """Stop the thread and wait for its end."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _read(self, first: int) -> Update:
        rows, offsets = self._rows(first, self.global_batch_size)
        own = self.global_batch_size // self.world_size
        micro_batches: list[Batch] = []
        for low in range(self.rank * own, (self.rank + 1) * own, self.micro_batch_size):
            mine = slice(low, low + self.micro_batch_size)
            micro_batches.append(_batch(self._windows, rows[mine], offsets[mine], self._ones))
        return Update(tuple(micro_batches), self._windows.weight_sum(rows))

    def _rows(self, first: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return row and grid offset of samples [first, first + count)."""
        n = self._windows.num_rows
        rows, offsets = np.empty(count, np.int64), np.empty(count, np.int64)
        done = 0
        while done < count:
            epoch, k = divmod(first + done, n)
            key = stateless_hash("rows", self.seed, epoch, self.split.dataset_id)
            block = _permuted_block(n, key, k // _BLOCK)[k % _BLOCK :][: count - done]
            rows[done : done + len(block)] = block
            shift = stateless_hash("offset", self.seed, epoch, self.split.dataset_id)
            offsets[done : done + len(block)] = shift % self.sequence_length
            done += len(block)
        return rows, offsets


@lru_cache(maxsize=8)
def _permuted_block(n: int, key: int, number: int) -> NDArray[np.int64]:
    return permute(np.arange(number * _BLOCK, min(n, (number + 1) * _BLOCK)), n, key)


def _batch(windows: Windows, rows: NDArray[np.int64], offsets: NDArray[np.int64] | int, ones: Tensor) -> Batch:
    tokens = windows.gather(rows, offsets)  # (B, T + 1)
    weights = windows.weights(rows)
    return Batch(
        # widened to 32 bits only: int64 on the CPU costs more than the reading
        torch.from_numpy(tokens[:, :-1].astype(np.int32)),
        torch.from_numpy(tokens[:, 1:].astype(np.int32)),
        ones if weights is None else torch.from_numpy(weights),
    )


def restored_samples(state: Mapping[str, Any], split: TokenSplit, *, sequence_length: int, seed: int) -> int:
    """Return the number of samples to go on from. Raises DataError if the state is of other data, naming both."""
    if state.get("version") != STATE_VERSION:
        raise DataError(
            f"the loader's state has version {state.get('version')}, this program reads {STATE_VERSION}",
            "resume with the version of candlewick that wrote it",
        )
    now = {
        "dataset_id": split.dataset_id,
        "split": split.name,
        "sequence_length": sequence_length,
        "seed": seed,
    }
    for name, value in now.items():
        if state.get(name) != value:
            raise DataError(
                f"the run was reading with {name} {str(state.get(name))[:16]}, now it is {str(value)[:16]}",
                "resume with the data and settings of the run, or start a new run",
            )
    samples = state.get("samples")
    if type(samples) is not int or samples < 0:
        raise DataError(f"the loader's state has no number of samples, but {samples!r}", "use another checkpoint")
    return samples


def validation_batches(
    split: TokenSplit, *, sequence_length: int, micro_batch_size: int, max_batches: int | None = None
) -> Iterator[Batch]:
    """Yield the rows of a split in order, each of its tokens a target exactly once; the same at every call.

    The last batch is filled with rows of weight 0, so that all have one shape. With `max_batches`, so many
    batches, spread evenly. On the circle the first token is the target of the last. A batch does not say how many
    bytes of text it covers: scale by `split.num_bytes / split.num_tokens`, which is exact if all batches are read.
    """
    windows = Windows(split, sequence_length)
    ones = torch.ones(micro_batch_size, sequence_length)
    count = -(-windows.num_rows // micro_batch_size)
    chosen = range(count)
    if max_batches is not None and max_batches < count:
        chosen = [i * count // max_batches for i in range(max_batches)]
    for i in chosen:
        rows = np.arange(i * micro_batch_size, (i + 1) * micro_batch_size)
        batch = _batch(windows, np.minimum(rows, windows.num_rows - 1), 0, ones)
        filled = torch.from_numpy(rows < windows.num_rows)
        yield batch if filled.all() else replace(batch, weights=batch.weights * filled[:, None])
