"""`candlewick config plot-schedule`: the learning rate and the rows of the batch over a run."""

from itertools import accumulate
from typing import Any

from candlewick.config import RunConfig
from candlewick.data.batches import BatchPlan
from candlewick.errors import ConfigError
from candlewick.optim.schedule import multiplier
from candlewick.pipeline.plot import plot

_MOST_POINTS = 101


def schedule(config: RunConfig, steps: int | None) -> dict[str, Any]:
    """Return learning rate, its share of the peak, and rows of the batch, each at up to 101 updates of the run.

    `steps` is the length of a run whose configuration does not name it. Raises ConfigError when nothing does.
    """
    total = config.scheduler.total_steps or steps
    if total is None:
        raise ConfigError("scheduler.total_steps is not set, so the run has no length", "give --steps N")
    plan = BatchPlan.of(config.data, config.sequence_length, 1)
    last = min(total, _MOST_POINTS) - 1
    at = [round(i * (total - 1) / last) for i in range(last + 1)] if last else [0]
    shares = [multiplier(config.scheduler, step, total) for step in at]
    return {
        "total_steps": total,
        "steps": at,
        "share": shares,
        "learning_rate": [share * config.optimizer.learning_rate for share in shares],
        "rows": [plan.rows_at(plan.samples_after(step)) for step in at],
    }


def draw(config: RunConfig, found: dict[str, Any]) -> str:
    """Return what `schedule` found as a curve of plain characters, and the rows in words."""
    points = list(zip(found["steps"], found["learning_rate"], strict=True))
    ends = accumulate(stage.steps for stage in config.data.batch_ramp)
    ramp = [f"{s.global_batch_size:,} until {end:,}" for s, end in zip(config.data.batch_ramp, ends, strict=True)]
    rows = ", ".join([*ramp, f"{found['rows'][-1]:,} at the end"])
    title = f"optimizer.learning_rate by completed updates ({config.scheduler.strategy})"
    return f"{plot({'': points}, x_label=title)}\nrows per update: {rows}"
