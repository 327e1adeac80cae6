"""The training loop, read from top to bottom: load, step, log, evaluate, save."""

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

from torch import Tensor

from candlewick.checkpoint.open import STATE_VERSION
from candlewick.checkpoint.save import Snapshot, full_weights
from candlewick.data.rows.loader import GlobalBatch, Loader
from candlewick.errors import (
    CandlewickError,
    DataError,
    RunDiverged,
    RunInterrupted,
)
from candlewick.model.transformer import Transformer
from candlewick.optim.build import Optimizer
from candlewick.optim.schedule import has_begun_decay
from candlewick.optim.shard import local_tensor
from candlewick.parallel.fsdp import full_tensor, unsharded
from candlewick.train.budget import learning_rate_share, steps_from_time
from candlewick.train.evaluate import evaluate_sets, is_of_all
from candlewick.train.guards import NonFiniteGuard, StopAskedError, StopRequest, oom_as_machine_error
from candlewick.train.loss_scale import LossScale
from candlewick.train.mean_loss import MeanLoss
from candlewick.train.monitor.statistics import record_update_statistics
from candlewick.train.objective import NextTokenLoss
from candlewick.train.plan import RunPlan
from candlewick.train.reporter import Reporter
from candlewick.train.saver import Describer, Saver
from candlewick.train.state import TrainState, numerics_fingerprint, random_state
from candlewick.train.step import StepResult, train_step

