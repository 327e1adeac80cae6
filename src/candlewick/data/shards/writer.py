"""The text shards of one side while they grow: finished ones, and one that is open.

train_0000.jsonl.gz   finished: size and hash are known
train_0001.jsonl      open: lines are appended; compressed, if that is wanted, when it is full
"""

import gzip
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from candlewick.artifacts.manifest import FileEntry, file_sha256, fsync_directory, write_durable

_BLOCK = 1 << 20


@dataclass
class ShardWriter:
    """Writes NAME_0000.EXTENSION and so on in a folder."""

    folder: Path
    name: str
    extension: str
    compress: bool
    shards: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    lines: int = 0  # in the open file
    size: int = 0  # of it, in bytes
    stream: BinaryIO | None = None

    @property
    def path(self) -> Path:
        """Where the open file is."""
        return self.folder / f"{self.name}_{len(self.shards):04d}{self.extension}"

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what `sync` said. Raises OSError if a file is gone or too short."""
        for shard in state["finished"]:
            _require_bytes(self.folder / shard["path"], shard["bytes"], exactly=True)
        self.shards, self.lines, self.size = list(state["finished"]), state["lines"], state["size"]
        if self.size:
            _require_bytes(self.path, self.size)
            os.truncate(self.path, self.size)

    def add(self, line: bytes) -> None:
        """Append a line."""
        self._open_stream().write(line)
        self.lines += 1
        self.size += len(line)

    def finish(self) -> None:
        """End the open file, if it has a line."""
        if not self.lines:
            return
        self._open_stream()
        self.sync()
        self.close()
        path = self.path
        entry = FileEntry(path.name, self.size, file_sha256(path))
        if self.compress:
            entry = write_durable(path.with_name(path.name + ".gz"), _compressed(path))
        shard = {"path": entry.name, "lines": self.lines, "bytes": entry.bytes, "sha256": entry.sha256}
        self.shards.append(shard)
        self.lines = self.size = 0

    def sync(self) -> dict[str, Any]:
        """Bring everything to the disk; return what `restore` needs."""
        if self.stream is not None:
            self.stream.flush()
            os.fsync(self.stream.fileno())
            fsync_directory(self.folder)
        return {"finished": self.shards, "lines": self.lines, "size": self.size}

    def close(self) -> None:
        """Let go of the open file."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def sweep(self, *keep: str) -> None:
        """Remove what belongs to no state: uncompressed twins, and what came after the last one."""
        known = {*(shard["path"] for shard in self.shards), *keep}
        if self.size:
            known.add(self.path.name)
        for path in self.folder.iterdir():
            if path.is_file() and path.name not in known:
                path.unlink()

    def _open_stream(self) -> BinaryIO:
        if self.stream is None:
            self.stream = self.path.open("ab" if self.size else "wb")
        return self.stream


def _require_bytes(path: Path, size: int, *, exactly: bool = False) -> None:
    found = path.stat().st_size
    if found < size or (exactly and found != size):
        raise FileNotFoundError(f"{path} has {found} bytes, {size} were written")


def _compressed(path: Path) -> Iterator[bytes]:
    """Yield a file compressed, without name and time in it, so that the same text gives the same bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", 6, buffer, mtime=0) as packer, path.open("rb") as file:
        while block := file.read(_BLOCK):
            packer.write(block)
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()
