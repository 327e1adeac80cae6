"""The learning rate and the rows of the batch over a run, as numbers and as curves of plain characters."""

from itertools import accumulate
from typing import Any

from candlewick.config import MuonConfig, RunConfig
from candlewick.data.rows.batches import BatchSchedule
from candlewick.errors import ConfigError
from candlewick.runs.report.plot import plot
from candlewick.train.budget import learning_rate_share, planned_steps


def sample_schedule(config: RunConfig, steps: int | None) -> dict[str, Any]:
    """Return learning rates, their share of the peak, and rows of the batch, each at up to 101 updates of the run.

    `steps` replaces the length that the configuration sets. Raises ConfigError when neither sets one.
    """
    scheduler, length = config.scheduler, config.sequence_length
    plan = BatchSchedule.from_config(config.data, length, 1)
    if steps is None and (scheduler.total_steps or scheduler.total_tokens):
        steps = planned_steps(scheduler, plan, sequence_length=length, epoch_rows=1)
    if steps is None:
        raise ConfigError("no total_steps or total_tokens is set, so the run has no length", "give --steps N")
    last = min(steps, 101) - 1
    at = [round(i * (steps - 1) / last) for i in range(last + 1)] if last else [0]
    peaks = {"learning_rate": config.optimizer.learning_rate}
    shares = [learning_rate_share(config, step, steps) for step in at]
    if isinstance(config.optimizer, MuonConfig):
        peaks["adam_learning_rate"] = config.optimizer.adam_learning_rate
    return {
        "total_steps": steps,
        "steps": at,
        "share": shares,
        **{name: [share * peak for share in shares] for name, peak in peaks.items()},
        "rows": [plan.rows_at(plan.rows_after(step)) for step in at],
    }


def plot_schedule(config: RunConfig, points: dict[str, Any]) -> str:
    """Return the points of `sample_schedule` as curves of plain characters, and the rows in words."""
    names = [name for name in points if name.endswith("learning_rate")]
    curves = {name: list(zip(points["steps"], points[name], strict=True)) for name in names}
    ends = accumulate(stage.steps for stage in config.data.batch_ramp)
    ramp = [f"{s.global_batch_size:,} until {end:,}" for s, end in zip(config.data.batch_ramp, ends, strict=True)]
    rows = ", ".join([*ramp, f"{points['rows'][-1]:,} at the end"])
    title = f"optimizer.learning_rate by completed updates ({config.scheduler.strategy})"
    return f"{plot(curves, x_label=title)}\nrows per update: {rows}"
