import os

import pytest

from candlewick.errors import MachineError
from candlewick.parallel.env import read_ranks, request_deterministic_cublas


def test_a_process_without_a_launcher_is_rank_zero_of_one(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert read_ranks() == (0, 1, 0)


def test_read_ranks_refuses_several_ranks(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MachineError, match="WORLD_SIZE=2"):
        read_ranks()


@pytest.mark.parametrize("text", ["", "one", "-1", "1.0"])
@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK"])
def test_rank_that_is_no_number_is_refused_in_one_line(monkeypatch, name, text):
    monkeypatch.setenv(name, text)
    with pytest.raises(MachineError, match=rf"{name}='{text}' is not a number .*torchrun"):
        read_ranks()


def test_cublas_workspace_set_by_the_user_is_kept(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    request_deterministic_cublas()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
