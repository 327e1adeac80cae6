import logging
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from tests.waiting import wait_until

from candlewick.data.tokens import workers
from candlewick.data.tokens.workers import count_cores, map_in_order
from candlewick.errors import MachineError


def square(number: int) -> tuple[int, int]:
    return os.getpid(), number * number


def die(_number: int) -> None:
    os.abort()


def fail(file: str) -> None:
    if file:
        time.sleep(20)
        Path(file).touch()
    raise ValueError(f"{file!r} is wrong")


def test_items_run_in_other_processes(monkeypatch):
    monkeypatch.setattr(workers, "_ITEMS_PER_WORKER", 2)
    found = list(map_in_order(square, [3, 4, 5], 1))
    assert [(item, result) for item, (_, result) in found] == [(3, 9), (4, 16), (5, 25)]
    processes = {process for _, (process, _) in found}
    assert os.getpid() not in processes
    assert len(processes) == 2  # the second took over after two items


@pytest.mark.parametrize("items", [[3], [3, None], [3, None, 3]])
def test_single_item_before_a_wait_runs_in_this_process(items):
    here = (3, (os.getpid(), 9))
    assert list(map_in_order(square, items, 5)) == [here] * items.count(3)
    alone = list(map_in_order(str, items, 5, alone=lambda number: f"alone: {number}"))
    assert alone == [(3, "alone: 3")] * items.count(3)


def test_no_items_give_no_results():
    assert list(map_in_order(square, [], 5)) == list(map_in_order(square, [None, None], 5)) == []


def finish(item: tuple[Path, int]) -> int:
    """Wait for the file of the next number, then leave one of this number: the last item ends first."""
    folder, number = item
    wait_until((folder / str(number + 1)).exists, f"item {number + 1}")
    (folder / str(number)).touch()
    return number


def test_results_come_in_the_order_of_the_items(tmp_path):
    (tmp_path / "3").touch()
    items = [(tmp_path, number) for number in range(3)]
    assert [number for _, number in map_in_order(finish, items, 3)] == [0, 1, 2]


def test_items_are_taken_two_ahead_per_worker_and_none_beyond_a_wait():
    taken, done = [], []

    def items():
        for number, item in enumerate([1, 2, 3, 4, None, 5, 6]):
            taken.append((item, len(done)))
            assert item is not None or number - len(done) <= 2 * 1
            yield item

    for item, _ in map_in_order(square, items(), 1):
        done.append(item)
    assert done == [1, 2, 3, 4, 5, 6]
    assert dict(taken)[5] == 4  # what comes after the wait was taken after all results before it
    assert dict(taken)[3] >= 1


def test_results_that_are_not_taken_stop_the_workers(tmp_path):
    results = map_in_order(sleep_and_touch, ["", *[str(tmp_path / "finished")] * 3], 1)
    next(results)
    results.close()
    assert not (tmp_path / "finished").exists()


def test_killed_worker_raises_a_machine_error():
    with pytest.raises(MachineError, match="a worker process was killed.*smaller data.num_workers"):
        list(map_in_order(die, [1, 2], 1))


def test_error_in_an_item_stops_the_other_workers(tmp_path):
    with pytest.raises(ValueError, match="'' is wrong"):
        list(map_in_order(fail, ["", str(tmp_path / "finished")], 2))
    assert not (tmp_path / "finished").exists()


def test_count_cores_is_at_least_one(monkeypatch):
    assert count_cores() >= 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert count_cores() == 1


def sleep_and_touch(file: str) -> None:
    if file:
        time.sleep(20)
        Path(file).touch()


def inside(_item: int) -> tuple[int, bool, bool, bool]:
    """How many threads its encoder takes, whether it is deaf to Ctrl-C and quiet, and whether it follows."""
    threads = os.system('test "$RAYON_NUM_THREADS" = 1')
    is_deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    is_quiet = logging.getLogger("candlewick").level == logging.ERROR
    follows = any(thread.daemon for thread in threading.enumerate() if "follow" in thread.name)
    return threads, is_deaf, is_quiet, follows


def test_a_worker_encodes_in_one_thread_is_quiet_and_follows_its_parent():
    for _, found in map_in_order(inside, [1, 2], 1):
        assert found == (0, True, True, True)


def test_a_worker_is_replaced_after_sixteen_items():
    for count, processes in ((16, 1), (17, 2)):
        assert len({process for _, (process, _) in map_in_order(square, range(count), 1)}) == processes


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0: {3, 4, 5}}[process], raising=False)
    assert count_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert count_cores() == 7
