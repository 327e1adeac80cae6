"""Logging, set up once by the command line. Metrics are something else: see `train.trackers`."""

import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal

Level = Literal["debug", "info", "warning", "error"]


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
