"""The checkpoints of a run: when one is written, which ones are the best, sound and kept, and what may fail.

A periodic save, a link, or the removal of an older checkpoint that fails is a warning, and is tried again at the
next. Only the last save, and the one on a stop, raise.
"""

import errno
import logging
import math
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from candlewick.checkpoint.best import link_best
from candlewick.checkpoint.layout import list_checkpoints, prune, step_folder, write_config
from candlewick.checkpoint.save import Snapshot, require_finite, require_room, save
from candlewick.errors import ArtifactError, CheckpointError, MachineError
from candlewick.train.plan import RunPlan, checkpoint_directories
from candlewick.train.reporter import Reporter
from candlewick.train.state import TrainState

Describer = Callable[[Path], None]
"""Writes what a person reads about a checkpoint, in whose folder it is; it raises nothing."""

logger = logging.getLogger(__name__)


class Saver:
    """Writes the checkpoints of a run, and keeps the counters of its state that say which are the best."""

    def __init__(
        self, plan: RunPlan, state: TrainState, reporter: Reporter, describe: Describer | None = None
    ) -> None:
        self.plan, self.state, self.reporter, self._describe = plan, state, reporter, describe
        self.runtime = plan.config.runtime
        self.checkpoints, self.best = checkpoint_directories(plan.config, plan.run_dir)
        start = plan.start.checkpoint
        # of format version 1 a run may start from a copy of its best one, which is about to be set aside
        own = step_folder(self.checkpoints, state.step)
        is_own = start is not None and start.folder.resolve() == own.resolve()
        self.newest = start.folder if start is not None and is_own else None  # it was verified
        self.saved_step = None if self.newest is None else state.step
        self.newest_loss: Tensor | None = None  # of the update that was made last
        self._lower_loss: tuple[int, float] | None = None  # of a step that is to be saved as the best one
        self._folder = self._find_folder()

    def save(self, take_snapshot: Callable[[], Snapshot], *, is_last: bool = False) -> None:
        """Write a checkpoint of the present step, unless this process wrote or read it.

        One that cannot be written is a warning, and the best one stays the best; with `is_last` it raises. Raises
        RunDiverged for weights that are not finite.
        """
        step = self.state.step
        if self.saved_step == step:
            return
        before = self.state.best_loss, self.state.best_steps, self.state.sound_step
        self._count_as_best()
        self._judge_loss()
        snapshot = take_snapshot()
        require_finite(snapshot)
        try:
            folder = self._write(snapshot)
        except (OSError, MachineError, CheckpointError, ArtifactError) as error:
            self.state.best_loss, self.state.best_steps, self.state.sound_step = before
            if is_last:
                raise
            logger.warning("step %d is not saved, the next save tries again: %s", step, error)
            return
        self.saved_step, self.newest, self._lower_loss = step, folder, None
        self.link_best()
        max_keep = self.runtime.checkpoint.max_keep
        try:
            if max_keep is not None:
                prune(self.checkpoints, folder, max_keep, self._spared_steps(), self.plan.start.run)
        except OSError as error:
            logger.warning("older checkpoints could not be removed: %s", error)
        if self._describe is not None:
            self._describe(folder)
        self.reporter.checkpoint(self.state, folder)

    def has_lower_loss(self, loss: float) -> bool:
        """Return whether no validation loss was lower: then the present step is to be saved as the best."""
        best_loss = self.state.best_loss
        if self.runtime.evaluation.best is None or not loss < (math.inf if best_loss is None else best_loss):
            return False
        self._lower_loss = self.state.step, loss
        self.saved_step = None  # one of this step does not know yet that it is the best
        return True

    def _count_as_best(self) -> None:
        """Count the present step among the best, if its loss is lower; its checkpoint, which follows, says so."""
        state, best = self.state, self.runtime.evaluation.best
        if best is None or self._lower_loss is None or self._lower_loss[0] != state.step:
            return
        kept = len(state.best_steps) + 1 if best.max_keep is None else best.max_keep
        state.best_loss, state.best_steps = self._lower_loss[1], (*state.best_steps, state.step)[-kept:]

    def _judge_loss(self) -> None:
        """Count the weights as sound if the newest loss is below that of guessing; warn if they no longer are."""
        state, guessing = self.state, math.log(self.plan.tokenizer.vocab_size)
        loss = None if self.newest_loss is None else self.newest_loss.item()
        if loss is not None and loss < guessing:
            state.sound_step = state.step
        elif loss is not None and state.sound_step is not None:
            logger.warning(
                "step %d has a training loss of %.2f, that of guessing is %.2f: its weights may be spoilt, so "
                "step %d is kept as well (go on from it with --run-dir %s --resume %s)",
                *(state.step, loss, guessing, state.sound_step, self.plan.run_dir),
                step_folder(self.checkpoints, state.sound_step),
            )

    def _spared_steps(self) -> tuple[int, ...]:
        """Return the steps that pruning spares: the best, that before the decay, the last sound one if needed."""
        state = self.state
        spared = [
            *state.best_steps,
            state.before_decay,
            None if state.sound_step == state.step else state.sound_step,
        ]
        return tuple(step for step in spared if step is not None)

    def require_room(self, state_bytes: int) -> None:
        """Raise MachineError if the disk cannot hold the checkpoints that are kept and one being written.

        `state_bytes` are those of the optimizer's state; the weights are float32.
        """
        if self.state.step == self.state.total_steps:
            return
        best, max_keep = self.runtime.evaluation.best, self.runtime.checkpoint.max_keep
        kept = (max_keep or 1) + (0 if best is None else best.max_keep or 1) + 1
        kept += self.runtime.checkpoint.before_decay
        if self.state.total_steps is not None:  # a short run saves less often
            intervals = self.runtime.checkpoint.every_n_steps, best and self.runtime.evaluation.every_n_steps
            left = self.state.total_steps - self.state.step
            saves = sum(left // steps for steps in intervals if steps) + self.runtime.checkpoint.before_decay
            kept = min(kept, 1 + saves)
        missing = max(kept - len(list_checkpoints(self.checkpoints)), 1)
        require_room(self.checkpoints, 4 * self.plan.num_parameters + state_bytes, missing)

    def _write(self, snapshot: Snapshot) -> Path:
        """Write a checkpoint; on a full disk once more, when of the others only the newest and best are left."""
        try:
            return save(self.checkpoints, snapshot)
        except (OSError, MachineError) as error:
            is_full = isinstance(error, MachineError) or error.errno in (errno.ENOSPC, errno.EDQUOT)
            if not is_full or self.newest is None or self.runtime.checkpoint.max_keep is None:
                raise
            logger.warning("%s; older checkpoints are removed to make room", error)
            prune(self.checkpoints, self.newest, 1, self._spared_steps(), self.plan.start.run)
            return save(self.checkpoints, snapshot)

    def link_best(self) -> None:
        """Link the best checkpoints, or warn: they are there without the links."""
        place = self.best or self.plan.run_dir / "best"
        try:
            link_best(self.checkpoints, self.state.best_steps, place, is_folder=self.best is not None)
        except OSError as error:
            logger.warning("the best checkpoint could not be linked as %s: %s", place, error)

    def has_lost_folder(self) -> bool:
        """Return whether the folder of the run was removed or renamed: then the next save makes a new one."""
        is_lost = self._find_folder() != self._folder
        if is_lost:
            self.saved_step = None  # not there
        return is_lost

    def raise_for_lost_folder(self) -> None:
        """Make the new folder one that the run goes on from, and raise MachineError: nobody would find the run."""
        run_dir = self.plan.run_dir
        write_config(self.plan.config, run_dir, self.plan.start.run)
        raise MachineError(
            f"the folder {run_dir} was removed or renamed while its run wrote to it; step {self.state.step} is "
            "saved in a new one",
            f"go on with --resume {run_dir}; or put its step folder into the renamed one, and go on there",
        )

    def _find_folder(self) -> tuple[int, int] | None:
        """Return device and inode of the run's folder; None: there is none."""
        try:
            status = self.plan.run_dir.stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino
