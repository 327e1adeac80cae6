"""Draw a transcript of a terminal as an SVG: `python docs/terminal.py TRANSCRIPT.txt docs/demo.svg`."""

import sys
from html import escape
from pathlib import Path

_ADVANCE, _LINE, _MARGIN, _BAR = 8.4, 19, 18, 34
_STYLE = """
rect.window { fill: #16181d } circle { fill: #4a4f5a }
text { font: 14px ui-monospace, Menlo, Consolas, monospace; fill: #d7dae0; white-space: pre }
text.command { fill: #f2c56b }
"""


def draw(lines: list[str]) -> str:
    """Return the picture of lines of text; those that begin with "$ " are commands."""
    width = round(max(map(len, lines)) * _ADVANCE) + 2 * _MARGIN
    height = len(lines) * _LINE + _BAR + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
        f"<title>{escape(lines[0])}</title><style>{_STYLE}</style>",
        f'<rect class="window" width="{width}" height="{height}" rx="8"/>',
        *(f'<circle cx="{_MARGIN + 18 * number}" cy="17" r="5"/>' for number in range(3)),
    ]
    for number, line in enumerate(lines):
        kind = ' class="command"' if line.startswith("$ ") else ""
        y = _BAR + 14 + number * _LINE
        parts.append(f'<text{kind} x="{_MARGIN}" y="{y}" xml:space="preserve">{escape(line)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(draw(source.read_text(encoding="utf-8").splitlines()), encoding="utf-8")
