"""The training loop, read from top to bottom: load, step, log, evaluate, save.

Everything it needs is made in `build.py` and handed over as `Parts`. It owns the order of things, nothing else.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from candlewick.checkpoint.save import Snapshot, save
from candlewick.config import RuntimeConfig, SchedulerConfig
from candlewick.data.loader import Loader
from candlewick.errors import Interrupted
from candlewick.optim.build import Optimizer
from candlewick.optim.schedule import multiplier
from candlewick.train.budget import steps_from_time
from candlewick.train.guards import NonFiniteGuard, StopRequest
from candlewick.train.objective import NextTokenLoss
from candlewick.train.reporter import Reporter
from candlewick.train.state import TrainState
from candlewick.train.step import train_step

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects of one run."""

    objective: NextTokenLoss
    optimizer: Optimizer
    peak_learning_rate: float
    loader: Loader
    reporter: Reporter
    evaluate: Callable[[int | None], Metrics]
    """At most so many batches (None: all) of the validation split -> metrics."""
    sample: Callable[[], list[tuple[str, str]]] | None
    """Write (prompt, text) pairs with the present weights."""
    snapshot: Callable[[], Snapshot]
    checkpoints: Path
    best: Path


class Trainer:
    """Runs `parts` from `state` to the end of the schedule."""

    def __init__(
        self,
        parts: Parts,
        state: TrainState,
        runtime: RuntimeConfig,
        scheduler: SchedulerConfig,
        max_grad_norm: float | None,
    ) -> None:
        self.parts = parts
        self.state = state
        self.runtime = runtime
        self.scheduler = scheduler
        self.max_grad_norm = max_grad_norm
        self.guard = NonFiniteGuard(runtime.max_nonfinite_steps)
        self.stop = StopRequest()
        self.saved_step = state.step if state.step else None

    def run(self) -> Metrics:
        """Train to the end and return the metrics of the last evaluation.

        Raises Interrupted after saving when SIGINT or SIGTERM asked to stop, Diverged when too many updates in
        a row were not finite.
        """
        parts, state, runtime = self.parts, self.state, self.runtime
        with self.stop.listening(), parts.reporter.running(state):
            self._evaluate_if_due()  # a stop may have come before it
            while state.total_steps is None or state.step < state.total_steps:
                began = time.monotonic()
                update = parts.loader.next()
                scale = multiplier(self.scheduler, state.step, state.total_steps)
                parts.optimizer.set_lr(scale)
                result = train_step(parts.objective, parts.optimizer, update, self.max_grad_norm)
                state.step += 1
                state.tokens += round(update.weight_sum)
                self.guard.check(state, result)
                if state.step == 1 or self._due(runtime.log_every_n_steps):
                    parts.reporter.step(state, result, scale * parts.peak_learning_rate)
                state.train_seconds += time.monotonic() - began
                self._plan_end()
                self._stop_if_asked()
                self._evaluate_if_due()
                if self._due(runtime.checkpoint.every_n_steps):
                    self._save()
                self._stop_if_asked()
            return self._finish()

    def _due(self, every: int | None) -> bool:
        return every is not None and self.state.step % every == 0

    def _stop_if_asked(self) -> None:
        """After a signal, save and raise Interrupted; a run that is at its end finishes instead."""
        if self.stop and self.state.step != self.state.total_steps:
            self._save()
            raise Interrupted(
                f"stopped by {self.stop.signal_name} at step {self.state.step}; all of it is saved",
                "go on with --resume",
            )

    def _plan_end(self) -> None:
        """Turn a time budget into a number of steps, once."""
        state = self.state
        if state.total_steps is None:
            state.total_steps = steps_from_time(self.scheduler, step=state.step, train_seconds=state.train_seconds)

    def _evaluate_if_due(self) -> None:
        """Evaluate on a part of the split, keep the best weights, show sample text; the last weights too."""
        parts, state, settings = self.parts, self.state, self.runtime.evaluation
        is_last = state.step == state.total_steps
        if state.step == state.evaluated_step or not (is_last or self._due(settings.every_n_steps)):
            return
        parts.reporter.trained()
        metrics = parts.evaluate(settings.max_batches)
        parts.reporter.evaluation(state, metrics, whole=False)
        state.evaluated_step = state.step
        loss = metrics["eval/loss"]
        if settings.best is not None and loss < (math.inf if state.best_loss is None else state.best_loss):
            state.best_loss = loss
            self.guard.flush(state)
            folder = save(parts.best, parts.snapshot(), max_keep=settings.best.max_keep)
            parts.reporter.saved(state, folder)
        if parts.sample is not None:
            parts.reporter.samples(state, parts.sample())

    def _save(self) -> None:
        """Write a checkpoint of the present step, unless this process wrote or read it."""
        self.parts.reporter.trained()
        self.guard.flush(self.state)
        if self.saved_step != self.state.step:
            self.saved_step = self.state.step
            folder = save(self.parts.checkpoints, self.parts.snapshot(), max_keep=self.runtime.checkpoint.max_keep)
            self.parts.reporter.saved(self.state, folder)

    def _finish(self) -> Metrics:
        """Save the last weights and evaluate them on the whole split."""
        self._save()
        metrics = self.parts.evaluate(None)
        self.parts.reporter.evaluation(self.state, metrics, whole=True)
        return metrics
