"""`candlewick runs`: list the runs of a folder."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from candlewick.cli.arguments import add_json
from candlewick.cli.output import emit_json
from candlewick.terminal import one_line

if TYPE_CHECKING:
    from candlewick.runs.report.table import RunRow

_HEAD = ("name", "state", "bits/byte", "steps", "age", "size", "text")
_DROPPED_FIRST = ("size", "text", "age", "steps", "bits/byte")
_NUMBERS = {"bits/byte", "steps", "age", "size"}
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_SIZES = ((1e9, "B"), (1e6, "M"), (1e3, "k"))
_MIN_NAME = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    about = "folder of the runs, or a run; default runs"
    parser.add_argument("directory", metavar="DIR", nargs="?", type=Path, default=Path("runs"), help=about)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """List the runs, the youngest first."""
    from candlewick.runs.report.table import list_runs

    rows = list_runs(args.directory)
    if emit_json(args, [asdict(row) for row in rows]):
        return
    if not rows:
        print(f"no run in {args.directory}")
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in format_runs(rows, width):
        print(line)


def format_runs(rows: "Sequence[RunRow]", width: int | None) -> list[str]:
    """Return the lines of the table, in at most `width` columns: the least important ones are left out."""
    cells = [_cells(row) for row in rows]
    shown = list(_HEAD)
    widths = {name: max(len(name), *(len(row[name]) for row in cells)) for name in shown}
    if width is not None:
        least = min(widths["name"], _MIN_NAME)
        for name in _DROPPED_FIRST:
            if least + sum(2 + widths[other] for other in shown[1:]) > width:
                shown.remove(name)
        widths["name"] = min(widths["name"], max(least, width - sum(2 + widths[other] for other in shown[1:])))

    def line(values: dict[str, str]) -> str:
        parts = (_cut(values[name], widths[name]) for name in shown)
        pairs = zip(shown, parts, strict=True)
        return "  ".join(
            f"{text:{'>' if name in _NUMBERS else '<'}{widths[name]}}" for name, text in pairs
        ).rstrip()

    lines = [line({name: name for name in _HEAD})]
    for row, values in zip(rows, cells, strict=True):
        lines.append(line(values))
        if row.problem is not None:
            problem = f"  {one_line(row.problem)}"
            lines.append(problem if width is None else _cut(problem, width))
    return lines


def _cells(row: "RunRow") -> dict[str, str]:
    total = "?" if row.total_steps is None else f"{row.total_steps:,}"
    seconds, unit = next((pair for pair in _UNITS if row.age_seconds >= pair[0]), _UNITS[-1])
    return {
        "name": one_line(row.name),
        "state": row.state,
        "bits/byte": "" if row.bits_per_byte is None else f"{row.bits_per_byte:.3f}",
        "steps": "" if row.state == "damaged" else f"{row.steps:,}/{total}",
        "age": f"{row.age_seconds // seconds:.0f} {unit}",
        "size": _size(row.parameters),
        "text": _cut(one_line(", ".join(row.text)), 40),
    }


def _size(parameters: int | None) -> str:
    if parameters is None:
        return ""
    size, letter = next((pair for pair in _SIZES if parameters >= pair[0]), _SIZES[-1])
    return f"{parameters / size:.3g}{letter}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"
