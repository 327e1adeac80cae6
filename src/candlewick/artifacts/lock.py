"""A lock keeps a run folder to one process; the kernel drops it when the process ends."""

import fcntl
import json
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from candlewick.artifacts.manifest import make_directory
from candlewick.errors import CheckpointError


@contextmanager
def run_lock(run_dir: Path) -> Generator[None]:
    """Hold `RUN/LOCK` while the block runs. Raises CheckpointError that names the process holding it."""
    make_directory(run_dir)
    path = run_dir / "LOCK"
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CheckpointError(
                f"{run_dir} is in use by {file.read().strip() or 'another process'}",
                "wait for it, stop it, or choose another --run-dir",
            ) from None
        file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
        file.flush()
        yield
