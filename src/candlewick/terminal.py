"""What a person sees of the program: log records, progress bars and text of a model, always on standard error.

The command line sets the log up once (`setup`); a run adds a file of its own (`add_file`). Below `cli` no other
module writes to the terminal, but for the display of a training run.
"""

import logging
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

Level = Literal["debug", "info", "warning", "error"]
ProgressCallback = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""

_SECONDS_BETWEEN_LINES = 10.0
_C1 = dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
_CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421, **_C1}


class _StderrHandler(logging.Handler):
    """Writes to what standard error is at the time: a live display puts itself in its place.

    A record that says `is_shown` was shown in another way.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "is_shown", False):
            sys.stderr.write(self.format(record) + "\n")


class _LogFile(logging.FileHandler):
    """A log that cannot be written, on a full disk say, is told in one line and ends no run."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging calls it so
        del record
        sys.stderr.write(f"WARNING {self.baseFilename} cannot be written: {sys.exc_info()[1]}\n")

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def setup(level: Level = "info") -> None:
    """Send the package's log records from a level on to stderr, and let those from DEBUG on through to files."""
    handler = _StderrHandler(level.upper())
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("candlewick")
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG)
    root.propagate = False


def add_file(path: Path) -> logging.Handler:
    """Append the package's log records to a file too; returns the handler, for closing it."""
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger("candlewick").addHandler(handler)
    return handler


def progress_enabled() -> bool:
    """Tell whether progress is to be shown: not when `setup` lets through nothing but warnings."""
    return all(handler.level <= logging.INFO for handler in logging.getLogger("candlewick").handlers)


@contextmanager
def bytes_progress(label: str) -> Generator[ProgressCallback]:
    """Yield a function to call with (bytes done, bytes in all); what it shows goes to standard error."""
    from rich import progress  # noqa: PLC0415  # `--help` sets up a log and needs no bars
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=True)
    if progress_enabled() and not console.is_terminal:
        yield _print_lines(label)
        return
    columns = (
        *(progress.TextColumn(label), progress.BarColumn(), progress.DownloadColumn()),
        *(progress.TransferSpeedColumn(), progress.TimeRemainingColumn()),
    )
    with progress.Progress(*columns, console=console, transient=True, disable=not progress_enabled()) as bars:
        task = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def track(items: Iterable[Any], label: str, total: int) -> Iterable[Any]:
    """Return the items behind a progress bar, which only a terminal shows."""
    from rich import progress  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=True)
    return progress.track(items, label, total, console=console, transient=True, disable=not console.is_terminal)


def _print_lines(label: str) -> ProgressCallback:
    start = last_time = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last_time
        now = time.monotonic()
        if now - last_time >= _SECONDS_BETWEEN_LINES:
            last_time = now
            speed = max(done / (now - start), 1.0)
            wait = (total - done) / speed
            sys.stderr.write(
                f"{label}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB, {speed / 1e6:.1f} MB/s, {wait:.0f} s left\n"
            )

    return report


def printable(text: str) -> str:
    """Return text that cannot command a terminal: control characters but newline and tab become symbols."""
    return text.translate(_CONTROL)
