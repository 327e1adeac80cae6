"""What may end a run early: a signal, or too many updates that were not finite."""

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from candlewick.errors import Diverged
from candlewick.train.loss_scale import LEAST
from candlewick.train.state import TrainState
from candlewick.train.step import StepResult


class StopRequest:
    """Set by SIGINT or SIGTERM: the loop finishes its step, saves and stops. A second signal stops at once."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def __bool__(self) -> bool:
        return self.signal_name is not None

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Take note of a signal; the second one raises KeyboardInterrupt."""
        del frame
        if self.signal_name is not None:
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name
        # straight to the terminal: a signal may come while a logger or a stream holds its lock
        os.write(2, f"{self.signal_name}: finishing the step, then saving; once more stops at once\n".encode())

    @contextmanager
    def listening(self) -> Generator["StopRequest"]:
        """Catch the two signals inside the block, and give them back to their former handlers after it."""
        former = {number: signal.signal(number, self.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


class NonFiniteGuard:
    """Counts skipped updates one step late, so that the host does not wait for the device."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._pending: StepResult | None = None

    def check(self, state: TrainState, result: StepResult) -> None:
        """Account for the update before this one. Raises Diverged after `limit` skipped ones in a row."""
        self.flush(state)
        self._pending = result

    def flush(self, state: TrainState) -> None:
        """Account for the newest update too; before a save, or the counters in it would be late."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if pending.skipped.item() == 0.0:
            state.nonfinite_in_a_row = 0
            return
        state.skipped_steps += 1
        if pending.loss_scale is not None and pending.loss_scale.item() > LEAST:
            return  # how large the scale may be is found by trying; it was halved
        state.nonfinite_in_a_row += 1
        if state.nonfinite_in_a_row >= self.limit:
            raise Diverged(
                f"loss or gradients were not finite in {self.limit} updates in a row, up to step {state.step}",
                "resume with a lower optimizer.learning_rate or a longer scheduler.warmup_steps",
            )
