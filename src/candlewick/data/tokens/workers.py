"""Worker processes map a function over items: spawned, never forked, without torch; they end with their parent."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing.connection import wait
from types import ModuleType
from typing import Self, TypeVar

from candlewick.errors import MachineError

_ITEMS_AHEAD = 2  # per worker
_ITEMS_PER_WORKER = 16  # then it is replaced: the fast encoders' caches grow with the text and give nothing back
Item = TypeVar("Item")
Result = TypeVar("Result")


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item | None],
    workers: int,
    alone: Callable[[Item], Result] | None = None,
) -> Generator[tuple[Item, Result]]:
    """Yield (item, result) in the order of the items, of which a few more than there are workers are taken ahead.

    None in the place of an item lets nothing be taken before the results so far are. A single item is done here,
    by `alone` if that is given: a process would take longer to start than most such items to do. Raises
    MachineError for a killed worker.
    """
    items = iter(items)
    while (first := list(islice(items, 2)))[1:] in ([], [None]):
        if not first:
            return
        if first[0] is not None:
            yield first[0], (alone or function)(first[0])
    items, pending = chain(first, items), deque[tuple[Item, Future[Result]]]()
    with _Pool(workers) as pool:
        for item in items:
            if item is not None:
                pending.append((item, pool.submit(function, item)))
            while pending and (item is None or len(pending) >= workers * _ITEMS_AHEAD or pending[0][1].done()):
                yield _take(pending)
        while pending:
            yield _take(pending)


def _take(pending: deque[tuple[Item, Future[Result]]]) -> tuple[Item, Result]:
    item, future = pending.popleft()
    try:
        return item, future.result()
    except BrokenProcessPool:
        raise MachineError(
            "a worker process was killed, or could not start as it says above; the finished shards are kept",
            "run it again to go on; for want of memory with a smaller data.num_workers or data.shard_text_bytes",
        ) from None


@contextmanager
def _hidden_script() -> Generator[None]:
    """Let processes that start now not import the script of this one: without a main guard it would run again."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


class _Pool:
    """Worker processes that are replaced from time to time; those that are left are ended with the block."""

    def __init__(self, workers: int) -> None:
        self._workers, self._submitted = workers, 0
        self._pools: list[ProcessPoolExecutor] = []
        self._others = set(multiprocessing.active_children())

    def __enter__(self) -> Self:
        return self

    def submit(self, function: Callable[[Item], Result], item: Item) -> Future[Result]:
        """Queue a call."""
        if self._submitted % (self._workers * _ITEMS_PER_WORKER) == 0:
            if self._pools:  # it ends when its calls have
                self._pools[-1].shutdown(wait=False)
            context = multiprocessing.get_context("spawn")
            self._pools.append(ProcessPoolExecutor(self._workers, context, start_worker))
        self._submitted += 1
        with _hidden_script():
            return self._pools[-1].submit(function, item)

    def __exit__(self, *_: object) -> None:
        # what runs has no receipt yet, so there is nothing to wait for
        for process in set(multiprocessing.active_children()) - self._others:
            process.terminate()
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)


def start_worker() -> None:
    """Encode in one thread, leave Ctrl-C to the parent, and end with it even if it is killed."""
    os.putenv("RAYON_NUM_THREADS", "1")  # there is a process for each core; read when the first text is encoded
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("candlewick").setLevel(logging.ERROR)  # the parent warns, once
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
