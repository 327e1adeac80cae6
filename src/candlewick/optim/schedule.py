r"""The learning rate over a run: pure functions from the number of completed updates to a share of the peak.

    1 |      ________________             wsd           flat, then linear over the last `decay_fraction`
      |     /                \                          (warm-up, stable, decay: arXiv:2404.06395 section 4)
      |    /                  \
      |___/                    \___ min_lr
        warm-up           total_steps

    constant  linear_warmup        flat after the warm-up
    cosine  cosine_with_warmup     (1 + cos(pi x)) / 2     x from 0 at the end of the warm-up to 1 at the end
    polynomial                     (1 - x) ^ power         of the run (cosine: arXiv:1608.03983)

A warm-up that is not set is 2 % of the run but at most 2,000 steps, and for `constant` and `cosine` none.

A run bounded by time starts without knowing its steps, and learns them early on. Until then the shape counts as
1, and its warm-up when none is set is a fixed number of steps, before and after. So wsd does not jump then. The
others do, by what falls in a twentieth of the run: less than 1 % for cosine, 5 % times the power for polynomial.
"""

import math

from candlewick.config import SchedulerConfig

_MAX_WARMUP_STEPS = 2_000
_WARMUP_SHARE = 0.02
_WARMUP_STEPS_OF_TIMED_RUNS = 50


def warmup_steps(config: SchedulerConfig, total_steps: int | None) -> int:
    """Return the length of the warm-up: as set, or what the strategy and the end of the run suggest."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    if config.strategy in ("constant", "cosine"):
        return 0
    if total_steps is None or config.total_seconds is not None:
        return _WARMUP_STEPS_OF_TIMED_RUNS
    return min(_MAX_WARMUP_STEPS, round(_WARMUP_SHARE * total_steps))


def multiplier(config: SchedulerConfig, step: int, total_steps: int | None, *, peak: float = 1.0) -> float:
    """Return the share of the peak learning rate for the update after `step` completed ones.

    The warm-up goes from 1 / W to 1 and multiplies the shape, so that a decay that begins before the warm-up has
    ended is still continuous. `total_steps` is None while the end is not known: warm-up, then the peak. The floor
    is `min_lr` as a share of `peak`, the peak learning rate.
    """
    warmup = warmup_steps(config, total_steps)
    ramp = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if total_steps is None:
        return ramp
    done = 1.0 if step >= total_steps else max(0.0, (step - warmup) / max(1, total_steps - warmup))
    match config.strategy:
        case "constant" | "linear_warmup":
            return ramp
        case "cosine" | "cosine_with_warmup":
            share = 0.5 + 0.5 * math.cos(math.pi * done)
        case "polynomial":
            share = (1.0 - done) ** config.power
        case _:  # wsd
            share = min(1.0, max(0.0, total_steps - step) / (config.decay_fraction * total_steps))
    floor = config.min_lr / peak
    return ramp * (floor + (1.0 - floor) * share)
