"""Curves in plain characters, for terminals and logs.

loss
  5.7 |*
      | **              each column is one x: its value is interpolated between the two
  3.1 |   ***+++        points around it, so a curve of few points is a line, one of many is thinned
      |      #########
  0.5 |               +++
      +------------------
       0              400   step      * first   + second   # both
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

_MARKS = "*+ox@%"
_SHARED = "#"
_LABEL_WIDTH = 10


def plot(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    width: int = 72,
    height: int = 16,
    x_label: str = "",
    y_label: str = "",
) -> str:
    """Return a plot of named curves of (x, y) points; those that are not finite are left out."""
    curves = {name: sorted(p for p in points if all(map(math.isfinite, p))) for name, points in series.items()}
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return f"{y_label}: nothing to plot"
    (left, low), (right, high) = np.min(points, axis=0).tolist(), np.max(points, axis=0).tolist()
    columns = width - _LABEL_WIDTH - 2
    positions = np.linspace(left, right, columns)
    cells = [[" "] * columns for _ in range(height)]
    marks = dict(zip(curves, _MARKS * len(curves), strict=False))
    for name, curve in curves.items():
        if not curve:
            continue
        x, y = np.array(curve).T
        values = np.interp(positions, x, y, left=math.nan, right=math.nan)
        for column in np.flatnonzero(np.isfinite(values)).tolist():
            share = (values[column] - low) / (high - low or 1.0)
            row = cells[height - 1 - round(share * (height - 1))]
            row[column] = marks[name] if row[column] == " " else _SHARED
    every = max(1, (height - 1) // 3)
    lines = [f"{y_label:>{_LABEL_WIDTH}}"] if y_label else []
    for number, row in enumerate(cells):
        value = high - (high - low) * number / max(1, height - 1)
        label = _number(value) if number % every == 0 else ""
        lines.append(f"{label:>{_LABEL_WIDTH}} |{''.join(row)}".rstrip())
    first, indent = _number(left), " " * _LABEL_WIDTH
    lines += [f"{indent} +{'-' * columns}", f"{indent}  {first}{_number(right):>{columns - len(first)}}"]
    legend = [f"{mark} {name}" for name, mark in marks.items()] if len(marks) > 1 else []
    if any(_SHARED in row for row in cells):
        legend.append(f"{_SHARED} {'both' if len(marks) == 2 else 'several'}")
    lines.append(f"{indent}  " + "   ".join([x_label, *legend]).strip())
    return "\n".join(line.rstrip() for line in lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
