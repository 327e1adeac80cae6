"""Token shards -> batches, in an order that is a function of one integer.

    row g of the run     which row of the dataset it is, `RowOrder` says
    update               rows [g, g + G), with G of the batch schedule; rank r of W takes the r-th of W equal
                         slices of them, in micro-batches of B rows

The state is the number of rows read: a run can continue with other ranks, B or G and sees the same tokens.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from candlewick.config import DataConfig
from candlewick.data.rows.batches import BatchSchedule
from candlewick.data.rows.chunking import IGNORE_INDEX, Rows
from candlewick.data.rows.row_order import RowOrder, open_rows
from candlewick.data.tokens.dataset import TokenSplit
from candlewick.errors import DataError
from candlewick.model.documents import Documents, on_device

STATE_VERSION = 2
_PREFETCH_UPDATES = 2


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one forward pass."""

    tokens: Tensor  # (B, T) int32
    targets: Tensor  # (B, T) int32, the token after each; IGNORE_INDEX: it does not count
    documents: Documents | None = None  # with data.document_mask: their bounds

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device."""
        tokens, targets = on_device(self.tokens, device), on_device(self.targets, device)
        return type(self)(tokens, targets, self.documents and self.documents.to(device))


@dataclass(frozen=True, slots=True)
class GlobalBatch:
    """The rows that one rank reads for one update, in micro-batches."""

    micro_batches: tuple[Batch, ...]
    num_targets: int  # that count, of the global batch over all ranks


@dataclass
class Loader:
    """Yields global batches without end. The schedule `batches` is for `world_size` ranks."""

    order: RowOrder
    batches: BatchSchedule
    _: KW_ONLY
    micro_batch_size: int
    rank: int = 0
    world_size: int = 1
    rows_read: int = 0  # by all ranks together
    wait_seconds: float = field(default=0.0, init=False)  # that `next` waited for the thread

    def __post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "loader")
        self._pending: deque[Future[GlobalBatch]] = deque()
        self._next_row = self.rows_read  # the first row that no read was submitted for

    @property
    def epoch(self) -> float:
        """Passes over the data so far, over all sources together."""
        return self.rows_read / self.order.num_rows

    def next(self) -> GlobalBatch:
        """Return the next global batch of this rank. Raises what the thread that reads it raised."""
        while len(self._pending) < 1 + _PREFETCH_UPDATES:
            self._pending.append(self._thread.submit(self._read, self._next_row))
            self._next_row += self.batches.rows_at(self._next_row)
        began = time.perf_counter()
        batch = self._pending.popleft().result()
        self.wait_seconds += time.perf_counter() - began
        self.rows_read += self.batches.rows_at(self.rows_read)
        return batch

    def state(self) -> dict[str, Any]:
        """Return the position in the data after the last batch that `next` returned."""
        return {"version": STATE_VERSION, **self.order.identity, "samples": self.rows_read}

    def close(self) -> None:
        """Stop the thread and wait for its end."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _read(self, first: int) -> GlobalBatch:
        rows, size = self.batches.rows_at(first), self.micro_batch_size
        positions = self.order.positions(first, rows)
        rank_rows = rows // self.world_size
        batches = [
            self.order.read(positions[:, low : low + size])
            for low in range(self.rank * rank_rows, (self.rank + 1) * rank_rows, size)
        ]
        # rows that were read need not be read again
        total = self.order.num_targets(positions) if self.world_size > 1 else sum(b.num_targets for b in batches)
        return GlobalBatch(tuple(map(_to_batch, batches)), total)


def saved_rows(state: Mapping[str, Any], order: RowOrder) -> int:
    """Return the rows that a `Loader.state` counts. Raises DataError if it is of another order, naming both."""
    if state.get("version") != STATE_VERSION:
        raise DataError(
            f"the loader's state has version {state.get('version')}, this program reads {STATE_VERSION}",
            "resume with the version of candlewick that wrote it",
        )
    for name, value in order.identity.items():
        if state.get(name) != value and name != "more_parts":
            raise DataError(
                f"the run was reading with {name} {str(state.get(name))[:16]}, now it is {str(value)[:16]}",
                "resume with the data and settings of the run, or start a new run",
            )
    rows = state.get("samples")
    if type(rows) is not int or rows < 0:
        raise DataError(f"the loader's state has no number of samples, but {rows!r}", "use another checkpoint")
    if not order.begins_alike(state.get("more_parts"), rows):
        raise DataError(
            f"the run has read {rows:,} rows, more than are in the tokens that it had and has now",
            "put data.max_tokens back to what it was, or start a new run",
        )
    return rows


def _to_batch(rows: Rows) -> Batch:
    return Batch(
        torch.from_numpy(rows.tokens),
        torch.from_numpy(rows.targets),
        None if rows.starts is None else Documents.from_starts(torch.from_numpy(rows.starts)),
    )


def validation_batches(
    split: TokenSplit, config: DataConfig, *, sequence_length: int, max_tokens: int | None = None
) -> Iterator[Batch]:
    """Yield the rows of a split in order, each of its tokens a target exactly once; the same at every call.

    The last batch is filled with rows whose targets do not count, so that all have one shape. `max_tokens` takes
    as many rows as have no more, at least one, spread evenly: the same for each size of the micro-batches. For
    bytes scale by `split.num_bytes / split.num_targets`: exact if all are read.
    """
    view = open_rows(split, config, sequence_length)
    size, total = config.micro_batch_size, view.num_rows
    count = total if max_tokens is None else min(max(1, max_tokens // sequence_length), total)
    for first in range(0, count, size):
        numbers = range(first, first + size)
        batch_rows = view.read(np.array([min(i, count - 1) * total // count for i in numbers]), 0)
        batch_rows.targets[count - first :] = IGNORE_INDEX
        yield _to_batch(batch_rows)