Metrics = dict[str, float]
Sampler = Callable[[Transformer], list[tuple[str, str]]]
"""Writes (prompt, text) pairs with a model."""

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Trainer:
    """Trains a run to the end of its schedule with the objects that `train.build` made of its plan."""

    plan: RunPlan
    state: TrainState
    objective: NextTokenLoss
    optimizer: Optimizer
    losses: MeanLoss
    loss_scale: LossScale | None  # of fp16
    loader: Loader
    reporter: Reporter
    sampler: Sampler | None
    describe: Describer | None = None

    def __post_init__(self) -> None:
        self.config, self.runtime = self.plan.config, self.plan.config.runtime
        self.splits = self.plan.data.validation_splits
        self.guard = NonFiniteGuard(self.runtime.max_nonfinite_steps)
        self.stop = StopRequest()
        self.saver = Saver(self.plan, self.state, self.reporter, self.describe)
        self.metrics: Metrics = {}  # of the last evaluation
        self._shares_done = 0.0  # the share of the run, when evaluations by share were looked for

    def run(self) -> Metrics:
        """Train to the end and return the metrics of the last evaluation; none if there was none.

        Raises RunInterrupted after saving when a signal asked to stop, DataError after saving when text cannot be
        read any more, RunDiverged when updates or weights were not finite, MachineError after saving when the
        folder of the run is not there any more, MachineError or OSError if the last checkpoint cannot be saved.
        """
        with self.stop.listening(), self.reporter.running(self.state), oom_as_machine_error():
            try:
                return self._train()
            except DataError:  # weights and counters are those of a whole step
                if self.state.step:
                    self._save(is_last=True)
                raise
            except StopAskedError:
                self._save(is_last=True)
                raise RunInterrupted(
                    f"stopped by {self.stop.signal_name} at step {self.state.step}, all saved",
                    "go on with --resume",
                ) from None

    def _train(self) -> Metrics:
        """Make the updates that are left, and what is due between them; return the last metrics."""
        state, runtime = self.state, self.runtime
        if state.step:
            self._save(is_last=True)
        self.saver.link_best()
        self.saver.require_room(sum(tensor.nbytes for tensor in self.optimizer.named_state().values()))
        self._shares_done = self._share_done()
        self._evaluate_if_due()  # a stop may have come before it
        while state.total_steps is None or state.step < state.total_steps:
            began = time.monotonic()
            update = self.loader.next()
            share = learning_rate_share(self.config, state.step, state.total_steps)
            self.optimizer.set_lr(share)
            result = self._step(update)
            state.step += 1
            state.tokens = self.loader.rows_read * self.plan.order.sequence_length
            self._log(result, share * self.config.optimizer.learning_rate)
            state.train_seconds += time.monotonic() - began
            self._set_total_steps()
            self._save_before_decay()
            self.stop.raise_if_asked()
            if self._is_due(runtime.log_every_n_steps) and self.saver.has_lost_folder():
                self._save(is_last=True)
            self._evaluate_if_due()
            if self._is_due(runtime.checkpoint.every_n_steps, runtime.checkpoint.every_n_epochs):
                self._save()
            self.stop.raise_if_asked()
        self._save(is_last=True)
        self.saver.link_best()  # which may have failed
        if state.skipped_steps:
            logger.warning(
                "%d of %d updates were skipped: their loss or gradients were not finite",
                state.skipped_steps,
                state.step,
            )
        if runtime.evaluation.at_end:
            self._evaluate_all()
        return self.metrics

    def _log(self, result: StepResult, learning_rate: float) -> None:
        """Count an update and report it when that is due, or when it ends the run. Raises RunDiverged."""
        state = self.state
        self.losses.add(result.loss)
        self.saver.newest_loss = result.loss
        try:
            self.guard.check(state, result)
        except RunDiverged:
            self.reporter.step(state, self.losses.take(), result, learning_rate)
            raise
        if state.step in (1, state.total_steps) or self._is_due(self.runtime.log_every_n_steps):
            self.reporter.step(state, self.losses.take(), result, learning_rate)

    def _is_due(self, steps: int | None, epochs: int | None = None) -> bool:
        """Return whether `steps` updates have passed again, or the last one completed `epochs` passes again."""
        step = self.state.step
        if steps is not None and step % steps == 0:
            return True
        if epochs is None or not step:
            return False
        period, rows_after = epochs * self.plan.order.num_rows, self.plan.batches.rows_after
        return rows_after(step) // period > rows_after(step - 1) // period

    def _step(self, update: GlobalBatch) -> StepResult:
        """Make one update, and record the statistics of the model when they are due."""
        step, every = self.state.step + 1, self.runtime.logging.statistics_every_n_steps
        is_due = every is not None and step % every == 0
        with record_update_statistics(self.objective.model) if is_due else nullcontext() as figures:
            max_norm = self.config.optimizer.max_grad_norm
            result = train_step(self.objective, self.optimizer, update, max_norm, self.loss_scale)
        if figures is not None:
            self.reporter.log(step, figures())
        return result

    def _set_total_steps(self) -> None:
        state, plan = self.state, self.plan
        if state.total_steps is None:
            scheduler, seconds = self.config.scheduler, state.train_seconds
            state.total_steps = steps_from_time(scheduler, plan.batches, state.step, seconds, plan.max_steps)
            if state.total_steps is not None and state.total_steps == plan.max_steps:
                logger.warning(
                    "the run ends after %d updates, before its time: data.max_repetitions", plan.max_steps
                )

    def _save_before_decay(self) -> None:
        """Save once when the next update is the first one of a decay, if the run keeps such a checkpoint."""
        state = self.state
        if not self.runtime.checkpoint.before_decay:
            return
        if not has_begun_decay(self.config.scheduler, state.step, state.total_steps):
            state.before_decay = None  # of a shorter run
        elif state.before_decay is None:
            state.before_decay = state.step
            self._save()

    def _share_done(self) -> float:
        """Return the share of the run that is done."""
        seconds, total = self.config.scheduler.total_seconds, self.state.total_steps
        if seconds is not None:
            return self.state.train_seconds / seconds
        assert total is not None, "it has steps, or a time"
        return self.state.step / total

    def _evaluate_if_due(self) -> None:
        """Evaluate on at most max_tokens, keep the best weights, show sample text; the last weights too."""
        state, settings = self.state, self.runtime.evaluation
        is_due = settings.at_end and state.step == state.total_steps
        is_due |= self._is_due(settings.every_n_steps, settings.every_n_epochs)
        before, self._shares_done = self._shares_done, self._share_done()
        is_due |= any(before < share <= self._shares_done for share in settings.at_shares)
        if state.step == state.evaluated_step or not is_due:
            return
        self.reporter.end_training_interval()
        self.metrics = self.evaluate(settings.max_tokens)
        self.reporter.evaluation(state, self.metrics)
        state.evaluated_step = state.step
        try:
            if self.sampler is not None:
                self.reporter.samples(state, self.sample())
        except (RuntimeError, CandlewickError) as error:  # too little memory, say: no reason to end a run
            logger.warning("there are no samples of step %d: %s", state.step, error)
        if self.saver.has_lower_loss(self.metrics["eval/loss"]):
            self._save()

    def _evaluate_all(self) -> None:
        """Evaluate the last weights on all of the split, unless their regular evaluation did."""
        self.reporter.end_training_interval()
        is_new = self.metrics and self.state.evaluated_step == self.state.step
        is_known = is_new and is_of_all(self.metrics, self.splits)
        metrics = self.metrics if is_known else self.evaluate(None)
        self.metrics = {name.replace("eval/", "final/", 1): figure for name, figure in metrics.items()}
        if is_known:  # and shown
            self.reporter.log(self.state.step, self.metrics)
        else:
            self.reporter.evaluation(self.state, self.metrics)

    def _update_counters(self) -> None:
        """Read what the device has counted: a save follows."""
        self.guard.flush(self.state)
        self.losses.write_to(self.state)
        if self.loss_scale is not None:
            self.loss_scale.write_to(self.state)

    def _save(self, *, is_last: bool = False) -> None:
        """Save a checkpoint of the present step, unless it is there; the last one raises if that fails."""
        self.reporter.end_training_interval()
        self._update_counters()
        is_lost = self.saver.has_lost_folder()
        self.saver.save(self.snapshot, is_last=is_last or is_lost)
        if is_lost:
            self.saver.raise_for_lost_folder()

    def evaluate(self, max_tokens: int | None) -> Metrics:
        """Return the metrics of at most `max_tokens` (None: all) of each split; of the averages, if kept."""
        length = self.config.sequence_length
        # unsharded: a save after it takes the sharded float32 weights, not those in the compute dtype
        with self.optimizer.average_parameters(), unsharded(self.objective):
            return evaluate_sets(
                self.objective,
                self.splits,
                self.config.data,
                sequence_length=length,
                max_tokens=max_tokens,
                before_batch=self.stop.raise_if_asked,
            )

    def sample(self) -> list[tuple[str, str]]:
        """Return (prompt, text) pairs of the present weights; none if the config asks for none."""
        if self.sampler is None:
            return []
        with self.optimizer.average_parameters(), unsharded(self.objective):
            return self.sampler(self.objective.model)

    def local_tensors(self) -> dict[str, list[Tensor]]:
        """Return the tensors that this rank keeps between steps: "weights", "gradients" and "optimizer" state."""
        parameters = list(self.objective.parameters())
        return {
            "weights": [local_tensor(parameter) for parameter in parameters],
            "gradients": [local_tensor(parameter.grad) for parameter in parameters if parameter.grad is not None],
            "optimizer": list(self.optimizer.named_state().values()),
        }

    def snapshot(self) -> Snapshot:
        """Return the content of a checkpoint. Its weights are the averages, if the run keeps them."""
        plan, model, device = self.plan, self.objective.model, self.plan.device.device
        average = self.optimizer.average
        averages = {} if average is None else average.averages
        weights = {name: full_tensor(tensor) for name, tensor in averages.items()} or full_weights(model)
        parent = {} if plan.start.parent is None else {"parent": plan.start.parent}
        return Snapshot(
            step=self.state.step,
            weights=weights,
            optimizer=self.optimizer.named_state(),
            state={
                "version": STATE_VERSION,
                "counters": self.state.to_json(),
                "loader": self.loader.state(),
                "random": random_state(device),
                "config": plan.config.model_dump(mode="json"),
                "validation": plan.data.validation_ids,
                **numerics_fingerprint(device),
            },
            model_config=plan.config.model,
            vocab_size=model.vocab_size,
            tokenizer=plan.tokenizer,
            inputs={"tokens": plan.order.identity["dataset_id"], "tokenizer": plan.tokenizer.sha256, **parent},
            run=plan.start.run,
        )
