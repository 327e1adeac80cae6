"""The training loop, read from top to bottom: load, step, log, evaluate, save."""

import logging
import math
import time
from contextlib import nullcontext

from candlewick.checkpoint.save import save
from candlewick.data.rows.loader import GlobalBatch
from candlewick.errors import RunInterrupted
from candlewick.train.budget import learning_rate_share, steps_from_time
from candlewick.train.components import Metrics, TrainingComponents
from candlewick.train.guards import NonFiniteGuard, StopRequest, oom_as_machine_error
from candlewick.train.monitor.statistics import record_update_statistics
from candlewick.train.step import StepResult, train_step

logger = logging.getLogger(__name__)


class Trainer:
    """Trains the components of a run to the end of its schedule."""

    def __init__(self, components: TrainingComponents) -> None:
        config = components.plan.config
        self.components = components
        self.state = components.state
        self.config, self.runtime = config, config.runtime
        self.guard = NonFiniteGuard(self.runtime.max_nonfinite_steps)
        self.stop = StopRequest()
        self.saved_step = self.state.step if self.state.step else None
        self.final_metrics: Metrics | None = None

    def run(self) -> Metrics:
        """Train to the end and return the metrics of the last evaluation.

        Raises RunInterrupted after saving when a signal asked to stop, RunDiverged when updates were not finite.
        """
        run, state, runtime = self.components, self.state, self.runtime
        with self.stop.listening(), run.reporter.running(state), oom_as_machine_error():
            self._evaluate_if_due()  # a stop may have come before it
            while state.total_steps is None or state.step < state.total_steps:
                began = time.monotonic()
                update = run.loader.next()
                share = learning_rate_share(self.config, state.step, state.total_steps)
                run.optimizer.set_lr(share)
                result = self._step(update)
                state.step += 1
                state.tokens = run.loader.rows_read * run.plan.order.sequence_length
                self.guard.check(state, result)
                if state.step == 1 or self._is_due(runtime.log_every_n_steps):
                    run.reporter.step(state, result, share * self.config.optimizer.learning_rate)
                state.train_seconds += time.monotonic() - began
                self._set_total_steps()
                self._stop_if_asked()
                self._evaluate_if_due()
                if self._is_due(runtime.checkpoint.every_n_steps, runtime.checkpoint.every_n_epochs):
                    self._save()
                self._stop_if_asked()
            return self._finish()

    def _is_due(self, steps: int | None, epochs: int | None = None) -> bool:
        """Whether so many updates have passed again, or the last one completed so many passes over the rows."""
        step = self.state.step
        if steps is not None and step % steps == 0:
            return True
        if epochs is None or not step:
            return False
        period, rows_after = epochs * self.components.loader.num_rows, self.components.plan.batches.rows_after
        return rows_after(step) // period > rows_after(step - 1) // period

    def _step(self, update: GlobalBatch) -> StepResult:
        """Make one update, with an eye on the model when its statistics are due."""
        run, step, every = self.components, self.state.step + 1, self.runtime.logging.statistics_every_n_steps
        is_due = every is not None and step % every == 0
        with record_update_statistics(run.objective.model) if is_due else nullcontext() as figures:
            max_norm = self.config.optimizer.max_grad_norm
            result = train_step(run.objective, run.optimizer, update, max_norm, run.loss_scale)
        if figures is not None:
            run.reporter.statistics(step, figures())
        return result

    def _stop_if_asked(self) -> None:
        """After a signal, save and raise RunInterrupted; a run that is at its end finishes instead."""
        if self.stop and self.state.step != self.state.total_steps:
            self._save()
            raise RunInterrupted(
                f"stopped by {self.stop.signal_name} at step {self.state.step}; all of it is saved",
                "go on with --resume",
            )

    def _set_total_steps(self) -> None:
        state, plan = self.state, self.components.plan
        if state.total_steps is None:
            scheduler, seconds = self.config.scheduler, state.train_seconds
            state.total_steps = steps_from_time(scheduler, plan.batches, state.step, seconds, plan.max_steps)
            if state.total_steps is not None and state.total_steps == plan.max_steps:
                logger.warning(
                    "the run ends after %d updates, before its time: data.max_repetitions", plan.max_steps
                )

    def _evaluate_if_due(self) -> None:
        """Evaluate on a part of the split, keep the best weights, show sample text; the last weights too."""
        run, state, settings = self.components, self.state, self.runtime.evaluation
        is_due = state.step == state.total_steps or self._is_due(settings.every_n_steps, settings.every_n_epochs)
        if state.step == state.evaluated_step or not is_due:
            return
        run.reporter.end_training_interval()
        metrics = run.evaluate(settings.max_batches)
        self.final_metrics = metrics if settings.max_batches is None else None
        run.reporter.evaluation(state, metrics, is_full=self.final_metrics is not None)
        state.evaluated_step = state.step
        loss = metrics["eval/loss"]
        if settings.best is not None and loss < (math.inf if state.best_loss is None else state.best_loss):
            state.best_loss = loss
            self._update_counters()
            folder = save(run.best, run.snapshot(), max_keep=settings.best.max_keep)
            run.reporter.checkpoint(state, folder)
        if run.sampler is not None:
            run.reporter.samples(state, run.sample())

    def _update_counters(self) -> None:
        """Bring the counters up to date with the device, because they are saved now."""
        self.guard.flush(self.state)
        if self.components.loss_scale is not None:
            self.components.loss_scale.write_to(self.state)

    def _save(self) -> None:
        """Write a checkpoint of the present step, unless this process wrote or read it."""
        self.components.reporter.end_training_interval()
        self._update_counters()
        if self.saved_step != self.state.step:
            self.saved_step, run = self.state.step, self.components
            folder = save(run.checkpoints, run.snapshot(), max_keep=self.runtime.checkpoint.max_keep)
            run.reporter.checkpoint(self.state, folder)

    def _finish(self) -> Metrics:
        """Save the last weights and evaluate them on the whole split."""
        self._save()
        if self.final_metrics is None or self.state.evaluated_step != self.state.step:
            self.final_metrics = self.components.evaluate(None)
            self.components.reporter.evaluation(self.state, self.final_metrics, is_full=True)
        return self.final_metrics
