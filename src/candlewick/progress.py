"""A progress bar for work on text: MB done, MB/s and time left on a terminal, an occasional line elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

_SECONDS_BETWEEN_LINES = 10.0

Report = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


def is_wanted() -> bool:
    """Tell whether progress is to be shown: not when `log.setup` lets through nothing but warnings."""
    return all(handler.level <= logging.INFO for handler in logging.getLogger("candlewick").handlers)


@contextmanager
def bytes_progress(what: str) -> Generator[Report]:
    """Yield a function to call with (bytes done, bytes in all); what it shows goes to standard error."""
    console = Console(stderr=True)
    if is_wanted() and not console.is_terminal:
        yield _plain(what)
        return
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not is_wanted()) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _plain(what: str) -> Report:
    began = printed = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal printed
        now = time.monotonic()
        if now - printed >= _SECONDS_BETWEEN_LINES:
            printed = now
            speed = max(done / (now - began), 1.0)
            left = (total - done) / speed
            sys.stderr.write(
                f"{what}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB, {speed / 1e6:.1f} MB/s, {left:.0f} s left\n"
            )

    return report
