"""Worker processes map a function over items: spawned, never forked, without torch; they end with their parent."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from candlewick.errors import MachineError

_ITEMS_PER_WORKER = 16  # then it is replaced: the fast encoders' caches grow with the text and give nothing back
Item = TypeVar("Item")
Result = TypeVar("Result")


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[tuple[int, Result]]:
    """Yield (number of the item, result) in order of completion. Raises MachineError for a killed worker."""
    if len(items) == 1:  # a process would take longer to start than most such items to do
        yield 0, function(items[0])
        return
    wave = workers * _ITEMS_PER_WORKER
    for first in range(0, len(items), wave):
        numbers = range(first, min(first + wave, len(items)))
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(workers, len(numbers)), context, start_worker)
        others = set(multiprocessing.active_children())
        try:
            futures = {pool.submit(function, items[number]): number for number in numbers}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise MachineError(
                "a worker process was killed, perhaps for want of memory; the finished shards are kept",
                "run it again to go on, with a smaller data.num_workers or data.shard_text_bytes",
            ) from None
        except BaseException:
            # their tasks have no receipts yet, so there is nothing to wait for
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
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
