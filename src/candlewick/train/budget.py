"""From "how long" to a number of updates, decided once per run.

Steps, tokens and epochs are numbers of updates at once. A time budget becomes one as late as the schedule allows:
at the end of the plateau of `wsd`, else after a twentieth of the time. Its updates may differ in size, so what is
measured is the time of a row. `data.max_repetitions` bounds them all: a planned run that would read a source more
often is refused, the end of a run bounded by time is moved forward.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence

from candlewick.config import RunConfig, SchedulerConfig
from candlewick.data.rows.batches import BatchSchedule
from candlewick.errors import ConfigError
from candlewick.optim.schedule import SCHEDULES, multiplier

_MEASURED_SHARE = 0.05
_MIN_MEASURED_STEPS = 10


def require_end(scheduler: SchedulerConfig) -> None:
    """Raise ConfigError for a schedule that never ends."""
    names = ("total_steps", "total_tokens", "total_epochs", "total_seconds")
    if all(getattr(scheduler, name) is None for name in names):
        raise ConfigError("the run has no end", f"set one of scheduler.{', '.join(names)}")


def planned_steps(
    scheduler: SchedulerConfig, batches: BatchSchedule, *, sequence_length: int, epoch_rows: int
) -> int | None:
    """Return the number of updates of the run, or None for a time budget.

    Of `total_tokens` no more than so many are read (but one update is made), of `total_epochs` no less.
    """
    if scheduler.total_steps is not None:
        return scheduler.total_steps
    if scheduler.total_tokens is not None:
        return max(1, batches.steps_for(scheduler.total_tokens // sequence_length + 1) - 1)
    if scheduler.total_epochs is not None:
        return max(1, batches.steps_for(math.ceil(min(scheduler.total_epochs * epoch_rows, 2.0**60))))
    return None


def learning_rate_share(config: RunConfig, step: int, total_steps: int | None) -> float:
    """Return the share of the peak learning rate that the update after `step` completed ones is made with."""
    return multiplier(config.scheduler, step, total_steps, peak=config.optimizer.learning_rate)


def max_steps_for_repetitions(
    limit: float, batches: BatchSchedule, repetitions: Callable[[int], Sequence[float]]
) -> int:
    """Return how many updates begin before a source is read `limit` times; `repetitions` maps rows to times."""
    steps = range(1 << 40)
    return bisect_left(steps, limit, lo=batches.step, key=lambda n: max(repetitions(batches.rows_after(n))))


def steps_from_time(
    scheduler: SchedulerConfig, batches: BatchSchedule, step: int, train_seconds: float, max_steps: int | None
) -> int | None:
    """Turn a time budget into updates once the speed is known; None: not yet, or there is no such budget.

    `train_seconds` is the time spent in the first `step` updates. With `max_steps` there are no more than those,
    and the end is known at the latest when the schedule needs to know that one.
    """
    total_seconds = scheduler.total_seconds
    share = max(_MEASURED_SHARE, SCHEDULES[scheduler.strategy].decay_start(scheduler))
    if total_seconds is None:
        return None
    if max_steps is not None and step >= share * max_steps:
        return max_steps
    if step < _MIN_MEASURED_STEPS or train_seconds < share * total_seconds:
        return None
    rows = batches.rows_after(step) * total_seconds / train_seconds
    steps = max(step + 1, batches.steps_for(round(rows)))
    return steps if max_steps is None else min(steps, max_steps)
