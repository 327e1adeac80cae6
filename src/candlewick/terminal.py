"""Show log records, progress bars and text of a model to a person, always on standard error.

The command line configures the log once (`setup`); a run adds its log file (`log_file`). Below `cli`, only this
module and the display of a training run write to the terminal.
"""

import logging
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console

Level = Literal["debug", "info", "warning", "error"]

_SECONDS_BETWEEN_LINES = 10.0
_C1 = dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
_CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421, **_C1}


class _StderrHandler(logging.Handler):
    """Writes to the current standard error, which a live display may have replaced.

    Records with a true attribute `is_shown` are skipped: the display has shown them.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "is_shown", False):
            _write_line(self.format(record))


class _LogFile(logging.FileHandler):
    """A log file that reports a failed write, on a full disk say, in one line, and does not end the run."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging calls it so
        del record
        _write_line(f"WARNING {self.baseFilename} cannot be written: {sys.exc_info()[1]}")

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def _write_line(text: str) -> None:
    """Write a line to standard error, whose reader may be gone: no reason to end a run."""
    with suppress(OSError):
        sys.stderr.write(text + "\n")


def setup(level: Level = "info") -> None:
    """Send the package's log records from a level on to standard error; files receive all records."""
    handler = _StderrHandler(level.upper())
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("candlewick")
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG)
    root.propagate = False


@contextmanager
def log_file(path: Path) -> Generator[None]:
    """Append the package's log records to a file too while the block runs; the first record makes the file."""
    handler, root = _LogFile(path, encoding="utf-8", delay=True), logging.getLogger("candlewick")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def progress_enabled() -> bool:
    """Return whether to show progress: not if `setup` selected warnings or errors only."""
    return all(handler.level <= logging.INFO for handler in logging.getLogger("candlewick").handlers)


def error_console() -> "Console":
    """Return rich's console on standard error; what is printed after its reader is gone is dropped.

    rich itself would end the program.
    """
    from rich.console import Console  # noqa: PLC0415  # `--help` sets up a log and needs no console

    def drop() -> None:
        console.quiet = True

    console = Console(stderr=True, highlight=False, force_jupyter=False)  # in a notebook plain lines
    console.on_broken_pipe = drop
    return console


@contextmanager
def bytes_progress(label: str) -> Generator[Callable[[int, int], None]]:
    """Yield a function that takes (bytes done, bytes in all) and shows them on standard error."""
    from rich import progress  # noqa: PLC0415

    console = error_console()
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
    """Return the items, with a progress bar if standard error is a terminal."""
    from rich import progress  # noqa: PLC0415

    console = error_console()
    return progress.track(items, label, total, console=console, transient=True, disable=not console.is_terminal)


def _print_lines(label: str) -> Callable[[int, int], None]:
    start = last_time = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last_time
        now = time.monotonic()
        if now - last_time >= _SECONDS_BETWEEN_LINES:
            last_time = now
            speed = max(done / (now - start), 1.0)
            wait = (total - done) / speed
            figures = f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB, {speed / 1e6:.1f} MB/s, {wait:.0f} s left"
            _write_line(f"{label}: {figures}")

    return report


def shown_path(path: Path) -> Path:
    """Return a path as a person here would type it: relative to the current folder, if it lies below that."""
    return path.relative_to(Path.cwd()) if path.is_absolute() and path.is_relative_to(Path.cwd()) else path


def shown_source(uri: str) -> str:
    """Return an address of text as a person here would type it."""
    return uri if "://" in uri else str(shown_path(Path(uri)))


def printable(text: str) -> str:
    """Return text that cannot command a terminal: symbols replace control characters except newline and tab."""
    return text.translate(_CONTROL)


def one_line(text: str) -> str:
    """Return text for one line: a sign replaces line ends, commands, and what turns the direction."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
