"""How many rows each update reads: the global batch, and smaller ones at the start of a run.

    updates    0 .. 99   100 .. 299   300 ..
    rows            64          128      512       batch_ramp = two stages, then the global batch

Source: McCandlish et al., An Empirical Model of Large-Batch Training, arXiv 1812.06162.
"""

from dataclasses import dataclass, replace
from typing import Self

from candlewick.config import BatchStage, DataConfig
from candlewick.errors import ConfigError


@dataclass(frozen=True, slots=True)
class BatchSchedule:
    """Rows over all ranks per update: those of the stages, one after another, then `rows`."""

    rows: int
    stages: tuple[BatchStage, ...] = ()
    step: int = 0  # earlier updates, perhaps by another schedule
    rows_read: int = 0  # by the earlier updates

    @classmethod
    def from_config(cls, data: DataConfig, sequence_length: int, world_size: int) -> Self:
        """Return the schedule of a config. Raises ConfigError unless whole micro-batches on all ranks fill it."""
        per_pass = data.micro_batch_size * world_size
        cut = f"{world_size} ranks x micro_batch_size {data.micro_batch_size} = {per_pass} rows"
        rows = data.global_batch_size or per_pass
        if data.global_batch_tokens is not None:
            rows = data.global_batch_tokens // sequence_length // per_pass * per_pass
            if not rows:
                raise ConfigError(
                    f"data.global_batch_tokens={data.global_batch_tokens} is less than {cut} of {sequence_length} "
                    "tokens",
                    f"set it to {per_pass * sequence_length} or more, or data.micro_batch_size to less",
                )
        sizes = [("data.global_batch_size", rows)]
        for i, stage in enumerate(data.batch_ramp):
            sizes.append((f"data.batch_ramp[{i}].global_batch_size", stage.global_batch_size))
        for name, size in sizes:
            if size % per_pass:
                near = max(1, round(size / per_pass)) * per_pass
                raise ConfigError(
                    f"{name}={size} is not a multiple of {cut}",
                    f"set it to {near}, or change data.micro_batch_size",
                )
        return cls(rows, data.batch_ramp)

    def resume_at(self, step: int, rows_read: int) -> Self:
        """Return the schedule of a run whose first `step` updates have read `rows_read` rows."""
        return replace(self, step=step, rows_read=rows_read)

    def rows_at(self, rows_read: int) -> int:
        """Return the rows of the update that follows the first `rows_read` rows."""
        for stage in self.stages:
            rows_read -= stage.steps * stage.global_batch_size
            if rows_read < 0:
                return stage.global_batch_size
        return self.rows

    def rows_after(self, steps: int) -> int:
        """Return how many rows the first `steps` updates of the run have read."""
        passed = self._steps_from_start(self.rows_read)
        ahead = self._rows_from_start(passed + steps - self.step) - self._rows_from_start(passed)
        return self.rows_read + ahead

    def steps_for(self, rows: int) -> int:
        """Return the least number of updates that read at least `rows` rows."""
        passed = self._steps_from_start(self.rows_read)
        ahead = rows - self.rows_read + self._rows_from_start(passed)
        return self.step + self._steps_from_start(ahead) - passed

    def _rows_from_start(self, steps: int) -> int:
        rows = 0
        for stage in self.stages:
            taken = min(steps, stage.steps)
            rows += taken * stage.global_batch_size
            steps -= taken
        return rows + steps * self.rows

    def _steps_from_start(self, rows: int) -> int:
        steps = 0
        for stage in self.stages:
            taken = min(-(-rows // stage.global_batch_size), stage.steps)
            rows -= taken * stage.global_batch_size
            steps += taken
            if rows <= 0:
                return steps
        return steps + -(-rows // self.rows)
