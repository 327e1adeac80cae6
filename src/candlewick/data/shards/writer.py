"""A writer of text shards keeps finished shards and one open file.

train_0000.jsonl.gz   finished: size and hash are known
train_0001.jsonl      open: lines are appended; compressed, if `compress`, when it is full
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
    """Writes the shards NAME_0000.EXTENSION and so on into a folder."""

    folder: Path
    name: str
    extension: str
    compress: bool
    shards: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    lines: int = 0  # in the open file
    size: int = 0  # of the open file, in bytes
    stream: BinaryIO | None = None

    @property
    def path(self) -> Path:
        """The path of the open file."""
        return self.folder / f"{self.name}_{len(self.shards):04d}{self.extension}"

    def restore(self, state: dict[str, Any]) -> None:
        """Return to a state from `sync`. Raises OSError if a file is gone or too short."""
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
        """Finish the open file, if it has a line."""
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
        """Write everything to the disk; return the state for `restore`."""
        if self.stream is not None:
            self.stream.flush()
            os.fsync(self.stream.fileno())
            fsync_directory(self.folder)
        return {"finished": self.shards, "lines": self.lines, "size": self.size}

    def close(self) -> None:
        """Close the open file."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def sweep(self, *keep: str) -> None:
        """Remove files that are not in the state: uncompressed twins, and files written after the last `sync`."""
        kept_names = {*(shard["path"] for shard in self.shards), *keep}
        if self.size:
            kept_names.add(self.path.name)
        for path in self.folder.iterdir():
            if path.is_file() and path.name not in kept_names:
                path.unlink()

    def _open_stream(self) -> BinaryIO:
        if self.stream is None:
            self.stream = self.path.open("ab" if self.size else "wb")
        return self.stream


def _require_bytes(path: Path, size: int, *, exactly: bool = False) -> None:
    actual = path.stat().st_size
    if actual < size or (exactly and actual != size):
        raise FileNotFoundError(f"{path} has {actual} bytes, {size} were written")


def _compressed(path: Path) -> Iterator[bytes]:
    """Yield the gzip of a file, without name and time, so that equal text gives equal bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", 6, buffer, mtime=0) as packer, path.open("rb") as file:
        while block := file.read(_BLOCK):
            packer.write(block)
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()
