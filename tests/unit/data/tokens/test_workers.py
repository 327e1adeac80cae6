import os
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
    with pytest.raises(MachineError, match="a worker process was killed.*fewer --workers"):
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
