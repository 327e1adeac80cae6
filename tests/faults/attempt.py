"""One start of `candlewick data shard` or `prepare` in a process that may kill itself at a given moment.

A moment is the number of an event: a line is written, a file is synced, renamed or removed, a file of the Hub was
asked for or came, a task begins or is counted. So a kill falls between any two steps, and not while Python still
starts. Processes are forked from one that has loaded everything, so that a start takes no second.
"""

import logging
import multiprocessing
import os
import signal
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.hub_server import point_here

from candlewick.cli.main import main
from candlewick.data.shards import write as text_shards
from candlewick.data.shards import writer
from candlewick.data.text import downloads
from candlewick.data.tokens import encode, pipeline, workers
from candlewick.data.tokens import prepare as tokens

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["tests.faults.attempt", "huggingface_hub.hf_api", "httpcore2", "hf_xet", "rich.progress"]
)
EVENTS = (
    (os, "fsync"),
    (os, "rename"),
    (os, "replace"),
    (os, "unlink"),
    (downloads, "fetch_file"),
    (writer.ShardWriter, "add"),
    (text_shards, "publish"),
    (encode.ShardMaker, "run"),
    (pipeline.TaskResults, "add"),
    (tokens, "publish"),
)


class _Threads(ThreadPoolExecutor):
    """Threads in the place of worker processes."""

    def __init__(self, workers: int, context: object, initializer: object) -> None:
        super().__init__(workers)


def start(words: list[str], url: str, folder: Path, moment: int, *, in_threads: bool = True) -> int:
    """Run `attempt` in a process of its own; return the exit code, -9 after a kill."""
    process = _context.Process(target=attempt, args=(words, url, folder, moment, in_threads))
    process.start()
    process.join(120)
    assert process.exitcode is not None, "it hangs"
    code = process.exitcode
    process.close()
    return code


def attempt(words: list[str], url: str, folder: Path, moment: int, in_threads: bool) -> None:
    """Run the command against the Hub at `url`, until event number `moment` (0: until it ends), and exit.

    With `in_threads` what worker processes do is done by threads, whose steps are events too.
    """
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
    if in_threads:
        makers = threading.local()

        def shard_maker(output: encode.TokenOutput) -> encode.ShardMaker:
            if not hasattr(makers, "maker"):
                makers.maker = encode.ShardMaker(output)
            return makers.maker

        patch.setattr(workers, "ProcessPoolExecutor", _Threads)
        patch.setattr(encode, "_shard_maker", shard_maker)
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
