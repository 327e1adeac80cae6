import pytest
import torch

from candlewick.errors import CheckpointError
from candlewick.train.state import TrainState, numerics_fingerprint, random_state, restore_random_state


def test_train_state_counters_survive_the_round_trip():
    state = TrainState(step=3, tokens=300, total_steps=None, train_seconds=1.25, best_loss=2.5)
    assert TrainState.from_json(state.to_json()) == state


@pytest.mark.parametrize(
    "change",
    [
        {"moon": 2},
        {"step": "abc"},
        {"step": None},
        {"step": -1},
        {"tokens": 1.5},
        {"step": "3"},
        {"step": True},
        {"best_loss": float("nan")},
    ],
)
def test_train_state_refuses_unknown_or_malformed_counters(change):
    with pytest.raises(CheckpointError, match=r"state\.json has other counters than this version: [^\n]+$"):
        TrainState.from_json({"step": 1, **change})


def test_restored_random_state_repeats_the_numbers():
    device = torch.device("cpu")
    state = random_state(device)
    first = torch.rand(5)
    restore_random_state(state, device)
    assert torch.equal(torch.rand(5), first)


def test_random_state_of_another_device_is_ignored():
    restore_random_state({"cuda": "00"}, torch.device("cpu"))


@pytest.mark.parametrize("text", ["00", "zz", "", 5])
def test_malformed_random_state_is_refused(text):
    with pytest.raises(CheckpointError, match=r"state\.json has a random state that cannot be set"):
        restore_random_state({"cpu": text}, torch.device("cpu"))


def test_numerics_of_the_machine_are_device_threads_and_instructions():
    found = numerics_fingerprint(torch.device("cpu"))
    assert found["device"] == "cpu"
    assert found["threads"] == torch.get_num_threads()
    assert found["instructions"] == torch.backends.cpu.get_cpu_capability()


def test_train_state_of_a_new_run_has_zero_or_no_counters():
    counters = TrainState().to_json()
    assert counters.pop("loss_scale") == 32768.0
    assert counters.pop("best_steps") == ()
    assert set(counters.values()) == {0, None}
