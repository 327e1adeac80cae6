"""What a run could do at each of its evaluations, as a table and a curve in plain characters."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from candlewick.runs.report.plot import plot
from candlewick.terminal import printable
from candlewick.train.monitor.display import duration
from candlewick.train.monitor.trackers import read_metrics

_NARROW = 60  # columns, below which a sample stands under its figures
_MAX_LINES = 4


@dataclass(frozen=True, slots=True)
class Stage:
    """What a run could do at one of its evaluations."""

    step: int
    seconds: float  # of training
    bits_per_byte: float
    text: str | None  # a sample with its prompt


def read_stages(run_dir: Path) -> list[Stage]:
    """Return the evaluations of a run in order; of a step that was evaluated twice the figure of all its text."""
    stages: dict[int, Stage] = {}
    seconds = 0.0
    for row in read_metrics(run_dir / "metrics.jsonl"):
        step, seconds = row["step"], row.get("perf/training_seconds") or seconds
        bits = row.get("final/bits_per_byte") or row.get("eval/bits_per_byte")
        if bits is not None:
            text = stages[step].text if step in stages else None
            stages[step] = Stage(step, seconds, bits, text)
        elif "sample/0" in row and step in stages:
            stages[step] = replace(stages[step], text=row["sample/0"])
    return list(stages.values())


def format_stages(stages: Sequence[Stage], width: int) -> str:
    """Return a table of at most `width` columns; of long samples the beginning."""
    is_narrow = width < _NARROW
    lines = [f"{'step':>7} {'after':>6} {'bits per byte':>14}  {'' if is_narrow else 'what it writes'}".rstrip()]
    for stage in stages:
        head = f"{stage.step:>7,} {duration(stage.seconds):>6} {stage.bits_per_byte:>14.3f}  "
        indent = 4 if is_narrow else len(head)
        words = " ".join(printable(stage.text or "").split())
        text = textwrap.wrap(words, width - indent, max_lines=_MAX_LINES, placeholder=" ...")
        if not is_narrow:
            head += text[0] if text else ""
            text = text[1:]
        lines += [head.rstrip(), *(" " * indent + line for line in text)]
    return "\n".join(lines)


def plot_losses(run_dir: Path, width: int) -> str:
    """Return the curve of the training loss; nothing if there is none."""
    rows = read_metrics(run_dir / "metrics.jsonl")
    points = [(row["step"], row["train/loss"]) for row in rows if row.get("train/loss") is not None]
    return plot({"training": points}, width=width - 2, height=8, x_label="step", y_label="loss") if points else ""
