"""From "how long" to a number of updates, decided once per run.

Steps, tokens and epochs are numbers of updates at once. A time budget becomes one as late as the schedule allows,
so that it knows the machine's speed: at the end of the plateau of `wsd`, else after a twentieth of the time. Its
updates may differ in size, so what is measured is the time of a row.

`data.max_repetitions` bounds them all: a planned run that would read a source more often is refused before it
starts; the end of a run bounded by time is moved forward when it becomes known, which the loop warns about.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from candlewick.config import SchedulerConfig
from candlewick.data.rows.batches import BatchPlan
from candlewick.errors import ConfigError

_MEASURED_SHARE = 0.05
_MIN_MEASURED_STEPS = 10
_MAX_SAMPLES = 2.0**60


@dataclass(frozen=True, slots=True)
class Course:
    """A batch plan from where a run stands, which may have come there with another plan."""

    plan: BatchPlan
    step: int = 0
    samples: int = 0
    """Read by the first `step` updates."""

    def rows_after(self, steps: int) -> int:
        """Return how many samples the first `steps` updates of the run have read."""
        passed = self.plan.steps_for(self.samples)
        ahead = self.plan.rows_after(passed + steps - self.step) - self.plan.rows_after(passed)
        return self.samples + ahead

    def steps_for(self, samples: int) -> int:
        """Return the least number of updates of the run that have read at least so many samples."""
        passed = self.plan.steps_for(self.samples)
        ahead = samples - self.samples + self.plan.rows_after(passed)
        return self.step + self.plan.steps_for(ahead) - passed


def planned_steps(
    scheduler: SchedulerConfig, plan: BatchPlan | Course, *, sequence_length: int, epoch_rows: int
) -> int | None:
    """Return the number of updates of the run, or None for a time budget. A run with no end is a ConfigError.

    Of `total_tokens` no more than so many are read (but one update is made), of `total_epochs` no less.
    """
    if scheduler.total_steps is not None:
        return scheduler.total_steps
    if scheduler.total_tokens is not None:
        return max(1, plan.steps_for(scheduler.total_tokens // sequence_length + 1) - 1)
    if scheduler.total_epochs is not None:
        return max(1, plan.steps_for(math.ceil(min(scheduler.total_epochs * epoch_rows, _MAX_SAMPLES))))
    if scheduler.total_seconds is not None:
        return None
    raise ConfigError(
        "the run has no end", "set one of scheduler.total_steps, total_tokens, total_epochs, total_seconds"
    )


def most_steps(limit: float, course: Course, repetitions: Callable[[int], Sequence[float]]) -> int:
    """Return how many updates of the run begin before any source has been read `limit` times.

    `repetitions` says how often each source is read by the first so many samples.
    """

    def times(steps: int) -> float:
        return max(repetitions(course.rows_after(steps)))

    return bisect_left(range(1 << 40), limit, lo=course.step, key=times)


def steps_from_time(
    scheduler: SchedulerConfig, course: Course, step: int, train_seconds: float, max_steps: int | None = None
) -> int | None:
    """Turn a time budget into updates once the speed is known; None: not yet, or there is no such budget.

    `train_seconds` is the time spent in the first `step` updates. With `max_steps` there are no more than those,
    and the end is known at the latest when the schedule needs to know that one.
    """
    total_seconds, share = scheduler.total_seconds, _MEASURED_SHARE
    if scheduler.strategy == "wsd":
        share = max(share, 1.0 - scheduler.decay_fraction)
    if total_seconds is None:
        return None
    if max_steps is not None and step >= share * max_steps:
        return max_steps
    if step < _MIN_MEASURED_STEPS or train_seconds < share * total_seconds:
        return None
    samples = course.rows_after(step) * total_seconds / train_seconds
    steps = max(step + 1, course.steps_for(round(samples)))
    return steps if max_steps is None else min(steps, max_steps)
