"""Files of a folder, mapped into memory when they are read first; few of them are mapped at a time.

    FolderHold    the folder, open, and a lock on its manifest, so that `data cache --remove` leaves it alone
    MappedFiles   its files as arrays; the one that was mapped first is the first to go

Files are opened below the open folder, so that another folder under the same name is never read in its place.
"""

import errno
import fcntl
import logging
import mmap
import os
import resource
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from candlewick.artifacts.manifest import MANIFEST, naming
from candlewick.errors import DataError

_FIX = "restore it (`candlewick data verify` tells), then go on with --resume"
_HARDWARE_POISON = getattr(errno, "EHWPOISON", 133)
_POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14, which Python does not name
_MAX_MAPS = 4096  # Linux gives a process 65,530
logger = logging.getLogger(__name__)


class FolderHold:
    """A finished folder that is being read: while this object lives, it is not removed from a cache.

    Raises FileNotFoundError if it is gone. On a file system without locks there is no lock; removing says so.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        while True:
            self.descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            close = weakref.finalize(self, os.close, self.descriptor)
            lock = os.open(MANIFEST, os.O_RDONLY | os.O_NONBLOCK, dir_fd=self.descriptor)
            weakref.finalize(self, os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_SH)
            except OSError as error:
                logger.info("%s cannot be locked (%s): do not remove it while it is read", folder, error.strerror)
            # whoever removed it in the meantime has renamed it first
            if os.path.samestat(os.fstat(self.descriptor), folder.stat()):
                return
            close()


class _FileMap(mmap.mmap):
    path: Path


class MappedFiles:
    """The files `pattern`, one for each of `names`, as arrays of `lengths` entries, mapped on demand.

    Any thread may read. Raises DataError for a file that has another size by now, or is gone.
    """

    _mapped: ClassVar[deque[tuple["weakref.ref[MappedFiles]", int]]] = deque()  # of all objects, the oldest first
    _lock = threading.Lock()

    def __init__(
        self, hold: FolderHold, pattern: str, names: Sequence[str], lengths: Sequence[int], dtype: DTypeLike
    ) -> None:
        self.hold, self.pattern, self.names, self.lengths = hold, pattern, names, lengths
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._arrays: list[NDArray[Any] | None] = [None] * len(names)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> NDArray[Any]:
        array = self._arrays[number]
        if array is None:
            array = self._map(number)
            with self._lock:
                self._arrays[number] = array
                self._mapped.append((weakref.ref(self), number))
                while len(self._mapped) > max_maps():
                    files, oldest = self._mapped.popleft()
                    if (other := files()) is not None:
                        other._arrays[oldest] = None  # who reads it now keeps it mapped
        return array

    def _map(self, number: int) -> NDArray[Any]:
        name, length = self.pattern.format(self.names[number]), self.lengths[number]
        path, size = self.hold.folder / name, length * self.dtype.itemsize
        try:
            with naming(path):
                descriptor = os.open(name, os.O_RDONLY, dir_fd=self.hold.descriptor)
        except FileNotFoundError:
            raise DataError(f"{path} is gone", _FIX) from None
        try:
            if (found := os.fstat(descriptor).st_size) != size:
                raise DataError(f"{path} has {found} bytes now, it had {size}: it changed", _FIX)
            if not size:
                return np.empty(0, self.dtype)
            with naming(path):
                mapped = _FileMap(descriptor, size, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        mapped.path = path
        return np.frombuffer(mapped, self.dtype)


def max_maps() -> int:
    """Return how many files may be mapped: a quarter of those that this process may have open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MAX_MAPS if limit == resource.RLIM_INFINITY else min(_MAX_MAPS, limit // 4)


def require_readable(array: NDArray[Any], starts: Iterable[int], length: int) -> None:
    """Bring ranges of a mapped file, of `length` entries, into memory. Raises DataError if one cannot be read.

    The kernel would end the process (SIGBUS). On systems without such a call nothing is done.
    """
    mapped = getattr(array.base, "obj", None)  # numpy puts a memoryview between
    if not isinstance(mapped, _FileMap):
        return
    for start in starts:
        first = start * array.itemsize
        aligned = first - first % mmap.PAGESIZE
        try:
            mapped.madvise(_POPULATE_READ, aligned, first - aligned + length * array.itemsize)
        except OSError as error:
            if error.errno in (errno.EFAULT, errno.EIO, _HARDWARE_POISON):
                raise DataError(
                    f"a part of {mapped.path} cannot be read any more: it was cut, or its disk fails", _FIX
                ) from None
            return  # no such call here
