"""The training loop, read from top to bottom: load, step, log, evaluate, save.

Everything it needs is made in `build.py` and handed over as `Parts`. It owns the order of things, nothing else.
"""

import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from candlewick.checkpoint.save import Snapshot, save
from candlewick.config import OptimizerConfig, RuntimeConfig, SchedulerConfig
from candlewick.data.rows.loader import GlobalBatch, Loader
from candlewick.errors import Interrupted
from candlewick.optim.build import Optimizer
from candlewick.optim.schedule import multiplier
from candlewick.train.budget import Course, steps_from_time
from candlewick.train.guards import NonFiniteGuard, StopRequest, memory_faults
from candlewick.train.loss_scale import LossScale
from candlewick.train.monitor.statistics import record_update_statistics
from candlewick.train.objective import NextTokenLoss
from candlewick.train.reporter import Reporter
from candlewick.train.state import TrainState
from candlewick.train.step import StepResult, train_step

Metrics = dict[str, float]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects of one run. `train_step` may be called with them by hand: the Trainer alone saves."""

    objective: NextTokenLoss
    optimizer: Optimizer
    loss_scale: LossScale | None
    """Of fp16."""
    loader: Loader
    course: Course
    max_steps: int | None
    """Updates that data.max_repetitions allows; None: any number."""
    reporter: Reporter
    evaluate: Callable[[int | None], Metrics]
    """At most so many batches (None: all) of each validation split -> metrics."""
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
        optimizer: OptimizerConfig,
    ) -> None:
        self.parts = parts
        self.state = state
        self.runtime = runtime
        self.scheduler = scheduler
        self.optimizer = optimizer
        self.guard = NonFiniteGuard(runtime.max_nonfinite_steps)
        self.stop = StopRequest()
        self.saved_step = state.step if state.step else None
        self.whole: Metrics | None = None

    def run(self) -> Metrics:
        """Train to the end and return the metrics of the last evaluation.

        Raises Interrupted after saving when SIGINT or SIGTERM asked to stop, Diverged when too many updates in
        a row were not finite.
        """
        parts, state, runtime = self.parts, self.state, self.runtime
        with self.stop.listening(), parts.reporter.running(state), memory_faults():
            self._evaluate_if_due()  # a stop may have come before it
            while state.total_steps is None or state.step < state.total_steps:
                began = time.monotonic()
                update = parts.loader.next()
                share = multiplier(
                    self.scheduler, state.step, state.total_steps, peak=self.optimizer.learning_rate
                )
                parts.optimizer.set_lr(share)
                result = self._step(update)
                state.step += 1
                state.tokens = parts.loader.rows_read * parts.loader.sequence_length
                self.guard.check(state, result)
                if state.step == 1 or self._due(runtime.log_every_n_steps):
                    parts.reporter.step(state, result, share * self.optimizer.learning_rate)
                state.train_seconds += time.monotonic() - began
                self._plan_end()
                self._stop_if_asked()
                self._evaluate_if_due()
                if self._due(runtime.checkpoint.every_n_steps, runtime.checkpoint.every_n_epochs):
                    self._save()
                self._stop_if_asked()
            return self._finish()

    def _due(self, steps: int | None, epochs: int | None = None) -> bool:
        """Whether so many updates have passed again, or the last one completed so many passes over the rows."""
        step = self.state.step
        if steps is not None and step % steps == 0:
            return True
        if epochs is None or not step:
            return False
        period, rows_after = epochs * self.parts.loader.num_rows, self.parts.course.rows_after
        return rows_after(step) // period > rows_after(step - 1) // period

    def _step(self, update: GlobalBatch) -> StepResult:
        """Make one update, with an eye on the model when its statistics are due."""
        parts, step, every = self.parts, self.state.step + 1, self.runtime.logging.statistics_every_n_steps
        is_due = every is not None and step % every == 0
        with record_update_statistics(parts.objective.model) if is_due else nullcontext() as figures:
            result = train_step(
                parts.objective, parts.optimizer, update, self.optimizer.max_grad_norm, parts.loss_scale
            )
        if figures is not None:
            parts.reporter.statistics(step, figures())
        return result

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
        state, course, most = self.state, self.parts.course, self.parts.max_steps
        if state.total_steps is None:
            seconds = state.train_seconds
            state.total_steps = steps_from_time(self.scheduler, course, state.step, seconds, most)
            if most is not None and state.total_steps == most:
                logger.warning("the run ends after %d updates, before its time: data.max_repetitions", most)

    def _evaluate_if_due(self) -> None:
        """Evaluate on a part of the split, keep the best weights, show sample text; the last weights too."""
        parts, state, settings = self.parts, self.state, self.runtime.evaluation
        is_last = state.step == state.total_steps
        if state.step == state.evaluated_step or not (
            is_last or self._due(settings.every_n_steps, settings.every_n_epochs)
        ):
            return
        parts.reporter.trained()
        metrics = parts.evaluate(settings.max_batches)
        self.whole = metrics if settings.max_batches is None else None
        parts.reporter.evaluation(state, metrics, whole=self.whole is not None)
        state.evaluated_step = state.step
        loss = metrics["eval/loss"]
        if settings.best is not None and loss < (math.inf if state.best_loss is None else state.best_loss):
            state.best_loss = loss
            self._settle()
            folder = save(parts.best, parts.snapshot(), max_keep=settings.best.max_keep)
            parts.reporter.saved(state, folder)
        if parts.sample is not None:
            parts.reporter.samples(state, parts.sample())

    def _settle(self) -> None:
        """Bring the counters up to date with the device, because they are saved now."""
        self.guard.flush(self.state)
        if self.parts.loss_scale is not None:
            self.parts.loss_scale.write_to(self.state)

    def _save(self) -> None:
        """Write a checkpoint of the present step, unless this process wrote or read it."""
        self.parts.reporter.trained()
        self._settle()
        if self.saved_step != self.state.step:
            self.saved_step = self.state.step
            folder = save(self.parts.checkpoints, self.parts.snapshot(), max_keep=self.runtime.checkpoint.max_keep)
            self.parts.reporter.saved(self.state, folder)

    def _finish(self) -> Metrics:
        """Save the last weights and evaluate them on the whole split."""
        self._save()
        if self.whole is None or self.state.evaluated_step != self.state.step:
            self.whole = self.parts.evaluate(None)
            self.parts.reporter.evaluation(self.state, self.whole, whole=True)
        return self.whole
