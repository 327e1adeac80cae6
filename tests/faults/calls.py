"""The calls by which Python changes files, one after the other: each may be refused, or be the last one.

    with watched_calls(meet):
        meet("fsync", ...)      comes before every os.fsync, open, rename, ...; it may raise OSError in its place
        meet("write", data)     comes before every write; it may also return how many bytes of it are written

Buffers are Python's own, so a write is what reaches the system: a line of a log, a block of eight kilobytes. The
calls of compiled code are not seen; the code under test writes all of its files from Python.
"""

import builtins
import io
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest

Meet = Callable[[str, Any], int | None]
"""Takes the name of a call and its first argument, of a write its bytes; see above."""

_OF_OS = (
    *("open", "fsync", "truncate", "ftruncate", "mkdir", "rmdir", "unlink", "remove"),
    *("rename", "replace", "link", "symlink"),
)


def _file_class(meet: Meet) -> type[io.FileIO]:
    """Return a class of files that asks `meet` before each call of the system."""

    class WatchedFile(io.FileIO):
        def write(self, data: Any, /) -> int:
            length = meet("write to the terminal" if self.name == 2 else "write", data)
            return super().write(data if length is None else memoryview(data).cast("B")[:length])

        def truncate(self, size: int | None = None, /) -> int:
            meet("truncate", self.name)
            return super().truncate(size)

    return WatchedFile


def _open_with(file_class: type[io.FileIO], meet: Meet) -> Callable[..., Any]:
    """Return a function like `open`, whose files for writing are of this class."""
    plain = io.open

    def watched_open(file: Any, mode: str = "r", buffering: int = -1, *text: Any, **more: Any) -> Any:
        if not set(mode) & set("wax+"):
            return plain(file, mode, buffering, *text, **more)
        meet("open", file)
        of_text = dict(zip(("encoding", "errors", "newline"), text, strict=False))
        of_text |= {name: more.pop(name) for name in ("encoding", "errors", "newline") if name in more}
        raw = file_class(file, mode.replace("b", "").replace("t", ""), **more)
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, **of_text, line_buffering=buffering == 1)

    return watched_open


@contextmanager
def watched_calls(meet: Meet) -> Generator[None]:
    """Let `meet` come before every call that changes files, while the block runs."""

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **settings: Any) -> Any:
            only_reads = name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR)  # a folder to be synced, say
            meet("open to read" if only_reads else name, args[0])
            return real(*args, **settings)

        return act

    with pytest.MonkeyPatch.context() as patch:
        opened = _open_with(_file_class(meet), meet)
        for owner in (builtins, io):
            patch.setattr(owner, "open", opened)
        for name in _OF_OS:
            patch.setattr(os, name, watched(name, getattr(os, name)))
        patch.setattr(os, "write", watched("write to a descriptor", os.write))
        yield
