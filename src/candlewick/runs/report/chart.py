"""Curves over steps or tokens as HTML: an SVG that stretches, labels around it, and the points for hovering.

The SVG has 1000 by 1000 units and no text, so that it may have any width; lines keep their width, and dots are
lines of no length with round ends. Axes end at ticks, so that labels are spread evenly and need no positions.
"""

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Axis = Literal["step", "tokens"]
Style = Literal["raw", "line", "dots"]
AXES: tuple[Axis, ...] = ("step", "tokens")
STYLES: tuple[Style, ...] = ("raw", "line", "dots")
_PREFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_SIZE = 1000
_LEAST_SPAN = 1e-30


@dataclass(frozen=True)
class Series:
    """A line of a chart: `raw` is thin and pale, `dots` marks each of few points."""

    label: str
    style: Style
    color: str  # a class `color-...` of page.css
    steps: NDArray[np.float64]
    tokens: NDArray[np.float64]
    values: NDArray[np.float64]

    def positions(self, axis: Axis) -> NDArray[np.float64]:
        """The points' places on an axis."""
        return self.steps if axis == "step" else self.tokens


@dataclass(frozen=True)
class Chart:
    """Lines of one figure, each with at least one point."""

    title: str
    unit: str
    series: Sequence[Series]
    from_zero: bool = False
    legend: tuple[Style, ...] = ()  # the lines that it has

    def html(self) -> str:
        """Return the figure."""
        values = np.concatenate([series.values for series in self.series])
        y_ticks = ticks(0.0 if self.from_zero else values.min().item(), values.max().item(), 4)
        labels = "".join(f"<span>{short(tick)}</span>" for tick in reversed(y_ticks))
        plots = "".join(self._plot(axis, y_ticks) for axis in AXES)
        keys = "".join(
            f'<span class="key {series.style} color-{series.color}">{html.escape(series.label)}</span>'
            for series in self.series
            if series.style in self.legend
        )
        legend = f'<span class="legend">{keys}</span>' if self.legend else ""
        return (
            f'<figure class="chart"><figcaption><b>{html.escape(self.title)}</b> '
            f'<span class="unit">{html.escape(self.unit)}</span>{legend}</figcaption>'
            f'<p class="readout" aria-live="polite">&nbsp;</p>'
            f'<div class="area"><div class="y">{labels}</div>{plots}</div></figure>'
        )

    def _plot(self, axis: Axis, y_ticks: Sequence[float]) -> str:
        x_ticks = self.x_ticks(axis)
        rows = (_SIZE * number / (len(y_ticks) - 1) for number in range(len(y_ticks)))
        grid = f'<path class="grid" d="{"".join(f"M0 {row:.1f}H{_SIZE}" for row in rows)}"/>'
        paths = "".join(_path(series, axis, x_ticks, y_ticks) for series in self.series)
        labels = "".join(f"<span>{short(tick)}</span>" for tick in x_ticks)
        return (
            f'<div class="plot by-{axis}"><svg viewBox="0 0 {_SIZE} {_SIZE}" preserveAspectRatio="none" '
            f'aria-hidden="true">{grid}{paths}</svg><i class="cursor"></i><div class="x">{labels}</div></div>'
        )

    def x_ticks(self, axis: Axis) -> list[float]:
        """Return the ticks of the horizontal axis, which begins at 0."""
        return ticks(0.0, max(series.positions(axis).max().item() for series in self.series), 5)

    def points(self) -> dict[str, Any]:
        """Return what hovering shows, for JSON."""
        return {
            "ends": {axis: self.x_ticks(axis)[-1] for axis in AXES},
            "series": [
                {
                    "label": series.label,
                    "color": series.color,
                    "step": series.steps.astype(np.int64).tolist(),
                    "tokens": series.tokens.astype(np.int64).tolist(),
                    "y": [float(f"{value:.5g}") for value in series.values],
                }
                for series in self.series
            ],
        }


def ticks(low: float, high: float, about: int) -> list[float]:
    """Return round numbers at equal distances, `about` so many, the first at or below `low`, the last above."""
    span = max(high - low, 1e-2 * max(abs(low), abs(high)))  # less would give equal labels
    span = span if span > _LEAST_SPAN else 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power * about >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def short(value: float) -> str:
    """Return a number of few digits: `2.5M`, `0.015`, `2e-05`."""
    size, letter = next((pair for pair in _PREFIXES if abs(value) >= pair[0]), (1.0, ""))
    return f"{value / size:.4g}{letter}"


def _path(series: Series, axis: Axis, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> str:
    x = series.positions(axis) / x_ticks[-1] * _SIZE
    y = _SIZE - (series.values - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * _SIZE
    moves = "".join(_moves(series.style, x, y))
    return f'<path class="{series.style} color-{series.color}" d="{moves}"/>'


def _moves(style: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> Iterator[str]:
    for number, (left, top) in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
        is_dot = style == "dots" or len(x) == 1
        yield f"{'M' if is_dot or not number else 'L'}{left:.1f} {top:.1f}{'h0' if is_dot else ''}"
