"""Two runs side by side: settings that differ, curves, validation and speed.

Training losses are those of single updates, so they are smoothed: at each step the mean over the same number of
tokens before it in both runs, a twentieth of what both have seen. Whether the runs are the same is asked of the
losses as they are: the first step that both recorded with another loss, to the last bit.
"""

import math
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from candlewick.config.tree import differences
from candlewick.runs.history import Curve, RunHistory

SMOOTHED_SHARE = 1 / 20


def _by_step(curve: Curve) -> dict[int, float | None]:
    """Return the values of a figure by step; None is one that was not finite."""
    pairs = zip(curve.steps.astype(int).tolist(), curve.values.tolist(), strict=True)
    return {step: value if math.isfinite(value) else None for step, value in pairs}


def _totals(run: RunHistory) -> dict[str, float | None]:
    tokens, seconds = run.figure("data/tokens").last, run.figure("perf/training_seconds").last
    shares, memory = (run.figure(f"perf/{name}").finite.values.tolist() for name in ("mfu_strict", "memory_bytes"))
    return {
        "tokens": tokens,
        "training_seconds": seconds,
        "tokens_per_second": tokens / seconds if tokens and seconds else None,
        "mfu_strict": median(shares) if shares else None,
        "memory_bytes": max(memory, default=None),
    }


def compare_runs(first: Path, second: Path) -> dict[str, Any]:
    """Return the comparison of two run folders; pairs are (first, second), None where a run does not say.

    Figures of validation are the last ones: eval/... of a part of the text, final/... of all of it. Raises
    ConfigError or DataError for a folder that is no run's.
    """
    pair = [RunHistory.read(folder) for folder in (first, second)]
    window = SMOOTHED_SHARE * min(run.figure("data/tokens").last or 0.0 for run in pair)
    curves = [_by_step(run.smoothed(window)) for run in pair]
    common = sorted(curves[0].keys() & curves[1].keys())
    shown = sorted({common[round(at)] for at in np.linspace(0, len(common) - 1, 8)}) if common else []
    names = sorted({name for run in pair for name in run.figures if name.startswith(("eval/", "final/"))})
    losses, totals = [_by_step(run.figure("train/loss")) for run in pair], [_totals(run) for run in pair]
    both = sorted(losses[0].keys() & losses[1].keys())
    different = (step for step in both if losses[0][step] != losses[1][step])
    validation = [name for name in names if name.endswith(("/loss", "/bits_per_byte", "/tokens"))]
    return {
        "runs": [str(first), str(second)],
        "settings": differences(pair[0].config, pair[1].config),
        "smoothed_over_tokens": window,
        "training_loss": {step: [curve[step] for curve in curves] for step in shown},
        "validation": {name: [run.figure(name).last for run in pair] for name in validation},
        "figures": {name: [figures[name] for figures in totals] for name in totals[0]},
        "first_different_step": next(different, None),
        "last_common_step": both[-1] if both else None,
        "curves": [list(curve.items()) for curve in curves],
    }
