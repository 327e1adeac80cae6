"""A file that is written piece by piece, and appears under its name when it is whole and on the disk."""

import hashlib
import os
from pathlib import Path

from candlewick.artifacts.manifest import FileEntry, fsync_directory, naming


class DurableFile:
    """A file that grows aside, is hashed on the way, and appears under its name when it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._temporary.unlink(missing_ok=True)  # a link there would be written through
        self._digest, self._size = hashlib.sha256(), 0
        self._file = self._temporary.open("wb")

    def write(self, chunk: bytes) -> None:
        """Append bytes. Raises OSError that names the file."""
        with naming(self.path):
            self._file.write(chunk)
        self._digest.update(chunk)
        self._size += len(chunk)

    def commit(self, name: str) -> FileEntry:
        """Make the file durable and rename it; return its entry in a manifest, under `name` there."""
        with naming(self.path), self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._temporary.replace(self.path)
        fsync_directory(self.path.parent)
        return FileEntry(name, self._size, self._digest.hexdigest())

    def discard(self) -> None:
        """Remove what was written, unless it was committed."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)
