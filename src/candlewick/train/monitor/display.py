"""The display of a run on standard error: live on a terminal, plain lines everywhere else.

    step 1,240/5,000  ━━━━━━━━━╸━━━━━━━━━━━━━━━━━━━━━━━━━━━   25 %   0:41 spent   2:04 left
    loss 2.4031   lr 2.0e-02   31,402 tok/s   MFU 48.1 %   waiting for data 0.1 %   0.41 GB

    step  1,240/5,000  loss 2.4031  lr 2.0e-02    31,402 tok/s  MFU  48.1 %  ...  2:04 left

The plain lines come at most every few seconds; the newest one is never left out.
"""

import textwrap
import time
from collections.abc import Mapping

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from candlewick.terminal import error_console, printable

_SECONDS_BETWEEN_LINES = 5.0


class Display:
    """Shows progress and messages; with `enabled` false it shows nothing."""

    def __init__(self, total_steps: int | None, enabled: bool, console: Console | None = None) -> None:
        self._console = console or error_console()
        self._enabled = enabled
        self._row: Mapping[str, float] = {}
        self._step, self._total_steps = 0, total_steps
        self._began = time.monotonic()
        self._printed_at = float("-inf")
        self._unprinted = False
        self._live: Live | None = None
        if enabled and self._console.is_terminal and not self._console.is_dumb_terminal:
            # transient: the last state of the bar is not worth a line among the results
            self._live = Live(console=self._console, get_renderable=self._render, transient=True)

    def start(self) -> None:
        """Begin to show."""
        self._began = time.monotonic()
        if self._live is not None:
            self._live.start()

    def update(self, row: Mapping[str, float], *, step: int, total_steps: int | None) -> None:
        """Take the newest figures, named as in `trackers.METRICS`; those that are absent are not shown."""
        self._row, self._step, self._total_steps = row, step, total_steps
        self._unprinted = True
        now = time.monotonic()
        if self._live is None and now - self._printed_at >= _SECONDS_BETWEEN_LINES:
            self._printed_at = now
            self._print_line()

    def message(self, text: str) -> None:
        """Show a text, above the live part or after the figures that came before it."""
        if self._live is None and self._unprinted:
            self._print_line()
        if self._enabled:
            self._console.print(Text(printable(text)), soft_wrap=True)

    def sample(self, text: str) -> None:
        """Show what a model wrote, wrapped between words behind a margin."""
        width = max(20, self._console.width - 6)
        lines = (line for paragraph in text.splitlines() for line in textwrap.wrap(paragraph, width) or [""])
        self.message("\n".join(f"    | {line}" for line in lines))

    def stop(self) -> None:
        """Show the newest figures if they were not shown, and end."""
        if self._live is not None:
            self._live.stop()
        if self._unprinted:
            self._print_line()

    def _print_line(self) -> None:
        self._unprinted = False
        if self._enabled:
            width = len(f"{self._total_steps or 0:,}") or 1
            words = [f"step {_count(self._step, self._total_steps, width)}", *figures(self._row, aligned=True)]
            if "perf/eta_seconds" in self._row:
                words.append(f"{duration(self._row['perf/eta_seconds'])} left")
            self._console.print("  ".join(words), soft_wrap=True, markup=False)

    def _render(self) -> Group:
        total = self._total_steps
        bar = ProgressBar(total=total, completed=self._step, width=40, pulse=total is None)
        share = f"{self._step / total:4.0%}" if total else ""
        left = self._row.get("perf/eta_seconds")
        line = Table.grid(padding=(0, 2))
        spent = f"{duration(time.monotonic() - self._began)} spent"
        until_end = "" if left is None else f"{duration(left)} left"
        line.add_row(f"step {_count(self._step, total, 1)}", bar, share, spent, until_end)
        return Group(line, Text("   ".join(figures(self._row)), style="dim", overflow="ellipsis", no_wrap=True))


def figures(row: Mapping[str, float], *, aligned: bool = False) -> list[str]:
    """Return the figures of a row as words with units, in a fixed order; `aligned` pads them to columns."""
    shown = {
        "train/loss": lambda value: f"loss {value:.4f}",
        "optim/learning_rate": lambda value: f"lr {value:.1e}",
        "perf/tokens_per_second": lambda value: f"{value:{'9' if aligned else ''},.0f} tok/s",
        "perf/mfu_strict": lambda value: f"MFU {100 * value:{'5' if aligned else ''}.1f} %",
        "perf/data_wait_share": lambda value: f"waiting for data {100 * value:.1f} %",
        "perf/memory_bytes": lambda value: f"{value / 1e9:.2f} GB",
    }
    words = [show(row[name]) for name, show in shown.items() if name in row]
    if skipped := row.get("train/skipped_steps"):
        words.append(f"{skipped:.0f} not finite, skipped")
    return words


def duration(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _count(step: int, total: int | None, width: int) -> str:
    return f"{step:{width},}" + (f"/{total:,}" if total is not None else "")
