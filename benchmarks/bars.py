"""Bars on a logarithmic axis, as an SVG file: all that the plots of a benchmark need, and no package for it."""

import math
from collections.abc import Mapping
from html import escape
from pathlib import Path

Groups = Mapping[str, Mapping[str, float | None]]
"""Of each group, named at the left, the value of each series; None, or nothing: no bar."""

COLORS = ("#1f5fa8", "#d9782d", "#8a8a8a", "#c2c2c2", "#3c8d40", "#8e4a9e")
LEFT, WIDTH, BAR, GAP, TOP = 190, 560, 13, 12, 64


def bars(title: str, unit: str, groups: Groups) -> str:
    """Return the picture. Values are positive; the axis begins at the power of ten below the least of them."""
    values = [v for group in groups.values() for v in group.values() if v]
    if not values:
        raise ValueError(f"{title}: nothing to draw")
    low = math.floor(math.log10(min(values)))
    high = max(math.ceil(math.log10(max(values))), low + 1)

    def place(value: float) -> float:
        return LEFT + WIDTH * (math.log10(value) - low) / (high - low)

    series = list(dict.fromkeys(name for group in groups.values() for name in group))
    height = TOP + sum(BAR * len(group) + GAP for group in groups.values())
    parts = [_text(LEFT, 20, title, "start", "font-weight='bold'")]
    for number, name in enumerate(series):
        x = LEFT + number * WIDTH // len(series)
        parts += [_bar(x, 32, 10, 10, number), _text(x + 15, 41, name, "start")]
    for power in range(low, high + 1):
        x = place(10.0**power)
        parts.append(f"<line x1='{x:.1f}' y1='{TOP - 8}' x2='{x:.1f}' y2='{height}' stroke='#ddd'/>")
        parts.append(_text(x, height + 14, _power(power), "middle"))
    y = TOP
    for label, group in groups.items():
        parts.append(_text(LEFT - 8, y + BAR * len(group) / 2 + 4, label, "end"))
        for name, value in group.items():
            if value:
                length = place(value) - LEFT
                parts.append(_bar(LEFT, y, length, BAR - 2, series.index(name)))
                parts.append(_text(LEFT + length + 4, y + BAR - 3, f"{value:.3g}", "start"))
            y += BAR
        y += GAP
    parts.append(_text(LEFT + WIDTH / 2, height + 32, unit, "middle"))
    size = f"width='{LEFT + WIDTH + 70}' height='{height + 42}'"
    style = "font-family='sans-serif' font-size='11'"
    lines = "\n".join(parts)
    return f"<svg xmlns='http://www.w3.org/2000/svg' {size} {style}>\n{lines}\n</svg>\n"


def draw(path: Path, title: str, unit: str, groups: Groups) -> None:
    """Write the picture to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(bars(title, unit, groups), encoding="utf-8")


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' {more}>{escape(text)}</text>"


def _bar(x: float, y: float, width: float, height: float, color: int) -> str:
    fill = COLORS[color % len(COLORS)]
    return f"<rect x='{x:.1f}' y='{y:.1f}' width='{max(width, 0.5):.1f}' height='{height}' fill='{fill}'/>"


def _power(power: int) -> str:
    return f"{10**power:,}" if 0 <= power < 7 else f"1e{power}"
