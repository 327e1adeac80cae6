"""Guards that end a run early: on a signal, after too many non-finite updates, without memory."""

import os
import re
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType

import torch
from torch import Tensor

from candlewick.errors import MachineError, RunDiverged
from candlewick.train.loss_scale import LEAST
from candlewick.train.state import TrainState
from candlewick.train.step import StepResult

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Ctrl-C; a pre-empting scheduler; a terminal or connection that ends; Slurm before its time limit."""


class StopAskedError(Exception):
    """Raised at a safe point after a signal asked to stop; the Trainer saves and turns it into RunInterrupted."""


class StopRequest:
    """A request by a signal to stop at the next safe point and save. A second SIGINT or SIGTERM stops at once."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def raise_if_asked(self) -> None:
        """Raise StopAskedError if a signal came: called where weights and counters are those of a whole step."""
        if self.signal_name is not None:
            raise StopAskedError

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Store the name of a signal; then SIGINT and SIGTERM raise KeyboardInterrupt.

        The others do not: a terminal that is closed sends SIGHUP twice.
        """
        if self.signal_name is not None:
            if number in (signal.SIGINT, signal.SIGTERM):
                raise KeyboardInterrupt
            return
        self.signal_name = signal.Signals(number).name
        # straight to the terminal: a signal may come while a logger or a stream holds its lock
        with suppress(OSError):  # which may be gone
            os.write(2, f"{self.signal_name}: finishing the step, then saving; once more stops at once\n".encode())

    @contextmanager
    def listening(self) -> Generator["StopRequest"]:
        """Catch the signals inside the block, and give them back to their former handlers after it.

        A signal that the process was told to ignore, as nohup does with SIGHUP, stays ignored. A thread catches
        none.
        """
        signals = STOP_SIGNALS if threading.current_thread() is threading.main_thread() else ()
        caught = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
        former = {number: signal.signal(number, self.on_signal) for number in caught}
        try:
            yield self
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


@contextmanager
def oom_as_machine_error() -> Generator[None]:
    """Turn errors of allocators, which have no class in common, inside the block into a MachineError."""
    try:
        yield
    except (RuntimeError, MemoryError, TypeError) as error:
        text = str(error).partition("\n")[0]
        messages = "out of memory|allocate memory|tion overflowed|Overflow when"
        if not isinstance(error, MemoryError) and not re.search(messages, text):
            raise
        raise MachineError(
            f"there is not enough memory: {text}",
            "lower data.micro_batch_size or data.sequence_length, set runtime.recompute, or take a smaller model",
        ) from None


class NonFiniteGuard:
    """Counts skipped updates one step late, so that the host does not wait for the device."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._pending: list[Tensor] = []
        self._copied: torch.cuda.Event | None = None

    def check(self, state: TrainState, result: StepResult) -> None:
        """Account for the update before this one. Raises RunDiverged after `limit` skipped ones in a row."""
        self.flush(state)
        self._pending = [figure for figure in (result.skipped, result.loss_scale) if figure is not None]
        if result.skipped.is_cuda:  # pragma: cuda
            # reading them on the device would wait for everything that is queued there by then
            self._pending = [figure.to("cpu", non_blocking=True) for figure in self._pending]
            self._copied = torch.cuda.Event()
            self._copied.record()

    def flush(self, state: TrainState) -> None:
        """Account for the newest update too: a save calls it, so that its counters are not late."""
        if not self._pending:
            return
        if self._copied is not None:  # pragma: cuda
            self._copied.synchronize()
        skipped, *scale = (figure.item() for figure in self._pending)
        self._pending = []
        if skipped == 0.0:
            state.consecutive_nonfinite_steps = 0
            return
        state.skipped_steps += 1
        if scale and scale[0] > LEAST:
            return  # the scale was too large, and is halved: no fault of the run
        state.consecutive_nonfinite_steps += 1
        if state.consecutive_nonfinite_steps >= self.limit:
            raise RunDiverged(
                f"loss or gradients were not finite in {self.limit} updates in a row, up to step {state.step}",
                "resume with a lower optimizer.learning_rate or a longer scheduler.warmup_steps",
            )
