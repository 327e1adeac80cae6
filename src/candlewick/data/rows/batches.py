"""How many rows each update reads: the global batch, and smaller ones at the start of a run.

    updates    0 .. 99   100 .. 299   300 ..
    rows            64          128      512       batch_ramp = two stages, then the global batch

Early gradients agree with one another, so that small batches go further on the same tokens; later ones are noisier
and want more rows (McCandlish et al., An Empirical Model of Large-Batch Training, arXiv 1812.06162). Numbers of
updates and of rows are turned into each other in closed form, so the place in the data stays one integer.
"""

from dataclasses import dataclass
from typing import Self

from candlewick.config import BatchStage, DataConfig
from candlewick.errors import ConfigError


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Rows over all ranks per update: those of the stages, one after another, then `rows`."""

    rows: int
    stages: tuple[BatchStage, ...] = ()

    @classmethod
    def of(cls, data: DataConfig, sequence_length: int, world_size: int) -> Self:
        """Return the plan of a config. Raises ConfigError unless whole micro-batches on all ranks fill it."""
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
        sizes = {"data.global_batch_size": rows}
        sizes |= {
            f"data.batch_ramp[{i}].global_batch_size": s.global_batch_size for i, s in enumerate(data.batch_ramp)
        }
        for name, size in sizes.items():
            if size % per_pass:
                near = max(1, round(size / per_pass)) * per_pass
                raise ConfigError(
                    f"{name}={size} is not a multiple of {cut}",
                    f"set it to {near}, or change data.micro_batch_size",
                )
        return cls(rows, data.batch_ramp)

    def rows_at(self, rows_read: int) -> int:
        """Return the rows of the update that begins when so many rows were read."""
        for stage in self.stages:
            rows_read -= stage.steps * stage.global_batch_size
            if rows_read < 0:
                return stage.global_batch_size
        return self.rows

    def rows_after(self, steps: int) -> int:
        """Return how many rows the first `steps` updates read."""
        rows = 0
        for stage in self.stages:
            taken = min(steps, stage.steps)
            rows += taken * stage.global_batch_size
            steps -= taken
        return rows + steps * self.rows

    def steps_for(self, rows: int) -> int:
        """Return the least number of updates that read at least so many rows."""
        steps = 0
        for stage in self.stages:
            taken = min(-(-rows // stage.global_batch_size), stage.steps)
            rows -= taken * stage.global_batch_size
            steps += taken
            if rows <= 0:
                return steps
        return steps + -(-rows // self.rows)
