import os
import signal

import pytest
import torch

from candlewick.errors import MachineError, RunDiverged
from candlewick.train.guards import NonFiniteGuard, StopRequest, oom_as_machine_error
from candlewick.train.state import TrainState
from candlewick.train.step import StepResult


def _result(skipped, loss_scale=None):
    scale = None if loss_scale is None else torch.tensor(loss_scale)
    one = torch.tensor(1.0)
    return StepResult(loss=one, grad_norm=one, skipped=torch.tensor(float(skipped)), loss_scale=scale)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_request_is_set_by_a_signal_and_raised_by_a_second(number):
    before = signal.getsignal(number)
    with StopRequest().listening() as stop:
        assert stop.signal_name is None
        os.kill(os.getpid(), number)
        assert stop.signal_name == number.name
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_non_finite_guard_counts_a_skipped_update_at_the_next_check():
    guard, state = NonFiniteGuard(limit=3), TrainState()
    guard.check(state, _result(1))
    assert state.skipped_steps == 0
    guard.check(state, _result(0))
    assert (state.skipped_steps, state.consecutive_nonfinite_steps) == (1, 1)
    guard.flush(state)
    assert (state.skipped_steps, state.consecutive_nonfinite_steps) == (1, 0)
    guard.flush(state)
    assert state.skipped_steps == 1


def test_non_finite_guard_raises_after_too_many_skips_in_a_row():
    guard, state = NonFiniteGuard(limit=2), TrainState(step=9)
    guard.check(state, _result(1))
    guard.check(state, _result(1))
    with pytest.raises(RunDiverged, match="2 updates in a row, up to step 9.*learning_rate"):
        guard.check(state, _result(0))


def test_overflow_that_lowers_the_loss_scale_is_no_divergence():
    guard, state = NonFiniteGuard(limit=2), TrainState()
    for scale in (8.0, 4.0, 2.0):
        guard.check(state, _result(1, scale))
    guard.check(state, _result(1, 1.0))
    assert (state.skipped_steps, state.consecutive_nonfinite_steps) == (3, 0)
    guard.check(state, _result(1, 1.0))
    with pytest.raises(RunDiverged):
        guard.flush(state)


def allocate(size):
    """What the CPU's allocator says; a failing one would change how this process gets its memory."""
    raise RuntimeError(f"DefaultCPUAllocator: can't allocate memory: you tried to allocate {size} bytes.\nmore")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: allocate(1 << 50), "not enough memory: .*tried to allocate 1125899906842624 bytes. .fix: lower"),
        (lambda: torch.empty(1 << 40, 1 << 40), "not enough memory: .*overflow"),
        (lambda: torch.empty(10**30), "not enough memory: .*verflow"),
        (lambda: [0] * (1 << 62), "not enough memory: "),
    ],
)
def test_out_of_memory_becomes_a_machine_error(make, said):
    with pytest.raises(MachineError, match=said), oom_as_machine_error():
        make()


def test_errors_other_than_out_of_memory_are_unchanged():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), oom_as_machine_error():
        torch.mm(torch.ones(1, 2), torch.ones(1, 2))


def test_the_first_signal_is_told_on_standard_error(capfd):
    with StopRequest().listening():
        os.kill(os.getpid(), signal.SIGTERM)
    said = "SIGTERM: finishing the step, then saving; once more stops at once\n"
    assert capfd.readouterr() == ("", said)


def test_clean_updates_between_skipped_ones_begin_the_count_anew():
    guard, state = NonFiniteGuard(limit=2), TrainState()
    for skipped in (1, 0, 1, 0, 1):
        guard.check(state, _result(skipped))
    guard.flush(state)
    assert (state.skipped_steps, state.consecutive_nonfinite_steps) == (3, 1)


def test_hangup_that_comes_twice_does_not_stop_at_once():
    stop = StopRequest()
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGUSR1):
        stop.on_signal(number, None)
    assert stop.signal_name == "SIGHUP"
    with pytest.raises(KeyboardInterrupt):
        stop.on_signal(signal.SIGTERM, None)
