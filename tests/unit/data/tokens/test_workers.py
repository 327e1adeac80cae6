import logging
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from candlewick.data.tokens import workers
from candlewick.data.tokens.workers import count_cores, map_in_processes
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


def test_in_processes_runs_items_in_other_processes(monkeypatch):
    monkeypatch.setattr(workers, "_ITEMS_PER_WORKER", 2)
    found = dict(map_in_processes(square, [3, 4, 5], 1))
    assert {number: result for number, (_, result) in found.items()} == {0: 9, 1: 16, 2: 25}
    processes = {process for process, _ in found.values()}
    assert os.getpid() not in processes
    assert len(processes) == 2  # the second took over after two items


def test_in_processes_runs_a_single_item_in_this_process():
    assert list(map_in_processes(square, [3], 5)) == [(0, (os.getpid(), 9))]
    assert list(map_in_processes(square, [], 5)) == []


def test_killed_worker_raises_a_machine_error():
    with pytest.raises(MachineError, match="a worker process was killed.*smaller data.num_workers"):
        list(map_in_processes(die, [1, 2], 1))


def test_error_in_an_item_stops_the_other_workers(tmp_path):
    with pytest.raises(ValueError, match="'' is wrong"):
        list(map_in_processes(fail, ["", str(tmp_path / "finished")], 2))
    assert not (tmp_path / "finished").exists()


def test_count_cores_is_at_least_one(monkeypatch):
    assert count_cores() >= 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert count_cores() == 1


def inside(_item: int) -> tuple[int, bool, bool, bool]:
    """How many threads its encoder takes, whether it is deaf to Ctrl-C and quiet, and whether it follows."""
    threads = os.system('test "$RAYON_NUM_THREADS" = 1')
    is_deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    is_quiet = logging.getLogger("candlewick").level == logging.ERROR
    follows = any(thread.daemon for thread in threading.enumerate() if "follow" in thread.name)
    return threads, is_deaf, is_quiet, follows


def test_a_worker_encodes_in_one_thread_is_quiet_and_follows_its_parent():
    for _, found in map_in_processes(inside, [1, 2], 1):
        assert found == (0, True, True, True)


def test_a_worker_is_replaced_after_sixteen_items():
    for count, processes in ((16, 1), (17, 2)):
        assert len({process for _, (process, _) in map_in_processes(square, range(count), 1)}) == processes


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0: {3, 4, 5}}[process], raising=False)
    assert count_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert count_cores() == 7
