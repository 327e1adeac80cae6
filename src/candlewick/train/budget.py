"""From "how long" to a number of updates, decided once per run.

Steps, tokens and epochs are numbers of updates at once. A time budget becomes one as late as the schedule allows,
so that it knows the machine's speed: at the end of the plateau of `wsd`, else after a twentieth of the time.
"""

import math

from candlewick.config import SchedulerConfig
from candlewick.errors import ConfigError

_MEASURED_SHARE = 0.05
_MIN_MEASURED_STEPS = 10


def planned_steps(scheduler: SchedulerConfig, *, tokens_per_update: int, split_tokens: int) -> int | None:
    """Return the number of updates of the run, or None for a time budget. A run with no end is a ConfigError."""
    if scheduler.total_steps is not None:
        return scheduler.total_steps
    if scheduler.total_tokens is not None:
        return max(1, scheduler.total_tokens // tokens_per_update)
    if scheduler.total_epochs is not None:
        return max(1, math.ceil(scheduler.total_epochs * split_tokens / tokens_per_update))
    if scheduler.total_seconds is not None:
        return None
    raise ConfigError(
        "the run has no end",
        "set one of scheduler.total_steps, total_tokens, total_epochs, total_seconds",
    )


def steps_from_time(scheduler: SchedulerConfig, *, step: int, train_seconds: float) -> int | None:
    """Turn a time budget into updates once the speed is known; None: not yet, or there is no such budget.

    `train_seconds` is the time spent in the first `step` updates.
    """
    total_seconds, share = scheduler.total_seconds, _MEASURED_SHARE
    if scheduler.strategy == "wsd":
        share = max(share, 1.0 - scheduler.decay_fraction)
    if total_seconds is None or step < _MIN_MEASURED_STEPS or train_seconds < share * total_seconds:
        return None
    return max(step + 1, round(step * total_seconds / train_seconds))
