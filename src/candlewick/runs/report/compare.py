"""Two runs side by side: settings that differ, curves, validation and speed.

Training losses are those of single updates, so they are smoothed: at each step the mean over the same number of
tokens before it in both runs, a twentieth of what both have seen. Whether the runs are the same is asked of the
losses as they are: the first step that both recorded with another loss, to the last bit.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from candlewick.config import RunConfig
from candlewick.config.load import load_config
from candlewick.config.tree import differences
from candlewick.train.monitor.trackers import read_metrics

_SMOOTHED_SHARE = 1 / 20


@dataclass(frozen=True, slots=True)
class _Run:
    config: RunConfig
    rows: list[dict[str, Any]]

    def figures(self, name: str) -> dict[int, float | None]:
        """Return the values of a figure by step; None is one that was not finite."""
        rows = ((row["step"], row[name]) for row in self.rows if name in row)
        return {step: value for step, value in rows if value is None or isinstance(value, int | float)}

    def finite(self, name: str) -> list[float]:
        return [value for value in self.figures(name).values() if value is not None]

    def last(self, name: str) -> float | None:
        return next(reversed(self.finite(name)), None)

    def totals(self) -> dict[str, float | None]:
        tokens, seconds = self.last("data/tokens"), self.last("perf/training_seconds")
        shares = self.finite("perf/mfu_strict")
        return {
            "tokens": tokens,
            "training_seconds": seconds,
            "tokens_per_second": tokens / seconds if tokens and seconds else None,
            "mfu_strict": median(shares) if shares else None,
            "memory_bytes": max(self.finite("perf/memory_bytes"), default=None),
        }

    def smoothed(self, window_tokens: float) -> dict[int, float]:
        """Return the mean training loss over so many tokens up to each step."""
        counts = self.figures("data/tokens")
        points = [
            (step, count, loss)
            for step, loss in self.figures("train/loss").items()
            if loss is not None and (count := counts.get(step)) is not None
        ]
        tokens = np.array([count for _, count, _ in points], np.float64)
        sums = np.cumsum([0.0, *(loss for _, _, loss in points)])
        ends = np.arange(1, len(points) + 1)
        starts = np.minimum(np.searchsorted(tokens, tokens - window_tokens, side="right"), ends - 1)
        means = (sums[ends] - sums[starts]) / (ends - starts)
        return {step: mean for (step, _, _), mean in zip(points, means.tolist(), strict=True)}


def compare_runs(first: Path, second: Path) -> dict[str, Any]:
    """Return the comparison of two run folders; pairs are (first, second), None where a run does not say.

    Figures of validation are the last ones: eval/... of a part of the text, final/... of all of it. Raises
    ConfigError or DataError for a folder that is no run's.
    """
    pair = [_Run(load_config(f / "config.yaml"), read_metrics(f / "metrics.jsonl")) for f in (first, second)]
    window = _SMOOTHED_SHARE * min(run.last("data/tokens") or 0.0 for run in pair)
    curves = [run.smoothed(window) for run in pair]
    common = sorted(curves[0].keys() & curves[1].keys())
    shown = sorted({common[round(at)] for at in np.linspace(0, len(common) - 1, 8)}) if common else []
    names = sorted(
        {name for run in pair for row in run.rows for name in row if name.startswith(("eval/", "final/"))}
    )
    losses, totals = [run.figures("train/loss") for run in pair], [run.totals() for run in pair]
    both = sorted(losses[0].keys() & losses[1].keys())
    different = (step for step in both if losses[0][step] != losses[1][step])
    validation = [name for name in names if name.endswith(("/loss", "/bits_per_byte", "/tokens"))]
    return {
        "runs": [str(first), str(second)],
        "settings": differences(pair[0].config, pair[1].config),
        "smoothed_over_tokens": window,
        "training_loss": {step: [curve[step] for curve in curves] for step in shown},
        "validation": {name: [run.last(name) for run in pair] for name in validation},
        "figures": {name: [figures[name] for figures in totals] for name in totals[0]},
        "first_different_step": next(different, None),
        "last_common_step": both[-1] if both else None,
        "curves": [list(curve.items()) for curve in curves],
    }
