r"""The learning rate of each update, as a share of the peak: pure functions of the number of completed updates.

    1 |      ________________             wsd           flat, then linear over the last `decay_fraction`
      |     /                \                          (warm-up, stable, decay: arXiv:2404.06395 section 4)
      |    /                  \
      |___/                    \___ min_lr
        warm-up           total_steps

    constant  linear_warmup        flat after the warm-up
    cosine  cosine_with_warmup     (1 + cos(pi x)) / 2     x from 0 at the end of the warm-up to 1 at the end
    polynomial                     (1 - x) ^ power         of the run (cosine: arXiv:1608.03983)

Without `warmup_steps` the warm-up is 2 % of the run, at most 2,000 steps; `constant` and `cosine` have none. A run
that is bounded by time has 50. It knows its number of steps after a part of the run, and until then there is no
decay. wsd begins to decay later than that. The others fall when the number becomes known: cosine by less than 1 %,
polynomial by 5 % times its power.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from candlewick.config import SchedulerConfig

_WARMUP_STEPS_OF_TIMED_RUNS = 50

Decay = Callable[[SchedulerConfig, float, int, int], float]
"""(config, x, step, total steps) -> share of the way from the floor (0) to the peak (1); x as above."""


class Schedule(NamedTuple):
    """The learning rate after the warm-up, and when it begins to fall.

    Tests hold every schedule to this: it never rises after the warm-up, and at the end it is at `min_lr`, or was
    flat all along. A run that time bounds stays at the peak until its steps are known, a twentieth into the run:
    there a schedule falls by at most 5 % of the peak, or begins to fall later (`decay_start`).
    """

    decay: Decay
    has_default_warmup: bool = True  # whether there is a warm-up without `warmup_steps`
    decay_start: Callable[[SchedulerConfig], float] = lambda _: 0.0
    """Share of the run (0 to 1) before which the decay is 1, so that the number of steps need not be known."""


def _cosine(_config: SchedulerConfig, x: float, _step: int, _total: int) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * x)


def _wsd(config: SchedulerConfig, _x: float, step: int, total: int) -> float:
    return min(1.0, max(0.0, total - step) / (config.decay_fraction * total))


SCHEDULES = {
    "constant": Schedule(lambda *_: 1.0, has_default_warmup=False),
    "linear_warmup": Schedule(lambda *_: 1.0),
    "cosine": Schedule(_cosine, has_default_warmup=False),
    "cosine_with_warmup": Schedule(_cosine),
    "polynomial": Schedule(lambda config, x, *_: (1.0 - x) ** config.power),
    "wsd": Schedule(_wsd, decay_start=lambda config: 1.0 - config.decay_fraction),
}
"""The schedule of each `scheduler.strategy`."""


def warmup_steps(config: SchedulerConfig, total_steps: int | None) -> int:
    """Return the updates of the warm-up: `warmup_steps`, or a number that depends on strategy and total steps."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    if not SCHEDULES[config.strategy].has_default_warmup:
        return 0
    if total_steps is None or config.total_seconds is not None:
        return _WARMUP_STEPS_OF_TIMED_RUNS
    return min(2_000, round(0.02 * total_steps))


def has_begun_decay(config: SchedulerConfig, step: int, total_steps: int | None) -> bool:
    """Return whether the update after `step` completed ones is in a decay that began later than the run."""
    schedule = SCHEDULES[config.strategy]
    if total_steps is None or not 0.0 < schedule.decay_start(config) < 1.0:
        return False
    return schedule.decay(config, 0.0, step, total_steps) < 1.0


def multiplier(config: SchedulerConfig, step: int, total_steps: int | None, *, peak: float = 1.0) -> float:
    """Return the share of the peak learning rate for the update after `step` completed ones.

    The warm-up multiplies the decay, so that a decay that begins during the warm-up is continuous. While
    `total_steps` is None there is no decay. The floor is `min_lr` as a share of `peak`.
    """
    warmup = warmup_steps(config, total_steps)
    ramp = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if total_steps is None:
        return ramp
    x = 1.0 if step >= total_steps else max(0.0, (step - warmup) / max(1, total_steps - warmup))
    decay = SCHEDULES[config.strategy].decay(config, x, step, total_steps)
    floor = config.min_lr / peak
    return ramp * (floor + (1.0 - floor) * decay)
