r"""The learning rate over a run: pure functions from the number of completed updates to a share of the peak.

    1 |      ________________             constant   flat after the warm-up
      |     /                \            cosine     half a cosine from the end of the warm-up
      |    /                  \           wsd        flat, then linear over the last `decay_fraction`
      |___/                    \___ min_lr          (warm-up, stable, decay: arXiv:2404.06395 section 4)
        warm-up           total_steps

A run bounded by time starts without knowing its steps, and learns them early on. So that the rate does not jump
then, its warm-up when none is set is a fixed number of steps, before and after; the shape counts as 1 until then.
"""

import math

from candlewick.config import SchedulerConfig

_MAX_WARMUP_STEPS = 2_000
_WARMUP_SHARE = 0.02
_WARMUP_STEPS_OF_TIMED_RUNS = 50


def warmup_steps(config: SchedulerConfig, total_steps: int | None) -> int:
    """Return the length of the warm-up.

    As set; else 2 % of the run but at most 2,000 steps; else, when the run is bounded by time, 50.
    """
    if config.warmup_steps is not None:
        return config.warmup_steps
    if total_steps is None or config.total_seconds is not None:
        return _WARMUP_STEPS_OF_TIMED_RUNS
    return min(_MAX_WARMUP_STEPS, round(_WARMUP_SHARE * total_steps))


def multiplier(config: SchedulerConfig, step: int, total_steps: int | None) -> float:
    """Return the share of the peak learning rate for the update after `step` completed ones.

    The warm-up goes from 1 / W to 1 and multiplies the shape, so that a decay that begins before the warm-up has
    ended is still continuous. `total_steps` is None while the end is not known: warm-up, then the peak.
    """
    warmup = warmup_steps(config, total_steps)
    ramp = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if total_steps is None or config.strategy == "constant":
        return ramp
    if config.strategy == "cosine":
        done = (step - warmup) / max(1, total_steps - warmup)
        share = 0.5 + 0.5 * math.cos(math.pi * min(1.0, max(0.0, done)))
    else:
        share = min(1.0, max(0.0, total_steps - step) / (config.decay_fraction * total_steps))
    return ramp * (config.min_lr + (1.0 - config.min_lr) * share)
