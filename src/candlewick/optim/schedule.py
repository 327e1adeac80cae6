r"""The learning rate over a run: pure functions from the number of completed updates to a share of the peak.

    1 |      ________________             wsd           flat, then linear over the last `decay_fraction`
      |     /                \                          (warm-up, stable, decay: arXiv:2404.06395 section 4)
      |    /                  \
      |___/                    \___ min_lr
        warm-up           total_steps

    constant  linear_warmup        flat after the warm-up
    cosine  cosine_with_warmup     (1 + cos(pi x)) / 2     x from 0 at the end of the warm-up to 1 at the end
    polynomial                     (1 - x) ^ power         of the run (cosine: arXiv:1608.03983)

A warm-up that is not set is 2 % of the run but at most 2,000 steps, and for `constant` and `cosine` none. A run
bounded by time learns its steps early on. Until then the shape counts as 1, so wsd does not jump; the others do,
by less than 1 % for cosine, 5 % times the power for polynomial.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from candlewick.config import SchedulerConfig

_WARMUP_STEPS_OF_TIMED_RUNS = 50

Shape = Callable[[SchedulerConfig, float, int, int], float]
"""(config, x, step, total steps) -> share of the way from the floor to the peak; x as above."""


class Schedule(NamedTuple):
    """One shape of the learning rate."""

    shape: Shape
    warms_up: bool = True  # whether there is a warm-up when none is set
    decays_from: Callable[[SchedulerConfig], float] = lambda _: 0.0
    """Share of the run up to which the shape is 1, so that the end of the run need not be known."""


def _cosine(_config: SchedulerConfig, x: float, _step: int, _total: int) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * x)


def _wsd(config: SchedulerConfig, _x: float, step: int, total: int) -> float:
    return min(1.0, max(0.0, total - step) / (config.decay_fraction * total))


SCHEDULES = {
    "constant": Schedule(lambda *_: 1.0, warms_up=False),
    "linear_warmup": Schedule(lambda *_: 1.0),
    "cosine": Schedule(_cosine, warms_up=False),
    "cosine_with_warmup": Schedule(_cosine),
    "polynomial": Schedule(lambda config, x, *_: (1.0 - x) ** config.power),
    "wsd": Schedule(_wsd, decays_from=lambda config: 1.0 - config.decay_fraction),
}
"""The shape of each `scheduler.strategy`."""


def warmup_steps(config: SchedulerConfig, total_steps: int | None) -> int:
    """Return the length of the warm-up: as set, or what the strategy and the end of the run suggest."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    if not SCHEDULES[config.strategy].warms_up:
        return 0
    if total_steps is None or config.total_seconds is not None:
        return _WARMUP_STEPS_OF_TIMED_RUNS
    return min(2_000, round(0.02 * total_steps))


def multiplier(config: SchedulerConfig, step: int, total_steps: int | None, *, peak: float = 1.0) -> float:
    """Return the share of the peak learning rate for the update after `step` completed ones.

    The warm-up multiplies the shape, so that a decay that begins before it has ended is continuous. `total_steps`
    is None while the end is not known: warm-up, then the peak. The floor is `min_lr` as a share of `peak`.
    """
    warmup = warmup_steps(config, total_steps)
    ramp = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if total_steps is None:
        return ramp
    x = 1.0 if step >= total_steps else max(0.0, (step - warmup) / max(1, total_steps - warmup))
    share = SCHEDULES[config.strategy].shape(config, x, step, total_steps)
    floor = config.min_lr / peak
    return ramp * (floor + (1.0 - floor) * share)
