"""One start of `candlewick data shard` in a process of its own, which may kill itself at a given moment.

A moment is the number of an event: a line is written, a file is synced, renamed or removed, a file of the Hub was
asked for or came. So a kill falls between any two steps, and not while Python still starts.
"""

import logging
import os
import signal
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.hub_server import point_here

from candlewick.cli.main import main
from candlewick.data.shards import write as text_shards
from candlewick.data.shards import writer
from candlewick.data.text import source_files

EVENTS = (
    (os, "fsync"),
    (os, "rename"),
    (os, "replace"),
    (os, "unlink"),
    (source_files, "fetch_file"),
    (writer.ShardWriter, "add"),
    (text_shards, "publish"),
)


def attempt(words: list[str], url: str, folder: Path, moment: int) -> None:
    """Run the command against the Hub at `url`, until event number `moment` (0: until it ends), and exit."""
    output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for name in ("huggingface_hub", "candlewick"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    patch = pytest.MonkeyPatch()
    point_here(patch, url, folder / "home", timeout=0.3)
    patch.setattr(
        ssl.SSLContext, "load_verify_locations", lambda *where, **more: None
    )  # slow, and not needed here
    left = moment

    def tick() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **settings: Any) -> Any:
            tick()
            result = real(*args, **settings)
            if isinstance(args[0], writer.ShardWriter):
                assert args[0].stream is not None
                args[0].stream.flush()  # as the system may at any time: the lines are smaller than its buffer
            tick()
            return result

        return act

    for owner, name in EVENTS:
        patch.setattr(owner, name, watched(getattr(owner, name)))
    os._exit(main(words))  # threads that still fetch are not waited for, as when a program ends
