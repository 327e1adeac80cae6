"""The events of the training loop, reported to trackers, the terminal and the log.

The reporter keeps the clock: the time since the last event is charged to the activity that the event ends. A run
goes on without its reports: a tracker that cannot write is told once, and tries again with the next row; a display
that nobody reads any more is dropped.
"""

import logging
import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from candlewick.config import LoggingConfig, RuntimeConfig
from candlewick.data.rows.loader import Loader
from candlewick.errors import MachineError
from candlewick.terminal import progress_enabled, shown_path
from candlewick.train.loss_scale import LEAST
from candlewick.train.monitor.display import Display
from candlewick.train.monitor.telemetry import Telemetry
from candlewick.train.monitor.trackers import JsonlTracker, TensorBoardTracker
from candlewick.train.state import TrainState
from candlewick.train.step import StepResult

logger = logging.getLogger(__name__)

_STEPS_TO_LEARN = 100  # after which a loss of guessing is no start any more


class Reporter:
    """Turns the loop's events into metrics rows, display lines and log records."""

    def __init__(
        self,
        runtime: RuntimeConfig,
        run_dir: Path,
        telemetry: Telemetry,
        loader: Loader,
        resume_step: int | None,
        num_tokens: int,
    ) -> None:
        self._telemetry = telemetry
        self._loader = loader
        self._is_shown = runtime.logging.enable_stdout and progress_enabled()
        self._display = Display(None, enabled=self._is_shown)
        self._metrics = JsonlTracker(run_dir / "metrics.jsonl", resume_step=resume_step)
        self._trackers: list[JsonlTracker | TensorBoardTracker] = [self._metrics]
        self._add_tensorboard(runtime.logging, run_dir, resume_step)
        self._num_tokens = num_tokens
        self._told = set[int]()
        self._failing: list[JsonlTracker | TensorBoardTracker] = []

    def _add_tensorboard(self, settings: LoggingConfig, run_dir: Path, resume_step: int | None) -> None:
        """Report to TensorBoard too, if the settings or the installed packages say so."""
        setting = settings.tensorboard
        if setting is False or (setting is None and find_spec("tensorboard") is None):
            return
        folder = setting if isinstance(setting, Path) else run_dir / "tensorboard"
        every = settings.tensorboard_flush_every_n
        if not isinstance(setting, Path) and resume_step is None:
            for events in folder.glob("events.out.tfevents.*"):  # of a run that ended before its first checkpoint
                events.unlink()
        try:
            self._trackers.append(TensorBoardTracker(folder, resume_step=resume_step, flush_every=every))
        except MachineError as error:
            if setting is not None:
                raise
            logger.warning("TensorBoard is installed and does not work, so it gets no files: %s", error.problem)

    @contextmanager
    def running(self, state: TrainState) -> Generator[None]:
        """Measure and show while the block runs."""
        self._telemetry.start(step=state.step, tokens=state.tokens)
        self._show(lambda display: display.start())
        try:
            yield
        finally:
            self._show(lambda display: display.stop())
            self._track(lambda tracker: tracker.flush())  # so that closing is a second try
            self._track(lambda tracker: tracker.close())

    def step(
        self, state: TrainState, losses: Mapping[str, float], result: StepResult, learning_rate: float
    ) -> None:
        """Record the update that just ended, with the `losses` of a row by name. Waits for the device."""
        self._telemetry.charge("training")
        waited, total = self._loader.wait_seconds, state.total_steps
        row = {
            **losses,
            "train/grad_norm": result.grad_norm.item(),
            "train/skipped_steps": float(state.skipped_steps),
            **({} if result.loss_scale is None else {"train/loss_scale": result.loss_scale.item()}),
            "optim/learning_rate": learning_rate,
            "data/tokens": float(state.tokens),
            "data/epoch": self._loader.epoch,
            "perf/training_seconds": state.train_seconds,
            **self._telemetry.row(step=state.step, tokens=state.tokens, wait_seconds=waited, total_steps=total),
        }
        self.log(state.step, row)
        self._warn_once(state.step, row)
        self._show(lambda display: display.update(row, step=state.step, total_steps=total))

    def end_training_interval(self) -> None:
        """Charge the time until now to training, and write out what was recorded: evaluation or saving follows."""
        self._telemetry.charge("training")
        self._track(lambda tracker: tracker.flush())

    def _warn_once(self, step: int, row: Mapping[str, float]) -> None:
        """Warn of a run that learns nothing, once for each reason."""
        loss, floor = row["train/loss"], 0.99 * math.log(self._num_tokens)
        warnings = (
            (row["train/grad_norm"] == 0.0, "all gradients are zero, so nothing is learned"),
            (
                step >= _STEPS_TO_LEARN and loss > floor,
                f"the training loss, {loss:.2f}, is that of guessing, so nothing is learned yet",
            ),
            (
                row.get("train/loss_scale") == LEAST,
                f"the loss scale of fp16 fell to {LEAST:g}, its least: set runtime.precision to bf16 or fp32",
            ),
        )
        for number, (holds, text) in enumerate(warnings):
            if holds and number not in self._told:
                self._told.add(number)
                logger.warning("step %d: %s", step, text)

    def evaluation(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        """Record and show an evaluation: figures named eval/..., or final/... of the whole split at the end."""
        self._telemetry.charge("evaluation")
        self.log(state.step, metrics)
        kind = next(iter(metrics)).partition("/")[0]
        figures = (
            f"{metrics[f'{kind}/bits_per_byte']:.4f} bits per byte, loss {metrics[f'{kind}/loss']:.4f}, "
            f"perplexity {metrics[f'{kind}/perplexity']:.2f}"
        )
        sets = {name: loss for name, loss in metrics.items() if name.count("/") == 2 and name.endswith("/loss")}
        figures += "".join(f", {name.split('/')[1]} {loss:.4f}" for name, loss in sets.items())
        about = " (all of it)" if kind == "final" else ""
        self._show_and_log(f"step {state.step:,}  validation{about}: {figures}")

    def samples(self, state: TrainState, samples: list[tuple[str, str]]) -> None:
        """Record and show what the model wrote."""
        self._telemetry.charge("evaluation")
        for number, (prompt, text) in enumerate(samples):
            name, whole = f"sample/{number}", prompt + text
            if not self._metrics.has(state.step, {name: whole}):
                self._track(lambda tracker, name=name, whole=whole: tracker.text(state.step, name, whole))
            self._show(lambda display, whole=whole: display.sample(whole))

    def checkpoint(self, state: TrainState, folder: Path) -> None:
        """Report a checkpoint that was saved."""
        self._telemetry.charge("saving")
        self._show_and_log(f"step {state.step:,}  saved {shown_path(folder)}")

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Record figures of an update without showing them, unless an earlier start of the run did."""
        if not self._metrics.has(step, row):
            self._track(lambda tracker: tracker.log(step, row))

    def _track(self, report: Callable[[JsonlTracker | TensorBoardTracker], None]) -> None:
        """Report to each tracker; the first of several failures in a row is a warning."""
        for tracker in self._trackers:
            try:
                report(tracker)
            except OSError as error:
                if tracker not in self._failing:
                    self._failing.append(tracker)
                    logger.warning("figures cannot be written, and are tried again with the next: %s", error)
            else:
                self._failing = [other for other in self._failing if other is not tracker]

    def _show(self, show: Callable[[Display], None]) -> None:
        """Show something; a display that cannot be written to is dropped."""
        try:
            show(self._display)
        except OSError:
            self._display = Display(None, enabled=False)

    def _show_and_log(self, text: str) -> None:
        self._show(lambda display: display.message(text))
        logger.debug("%s", text, extra={"is_shown": self._is_shown})
